"""An answer depends on the edits in force and on its question, and on nothing that came between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from properties.altered import accented, numbered
from properties.bench import Bench
from properties.findings import Broken, require
from wise.editor import Editor, Generates, Routed

_Question = Callable[[Any, Tensor, Tensor], object]  # an editor, tokens, a mask


def _kinds(bench: Bench, editor: Editor) -> dict[str, _Question]:
    """The ways to ask `editor` with tokens and a mask, each by its name."""
    kinds: dict[str, _Question] = {"logits": lambda e, ids, mask: e.logits(ids, mask)}
    if isinstance(editor, Generates):
        for n_new in (1, bench.reader.max_new_tokens):
            name = f"generate with max_new_tokens={n_new}"
            kinds[name] = partial(lambda n, e, ids, mask: e.generate(ids, mask, n), n_new)
    if isinstance(editor, Routed):
        kinds["logits with a prompt_mask"] = lambda e, ids, mask: e.logits(
            ids, mask, prompt_mask=_without_the_last(mask)
        )
        kinds["routing_activation"] = lambda e, ids, mask: e.routing_activation(ids, mask)
    return kinds


def _without_the_last(mask: Tensor) -> Tensor:
    """[B T]: `mask` without the last of each row's tokens, which are padded on the left."""
    return mask.bool() & (torch.arange(mask.shape[1], device=mask.device) < mask.shape[1] - 1)


def _batches(ids: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(what it is, tokens, mask) of batches that are alike in all but one thing."""
    first = mask.long().argmax(-1, keepdim=True)  # B 1
    yield "the batch", ids, mask
    yield "the same rows in another order", ids.flip(0), mask.flip(0)
    yield "its first row alone", ids[:1], mask[:1]
    yield "tensors that do not lie row by row", ids.T.contiguous().T, mask.T.contiguous().T
    yield "the same tokens with the first of each row masked", ids, mask.scatter(1, first, 0)


def _lookalikes(bench: Bench) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(what it is, tokens, mask) of prompts alone: a digit, accents, case or a space differ."""
    edit = bench.edits(1)[0]
    text, other = (numbered(edit, number).prompt for number in (14, 17))
    for what, prompt in (
        ("a prompt with a number", text),
        ("a prompt with another number", other),
        ("a prompt with a number and accents", accented(text)),
        ("a prompt with a number, in capitals", text.upper()),
        ("a prompt with a number and a space at its end", f"{text} "),
    ):
        batch = bench.batch([prompt])
        yield what, batch.input_ids, batch.attention_mask


def _rows(answer: object, mask: Tensor) -> Tensor:
    """An answer as a tensor, zero where a row has no token."""
    assert isinstance(answer, Tensor)
    kept = answer.detach().clone()
    return kept.masked_fill(~mask.bool()[..., None], 0) if kept.ndim == 3 else kept


def _asked(name: str, ask: _Question, editor: Editor, ids: Tensor, mask: Tensor) -> Tensor:
    """The answer as `_rows` gives it; Broken where the question's tensors are written to."""
    given = ids.clone(), mask.clone()
    answer = _rows(ask(editor, ids, mask), mask)
    for what, own, before in zip(("tokens", "mask"), (ids, mask), given, strict=True):
        n_changed = int((own != before).sum())
        require(
            not n_changed,
            f"{name}, wrote to the {what} that the caller gave: {n_changed} of {own.numel()} of "
            "its entries are changed; needed: an editor that reads them only",
        )
    return answer


def check_an_answer_depends_on_its_own_question(bench: Bench) -> None:
    """Questions alike in all but one thing, asked in two opposite orders, get the same answers.

    They differ in a mask, in the order or number of rows, in how tensors lie in memory, in a digit,
    accents, case or a space, in `max_new_tokens` or `prompt_mask`, or in what is asked for.
    """
    edits = bench.edits(2, least=1)
    editors = bench.editor(edits), bench.editor(edits)
    batch = bench.batch(bench.few_prompts)
    asked = [
        (f"{name}, of {what}", ask, ids, mask)
        for what, ids, mask in chain(
            _batches(batch.input_ids, batch.attention_mask), _lookalikes(bench)
        )
        for name, ask in _kinds(bench, editors[0]).items()
    ]
    forth, back = (
        {name: _asked(name, ask, editor, ids, mask) for name, ask, ids, mask in order}
        for editor, order in zip(editors, (asked, asked[::-1]), strict=True)
    )
    for name, *_ in asked:
        if torch.equal(forth[name], back[name]):
            continue
        alike = (
            other
            for other, *_ in asked
            if other != name
            and "a prompt" in other
            and all(torch.equal(given[other], given[name]) for given in (forth, back))
        )
        other = next(alike, "")
        raise Broken(
            f"{name}, is answered otherwise after other questions than before them"
            + f", each time as {other}, is" * bool(other)
            + "; needed: an answer that does not depend on what was asked earlier"
        )
    for name in _kinds(bench, editors[0]):
        rows, scattered = (forth[f"{name}, of {what}"] for what in
                           ("the batch", "tensors that do not lie row by row"))  # fmt: skip
        require(torch.equal(rows, scattered), f"{name}, of tensors that do not lie row by row in "
                "memory, is answered otherwise than of equal ones that do")  # fmt: skip


def check_the_callers_tensors_are_read_anew(bench: Bench) -> None:
    """What the caller does with its tensors, or with an answer, shows in no later answer."""
    editor = bench.editor(bench.edits(2, least=1))
    batch = bench.batch(bench.few_prompts)
    ids, mask = batch.input_ids, batch.attention_mask
    for name, ask in _kinds(bench, editor).items():
        own = ids.clone(), mask.clone()
        answer = ask(editor, *own)
        expected = _rows(answer, mask)
        with suppress(RuntimeError):  # a tensor of inference mode cannot be written to
            assert isinstance(answer, Tensor)
            answer.zero_()
        require(
            torch.equal(_rows(ask(editor, *own), mask), expected),
            f"the caller wrote into an answer of {name}, and the same question is then answered "
            "with what was written",
        )
        for tensor, other in zip(own, (ids.flip(0), mask.flip(0)), strict=True):
            tensor.copy_(other)
        require(
            torch.equal(_rows(ask(editor, *own), own[1]), _rows(ask(editor, *_flipped(ids, mask)),
                                                                own[1])),
            f"the caller asked {name} twice with the same tensors, with other rows in them the "
            "second time, and got an answer to the first",
        )  # fmt: skip


def _flipped(*tensors: Tensor) -> Sequence[Tensor]:
    return [tensor.flip(0) for tensor in tensors]
