"""A row is what its mask shows: every method that takes tokens and a mask reads that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from properties.bench import Bench
from properties.findings import close, gap, require
from properties.laws.continuations import is_near_tie
from wise.editor import Editor, Generates, Retrieves, Routed
from wise.lm.decoding import Answer, answer_of
from wise.measures.text import quoted

_EXTRA = 3  # columns of padding
_N_NEW = 4  # tokens
_GENERATE, _ON_THE_RIGHT = "generate", "with its padding on the right"  # which it may refuse

_Method = Callable[[Tensor, Tensor], Sequence[object]]  # tokens, mask -> one answer for each row


def _methods(bench: Bench, editor: Editor) -> dict[str, _Method]:
    """What `editor` can be asked with tokens and a mask, each by its name, with answers by row."""

    def shown(logits: Tensor, mask: Tensor) -> Sequence[object]:
        return [row[own] for row, own in zip(logits, mask.bool(), strict=True)]

    methods: dict[str, _Method] = {
        "logits": lambda ids, mask: shown(editor.logits(ids, mask), mask)
    }
    if isinstance(editor, Generates):
        generates = editor

        def generate(ids: Tensor, mask: Tensor) -> Sequence[object]:
            rows = generates.generate(ids, mask, _N_NEW).tolist()
            return [answer_of(bench.loaded.tokenizer, row) for row in rows]

        methods[_GENERATE] = generate
    if isinstance(editor, Routed):
        routed = editor
        methods["routing_activation"] = lambda ids, mask: [
            "an edit" if float(each) > routed.threshold else "no edit"
            for each in routed.routing_activation(ids, mask)
        ]
        methods["logits with a prompt_mask"] = lambda ids, mask: shown(
            cast(Any, routed).logits(ids, mask, prompt_mask=mask.bool()), mask
        )
    if isinstance(editor, Retrieves):
        retrieves = editor
        methods["retrieved"] = lambda ids, mask: [
            sorted(edit.prompt for edit in memory) for memory in retrieves.retrieved(ids, mask)
        ]
    return methods


def _ways(ids: Tensor, mask: Tensor) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(what is wrong, how it is asked, tokens, mask) of the same rows, padded on the left here.

    As many others may stand about them, half of these before and half behind.
    """
    shown = mask.bool()
    hidden = ids.where(shown, ids.flip(0).roll(1, dims=-1))
    reads = "reads what the mask hides"
    yield reads, "with another prompt's tokens under the mask", hidden, mask
    wide, wide_mask = (nn.functional.pad(x, (_EXTRA, 0)) for x in (hidden, mask))
    wide[:, :_EXTRA] = ids[0][shown[0]][-1]
    yield reads, f"with {_EXTRA} more tokens under the mask before it", wide, wide_mask
    longer = wide_mask | wide_mask.roll(-1, dims=-1)
    half = len(ids) // 2
    beside, beside_mask = (torch.cat([twins[:half], rows, twins[half:]])
                           for twins, rows in ((wide, wide), (longer, wide_mask)))  # fmt: skip
    how = "beside a row of the same tokens of which the mask shows one more"
    yield "takes two rows for one", how, beside, beside_mask
    order = mask.argsort(dim=-1, descending=True, stable=True)
    on_the_right = hidden.gather(-1, order), mask.gather(-1, order)
    yield "depends on the side of the padding", _ON_THE_RIGHT, *on_the_right
    how = "with tokens and mask as 32-bit integers"
    yield "depends on the type of its integers", how, ids.int(), mask.int()


def check_every_method_reads_a_row_by_its_mask(bench: Bench) -> None:
    """Tokens that the mask hides change no answer of any method, whatever they are.

    Nor do more of them, rows with the same tokens and another mask, the side of the padding, but
    for `generate`, and the type of the integers.
    """
    editor = bench.editor(bench.edits(2, least=1))
    prompts = bench.few_prompts
    batch = bench.batch(prompts)
    for name, ask in _methods(bench, editor).items():
        expected = ask(batch.input_ids, batch.attention_mask)
        for wrong, how, ids, mask in _ways(batch.input_ids, batch.attention_mask):
            if name == _GENERATE and how == _ON_THE_RIGHT:
                continue
            before = (len(ids) - len(prompts)) // 2
            answers = ask(ids, mask)[before : before + len(prompts)]
            for prompt, found, needed in zip(prompts, answers, expected, strict=True):
                require(
                    _is_same(bench, editor, prompt, found, needed),
                    f"{name} {wrong}: {prompt!r}, {how}, {_told(found, needed)}; needed: the "
                    "answer to the tokens that the mask shows",
                )


def _is_same(bench: Bench, editor: Editor, prompt: str, found: object, needed: object) -> bool:
    """Whether two answers are equal up to the order of additions."""
    if isinstance(found, Tensor) and isinstance(needed, Tensor):
        return close(found, needed)
    if isinstance(found, Answer) and isinstance(needed, Answer):
        return found == needed or is_near_tie(bench, editor, prompt, found, needed)
    return found == needed


def _told(found: object, needed: object) -> str:
    """How two answers differ."""
    if isinstance(found, Tensor) and isinstance(needed, Tensor):
        return f"gets logits that differ by {gap(found, needed):.1e} from those without"
    one, other = (
        quoted(each.text) if isinstance(each, Answer) else repr(each) for each in (found, needed)
    )
    return f"gets {one}, and {other} without"
