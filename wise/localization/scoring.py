"""One fact of a study: what is asked before and after an edit, and the scores of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from wise.editor import Editor
from wise.edits import Edit, EditStream
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited, free_run, teacher_forced
from wise.localization import editing_scores
from wise.localization.problems import Problem, SubjectNoise, pose, probabilities

__all__ = ["SCORES", "Asked", "Asker"]

SCORES = ("rewrite", "paraphrase", "neighborhood", "overall", "essence", "before", "after")
_ESSENCE_TOKENS = 30
_NAN = math.nan


@dataclass(frozen=True)
class Asker:
    """How the facts of one problem are posed and scored, the same for every editor and layer."""

    model: PreTrainedModel  # unedited
    tokenizer: PreTrainedTokenizerFast
    problem: Problem
    sigma: float
    n_noise: int = 10
    seed: int = 0

    def ask(self, stream: EditStream, edit: Edit) -> Asked:
        """The fact as the problem has it, and what the unedited model says to it.

        Neighbours are the edit's near-relation probes. Raises ValueError, as a reason to leave the
        fact out, as `pose` does.
        """
        posed = pose(
            self.problem, edit, self.model, self.tokenizer,
            sigma=self.sigma, n_noise=self.n_noise, seed=self.seed,
        )  # fmt: skip
        neighbours = tuple(
            probe.prompt for probe in stream.probes
            if probe.edit_id == edit.id and probe.kind == "near-relation"
        )  # fmt: skip
        bare = Unedited(self.model, self.tokenizer)
        about = f"{edit.subject} is a"
        [said] = free_run(
            bare, self.tokenizer, [about], max_new_tokens=_ESSENCE_TOKENS, device=self.model.device
        )
        asked = Asked(self, posed, neighbours, (about, said.text) if said.text.strip() else None)
        before = asked.probabilities(bare, self.model)
        return replace(asked, before=before, fluent=asked.perplexity(bare))


@dataclass(frozen=True)
class Asked:
    """A posed edit with its neighbours, a text about its subject, and the unedited model's say."""

    asker: Asker
    edit: Edit
    neighbours: tuple[str, ...]
    text: tuple[str, str] | None  # prompt, and what the unedited model writes behind it
    before: tuple[float, ...] = ()
    fluent: float = _NAN

    def probabilities(self, editor: Editor, model: PreTrainedModel) -> tuple[float, ...]:
        """p of the target at the prompt, each paraphrase and each neighbour.

        `model` is what the editor was made of. A prompt without the subject has no noise, and is
        asked once.
        """
        asker, edit = self.asker, self.edit
        lm = LanguageModel(model)
        prompts = [edit.prompt, *edit.paraphrases, *self.neighbours]
        hold = [asker.problem.is_noised and edit.subject in prompt for prompt in prompts]
        found: list[float] = [_NAN] * len(prompts)
        for is_noised in sorted(set(hold)):
            places = [place for place, held in enumerate(hold) if held == is_noised]
            values = probabilities(
                editor, lm, asker.tokenizer, [prompts[place] for place in places], edit,
                noise=SubjectNoise(asker.sigma, asker.seed) if is_noised else None,
                n_noise=asker.n_noise,
            )  # fmt: skip
            for place, value in zip(places, values, strict=True):
                found[place] = min(1.0, value)  # of a float32 sum
        return tuple(found)

    def perplexity(self, editor: Editor) -> float:
        """Of the text about the subject, by token; NaN where the unedited model wrote none."""
        if self.text is None:
            return _NAN
        prompt, said = self.text
        [forced] = teacher_forced(
            editor, self.asker.tokenizer, [prompt], [said], device=self.asker.model.device
        )
        return math.exp(min(-forced.log_probability / len(forced.target_ids), 700.0))

    def scores(self, editor: Editor, model: PreTrainedModel) -> dict[str, float]:
        """By SCORES; NaN for what the fact has no text for, and for a mean of such.

        Paraphrase and neighborhood are means over all there are. No rewrite or paraphrase is below
        0 (as released): of a target with p near 1 a loss would count without bound. Essence is by
        the text that the unedited model writes behind "<subject> is a", greedily. `before` and
        `after` are p at the prompt. Source: Hase et al. 2023, section 5.2 (five texts, sampled).
        """
        after, objective = self.probabilities(editor, model), self.asker.problem.objective
        pairs = list(zip(self.before, after, strict=True))
        n = 1 + len(self.edit.paraphrases)
        gained = [
            max(0.0, editing_scores.rewrite(*pair, objective=objective)) for pair in pairs[:n]
        ]
        kept = [editing_scores.neighborhood(*pair) for pair in pairs[n:]]
        three = gained[0], _mean(gained[1:]), _mean(kept)
        drift = self.perplexity(editor)
        essence = editing_scores.essence(self.fluent, drift) if self.text else _NAN
        found = (*three, editing_scores.overall(three), essence, *pairs[0])
        return dict(zip(SCORES, found, strict=True))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else _NAN
