"""One fact of a study: the questions before and after an edit, and their scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from wise.editor import Editor
from wise.edits import Edit, EditStream
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Reader, Unedited
from wise.lm.tokens import IGNORED
from wise.localization import editing_scores
from wise.localization.forced import Forced
from wise.localization.problems import Problem, SubjectNoise, pose

__all__ = ["SCORES", "Asked", "Asker", "said_of"]

SCORES = ("rewrite", "paraphrase", "neighborhood", "overall", "essence", "before", "after")
_ESSENCE_TOKENS = 30
_NAN = math.nan


def said_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, edits: Sequence[Edit]
) -> dict[str, str]:
    """By the edits' ids, what the model writes greedily after "<subject> is a"."""
    reader = Reader(tokenizer, _ESSENCE_TOKENS, model.device)
    answers = reader.free(Unedited(model, tokenizer), [_about(edit) for edit in edits])
    return {edit.id: answer.text for edit, answer in zip(edits, answers, strict=True)}


def _about(edit: Edit) -> str:
    return f"{edit.subject} is a"


@dataclass(frozen=True)
class Asker:
    """How the facts of one problem are posed and scored, the same for every editor and layer.

    `said` is what the unedited model writes about each edit's subject, as `said_of` finds it.
    """

    model: PreTrainedModel  # unedited
    tokenizer: PreTrainedTokenizerFast
    problem: Problem
    said: Mapping[str, str]
    sigma: float
    n_noise: int = 10
    seed: int = 0
    min_probability: float = 0.02  # of a truth to be lowered

    def ask(self, stream: EditStream, edit: Edit) -> Asked:
        """The fact as the problem poses it, and the unedited model's answers.

        Neighbours are the edit's near-relation probes. Raises ValueError as `pose` does, as a
        reason to exclude the fact.
        """
        posed = pose(
            self.problem, edit, self.model, self.tokenizer,
            sigma=self.sigma, n_noise=self.n_noise, seed=self.seed,
            min_probability=self.min_probability,
        )  # fmt: skip
        neighbours = tuple(
            probe.prompt for probe in stream.probes
            if probe.edit_id == edit.id and probe.kind == "near-relation"
        )  # fmt: skip
        bare = Unedited(self.model, self.tokenizer)
        said = self.said[edit.id]
        asked = self._asked(posed, neighbours, (_about(edit), said) if said.strip() else None)
        before, fluent = asked.answers(bare, self.model)
        return replace(asked, before=before, fluent=fluent)

    def _asked(self, edit: Edit, neighbours: Sequence[str], text: tuple[str, str] | None) -> Asked:
        prompts = [edit.prompt, *edit.paraphrases, *neighbours]
        holds = tuple(self.problem.is_noised and edit.subject in prompt for prompt in prompts)
        pairs: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        for prompt, held in zip(prompts, holds, strict=True):
            pairs[held].append((prompt, edit.target))
        pairs[False] += [text] if text else []
        forced = {
            held: Forced.of(
                self.tokenizer, some, edit,
                noise=SubjectNoise(self.sigma, self.seed, of="answers") if held else None,
                n_noise=self.n_noise, device=self.model.device,
            ) for held, some in pairs.items() if some
        }  # fmt: skip
        n_said = int((forced[False].batch.labels[-1] != IGNORED).sum()) if text else 0
        return Asked(self.problem, edit, holds, forced, n_said)


@dataclass(frozen=True)
class Asked:
    """A posed edit in tokens, to be asked of any editor, and the unedited model's answers."""

    problem: Problem
    edit: Edit
    holds: tuple[bool, ...]  # whether the prompt, each paraphrase and each neighbour has noise
    forced: Mapping[bool, Forced]  # with noise and without; the latter end with the text
    n_said: int  # tokens of the unedited model's text about the subject
    before: tuple[float, ...] = ()
    fluent: float = _NAN

    def answers(self, editor: Editor, model: PreTrainedModel) -> tuple[tuple[float, ...], float]:
        """p of the target at the prompt, each paraphrase and each neighbour; the text's perplexity.

        `model` is the editor's model. The p of a prompt with noise is the mean over the noise; a
        prompt without the subject has no noise. Perplexity is per token, NaN where there is no
        text.
        Source: Hase et al. 2023, section 5.1.
        """
        lm = LanguageModel(model)
        log_p = {held: forced.log_probabilities(editor, lm) for held, forced in self.forced.items()}
        p = {held: iter(found.exp().mean(-1).tolist()) for held, found in log_p.items()}
        after = tuple(min(1.0, next(p[held])) for held in self.holds)  # a float32 sum may exceed 1
        if not self.n_said:
            return after, _NAN
        return after, math.exp(min(-float(log_p[False][-1]) / self.n_said, 700.0))

    def scores(self, editor: Editor, model: PreTrainedModel) -> dict[str, float]:
        """By SCORES; NaN where the fact has no text for a score, and for means over it.

        Paraphrase and neighborhood are means over all of them. Rewrite and paraphrase are cut off
        at 0 (as released), as the loss of a target with p near 1 would be unbounded. Essence is on
        the text that the unedited model writes greedily after "<subject> is a". `before` and
        `after` are p at the prompt. Source: Hase et al. 2023, section 5.2 (five texts, sampled).
        """
        (after, drift), objective = self.answers(editor, model), self.problem.objective
        pairs = list(zip(self.before, after, strict=True))
        n = 1 + len(self.edit.paraphrases)
        gained = [
            max(0.0, editing_scores.rewrite(*pair, objective=objective)) for pair in pairs[:n]
        ]
        kept = [editing_scores.neighborhood(*pair) for pair in pairs[n:]]
        three = gained[0], _mean(gained[1:]), _mean(kept)
        essence = editing_scores.essence(self.fluent, drift) if self.n_said else _NAN
        found = (*three, editing_scores.overall(three), essence, *pairs[0])
        return dict(zip(SCORES, found, strict=True))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else _NAN
