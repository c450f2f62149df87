"""The questions put to an edited model, and the score of each answer.

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
from wise.edits import Edit, EditStream
from wise.lm.decoding import Answer, ForcedAnswer, Reader, Unedited
from wise.lm.tokens import why_no_target

__all__ = [
    "BaseAnswers",
    "Measured",
    "Question",
    "at_edit_questions",
    "final_questions",
    "knowledge_questions",
    "measure",
]


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt to score; `expected` is the right answer, or "" where it is the base model's."""

    metric: str
    kind: str
    prompt: str
    expected: str
    edit_id: str
    subject: str
    age: int  # edits since its own
    excluded: str = ""  # why it is not scored


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


def at_edit_questions(edits: Sequence[Edit]) -> list[Question]:
    """Each edit's own prompt, right after its turn."""
    return [
        Question("reliability", "", edit.prompt, edit.target, edit.id, _cluster(edit), 0)
        for edit in edits
    ]


def knowledge_questions(edits: Sequence[Edit]) -> list[Question]:
    """Each edit's prompt with the answer that it replaces, to be asked of the unedited model.

    Teacher-forced, a score of 1 says that the model knows the fact: its continuation begins with
    the ground truth. Source: ROME, section 2.1.
    """
    return [
        Question("knowledge", "", edit.prompt, edit.ground_truth, edit.id, _cluster(edit), 0)
        for edit in edits
        if edit.ground_truth.strip()
    ]


def _cluster(edit: Edit) -> str:
    """The cluster that an edit's items belong to."""
    return edit.subject or edit.id or edit.prompt


def final_questions(stream: EditStream) -> list[Question]:
    """Everything to ask after all edits of `stream`, in stream order.

    Excluded, with the reason: questions about an edit that a later one overwrote, be it an equal
    one, and prompts that the stream edits to another answer. A locality probe that the stream edits
    is always excluded.
    """
    edits = stream.edits
    last = {edit.prompt: place for place, edit in enumerate(edits)}
    of_id = {edit.id: place for place, edit in enumerate(edits) if edit.id}
    questions: list[Question] = []

    def ask(metric: str, kind: str, prompt: str, expected: str, place: int | None) -> None:
        edit = None if place is None else edits[place]
        other = edits[last[prompt]] if prompt in last else None
        excluded = ""
        if edit is not None and metric != "locality" and last[edit.prompt] != place:
            excluded = "a later edit of the stream overwrote this one"
        elif other is not None and other.target != expected:
            excluded = f"edit {other.id or other.prompt!r} of the stream writes another answer here"
        subject = _cluster(edit) if edit else prompt
        age = 0 if place is None else len(edits) - 1 - place
        edit_id = edit.id if edit else ""
        questions.append(Question(metric, kind, prompt, expected, edit_id, subject, age, excluded))

    for place, edit in enumerate(edits):
        ask("reliability", "", edit.prompt, edit.target, place)
        for level, paraphrase in edit.graded_paraphrases():
            ask("generalization", str(level) if level else "", paraphrase, edit.target, place)
    for probe in stream.probes:
        if probe.kind == "portability":
            ask("portability", "portability", probe.prompt, probe.answer, of_id.get(probe.edit_id))
        else:
            ask("locality", probe.kind, probe.prompt, "", of_id.get(probe.edit_id))
    return questions


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
