"""What an editor says that a prompt opens is what is in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from properties.bench import Bench
from properties.findings import Broken, needs, take_back
from wise.editor import Editor, Erasable, Retrieves
from wise.edits import Edit

__all__ = ["check_a_prompt_opens_what_is_in_force"]

_N_EDITS = 4  # half of them edited anew


@needs(Retrieves)
def check_a_prompt_opens_what_is_in_force(bench: Bench) -> None:
    """After edits anew, `retrieved` gives edits in force alone, and for a prompt that of its own.

    In the memory that the prompt of an edit opens, this edit is as in an editor that only made the
    edits in force, in the order in which they were made. So it is once some of them are removed,
    where the editor is Erasable.
    """

    def find(edits: Sequence[Edit]) -> list[str]:
        anew, kept = edits[: len(edits) // 2], edits[len(edits) // 2 :]
        anew = [replace(edit, target=other.target) for edit, other in zip(anew, kept, strict=False)]
        in_force = [*kept, *anew]
        alone = bench.editor(in_force)
        own = _opened(bench, alone, in_force)
        editor = bench.editor([*edits, *anew])
        what = f"{len(edits)} edits, of which {len(anew)} were made anew with other targets"
        wrong = _wrong(_opened(bench, editor, in_force), own, what)
        if isinstance(editor, Erasable):
            removed, left = in_force[::2], in_force[1::2]
            take_back(editor, removed)
            what += f", and the removal of {len(removed)}"
            own = {edit: own[edit] for edit in left}
            wrong |= _wrong(_opened(bench, editor, left), own, what)
        return [*wrong.values()]

    bench.repeatedly(find, n=_N_EDITS)


_Opened = Mapping[Edit, Sequence[Edit]]


def _opened(bench: Bench, editor: Editor, edits: Sequence[Edit]) -> _Opened:
    """The edits of the memory that the prompt of each edit opens."""
    found = bench.opened(cast(Retrieves, editor), [edit.prompt for edit in edits])
    return dict(zip(edits, found, strict=True))


def _wrong(opened: _Opened, alone: _Opened, what: str) -> dict[Edit, str]:
    """What is wrong with edits whose prompts open another's memory, but did not `alone`.

    Raises Broken where a memory has an edit that is not among them.
    """
    stale = {edit for memory in opened.values() for edit in memory} - opened.keys()
    if stale:
        edit = min(stale, key=lambda edit: edit.prompt)
        raise Broken(
            f"after {what}, retrieved gives {edit.prompt!r} -> {edit.target!r}, which is not in "
            "force"
        )
    return {
        edit: f"after {what}, retrieved says that {edit.prompt!r} opens the edit of "
        f"{memory[0].prompt!r}, and not its own; where those in force alone were made, it opens "
        "its own"
        for edit, memory in opened.items()
        if edit in alone[edit] and memory and edit not in memory
    }
