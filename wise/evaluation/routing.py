"""The routing activation of every prompt of a stream, and the threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from wise.editor import Routed
from wise.evaluation.asked import Question
from wise.evaluation.metrics import Measured
from wise.lm.decoding import Reader

__all__ = ["measure_routing", "routed_questions"]


_THRESHOLD = Question("routing", "threshold", "the threshold", "", "", "the threshold", 0)


def routed_questions(questions: Sequence[Question]) -> list[Question]:
    """The questions on reliability, generalization and locality, each with its kind for the router.

    The last one stands for the threshold.
    """
    routed = [
        replace(question, metric="routing", kind=_kind(question), expected="", aliases=())
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
) -> Iterator[Measured]:
    """Each question with its routing activation; that of the threshold is the threshold itself.

    No value where the question is excluded, as it is when the activation is non-finite.
    """
    asked = [q.prompt for q in questions if not q.excluded and q.kind != "threshold"]

    def ask(rows: list[int]) -> list[float]:
        batch = reader.encode([asked[row] for row in rows])
        return editor.routing_activation(batch.input_ids, batch.attention_mask).tolist()

    values = iter(reader.in_batches(asked, ask))
    for question in questions:
        value = None
        if not question.excluded:
            value = float(editor.threshold) if question.kind == "threshold" else next(values)
            if not math.isfinite(value):
                question = replace(question, excluded=f"the value {value} is non-finite")
        yield Measured(question, "", "", None, None if question.excluded else value)
