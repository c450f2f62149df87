"""An id names an edit for its caller: in no answer does it count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from properties.bench import Bench
from properties.findings import Broken, remade
from wise.editor import Editor
from wise.edits import Edit


def _after(bench: Bench, editor: Editor, turns: Iterable[Sequence[Edit]]) -> Tensor:
    """[B V]: what `editor` answers after these turns alone."""
    return bench.logits(remade(editor, turns), bench.prompts)


def check_the_id_of_an_edit_changes_no_answer(bench: Bench) -> None:
    """Edits whose ids are empty, equal or swapped are written bitwise as with their own ids."""
    edits, editor = bench.edits(least=2), bench.editor()
    ids = {"equal": ["id"] * len(edits), "empty": [""] * len(edits),
           "swapped": [edit.id for edit in edits[::-1]]}  # fmt: skip
    expected = _after(bench, editor, (edits[:1], edits[1:]))
    for what, names in ids.items():
        others = [replace(edit, id=name) for edit, name in zip(edits, names, strict=True)]
        when = f"edited with ids that are {what}, and not with their own"
        try:
            bench.same(_after(bench, editor, (others[:1], others[1:])), expected, when)
        except Broken as error:
            again = "made again after a reset, with the same ids"
            bench.same(_after(bench, editor, (edits[:1], edits[1:])), expected, again)
            one, other = (_after(bench, editor, ([e] for e in each)) for each in (others, edits))
            bench.same(one, other, when)
            raise Broken(
                f"a turn of {len(edits) - 1} edits is not learned in the order in which it is "
                "given, but in one that changes with their ids or hashes: made one by one, they "
                f"are as they should be; {error}"
            ) from None
