"""The records that everything else uses: edits, probes, edit streams and background text.

Plain frozen data, without torch: a stream is fixed, digested and printed before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from wise.jobs.ledger import json_digest

__all__ = [
    "LEVELS",
    "PROBE_KINDS",
    "Background",
    "Edit",
    "EditStream",
    "Probe",
    "check_text",
    "edits_of",
    "fields_of",
    "turn_of",
]

LEVELS = (1, 2, 3, 4, 5)  # of paraphrases: from a common phrasing to a pronoun
PROBE_KINDS = ("far", "near-subject", "near-relation", "portability")


def check_text(record: object, field: str, *, required: bool) -> None:
    """Raise ValueError naming a field that is no text, or blank though it is `required`."""
    value = getattr(record, field)
    if not isinstance(value, str) or (required and not value.strip()):
        needed = "a non-blank text" if required else "a text"
        raise ValueError(f"{type(record).__name__}.{field}={value!r} is not {needed}")


def _keep_as_tuple(record: object, field: str) -> None:
    value = getattr(record, field)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{type(record).__name__}.{field}={value!r} is not a tuple")
    object.__setattr__(record, field, tuple(value))


def _check_texts(record: object, field: str) -> None:
    _keep_as_tuple(record, field)
    for text in getattr(record, field):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{type(record).__name__}.{field} holds {text!r}; each must be a non-blank text"
            )


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to write into a model: the answer to `prompt` (x_e) becomes `target` (y_e).

    `paraphrases` ask for the same fact in other words; `levels`, where given, grades each of them
    by one of LEVELS (1 = nearest). `subject` is a span of the prompt. `aliases` are right answers
    beside the target, which alone is taught. Raises ValueError naming field and value.
    """

    prompt: str
    target: str
    subject: str = ""
    paraphrases: tuple[str, ...] = ()
    ground_truth: str = ""
    id: str = ""
    levels: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("prompt", "target"):
            check_text(self, field, required=True)
        for field in ("subject", "ground_truth", "id"):
            check_text(self, field, required=False)
        if self.subject not in self.prompt:
            raise ValueError(f"Edit.subject={self.subject!r} is not in the prompt {self.prompt!r}")
        _check_texts(self, "paraphrases")
        _check_texts(self, "aliases")
        _keep_as_tuple(self, "levels")
        for level in self.levels:
            if type(level) is not int or level not in LEVELS:
                raise ValueError(
                    f"Edit.levels holds {level!r}; each must be a whole number, 1 to 5"
                )
        if self.levels and len(self.levels) != len(self.paraphrases):
            raise ValueError(
                f"Edit.levels={list(self.levels)!r} grades {len(self.levels)} of "
                f"{len(self.paraphrases)} paraphrases; grade all or none"
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """All that is right where the edit is asked for, the target first."""
        return self.target, *self.aliases

    def as_taught(self) -> Edit:
        """The edit as an editor gets it: without what is asked, or right, only afterwards."""
        return replace(self, paraphrases=(), levels=(), aliases=())

    def graded_paraphrases(self) -> tuple[tuple[int, str], ...]:
        """(level, paraphrase) pairs; level 0 where the source does not grade."""
        levels = self.levels or (0,) * len(self.paraphrases)
        return tuple(zip(levels, self.paraphrases, strict=True))


def turn_of(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """`edits` as one turn; ValueError where it is empty, edits a prompt twice or has a bad field.

    Fields are checked again, as a record may have been made without its own checks.
    """
    edits = tuple(replace(edit) for edit in edits)
    if not edits:
        raise ValueError("edits=() is empty; a turn needs at least one edit")
    if len({edit.prompt for edit in edits}) < len(edits):
        raise ValueError("a turn edits the same prompt twice; give each its own turn")
    return edits


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt outside the scope of every edit (or, for `portability`, a consequence of one).

    `edit_id` names the edit a probe was made for; `answer`, where known, is the right answer, and
    `aliases` are others that are right too. Of a consequence, `ground_truth` is, where known, the
    answer before the edit.
    """

    prompt: str
    kind: str
    answer: str = ""
    edit_id: str = ""
    ground_truth: str = ""
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_text(self, "prompt", required=True)
        check_text(self, "answer", required=self.kind == "portability")
        for field in ("edit_id", "ground_truth"):
            check_text(self, field, required=False)
        if self.kind not in PROBE_KINDS:
            raise ValueError(f"Probe.kind={self.kind!r} is none of {', '.join(PROBE_KINDS)}")
        _check_texts(self, "aliases")
        if self.aliases and not self.answer.strip():
            raise ValueError(
                f"Probe.aliases={list(self.aliases)!r} are of no answer; give the answer"
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers, the first of which is "" where none is known."""
        return self.answer, *self.aliases

    @property
    def text(self) -> str:
        """The prompt with its answer, as running text."""
        return f"{self.prompt} {self.answer}".strip()


def fields_of(record: Any) -> dict[str, Any]:
    """A record that may have aliases by its fields; files and digests hold aliases only if any."""
    found = {each.name: getattr(record, each.name) for each in fields(record)}
    if not record.aliases:
        del found["aliases"]
    return found


def edits_of(records: Iterable[Mapping[str, Any]]) -> tuple[Edit, ...]:
    """The edits of their fields. Raises TypeError where fields are not those of an edit."""
    return tuple(Edit(**record) for record in records)


@dataclass(frozen=True)
class EditStream:
    """Edits in the order in which they arrive, and probes of what they must not touch."""

    edits: tuple[Edit, ...]
    probes: tuple[Probe, ...] = ()
    name: str = "stream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))
        object.__setattr__(self, "probes", tuple(self.probes))
        for field, kind in (("edits", Edit), ("probes", Probe)):
            for record in getattr(self, field):
                if not isinstance(record, kind):
                    raise ValueError(f"EditStream.{field} holds {record!r}, not a {kind.__name__}")
        known = {edit.id for edit in self.edits}
        for probe in self.probes:
            if probe.edit_id and probe.edit_id not in known:
                raise ValueError(f"Probe.edit_id={probe.edit_id!r} names no edit of the stream")

    @cached_property
    def sha256(self) -> str:
        """Digest of the edits and probes; the name does not count."""
        records = [[fields_of(record) for record in group] for group in (self.edits, self.probes)]
        return json_digest(records)

    @property
    def n_aliases(self) -> int:
        """How many aliases count: those of edits and consequences."""
        of_edits = sum(len(edit.aliases) for edit in self.edits)
        asked = (probe for probe in self.probes if probe.kind == "portability")
        return of_edits + sum(len(probe.aliases) for probe in asked)

    def prefix(self, t: int) -> EditStream:
        """The first `t` edits, with the probes made for them and those made for no edit."""
        if not 0 <= t <= len(self.edits):
            raise ValueError(f"t={t} is outside the stream's 0..{len(self.edits)} edits")
        return self.with_only(self.edits[:t])

    def with_only(self, edits: Sequence[Edit]) -> EditStream:
        """These edits of the stream, with the probes made for them and those made for no edit."""
        allowed = {"", *(edit.id for edit in edits)}
        probes = tuple(probe for probe in self.probes if probe.edit_id in allowed)
        return EditStream(tuple(edits), probes, self.name)

    def live(self) -> tuple[Edit, ...]:
        """The edits still in force: the last write per prompt wins, in stream order."""
        last = {edit.prompt: index for index, edit in enumerate(self.edits)}
        return tuple(self.edits[index] for index in sorted(last.values()))


@dataclass(frozen=True)
class Background:
    """What an editor may see before the stream: plain `texts`, and `edits` to train or tune on."""

    texts: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        _check_texts(self, "texts")
        _keep_as_tuple(self, "edits")

    @classmethod
    def of(cls, edits: Sequence[Edit], probes: Sequence[Probe]) -> Background:
        """Records of a published file that a stream left over, as background."""
        return cls(tuple(probe.text for probe in probes), tuple(edits))

    def __add__(self, other: Background) -> Background:
        return Background(self.texts + other.texts, self.edits + other.edits)

    def apart_from(self, stream: EditStream) -> Background:
        """The part that shares nothing with `stream`, in the sense of `check_disjoint`."""
        asked = [prompt for _, prompt in _asked(stream)]
        known = set(asked)
        edits = [e for e in self.edits if known.isdisjoint((e.prompt, *e.paraphrases))]
        texts = [text for text in self.texts if not any(prompt in text for prompt in asked)]
        return Background(tuple(texts), tuple(edits))

    def check_disjoint(self, stream: EditStream) -> None:
        """Raise ValueError naming the first record that the stream and the background share.

        Shared means: a prompt, paraphrase or probe of the stream is contained in a background text,
        or is a prompt or paraphrase of a background edit.
        """
        prompts = {text for edit in self.edits for text in (edit.prompt, *edit.paraphrases)}
        corpus = "\n".join(self.texts)
        for what, prompt in _asked(stream):
            if prompt in prompts or prompt in corpus:
                raise ValueError(f"the background holds the stream's {what} {prompt!r}")


def _asked(stream: EditStream) -> list[tuple[str, str]]:
    """(what it is, text) of every prompt, paraphrase and probe of the stream."""
    asked = [("edit", edit.prompt) for edit in stream.edits]
    asked += [("paraphrase", text) for edit in stream.edits for text in edit.paraphrases]
    return asked + [(f"{probe.kind} probe", probe.prompt) for probe in stream.probes]
