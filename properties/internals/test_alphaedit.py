"""Laws of `wise.editors.key_value.alphaedit`: what it preserves, and what it solves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_editors import EDITS, make, tiny
from wise.editors.key_value import alphaedit
from wise.editors.key_value.alphaedit import AlphaEditConfig, null_basis, preserving
from wise.edits import Background
from wise.lm.tail import value_inputs
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

FEW = Background(("Rivers run into the sea.", "Nobody knows why."))  # fewer tokens than M
_OPTIONS: dict[str, Any] = dict(
    n_prefixes=0, n_layers=2, layer=1, lr=0.5, clamp=1.0, l2=1e-3, units="model"
)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt"])
def test_preserved_keys_keep_their_outputs(model_type: str) -> None:
    options: dict[str, Any] = dict(_OPTIONS, null_threshold=1e-8)
    editor = tiny(alphaedit.make, model_type, background=FEW, **options)
    for edit in EDITS:
        editor.edit([edit])
    for layer, change in editor._state.changes.items():
        assert change.norm() > 0.1
        for text in FEW.texts:
            k = value_inputs(editor.lm, layer, encode(tiny_tokenizer(), [text]))
            assert (k.double() @ change.double()).abs().max() < 1e-5


def test_the_projection_is_onto_the_null_space_of_c() -> None:
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(5, 12, generator=generator).double()
    values, vectors = torch.linalg.eigh(k.T @ k / 5)
    Q = null_basis(values, vectors, 1e-10)
    assert Q.shape == (12, 7)
    torch.testing.assert_close(Q.T @ Q, torch.eye(7).double())
    assert (k @ Q).abs().max() < 1e-10
    with pytest.raises(ValueError, match=r"below C's least eigenvalue 1\.0"):
        null_basis(torch.ones(3).double(), torch.eye(3).double(), 0.5)


def test_the_update_is_the_projected_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    k0, earlier, k = (torch.randn(n, 12, generator=generator).double() for n in (5, 3, 2))
    residual, l2 = torch.randn(2, 4, generator=generator).double(), 0.3
    values, vectors = torch.linalg.eigh(k0.T @ k0)
    Q = null_basis(values, vectors, 1e-10)
    stacked = torch.cat([k @ Q, earlier @ Q, l2**0.5 * torch.eye(Q.shape[1]).double()])
    wanted = torch.cat([residual, torch.zeros(len(stacked) - 2, 4).double()])
    solution = np.linalg.lstsq(stacked.numpy(), wanted.numpy(), rcond=None)[0]
    expected = Q @ torch.from_numpy(solution)
    torch.testing.assert_close(preserving(Q, k, residual, earlier, l2=l2), expected)


def test_earlier_edits_are_preserved_and_an_overwritten_one_is_not() -> None:
    editor = make("alphaedit", edits=EDITS[:3])
    assert {layer: len(k) for layer, k in editor._state.keys.items()} == {0: 3, 1: 3}
    editor.edit([EDITS[0]])
    assert [edit.prompt for edit in editor.edits] == [EDITS[i].prompt for i in (1, 2, 0)]
    assert {layer: len(k) for layer, k in editor._state.keys.items()} == {0: 3, 1: 3}


def test_a_later_turn_moves_earlier_keys_less_than_without_k_p() -> None:
    editor = make("alphaedit", edits=EDITS[:1], n_layers=1, l2=1e-3)
    (kp,) = editor._state.keys.values()
    first = editor._state.changes[1]
    editor.edit(EDITS[1:2])
    moved = (kp @ (editor._state.changes[1] - first)).norm()
    alone = make("alphaedit", edits=EDITS[1:2], n_layers=1, l2=1e-3)
    assert moved < 0.1 * (kp @ alone._state.changes[1]).norm()


def test_a_bad_unit_or_threshold_is_refused() -> None:
    with pytest.raises(
        ValueError, match="units='c' is not allowed: it should be 'absolute' or 'model'"
    ):
        AlphaEditConfig(units="c")
    with pytest.raises(ValueError, match="null_threshold=0 is not allowed"):
        AlphaEditConfig(null_threshold=0)
