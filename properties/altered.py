"""Edits that laws make of others: they differ in one thing, or share one thing alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from properties.bench import Bench
from properties.findings import Unasked
from wise.edits import Edit
from wise.lm.architectures import context_length

__all__ = [
    "about_its_subject", "accented", "context_to_exceed", "longer_named", "neighbours", "numbered",
    "of_its_target", "other_targets", "renamed", "reworded", "subject_in", "too_long",
]  # fmt: skip

_ACCENTS = str.maketrans("aeiouyAEIOUY", "áéíóúýÁÉÍÓÚÝ")
_LONGEST = 100_000  # tokens of a context that a law exceeds


def accented(text: str) -> str:
    """`text` with an accent on each vowel."""
    return text.translate(_ACCENTS)


def subject_in(edit: Edit, prompt: str) -> str:
    """The subject of `edit`, for an edit of `prompt`: "" where that spells it otherwise."""
    return edit.subject if edit.subject in prompt else ""


def reworded(edit: Edit, prompt: str) -> Edit:
    """The edit with another prompt for the same fact."""
    return replace(edit, prompt=prompt, subject=subject_in(edit, prompt))


def renamed(edit: Edit, subject: str) -> Edit:
    """The edit with another name in the place of its subject."""
    return replace(edit, prompt=edit.prompt.replace(edit.subject, subject), subject=subject)


def numbered(edit: Edit, number: int) -> Edit:
    """The edit with a number behind its subject, or before its prompt."""
    if edit.subject and edit.subject in edit.prompt:
        return renamed(edit, f"{edit.subject} {number}")
    return replace(edit, prompt=f"{number}. {edit.prompt}")


def longer_named(edit: Edit) -> Edit:
    """The edit about another, whose name begins with the subject; itself without a subject."""
    return renamed(edit, f"{edit.subject} Rarberg") if edit.subject else edit


def of_its_target(edit: Edit, other: Edit) -> Edit:
    """`other` with the target and id of `edit`."""
    return replace(other, target=edit.target, id=edit.id)


def about_its_subject(edit: Edit, other: Edit) -> Edit:
    """Another fact about the subject of `edit`, to the target of `other`."""
    about = edit.subject or edit.prompt
    return Edit(f"The song that was written about {about} is", other.target, edit.subject)


def neighbours(edits: Sequence[Edit]) -> Iterator[tuple[Edit, Edit]]:
    """Each edit with the next one, the last with the first."""
    return zip(edits, [*edits[1:], *edits[:1]], strict=True)


def other_targets(edits: Sequence[Edit]) -> list[Edit]:
    """The edits, each to the next one's target."""
    return [replace(edit, target=other.target) for edit, other in neighbours(edits)]


def context_to_exceed(bench: Bench) -> int:
    """The model's context in tokens. Raises Unasked where none is short enough to exceed."""
    length = context_length(bench.loaded.model)
    if length is None or length > _LONGEST:
        raise Unasked(f"the model's context of {length} tokens is too long to exceed")
    return length


def too_long(bench: Bench, edit: Edit) -> Edit:
    """`edit` with a target beyond the model's context. Raises Unasked where there is no limit."""
    return replace(edit, target=" ".join([edit.target] * (1 + context_to_exceed(bench))))
