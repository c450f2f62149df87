"""What an editor says that a prompt opens is what is in force."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from properties.altered import longer_named, other_targets
from properties.bench import Bench
from properties.findings import Broken, Unasked, needs, remade, take_back
from properties.laws.batches import questions
from wise.editor import Editor, Erasable, Retrieves, Routed
from wise.edits import Edit

__all__ = ["require_in_force"]

_N_EDITS = 4  # half of them edited anew
_N_ASKED = 48  # prompts


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


@needs(Routed, Retrieves)
def check_only_a_prompt_that_is_routed_to_an_edit_opens_one(bench: Bench) -> None:
    """`retrieved` gives edits for a prompt whose activation exceeds the threshold, and no other."""
    editor, prompts = bench.filled, questions(bench, _N_ASKED)
    assert isinstance(editor, Routed)
    assert isinstance(editor, Retrieves)
    rows = zip(prompts, bench.opens(editor, prompts), bench.opened(editor, prompts), strict=True)
    wrong = [(prompt, is_open) for prompt, is_open, memory in rows if is_open != bool(memory)]
    for prompt, is_open in wrong[:1]:
        gives = "no edit" if is_open else "an edit"
        raise Broken(
            f"{prompt!r} is routed to {'an edit' if is_open else 'no edit'} by its activation and "
            f"the threshold, and retrieved gives {gives} for it; so it is with {len(wrong)} of "
            f"{len(prompts)} prompts"
        )


@needs(Retrieves)
def check_a_name_that_begins_another_opens_its_own_edit(bench: Bench) -> None:
    """Of two edits of names of which one begins the other, each prompt opens its own edit.

    Whichever is made first, where it does so with this edit alone.
    """

    def find(edits: Sequence[Edit]) -> list[str]:
        pairs = [(edit, replace(longer_named(anew), id=""))
                 for edit, anew in zip(edits, other_targets(edits), strict=True)
                 if edit.subject]  # fmt: skip
        if not pairs:
            raise Unasked("no edit names its subject")
        in_turn = [pair if n % 2 else pair[::-1] for n, pair in enumerate(pairs)]
        older, newer = zip(*in_turn, strict=True)
        opened = _opened(bench, remade(bench.editor(), [older, newer]), [*older, *newer])
        if all(edit in memory for edit, memory in opened.items()):
            return []
        alone = {edit: memory for some in (older, newer)
                 for edit, memory in _opened(bench, bench.editor(some), some).items()}  # fmt: skip
        what = f"{len(pairs)} pairs of edits, of names of which one begins the other"
        wrong = _wrong(opened, alone, what)
        found = (wrong.get(one, wrong.get(other)) for one, other in pairs)
        return [*filter(None, found)]

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
    require_in_force(opened.values(), opened, what)
    return {
        edit: f"after {what}, retrieved says that {edit.prompt!r} opens the edit of "
        f"{memory[0].prompt!r}, and not its own; where those in force alone were made, it opens "
        "its own"
        for edit, memory in opened.items()
        if edit in alone[edit] and memory and edit not in memory
    }


def require_in_force(
    memories: Iterable[Sequence[Edit]], in_force: Collection[Edit], what: str
) -> None:
    """Require that memories which prompts open after `what` have edits in force alone."""
    stale = {edit for memory in memories for edit in memory} - {*in_force}
    for edit in sorted(stale, key=lambda edit: edit.prompt)[:1]:
        raise Broken(
            f"after {what}, retrieved gives {edit.prompt!r} -> {edit.target!r}, which is not in "
            "force"
        )
