"""Laws of `wise.editors.key_value.memit`: least squares for a turn, and how a value is spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fixtures.tiny import tiny_model
from properties.internals.tiny_editors import EDITS, least_squares_problem, make
from properties.internals.tiny_wise import is_same
from wise.editors.base import added
from wise.editors.key_value.associative import through_norm
from wise.editors.key_value.keyvalue import optimize, read
from wise.editors.key_value.memit import MEMITConfig
from wise.lm.architectures import LanguageModel
from wise.lm.hooks import frozen

pytestmark = pytest.mark.internals


@pytest.mark.parametrize("n_edits", [1, 4])
def test_one_layers_update_is_the_least_squares_solution(n_edits: int) -> None:
    edits, weight = EDITS[:n_edits], 0.05
    editor = make("memit", n_layers=1, covariance_weight=weight, ridge=1e-3)
    editor.edit(edits)
    C, values, stood = least_squares_problem(editor, edits, site="stream")
    residual = (values - stood.stream).numpy()
    root = np.linalg.cholesky(weight * 48 * C.numpy()).T  # of M = 48
    stacked = np.concatenate([stood.key.numpy(), root])
    wanted = np.concatenate([residual, np.zeros((48, 32))])
    expected = torch.from_numpy(np.linalg.lstsq(stacked, wanted, rcond=None)[0])
    change = editor._state.changes[1].double()
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-4)


def test_a_mass_turn_is_one_turn_in_any_number_of_optimisation_batches() -> None:
    one, parts = make("memit"), make("memit", batch_size=1)
    for editor in (one, parts):
        editor.edit(EDITS)
    for layer, change in one._state.changes.items():
        torch.testing.assert_close(parts._state.changes[layer], change, atol=1e-3, rtol=1e-2)
    sequential = make("memit", edits=EDITS)
    assert not is_same(one._state.changes, sequential._state.changes)


def test_each_layer_of_the_window_takes_part_and_no_other() -> None:
    editor = make("memit", tiny_model("gpt2", n_layers=6), layer=3, n_layers=4)
    editor.edit(EDITS[:2])
    assert sorted(editor._state.changes) == [1, 2, 3, 4]
    assert all(change.norm() > 0 for change in editor._state.changes.values())


@pytest.mark.parametrize(
    ("layer", "n_layers", "window"),
    [(0, 5, (0, 1, 2)), (2, 5, (0, 1, 2, 3, 4)), (5, 5, (3, 4, 5)), (5, 2, (4, 5)), (3, 1, (3,))],
)
def test_the_window_is_centred_and_cut_off_at_the_models_ends(
    layer: int, n_layers: int, window: tuple[int, ...]
) -> None:
    model = tiny_model("gpt2", n_layers=6)
    assert make("memit", model, layer=layer, n_layers=n_layers).layers == window


@pytest.mark.parametrize(
    ("kind", "options"),
    [("memit", dict(covariance_weight=1e-8)), ("emmet", dict(kept_share=1.0, restraint=None))],
)
def test_without_weight_on_the_background_and_under_a_constraint_the_values_are_met(
    kind: str, options: dict[str, Any]
) -> None:
    editor = make(kind, n_prefixes=0, **options)
    edits = EDITS[:3]
    with frozen(editor.lm.model):
        values = optimize(editor.facts, 1, edits, editor.config, site="stream")
    editor.edit(edits)
    with frozen(editor.lm.model), added(editor.lm, editor._state.changes):
        (stood,) = read(editor.facts, [1], edits)
    torch.testing.assert_close(stood.stream, values, atol=1e-2, rtol=1e-3)


def test_a_constraint_is_least_squares_whose_weight_on_the_background_vanishes() -> None:
    """EMMET is the limit of MEMIT."""
    constrained = make("emmet", n_layers=1, kept_share=1.0, restraint=None, ridge=1e-3)
    weighed = make("memit", n_layers=1, covariance_weight=1e-9, ridge=1e-3)
    for editor in (constrained, weighed):
        editor.edit(EDITS[:3])
    change = weighed._state.changes[1]
    torch.testing.assert_close(constrained._state.changes[1], change, atol=1e-4, rtol=1e-3)


def test_a_step_goes_through_a_norm_as_far_as_its_length_allows() -> None:
    lm = LanguageModel(tiny_model("gemma2"))
    generator = torch.Generator().manual_seed(0)
    value, other = torch.randn(2, 5, 32, generator=generator)
    with torch.no_grad():
        normed, aim = lm.value_norm(1, value), lm.value_norm(1, other)
        change = through_norm(lm, 1, value.double(), (aim - normed).double())
        reached = lm.value_norm(1, value + change.float())
    torch.testing.assert_close(reached, aim, atol=1e-4, rtol=1e-4)


def test_a_bad_window_or_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="n_layers=0 is not allowed"):
        MEMITConfig(n_layers=0)
    with pytest.raises(ValueError, match="covariance_weight=0 is not allowed"):
        MEMITConfig(covariance_weight=0)
