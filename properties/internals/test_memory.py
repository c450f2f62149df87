"""Laws of `wise.editors.wise.memory`: masks are what was asked for, a change is bitwise its tau."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from properties.internals.tiny_wise import is_same
from wise.editors.router import RoutingInputs
from wise.editors.wise.memory import Change, Shard, Turn, WISEState, sample_mask
from wise.edits import Edit
from wise.seeds import seeded

pytestmark = pytest.mark.internals

seeds = st.integers(0, 2**32 - 1)
ratios = st.sampled_from([0.0, 0.01, 0.2, 0.45, 0.5, 0.55, 0.9, 1.0])
SHAPE = (12, 7)


def sparse_tau(seed: int, ratio: float, shape: tuple[int, int] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < ratio
    return torch.where(kept, torch.randn(shape, generator=generator), 0.0)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 0.9])
def test_the_share_of_ones_in_a_mask_is_its_ratio(ratio: float) -> None:
    # n = 90,000 entries, false-fail rate 1e-6: sees a share that is off by .007 or less.
    n = 300 * 300
    ones = int(sample_mask((300, 300), ratio, seeded(0, ratio)).sum())
    low, high = binom.interval(1 - 1e-6, n, ratio)
    assert low <= ones <= high


def test_masks_of_two_shards_overlap_as_independent_ones_do() -> None:
    # Theorem 2.1: rho^2; n = 90,000, false-fail rate 1e-6.
    one, other = (sample_mask((300, 300), 0.2, seeded(0, "mask", shard)) for shard in (0, 1))
    low, high = binom.interval(1 - 1e-6, 300 * 300, 0.04)
    assert low <= int((one & other).sum()) <= high


def test_ratio_1_is_the_whole_matrix() -> None:
    assert sample_mask((3, 4), 1.0, seeded(0)).all()


def test_a_seed_and_a_purpose_give_the_same_draws_and_others_give_others() -> None:
    draws = {
        parts: tuple(torch.rand(4, generator=seeded(*parts)).tolist())
        for parts in [(0, "mask", 0), (0, "mask", 1), (1, "mask", 0), (0, "merge", 0)]
    }
    assert len(set(draws.values())) == 4
    assert draws[0, "mask", 1] == tuple(torch.rand(4, generator=seeded(0, "mask", 1)).tolist())


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = sample_mask((9, 9), 0.5, seeded(0, "mask", 0))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(6)
    assert one.equal(sample_mask((9, 9), 0.5, seeded(0, "mask", 0)))


@given(seeds, ratios)
def test_a_change_is_bitwise_the_tau_it_was_made_of(seed: int, ratio: float) -> None:
    tau = sparse_tau(seed, ratio)
    dense = Change.of(tau).dense()
    assert dense.view(torch.int32).equal(tau.view(torch.int32))


@given(seeds, ratios, st.sampled_from([(), (3,), (2, 5)]))
def test_applying_a_change_is_the_dense_product(
    seed: int, ratio: float, lead: tuple[int, ...]
) -> None:
    tau = sparse_tau(seed, ratio)
    inputs = torch.randn(*lead, SHAPE[0], generator=torch.Generator().manual_seed(seed))
    applied = Change.of(tau)(inputs)
    assert applied.shape == (*lead, SHAPE[1])
    torch.testing.assert_close(applied, inputs @ tau, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.2, 1.0])
def test_a_change_is_applied_in_float32_to_half_precision_inputs(ratio: float) -> None:
    tau, inputs = sparse_tau(0, ratio), torch.randn(4, SHAPE[0]).bfloat16()
    applied = Change.of(tau)(inputs)
    assert applied.dtype == torch.float32
    torch.testing.assert_close(applied, inputs.float() @ tau, rtol=0, atol=1e-5)


@given(seeds, ratios)
def test_a_change_is_made_again_of_its_parts(seed: int, ratio: float) -> None:
    change = Change.of(sparse_tau(seed, ratio))
    again = Change.from_parts(change.parts(), SHAPE)
    assert is_same(again, change)
    assert again.dense().equal(change.dense())


def n_bytes_of(change: Change) -> int:
    return sum(part.nbytes for part in change.parts().values())


def test_a_fifth_of_the_entries_takes_half_the_bytes_or_less() -> None:
    change = Change.of(sparse_tau(0, 0.2, (512, 256)))
    n_changed, n_rows = int(change.dense().count_nonzero()), 256
    n_bytes = n_bytes_of(change)
    assert n_bytes == 8 * n_changed + 4 * (n_rows + 1)  # value and column; row starts
    assert n_bytes < 0.42 * 512 * 256 * 4


def test_a_change_never_takes_more_than_the_dense_matrix_and_its_row_starts() -> None:
    for ratio in (0.1, 0.4, 0.49, 0.51, 0.8, 1.0):
        change = Change.of(sparse_tau(1, ratio, (512, 256)))
        assert n_bytes_of(change) <= 4 * (512 * 256 + 257)


def good_parts() -> dict[str, Tensor]:
    return dict(Change.of(sparse_tau(0, 0.2)).parts())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts: {},
        lambda parts: {"dense": torch.zeros(7, 12)},
        lambda parts: {"dense": torch.zeros(84)},
        lambda parts: {**parts, "dense": torch.zeros(SHAPE)},
        lambda parts: {"crow": parts["crow"], "col": parts["col"]},
        lambda parts: {**parts, "col": parts["col"] + 12},
        lambda parts: {**parts, "col": -parts["col"] - 1},
        lambda parts: {**parts, "crow": parts["crow"].flip(0)},
        lambda parts: {**parts, "crow": parts["crow"][:-1]},
        lambda parts: {**parts, "values": parts["values"][:-1]},
        lambda parts: {**parts, "values": parts["values"].repeat(2)},
    ],
)  # fmt: skip
def test_parts_that_make_no_such_change_are_refused(spoil: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"do not make a change of shape \(12, 7\)"):
        Change.from_parts(spoil(good_parts()), SHAPE)


def shard_of(*activations: float) -> Shard:
    turns = tuple(Turn(i, (Edit(f"p{i}", "t"),)) for i in range(len(activations)))
    n = len(activations)
    return Shard(
        0, turns, Change(torch.zeros(SHAPE)),
        RoutingInputs(torch.zeros(n, 1, 12), torch.ones(n, 1).bool()), activations,
    )  # fmt: skip


def test_epsilon_is_the_smallest_activation_and_infinite_without_edits() -> None:
    assert shard_of(3.0, 2.0, 5.0).epsilon == 2.0
    assert shard_of().epsilon == float("inf")


def test_an_empty_shard_is_no_candidate() -> None:
    full, empty = shard_of(1.0), shard_of()
    state = WISEState(shards=(full, empty))
    assert state.candidates == (full,)
    assert [edit.prompt for edit in state.edits] == ["p0"]


def test_a_turn_without_prompts_keeps_its_number_and_the_order_of_the_rest() -> None:
    turn = Turn(4, (Edit("a", "1"), Edit("b", "2"), Edit("c", "3")))
    assert turn.without(frozenset("b")) == Turn(4, (Edit("a", "1"), Edit("c", "3")))
