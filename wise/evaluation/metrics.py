"""The answers of an edited model to questions, and the score of each.

Reliability, generalization and portability ask for a known answer: free-run, an answer is right if
it equals the target and ends with EOS there; teacher-forced, by the share of the target's tokens
that are the most likely ones.

Locality asks whether the answer is still that of the unedited model, which must have been asked
before the first edit. A pretrained model need not stop: free-run, all tokens up to EOS or to the
reader's `max_new_tokens` must be the same; teacher-forced, the score is the share of the unedited
continuation's tokens at which both models predict the same token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from wise.editor import Editor
from wise.evaluation.asked import Question
from wise.lm.decoding import Answer, ForcedAnswer, Reader, Unedited
from wise.lm.tokens import why_no_target

__all__ = ["BaseAnswers", "Measured", "measure"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A question with its answer and its score in [0, 1], or with a routing activation, `value`.

    There is neither where it was excluded.
    """

    question: Question
    expected: str
    answer: str
    score: float | None
    value: float | None = None


@dataclass(frozen=True)
class BaseAnswers:
    """The unedited model's answers to all locality probes; ask before the first edit."""

    free: Mapping[str, Answer]
    forced: Mapping[str, ForcedAnswer]

    @classmethod
    def ask(
        cls,
        model: PreTrainedModel,
        reader: Reader,
        questions: Sequence[Question],
        *,
        forced: bool = True,
    ) -> BaseAnswers:
        """Ask the locality questions; teacher-forced only with `forced`."""
        base = Unedited(model, reader.tokenizer)
        prompts = sorted({q.prompt for q in questions if q.metric == "locality"})
        free = dict(zip(prompts, reader.free(base, prompts), strict=True))
        spoken = [prompt for prompt in prompts
                  if forced and not why_no_target(reader.tokenizer, free[prompt].text)]  # fmt: skip
        answers = reader.forced(base, spoken, [free[prompt].text for prompt in spoken])
        return cls(free, dict(zip(spoken, answers, strict=True)))


def measure(
    editor: Editor,
    reader: Reader,
    questions: Sequence[Question],
    protocol: str,
    base: BaseAnswers,
) -> list[Measured]:
    """Score `questions` by one protocol, "free" or "forced", in their order."""
    score = {"free": _measure_free, "forced": _measure_forced}[protocol]
    asked = []
    for question in questions:
        excluded = question.excluded
        forced_locality = question.metric == "locality" and protocol == "forced"
        if not excluded and forced_locality and question.prompt not in base.forced:
            text = base.free[question.prompt].text
            why = (
                f"'s answer {why_no_target(reader.tokenizer, text)}" if text else " answers nothing"
            )
            excluded = f"the unedited model{why}"
        asked.append((question, excluded))
    scored = score(editor, reader, [q for q, why in asked if not why], base)
    return [_excluded(question, why) if why else next(scored) for question, why in asked]


def _excluded(question: Question, why: str) -> Measured:
    return Measured(replace(question, excluded=why), question.expected, "", None)


def _measure_free(
    editor: Editor,
    reader: Reader,
    questions: Sequence[Question],
    base: BaseAnswers,
) -> Iterator[Measured]:
    answers = reader.free(editor, [question.prompt for question in questions])
    for question, answer in zip(questions, answers, strict=True):
        if question.metric == "locality":
            before = base.free[question.prompt]
            same = answer.token_ids == before.token_ids and answer.stopped == before.stopped
            yield Measured(question, before.text, answer.text, float(same))
        else:
            right = answer.is_exactly(question.expected, reader.tokenizer)
            text = answer.text if answer.stopped else f"{answer.text} [did not stop]"
            yield Measured(question, question.expected, text, float(right))


def _measure_forced(
    editor: Editor,
    reader: Reader,
    questions: Sequence[Question],
    base: BaseAnswers,
) -> Iterator[Measured]:
    targets = [
        base.free[q.prompt].text if q.metric == "locality" else q.expected for q in questions
    ]
    answers = reader.forced(editor, [question.prompt for question in questions], targets)
    for question, target, answer in zip(questions, targets, answers, strict=True):
        if question.metric == "locality":
            score = answer.agreement(base.forced[question.prompt])
        else:
            score = answer.share_right
        yield Measured(question, target, reader.text(answer.predicted_ids), score)
