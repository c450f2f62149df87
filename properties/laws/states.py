"""What an editor holds: written last, saved, loaded, removed, in one turn or in several."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from zipfile import is_zipfile

import torch

from properties.bench import Bench, Undecided, require
from wise.editor import Editor, Erasable, Persistent, Routed
from wise.edits import Edit
from wise.lm.decoding import normalized

__all__ = [
    "check_a_mass_turn_writes_all_of_its_edits",
    "check_a_repeated_edit_changes_no_answer",
    "check_a_saved_editor_goes_on_as_if_never_stopped",
    "check_a_saved_state_holds_no_pickle",
    "check_removing_an_edit_leaves_the_others",
    "check_saved_states_are_kept_apart",
    "check_the_last_write_wins",
]


def _same(bench: Bench, one: Editor, other: Editor, when: str) -> None:
    """Require bitwise equal logits and, of routed editors, equal thresholds and activations."""
    found, expected = (bench.logits(editor, bench.prompts) for editor in (one, other))
    require(torch.equal(found, expected), f"{when}, logits are not bitwise the same")
    if isinstance(one, Routed) and isinstance(other, Routed):
        require(
            one.threshold == other.threshold,
            f"{when}, the threshold is {one.threshold}, not {other.threshold}",
        )


def check_the_last_write_wins(bench: Bench) -> None:
    """A prompt edited to a second target, or back to the truth, does not say the first any more."""
    edits = bench.edits()
    others = [other.target for other in (*edits[1:], edits[0])]
    for targets, word in ((others, "another target"), (
        [edit.ground_truth or other for edit, other in zip(edits, others, strict=True)], "the truth"
    )):  # fmt: skip
        editor = bench.editor(edits)
        for edit, target in zip(edits, targets, strict=True):
            editor.edit([replace(edit, target=target)])
        answers = bench.ask(editor, [edit.prompt for edit in edits])
        for edit, target, answer in zip(edits, targets, answers, strict=True):
            stale = normalized(edit.target) != normalized(target)
            require(
                not (stale and normalized(answer.text) == normalized(edit.target)),
                f"{edit.prompt!r} was edited to {edit.target!r} and then to {target!r} ({word}); "
                f"it still says {answer.text!r}",
            )


def check_a_repeated_edit_changes_no_answer(bench: Bench) -> None:
    """An edit that is made twice leaves every edited prompt that was right, right."""
    edits = bench.edits()
    once, twice = bench.editor(edits), bench.editor([*edits, edits[0], edits[0]])
    before, after = bench.says(once, edits), bench.says(twice, edits)
    for edit, was_right, is_right in zip(edits, before, after, strict=True):
        require(
            is_right or not was_right,
            f"{edit.prompt!r} no longer says {edit.target!r} once the edit of "
            f"{edits[0].prompt!r} has been repeated",
        )


def check_a_mass_turn_writes_all_of_its_edits(bench: Bench) -> None:
    """Edits made in one turn are all written, if each is where it is made alone."""
    edits = bench.edits()
    editor = bench.editor()
    editor.edit(edits)
    written = bench.says(editor, edits)
    alone = [bench.says(bench.editor([edit]), [edit])[0] for edit in edits]
    lost = [
        e
        for e, is_written, can_be in zip(edits, written, alone, strict=True)
        if can_be and not is_written
    ]
    require(
        len(lost) <= len(edits) // 2,
        f"of one turn of {len(edits)} edits, {len(lost)} were not written, each of which is "
        f"written when it is made alone; the first is {lost[0].prompt if lost else ''!r}",
    )


def check_a_saved_editor_goes_on_as_if_never_stopped(bench: Bench) -> None:
    """Saved, loaded into a fresh editor and edited on, it is bitwise the one that never stopped."""
    *edits, last = bench.edits()
    editor = bench.editor(edits)
    assert isinstance(editor, Persistent)
    with tempfile.TemporaryDirectory() as folder:
        other = bench.saved_copy(editor, Path(folder) / "state")
    _same(bench, other, editor, "saved and loaded")
    editor.edit([last])
    other.edit([last])
    _same(bench, other, editor, "saved, loaded and edited again")


def check_a_saved_state_holds_no_pickle(bench: Bench) -> None:
    """No saved file is a pickle, or an archive that may hold one: loading must not run code."""
    editor = bench.editor(bench.edits())
    assert isinstance(editor, Persistent)
    with tempfile.TemporaryDirectory() as folder:
        editor.save(Path(folder) / "state")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        require(bool(files), "nothing was written below the folder that it was saved to")
        for path in files:
            is_pickle = path.read_bytes()[:2] in (b"\x80" + bytes([n]) for n in range(2, 6))
            require(
                not (is_pickle or is_zipfile(path)),
                f"the saved file {path.name} is a pickle or a zip archive; use safetensors or JSON",
            )


def check_saved_states_are_kept_apart(bench: Bench) -> None:
    """Two states saved to two folders are loaded each from its own."""
    edits = bench.edits()
    editors = bench.editor(edits[:1]), bench.editor(edits[1:])
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("one", "other")]
        for editor, place in zip(editors, places, strict=True):
            assert isinstance(editor, Persistent)
            editor.save(place)
        for editor, place in zip(editors, places, strict=True):
            loaded = bench.editor()
            assert isinstance(loaded, Persistent)
            loaded.load(place)
            _same(bench, loaded, editor, "saved beside another editor and loaded")


def check_removing_an_edit_leaves_the_others(bench: Bench) -> None:
    """A removed edit is answered as before it was made; the others stay; removing twice fails."""
    first, *others = bench.edits()
    editor = bench.editor([first, *others])
    assert isinstance(editor, Erasable)
    written = _written(bench, editor, others)
    editor.remove([first])
    [answer], [base] = bench.ask(editor, [first.prompt]), bench.ask(bench.base, [first.prompt])
    require(
        answer.text == base.text,
        f"the edit of {first.prompt!r} was removed; it says {answer.text!r}, the unedited model "
        f"{base.text!r}",
    )
    for edit, is_right in zip(written, bench.says(editor, written), strict=True):
        require(is_right, f"removing {first.prompt!r} took {edit.prompt!r} with it")
    try:
        editor.remove([first])
    except (KeyError, ValueError):
        return
    require(False, f"{first.prompt!r} was removed twice without an error")


def _written(bench: Bench, editor: Editor, edits: list[Edit]) -> list[Edit]:
    """The edits that are answered by their targets."""
    found = [edit for edit, right in zip(edits, bench.says(editor, edits), strict=True) if right]
    if not found:
        raise Undecided(f"none of {len(edits)} edits was written; nothing is left to be kept")
    return found
