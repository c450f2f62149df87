"""The state of an editor: saving, loading, removing, and preparing edits."""

from __future__ import annotations

import pickletools
import tempfile
from pathlib import Path
from zipfile import is_zipfile

import torch

from properties.bench import Bench
from properties.findings import Undecided, needs, require
from wise.editor import Editor, Erasable, Persistent, Prepares, Routed
from wise.edits import Edit

__all__ = [
    "check_a_saved_editor_goes_on_as_if_never_stopped",
    "check_a_saved_state_holds_no_pickle",
    "check_preparing_edits_changes_no_answer",
    "check_removing_an_edit_leaves_the_others",
    "check_saved_states_are_kept_apart",
]


def _same(bench: Bench, one: Editor, other: Editor, when: str) -> None:
    """Require bitwise equal logits and, of routed editors, equal thresholds and activations."""
    bench.same(*(bench.logits(editor, bench.prompts) for editor in (one, other)), when)
    if isinstance(one, Routed) and isinstance(other, Routed):
        require(
            one.threshold == other.threshold,
            f"{when}, the threshold is {one.threshold}, not {other.threshold}",
        )
        batch = bench.batch(bench.prompts)
        activations = (
            editor.routing_activation(batch.input_ids, batch.attention_mask)
            for editor in (one, other)
        )
        require(torch.equal(*activations), f"{when}, routing activations are not the same")


@needs(Persistent)
def check_a_saved_editor_goes_on_as_if_never_stopped(bench: Bench) -> None:
    """Saved, loaded into a fresh editor and edited on, it is bitwise the one that never stopped."""
    *edits, last = bench.edits(least=2)
    editor = bench.editor(edits)
    assert isinstance(editor, Persistent)
    with tempfile.TemporaryDirectory() as folder:
        other = bench.saved_copy(editor, Path(folder) / "state")
    _same(bench, other, editor, "saved and loaded")
    editor.edit([last])
    other.edit([last])
    _same(bench, other, editor, "saved, loaded and edited again")


@needs(Persistent)
def check_a_saved_state_holds_no_pickle(bench: Bench) -> None:
    """No saved file is a pickle, or an archive that may contain one: loading must not run code."""
    editor = bench.editor(bench.edits(least=1))
    assert isinstance(editor, Persistent)
    with tempfile.TemporaryDirectory() as folder:
        editor.save(Path(folder) / "state")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        require(bool(files), "nothing was written to the folder that it was saved to")
        for path in files:
            what = "a zip archive" if is_zipfile(path) else "a pickle" if _is_pickle(path) else ""
            require(
                not what, f"the saved file {path.name} is {what}; use safetensors or JSON instead"
            )


def _is_pickle(path: Path) -> bool:
    """Whether a file, or what follows the header of a .npy file, is a pickle to its end."""
    content = path.read_bytes()
    if content.startswith(b"\x93NUMPY"):
        return b"|O" in content[:128]
    try:
        *_, (last, _, place) = pickletools.genops(content)
    except ValueError:
        return False
    return last.name == "STOP" and place == len(content) - 1


@needs(Persistent)
def check_saved_states_are_kept_apart(bench: Bench) -> None:
    """Of two states saved to two folders, each is loaded from its own."""
    edits = bench.edits(least=2)
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


@needs(Erasable)
def check_removing_an_edit_leaves_the_others(bench: Bench) -> None:
    """A removed edit is answered as before it was made; the others stay; removing twice fails."""
    first, *others = bench.edits(least=2)
    editor = bench.editor([first, *others])
    assert isinstance(editor, Erasable)
    written = _written(bench, editor, others)
    try:
        editor.remove([first])
    except KeyError as error:
        require(False, f"the edit of {first.prompt!r} was made, and cannot be removed: {error}")
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


@needs(Prepares)
def check_preparing_edits_changes_no_answer(bench: Bench) -> None:
    """Preparing edits writes nothing, and changes no answer once one of them is made."""
    edits = bench.edits(least=2)
    editor = bench.editor()
    assert isinstance(editor, Prepares)
    editor.prepare(edits)
    base = bench.logits(bench.base, bench.prompts)
    bench.same(bench.logits(editor, bench.prompts), base, "with edits prepared, and none made")
    for edit in edits[:2]:
        editor.edit([edit])
        said, wanted = (bench.ask(each, bench.prompts) for each in (editor, bench.editor([edit])))
        for prompt, found, expected in zip(bench.prompts, said, wanted, strict=True):
            require(
                found.text == expected.text,
                f"with {len(edits)} edits prepared and that of {edit.prompt!r} made, {prompt!r} is "
                f"answered {found.text!r}; not prepared, {expected.text!r}",
            )
        editor.reset()


def _written(bench: Bench, editor: Editor, edits: list[Edit]) -> list[Edit]:
    """The edits that are answered by their targets."""
    found = [edit for edit, right in zip(edits, bench.says(editor, edits), strict=True) if right]
    if not found:
        raise Undecided(f"none of {len(edits)} edits was written, so none can be kept")
    return found
