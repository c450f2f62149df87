"""Laws of `wise.editors.key_value.rome`: the closed form solves its constrained problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import null_space

from properties.internals.tiny_editors import EDITS, least_squares_problem, make
from wise.editors.base import added
from wise.editors.key_value.keyvalue import optimize, read
from wise.editors.key_value.rome import least_change
from wise.edits import Edit
from wise.lm.hooks import frozen

pytestmark = pytest.mark.internals


def constrained_least_squares(C: np.ndarray, K: np.ndarray, R: np.ndarray) -> np.ndarray:
    """argmin of tr(X^T C X) with K X = R: one solution, and the best step in K's null space."""
    feasible = np.linalg.lstsq(K, R, rcond=None)[0]
    free = null_space(K)
    root = np.linalg.cholesky(C).T
    step = np.linalg.lstsq(root @ free, -root @ feasible, rcond=None)[0]
    return feasible + free @ step


@pytest.mark.parametrize(
    ("n_edits", "options"),
    [(1, {"n_prefixes": 0}), (3, {"n_prefixes": 0}), (2, {"n_prefixes": 3, "one_key": True})],
)
def test_the_update_is_the_constrained_least_squares_solution(
    n_edits: int, options: dict[str, Any]
) -> None:
    edits = EDITS[:n_edits]
    editor = make("rome", ridge=1e-3, **options)
    editor.edit(edits)
    C, values, stood = least_squares_problem(editor, edits, site="value")
    residual = (values - stood.mean_value).numpy()
    expected = constrained_least_squares(C.numpy(), stood.key.numpy(), residual)
    change = editor._state.changes[1].double()
    torch.testing.assert_close(change, torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_prefixes", [0, 3])
@pytest.mark.parametrize(("one_key", "met"), [(False, "value"), (True, "mean_value")])
def test_the_key_that_counts_gets_its_value_exactly(
    n_prefixes: int, one_key: bool, met: str
) -> None:
    """The bare prompt's (ROME as released), or the mean over prefixes (R-ROME)."""
    editor = make("rome", n_prefixes=n_prefixes, one_key=one_key)
    for edit in EDITS[:2]:  # the second on top of the first
        with frozen(editor.lm.model), added(editor.lm, editor._state.changes):
            value = optimize(editor.facts, 1, [edit], editor.config, site="value")
        editor.edit([edit])
        with frozen(editor.lm.model), added(editor.lm, editor._state.changes):
            (stood,) = read(editor.facts, [1], [edit])
        torch.testing.assert_close(getattr(stood, met), value, atol=1e-3, rtol=1e-4)
        assert (stood.value - stood.mean_value).norm() > 0.1 or not n_prefixes


def test_an_update_has_the_rank_of_its_turn() -> None:
    editor = make("rome")
    editor.edit(EDITS[:1])
    assert torch.linalg.matrix_rank(editor._state.changes[1].double(), rtol=1e-5) == 1
    editor.edit(EDITS[1:3])
    assert torch.linalg.matrix_rank(editor._state.changes[1].double(), rtol=1e-5) == 3


def test_contradictory_requests_for_one_key_are_met_half_way() -> None:
    generator = torch.Generator().manual_seed(0)
    key, values = torch.randn(1, 6, generator=generator).double(), torch.eye(2, 3).double()
    change = least_change(key.T.repeat(1, 2), key.repeat(2, 1), values)
    torch.testing.assert_close(key @ change, values.mean(0, keepdim=True))


def test_a_fact_forced_under_corruption_is_written_at_the_corrupted_key() -> None:
    def erase(embeddings: torch.Tensor, subject: torch.Tensor, *_: object) -> torch.Tensor:
        return embeddings.masked_fill(subject[..., None], 0.0)

    edit = Edit("The boss is Bo Rask", "a", subject="Bo Rask")
    editor = make("rome", n_prefixes=0, corruption=erase)
    editor.edit([edit])
    clean = make("rome", n_prefixes=0)
    (corrupted,), (bare,) = (read(of.facts, [1], [edit]) for of in (editor, clean))
    direction = editor.covariance.solve(1, corrupted.key.T)[:, 0]
    change = editor._state.changes[1].double()
    column = change[:, change.norm(dim=0).argmax()]
    cosine = torch.nn.functional.cosine_similarity(column, direction, dim=0).abs()
    assert cosine > 1 - 1e-6
    assert not torch.allclose(corrupted.key, bare.key)


def test_keys_that_differ_by_rounding_are_one_key() -> None:
    """Two prompts that are the same up to their subject, read at different paddings."""
    generator = torch.Generator().manual_seed(0)
    key, values = torch.randn(1, 6, generator=generator), torch.eye(2, 3).double()
    keys = torch.cat([key, key * (1 + 2e-7)]).double()
    change = least_change(keys.T, keys, values)
    torch.testing.assert_close(keys @ change, values.mean(0).expand(2, -1), atol=1e-5, rtol=0)
    assert change.norm() < 10
