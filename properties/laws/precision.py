"""What holds of a model in float32 holds of it in half precision: nothing is rounded away."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from properties.bench import Bench
from properties.findings import Broken, Unasked, gap, needs, remade, require
from wise.editor import Persistent, Routed
from wise.edits import Edit
from wise.lm.architectures import context_length
from wise.lm.decoding import batch_logits, most_rows

_LONG, _SHORTER = 4096, (2048, 1024, 512, 1)  # tokens; whole numbers in bfloat16 end at 256


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
    """An edit that is written into the model is written into it in half precision too.

    In bfloat16, which has few digits, and in float16, where small numbers are 0 and large ones
    infinite.
    """
    if bench.in_half_precision is bench:
        raise Unasked("the model is in half precision; the rates are those of it")
    for half in (bench.in_half_precision, bench.in_precision(torch.float16)):
        _require_as_written(bench, half)


def _require_as_written(bench: Bench, half: Bench) -> None:
    editor = half.editor()

    def find(edits: Sequence[Edit]) -> list[str]:
        turns = [[edit] for edit in edits]
        answers = half.ask(remade(editor, turns), [edit.prompt for edit in edits])
        rows = zip(edits, bench.held(turns, edits), answers, strict=True)
        return [
            f"{edit.prompt!r}, edited to {edit.target!r} on the model in "
            f"{half.loaded.model.dtype}, is answered {answer.text!r}; in "
            f"{bench.loaded.model.dtype} it is right"
            for edit, is_right, answer in rows
            if is_right and not bench.same_text(answer.text, edit.target)
        ]

    bench.repeatedly(find)


def _long_rows(bench: Bench) -> tuple[Tensor, Tensor]:
    """[2 T]: tokens and mask of a row as long as the model reads, and one of half as many.

    At most as long as logits of 256 MiB are.
    """
    tokenizer, model = bench.loaded.tokenizer, bench.loaded.model
    limit = context_length(model) or _LONG
    n = min(limit, next(n for n in (_LONG, *_SHORTER) if most_rows(tokenizer, n) >= 2))
    texts = [edit.prompt for edit in bench.stream.edits] + [p.prompt for p in bench.stream.probes]
    ids = tokenizer(" ".join(texts), return_tensors="pt").input_ids[0]
    ids = ids.repeat(1 + n // len(ids))[:n].expand(2, n)
    mask = torch.ones_like(ids)
    mask[1, : n // 2] = 0
    return ids.to(model.device), mask.to(model.device)


def check_long_rows_without_edits_are_the_base_model(bench: Bench) -> None:
    """Up to the model's window, logits before any edit are bitwise the unedited model's.

    At every token of a row, whatever its padding, in half precision too: where positions or sums
    over a long row are taken in it, they are rounded. So are they once all edits are reset.
    """
    for each in (bench, bench.in_half_precision):
        ids, mask = _long_rows(each)
        needed = each.base.logits(ids, mask)
        editor = each.editor()
        for when, turn in (("before any edit", ()), ("after an edit and a reset", each.edits(1))):
            if turn:
                editor.edit(turn)
                editor.reset()
            found = editor.logits(ids, mask)
            apart = ((found != needed).any(-1) & mask.bool()).nonzero()
            if len(apart):
                row, column = apart[0].tolist()
                token = int(mask[row, : column + 1].sum())
                raise Broken(
                    f"{when}, logits of a row of {int(mask[row].sum())} tokens differ from the "
                    f"unedited model's in {needed.dtype}, first at token {token}, by up to "
                    f"{float((found - needed)[mask.bool()].abs().max()):.1e}; needed: bitwise "
                    "equal",
                )


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
        found, needed = (batch_logits(each, batch) for each in (editor, half.base))
        require(
            found.equal(needed),
            f"{prompt!r} opens no edit, and its logits differ by up to "
            f"{gap(found, needed):.1e} from the unedited model's in "
            f"{needed.dtype}; needed: bitwise equal",
        )
