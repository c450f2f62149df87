"""What holds of a model in float32 holds of it in half precision: nothing is rounded away."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from properties.bench import Bench
from properties.findings import Unasked, needs, require
from wise.editor import Persistent, Routed
from wise.edits import Edit

__all__ = [
    "check_a_saved_editor_is_bitwise_the_same_in_half_precision",
    "check_edits_are_written_in_half_precision",
    "check_logits_have_the_dtype_of_the_model",
    "check_out_of_scope_rows_keep_every_bit_in_half_precision",
]


def check_logits_have_the_dtype_of_the_model(bench: Bench) -> None:
    """Logits have the unedited model's dtype, with edits and without, in half precision too."""
    for each in (bench, bench.in_half_precision):
        needed = each.logits(each.base, each.prompts).dtype
        editor = each.editor()
        for when, turn in (("before any edit", ()), ("after an edit", each.edits(1))):
            if turn:
                editor.edit(turn)
            found = each.logits(editor, each.prompts).dtype
            require(
                found == needed,
                f"{when}, logits are in {found}; the unedited model's are in {needed}",
            )


def check_edits_are_written_in_half_precision(bench: Bench) -> None:
    """An edit that is written into the model is written into it in half precision too."""
    half = bench.in_half_precision
    if half is bench:
        raise Unasked("the model is in half precision; the rates are those of it")
    editors = bench.editor(), half.editor()

    def find(edits: Sequence[Edit]) -> list[str]:
        for editor in editors:
            editor.reset()
            for edit in edits:
                editor.edit([edit])
        prompts = [edit.prompt for edit in edits]
        rows = zip(edits, bench.says(editors[0], edits), half.ask(editors[1], prompts), strict=True)
        return [
            f"{edit.prompt!r}, edited to {edit.target!r} on the model in bfloat16, is answered "
            f"{answer.text!r}; in {bench.loaded.model.dtype} it is right"
            for edit, is_right, answer in rows
            if is_right and not bench.same_text(answer.text, edit.target)
        ]

    bench.repeatedly(find)


@needs(Persistent)
def check_a_saved_editor_is_bitwise_the_same_in_half_precision(bench: Bench) -> None:
    """Of a model in half precision, an editor that has loaded a state is bitwise the saved one."""
    half = bench.in_half_precision
    editor = half.editor(half.edits(least=1))
    assert isinstance(editor, Persistent)
    with tempfile.TemporaryDirectory() as folder:
        other = half.saved_copy(editor, Path(folder) / "state")
        found = half.logits(other, half.prompts)
    expected = half.logits(editor, half.prompts)
    half.same(found, expected, f"saved and loaded on a model in {half.loaded.model.dtype}")


@needs(Routed)
def check_out_of_scope_rows_keep_every_bit_in_half_precision(bench: Bench) -> None:
    """A prompt that opens no edit, asked alone, has the unedited model's logits to the bit.

    In half precision, where a change that is added and taken away again leaves its rounding.
    """
    half = bench.in_half_precision
    editor = half.editor(half.edits(least=1))
    assert isinstance(editor, Routed)
    for prompt in half.prompts:
        if half.opens(editor, [prompt])[0]:
            continue
        batch = half.batch([prompt])
        found, needed = (half.routed(each, batch) for each in (editor, half.base))
        require(
            found.equal(needed),
            f"{prompt!r} opens no edit, and its logits differ by up to "
            f"{float((found - needed).abs().max()):.1e} from the unedited model's in "
            f"{needed.dtype}; needed: bitwise equal",
        )
