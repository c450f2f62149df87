"""Facts to trace: a prompt with a subject in it, and the answer that the model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.edits import Edit
from wise.evaluation.formats.known import KnownFact
from wise.lm.decoding import Reader, Unedited
from wise.lm.tokens import IGNORED, encode, subject_span

__all__ = ["KnownFact", "TracedQuestion", "alternative", "fact_of", "known"]

_BATCH_SIZE = 32  # of facts that are asked whether the model knows them


@dataclass(frozen=True)
class TracedQuestion:
    """A fact in tokens: the prompt, then all of the target but its last token. Never padded."""

    input_ids: Int[Tensor, " T"]
    target_ids: Int[Tensor, " A"]
    n_prompt: int
    span: tuple[int, int]  # [begin, end) of the subject

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, fact: KnownFact, *, max_length: int | None = None
    ) -> TracedQuestion:
        """Raises ValueError where prompt or target has no token, and for more than `max_length`."""
        batch = encode(
            tokenizer, [fact.prompt], [fact.target], append_eos=False, max_length=max_length
        )
        return cls(
            batch.input_ids[0],
            batch.labels[batch.labels != IGNORED],
            int(batch.prompt_mask.sum()),
            subject_span(tokenizer, fact.prompt, fact.subject),
        )

    @property
    def places(self) -> Int[Tensor, " A"]:
        """The positions, counted from the end, after which the target's tokens are predicted."""
        return torch.arange(-len(self.target_ids), 0)


def alternative(
    tokenizer: PreTrainedTokenizerBase, fact: KnownFact, question: TracedQuestion
) -> tuple[int, int] | None:
    """The first place where the fact's alternative differs from the target, and its token there.

    Both share all tokens before it, so one teacher-forced run has both logits. None where the fact
    names no alternative. Raises ValueError where one answer begins with the other.
    """
    if not fact.alternative:
        return None
    labels = encode(tokenizer, [fact.prompt], [fact.alternative], append_eos=False).labels
    other: list[int] = labels[labels != IGNORED].tolist()
    for place, (one, token) in enumerate(zip(question.target_ids.tolist(), other, strict=False)):
        if one != token:
            return place, token
    raise ValueError(
        f"target {fact.target!r} and alternative {fact.alternative!r} differ at no token; "
        "a logit difference needs one"
    )


def fact_of(edit: Edit) -> KnownFact:
    """The fact that an edit overwrites: its ground truth, against its target.

    Raises ValueError for an edit without a ground truth or a subject.
    """
    return KnownFact(edit.prompt, edit.subject, edit.ground_truth, edit.target, id=edit.id)


def known(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[KnownFact],
    *,
    most: int | None = None,
) -> list[KnownFact]:
    """The first `most` facts that the model knows: its greedy continuation begins with the target.

    One teacher-forced forward tells so: each of the target's tokens is the most likely one. No more
    batches are read than it takes to find `most`; None finds all.
    Source: ROME, section 2.1 (facts that the model predicts correctly), for any number of tokens.
    """
    reader, editor = Reader(tokenizer, device=model.device), Unedited(model, tokenizer)
    found: list[KnownFact] = []
    for start in range(0, len(facts), _BATCH_SIZE):
        if most is not None and len(found) >= most:
            break
        some = facts[start : start + _BATCH_SIZE]
        asked = [fact.prompt for fact in some], [fact.target for fact in some]
        answers = reader.forced(editor, *asked)
        found += [fact for fact, answer in zip(some, answers, strict=True)
                  if answer.predicted_ids == answer.target_ids]  # fmt: skip
    return found[:most]
