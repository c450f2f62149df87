"""The questions put to an edited model: what is asked of an edit stream, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wise.edits import Background, Edit, EditStream

__all__ = ["Question", "at_edit_questions", "drift_questions", "final_questions",
           "fluency_questions", "knowledge_questions"]  # fmt: skip

_MOST_TEXTS = 200


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt to score; `expected` is the right answer, or "" where it is the base model's.

    `aliases` are right too, and only where a model says what it likes: free-run.
    `compared` are the right answer by the record and the one that an edit exchanges it with: the
    answer before the edit, or, where the edit must not reach, its target; "" where it is not known.
    """

    metric: str
    kind: str
    prompt: str
    expected: str
    edit_id: str
    subject: str
    age: int  # edits since its own
    excluded: str = ""  # why it is not scored
    compared: tuple[str, str] = ("", "")
    aliases: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """What is right, word for word, where a model says what it likes."""
        return self.expected, *self.aliases


def at_edit_questions(edits: Sequence[Edit]) -> list[Question]:
    """Each edit's own prompt, right after its turn."""
    return [
        Question("reliability", "", edit.prompt, edit.target, edit.id, _cluster(edit), 0,
                 aliases=edit.aliases)
        for edit in edits
    ]  # fmt: skip


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


def final_questions(stream: EditStream, *, protocol: str = "free") -> list[Question]:
    """Everything to ask after all edits of `stream` by `protocol`, in stream order.

    Aliases of an answer are right free-run. Other protocols ask for the answer itself, token by
    token, and their questions have none.

    Excluded, with the reason: questions about an edit that a later one overwrote, be it an equal
    one, and prompts that the stream edits to another answer. A locality probe that the stream edits
    is always excluded.

    A question that is asked again, of whatever subject, has the same answer again: it belongs to
    the cluster of the first.
    """
    edits = stream.edits
    last = {edit.prompt: place for place, edit in enumerate(edits)}
    of_id = {edit.id: place for place, edit in enumerate(edits) if edit.id}
    questions: list[Question] = []
    clusters: dict[tuple[str, str, str], str] = {}  # of the questions that were asked first

    def ask(
        metric: str, kind: str, prompt: str, answers: tuple[str, ...], place: int | None,
        exchanged: str,
    ) -> None:  # fmt: skip
        right = ("",) if metric == "locality" else answers if protocol == "free" else answers[:1]
        compared = answers[0], "" if exchanged in answers[1:] else exchanged
        edit = None if place is None else edits[place]
        other = edits[last[prompt]] if prompt in last else None
        excluded = ""
        if edit is not None and metric != "locality" and last[edit.prompt] != place:
            excluded = "a later edit of the stream overwrote this one"
        elif other is not None and other.target not in right:
            excluded = f"edit {other.id or other.prompt!r} of the stream writes another answer here"
        own = _cluster(edit) if edit else prompt
        subject = clusters.setdefault((metric, kind, prompt), own)
        age = 0 if place is None else len(edits) - 1 - place
        edit_id = edit.id if edit else ""
        questions.append(Question(metric, kind, prompt, right[0], edit_id, subject, age, excluded,
                                  compared, right[1:]))  # fmt: skip

    for place, edit in enumerate(edits):
        ask("reliability", "", edit.prompt, edit.answers, place, edit.ground_truth)
        for level, paraphrase in edit.graded_paraphrases():
            kind = str(level) if level else ""
            ask("generalization", kind, paraphrase, edit.answers, place, edit.ground_truth)
    for probe in stream.probes:
        of = of_id.get(probe.edit_id)
        if probe.kind == "portability":
            ask("portability", "portability", probe.prompt, probe.answers, of, probe.ground_truth)
        else:
            target = "" if of is None else edits[of].target
            ask("locality", probe.kind, probe.prompt, probe.answers, of, target)
    return questions


def drift_questions(stream: EditStream, background: Background) -> list[Question]:
    """The divergence and the log-perplexity of up to 200 texts that no edit is about.

    They are the far probes of `stream` that it does not edit, each with its answer: no editor was
    given them. Where there are none, they are the texts of the background, and of the kinds that
    say so, "-seen".
    """
    edited = {edit.prompt for edit in stream.edits}
    far = [
        probe.text for probe in stream.probes if probe.kind == "far" and probe.prompt not in edited
    ]
    texts, seen = (far, "") if far else (background.texts, "-seen")
    return [
        Question("drift", f"{kind}{seen}", text, "", "", text, 0)
        for text in list(dict.fromkeys(texts))[:_MOST_TEXTS]
        for kind in ("divergence", "log-perplexity")
    ]


def fluency_questions(stream: EditStream) -> list[Question]:
    """A continuation of each edit's prompt and of its paraphrases, of equal prompts one."""
    asked = {
        q.prompt: replace(q, metric="fluency", kind="", expected="", excluded="", compared=("", ""))
        for q in final_questions(stream, protocol="fluency")
        if q.metric in ("reliability", "generalization")
    }
    return list(asked.values())
