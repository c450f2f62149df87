"""Laws of `wise.editors.key_value.ultraedit`: the closed form, and the lifelong normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fixtures.tiny import tiny_model
from properties.internals.tiny_editors import EDITS, logits_of, make
from properties.internals.tiny_wise import is_same
from wise.editors.base import added
from wise.editors.key_value.ultraedit import Statistics, UltraEditConfig, wanted
from wise.edits import Edit
from wise.lm.decoding import Unedited
from wise.lm.hooks import replace
from wise.lm.tokens import IGNORED, encode

pytestmark = pytest.mark.internals


def rows_of(editor: Any, edits: Sequence[Edit]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """H and V of each edited block, by one forward and backward of the whole edited model."""
    lm, outputs, inputs = editor.lm, dict[int, Tensor](), dict[int, Tensor]()

    def keep(layer: int, seen: Tensor, value: Tensor) -> Tensor:
        inputs[layer], outputs[layer] = seen, value
        return value

    prompts, targets = [e.prompt for e in edits], [e.target for e in edits]
    batch = encode(editor.tokenizer, prompts, targets)
    with added(lm, editor._state.changes), ExitStack() as stack:
        for layer in editor.layers:
            stack.enter_context(replace(lm.part(layer, "value"), partial(keep, layer)))
        logits = lm.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        ).logits
    loss = nn.functional.cross_entropy(logits.mT, batch.labels, reduction="sum")
    gradients = torch.autograd.grad(loss, [outputs[layer] for layer in editor.layers])
    at = batch.labels != IGNORED
    return {
        layer: (inputs[layer][at].detach().numpy(), v[at].numpy())
        for layer, v in zip(editor.layers, gradients, strict=True)
    }


def test_two_turns_are_the_closed_form_of_all_rows_so_far() -> None:
    lr, ridge = 3e-3, 0.2
    editor = make("ultraedit", tiny_model("llama").double(), units="absolute", lr=lr, ridge=ridge)
    stream = [np.zeros((1, 48 + 32))]
    expected: dict[int, Any] = dict.fromkeys(editor.layers, 0.0)
    for turn in (EDITS[:3], EDITS[3:]):
        rows = rows_of(editor, turn)
        editor.edit(turn)
        stream += [np.concatenate(both, axis=1) for both in rows.values()]
        every = np.concatenate(stream)
        for layer, (H, V) in rows.items():
            both = np.concatenate([H, V], axis=1)
            h, v = np.split((both - every.mean(0)) / (every.std(0) + 1e-7), [48], axis=1)
            V = -lr * (h**2).sum(1, keepdims=True) * v
            expected[layer] = expected[layer] + np.linalg.solve(
                H.T @ H + ridge * np.eye(48), H.T @ V
            )
            found = editor._state.changes[layer].double()
            size = float(found.norm())
            assert size > 1e-3
            assert float((found - torch.from_numpy(expected[layer])).norm()) < 1e-5 * size


def test_statistics_of_parts_are_those_of_the_whole_stream() -> None:
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    statistics = Statistics.start(5, torch.device("cpu"))
    for part in rows.split([1, 4, 2]):
        statistics = statistics.joined(part)
    every = torch.cat([torch.zeros(1, 5), rows]).double()
    assert statistics.n == 8
    torch.testing.assert_close(statistics.mean, every.mean(0).float())
    torch.testing.assert_close(statistics.variance, every.var(0, correction=0).float())


def test_the_scale_of_gradients_does_not_matter_and_one_row_has_one() -> None:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    start, scale = Statistics.start(6, torch.device("cpu")), torch.tensor([1.0] * 4 + [50.0] * 2)
    found = [
        wanted(start.joined(each).normalised(each), 4, lr=0.1) for each in (rows, rows * scale)
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    alone = start.joined(rows[:1]).normalised(rows[:1])
    torch.testing.assert_close(alone, rows[:1].sign(), atol=1e-5, rtol=1e-5)


def test_without_a_step_no_answer_changes() -> None:
    editor = make("ultraedit", edits=EDITS[:2], lr=0.0)
    assert logits_of(editor).equal(logits_of(Unedited(editor.lm.model, editor.tokenizer)))


def test_what_is_removed_was_never_taught() -> None:
    editor, again = make("ultraedit", edits=EDITS), Edit(EDITS[0].prompt, "Bonn")
    editor.edit([again])
    editor.remove([EDITS[1], again])
    assert is_same(editor._state, make("ultraedit", edits=EDITS[2:])._state)
    editor.remove(EDITS[2:])
    assert is_same(editor._state, editor.empty)


def test_a_bad_option_is_refused() -> None:
    with pytest.raises(ValueError, match="ridge=0 is not allowed"):
        UltraEditConfig(ridge=0)
    with pytest.raises(ValueError, match="units='c' is not allowed"):
        UltraEditConfig(units="c")
