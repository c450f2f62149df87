"""The five editing problems of Hase et al. (NeurIPS 2023), and the editors that can take part.

An editor takes part by its factory. To lower a target, the factory takes `objective="lower"`; to
learn under noise, `corruption=` (`wise.editors.key_value.facts.Corrupts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from wise.editor import Editor, EditorFactory, takes
from wise.edits import Background, Edit
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.localization.corruption import add_noise, gaussian
from wise.localization.known_facts import KnownFact, TracedQuestion, fact_of
from wise.seeds import seeded

__all__ = [
    "PROBLEMS",
    "Problem",
    "SubjectNoise",
    "UnsuitedEditorError",
    "make_editor",
    "noised_answer",
    "pose",
]


class UnsuitedEditorError(ValueError):
    """The editor cannot take part in a problem; the message says why."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What an editor has to do with a target, and whether it learns under noise on the subject.

    `target`: the answer that is written: the edit's own (o_false), the noised model's (o_noise) or
    the truth (o_true).
    """

    name: str
    target: Literal["false", "noise", "true"]
    objective: Literal["raise", "lower"] = "raise"
    is_noised: bool = False


PROBLEMS: Mapping[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("error-injection", "false"),
        Problem("tracing-reversal", "noise"),
        Problem("fact-erasure", "true", objective="lower"),
        Problem("fact-amplification", "true"),
        Problem("fact-forcing", "true", is_noised=True),
    )
}


@dataclass(frozen=True, slots=True)
class SubjectNoise:
    """Noise of N(0, sigma^2) on the subject's tokens of every row, wherever they are.

    The k-th row about an edit has noise of its own at each step, which depends only on `seed`,
    `of`, the edit's prompt and subject, the step and k. Source: Hase et al. 2023, released code
    (one draw for each step).
    """

    sigma: float
    seed: int = 0
    of: str = "learning"  # or "answers": questions have other noise than learning

    def __call__(
        self,
        embeddings: Float[Tensor, "B T E"],
        subject: Bool[Tensor, "B T"],
        edits: Sequence[Edit],
        step: int = 0,
    ) -> Float[Tensor, "B T E"]:
        """The embeddings with noise where `subject` is; row b is about `edits[b]`."""
        noise = torch.zeros(embeddings.shape)
        generators: dict[tuple[str, str], torch.Generator] = {}
        for row, edit in enumerate(edits):
            about = edit.prompt, edit.subject
            if about not in generators:
                generators[about] = seeded("noise", self.of, self.seed, *about, step)
            where = subject[row].cpu()
            shape = int(where.sum()), embeddings.shape[-1]
            noise[row, where] = self.sigma * torch.randn(shape, generator=generators[about])
        return embeddings + noise.to(embeddings)


def pose(
    problem: Problem,
    edit: Edit,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    sigma: float,
    n_noise: int = 10,
    target_length: int = 1,
    min_probability: float = 0.02,
    seed: int = 0,
) -> Edit:
    """The edit that poses `problem` to an editor: the same prompt, the problem's target.

    The truth is the edit's `ground_truth`. o_noise has `target_length` tokens. Raises ValueError,
    as a reason to exclude the fact, for an edit without a ground truth, for an o_noise that is not
    text, continues the last word or is a beginning of the truth, and where a target to be lowered
    has less than `min_probability` in `model`. Source: Hase et al. 2023, section 5.1 and figure 5.
    """
    fact = fact_of(edit)
    if problem.target == "false":
        return edit
    if problem.target == "noise":
        answer = noised_answer(
            model, tokenizer, fact, sigma=sigma, n_noise=n_noise, length=target_length, seed=seed
        )
        if not answer.strip():
            raise ValueError(f"the noised model answers {answer!r}; a target must be a text")
        asked = TracedQuestion.of(tokenizer, replace(fact, target=answer.strip()))
        truth = TracedQuestion.of(tokenizer, fact).target_ids[: len(asked.target_ids)]
        if torch.equal(asked.target_ids, truth):
            raise ValueError(
                "the noised model still answers the truth: there is nothing to reverse"
            )
        if tokenizer.decode(asked.target_ids) != answer:
            raise ValueError(f"the noised model answers {answer!r}, which is not a whole word")
        return replace(edit, target=answer.strip())
    if problem.objective == "lower":
        question = TracedQuestion.of(tokenizer, fact)
        p = _joint(model, question)
        if p < min_probability:
            raise ValueError(f"p(o_true)={p:.4f} is below min_probability={min_probability}")
    return replace(edit, target=fact.target)


def _joint(model: PreTrainedModel, question: TracedQuestion) -> float:
    """p of the target."""
    rows = question.input_ids[None].to(model.device)
    with torch.no_grad(), hooks.frozen(model):
        logits = model(input_ids=rows, use_cache=False).logits[0]
    log_p = logits[question.places].float().log_softmax(-1).cpu()
    return float(log_p.gather(-1, question.target_ids[:, None]).sum().exp())


@torch.no_grad()
def noised_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    fact: KnownFact,
    *,
    sigma: float,
    n_noise: int = 10,
    length: int = 1,
    seed: int = 0,
) -> str:
    """o_noise: the greedy tokens of the next-token distribution, averaged over noised subjects.

    Stops before EOS. Source: Hase et al. 2023, section 5.1 (the released code samples, and returns
    the prompt with its answer).
    """
    lm, question = LanguageModel(model), TracedQuestion.of(tokenizer, fact)
    noise = gaussian(lm, fact, question, sigma=sigma, n_noise=n_noise, seed=seed).noise
    ids = question.input_ids[: question.n_prompt].expand(n_noise, -1).to(model.device)
    answer: list[int] = []
    with hooks.frozen(model), hooks.replace(
        lm.embedding, lambda _, output: add_noise(output, cast(Tensor, noise), question.span)
    ):  # fmt: skip
        for _ in range(length):
            mask = torch.ones_like(ids)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1]
            token = int(logits.float().softmax(-1).mean(0).argmax())
            if token == tokenizer.eos_token_id:
                break
            answer.append(token)
            ids = torch.cat([ids, ids.new_full((n_noise, 1), token)], dim=1)
    return cast(str, tokenizer.decode(answer))


def make_editor(
    factory: EditorFactory,
    problem: Problem,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    background: Background,
    *,
    sigma: float,
    seed: int,
    **options: Any,
) -> Editor:
    """The factory's editor for a problem.

    Raises UnsuitedEditorError where the factory's signature has no option to lower a target, or to
    learn under noise. The factory's own errors are passed on.
    """
    needed: dict[str, Any] = {}
    if problem.objective != "raise":
        needed["objective"] = problem.objective
    if problem.is_noised:
        needed["corruption"] = SubjectNoise(sigma, seed)
    for name, value in needed.items():
        if not takes(factory, name):
            raise UnsuitedEditorError(
                f"{problem.name} needs an editor that takes {name}={value!r}; this one does not"
            )
    return factory(model, tokenizer, background, seed=seed, **options, **needed)
