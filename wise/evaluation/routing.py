"""The routing activation of every prompt of a stream, and the threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from wise.editor import Routed
from wise.evaluation.metrics import Question, Reader
from wise.lm.tokens import encode

__all__ = ["measure_routing", "routed_questions"]


_THRESHOLD = Question("routing", "threshold", "the threshold", "", "", "the threshold", 0)


def routed_questions(questions: Sequence[Question]) -> list[Question]:
    """The questions on reliability, generalization and locality, each with its kind for the router.

    The last one stands for the threshold.
    """
    routed = [
        replace(question, metric="routing", kind=_kind(question), expected="")
        for question in questions
        if question.metric != "portability"
    ]
    return [*routed, _THRESHOLD]


def _kind(question: Question) -> str:
    if question.metric == "locality":
        return question.kind
    if question.metric == "reliability":
        return "edit"
    return f"paraphrase-{question.kind}" if question.kind else "paraphrase"


def measure_routing(
    editor: Routed, reader: Reader, questions: Sequence[Question]
) -> Iterator[tuple[Question, float | None]]:
    """Each question with its routing activation; that of the threshold is the threshold itself.

    None where the question is excluded, as it is when the activation is non-finite.
    """
    asked = [q.prompt for q in questions if not q.excluded and q.kind != "threshold"]
    values = iter(_activations(editor, reader, asked))
    for question in questions:
        if question.excluded:
            yield question, None
        elif question.kind == "threshold":
            yield _finite(question, float(editor.threshold))
        else:
            yield _finite(question, next(values))


def _finite(question: Question, value: float) -> tuple[Question, float | None]:
    if math.isfinite(value):
        return question, value
    return replace(question, excluded=f"the value {value} is non-finite"), None


def _activations(editor: Routed, reader: Reader, prompts: Sequence[str]) -> list[float]:
    found: dict[int, float] = {}
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    for begin in range(0, len(order), reader.batch_size):
        chosen = order[begin : begin + reader.batch_size]
        batch = encode(reader.tokenizer, [prompts[index] for index in chosen])
        ids, mask = (x.to(reader.device) for x in (batch.input_ids, batch.attention_mask))
        found |= dict(zip(chosen, editor.routing_activation(ids, mask).tolist(), strict=True))
    return [found[index] for index in range(len(prompts))]
