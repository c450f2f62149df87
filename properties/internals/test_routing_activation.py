"""Laws of `wise.editors.router`: a norm per row; L_a is zero if and only if the margins hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wise.editors.router import (
    ROUTING_TOKENS,
    Router,
    aggregate,
    margin_loss,
    routing_activation,
    select,
)

pytestmark = pytest.mark.internals

seeds = st.integers(0, 2**32 - 1)
hows = st.sampled_from(sorted(ROUTING_TOKENS))
MARGINS: dict[str, Any] = dict(alpha=1.0, beta=4.0, gamma=2.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def row_deltas(inputs: Tensor, tau: Tensor, mask: Tensor, how: str) -> Tensor:
    """Delta of each row of inputs A(x)."""
    router = Router(tokens=how, weight=torch.zeros_like(tau))
    by_tau: Any = tau.__rmatmul__
    (delta,) = router.deltas(router.select([inputs], mask), [by_tau])
    return delta


def row_activations(activation: Tensor, mask: Tensor, how: str) -> Tensor:
    """One activation a row, where those of its tokens are given."""
    rows = select(activation[..., None], mask, how)
    return aggregate(rows.keys[..., 0], rows.mask, how)


def loss_of(edit: list[float], irrelevant: list[float], reduction: str = "rows") -> float:
    tensors = torch.tensor(edit), torch.tensor(irrelevant)
    return float(margin_loss(*tensors, **MARGINS, reduction=reduction))


@pytest.mark.parametrize("activation", [None, nn.SiLU()])
def test_without_a_change_the_activation_is_0(activation: nn.Module | None) -> None:
    value = normal(0, 2, 3, 5)
    assert routing_activation(torch.zeros(2, 3, 5), value, activation).eq(0).all()


@given(seeds, st.floats(-8, 8, width=32), hows)
def test_the_activation_is_homogeneous_in_the_change(seed: int, c: float, how: str) -> None:
    inputs, tau, mask = normal(seed, 2, 4, 6), normal(seed + 1, 6, 3), torch.ones(2, 4).bool()
    scaled, plain = (row_deltas(inputs, factor * tau, mask, how) for factor in (c, 1.0))
    torch.testing.assert_close(scaled, abs(c) * plain, rtol=1e-5, atol=1e-6)


def test_the_activation_is_the_norm_in_float32_of_a_half_precision_change() -> None:
    change = torch.full((1, 4096), 300.0, dtype=torch.float16)  # its squares overflow float16
    delta = routing_activation(change)
    assert delta.dtype == torch.float32
    torch.testing.assert_close(delta, torch.tensor([300.0 * 64]))


def test_the_activated_form_is_the_distance_of_the_activated_outputs() -> None:
    change, value = normal(0, 3, 5), normal(1, 3, 5)
    expected = (nn.functional.silu(value + change) - nn.functional.silu(value)).norm(dim=-1)
    torch.testing.assert_close(routing_activation(change, value, nn.SiLU()), expected)


@given(seeds, hows, st.integers(0, 3), st.integers(0, 3))
def test_padding_on_either_side_changes_no_bit(seed: int, how: str, left: int, right: int) -> None:
    activation, mask = normal(seed, 2, 5).abs(), torch.tensor([[1, 1, 1, 0, 0], [1] * 5]).bool()
    alone = row_activations(activation, mask, how)
    noise = normal(seed + 1, 2, left + 5 + right).abs() * 100
    noise[:, left : left + 5] = activation
    padded = nn.functional.pad(mask, (left, right))
    longer = row_activations(noise, padded, how)
    if how == "mean":  # a longer sum may be added up in another order
        torch.testing.assert_close(longer, alone, rtol=1e-6, atol=0)
    else:
        assert longer.equal(alone)


@given(seeds, hows)
def test_batch_mates_and_their_order_change_no_bit(seed: int, how: str) -> None:
    activation = normal(seed, 4, 6).abs()
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed)) < 0.6
    together = row_activations(activation, mask, how)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    assert row_activations(activation[order], mask[order], how).equal(together[order])
    for row in range(4):
        one = slice(row, row + 1)
        alone = row_activations(activation[one], mask[one], how)
        torch.testing.assert_close(alone, together[one], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("how", "expected"), [("last", 4.0), ("mean", 3.0), ("max", 5.0)])
def test_the_aggregates_are_what_their_names_say(how: str, expected: float) -> None:
    mask = torch.tensor([[0, 1, 1, 1, 0]]).bool()
    activation = torch.tensor([[9.0, 0.0, 5.0, 4.0, 7.0]])
    assert row_activations(activation, mask, how).tolist() == [expected]


@given(seeds)
def test_last_selects_the_last_prompt_token_of_each_row_and_no_other(seed: int) -> None:
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(seed)) < 0.5
    numbers = torch.arange(7.0).expand(5, 7)[..., None]
    selected = select(numbers, mask, "last")
    for prompt, keys, kept in zip(mask, selected.keys, selected.mask, strict=True):
        places = prompt.nonzero()[:, 0].tolist()
        assert keys[kept].flatten().tolist() == places[-1:]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_the_other_selections_are_the_whole_prompt(how: str) -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]]).bool()
    numbers = torch.arange(1.0, 7.0).view(2, 3, 1)
    selected = select(numbers, mask, how)
    assert selected.mask.equal(mask)
    assert selected.keys.equal(numbers * mask[..., None])


@pytest.mark.parametrize("how", ROUTING_TOKENS)
def test_a_row_without_prompt_tokens_has_activation_0(how: str) -> None:
    mask = torch.zeros(1, 3).bool()
    assert row_activations(torch.ones(1, 3), mask, how).tolist() == [0.0]


def test_an_unknown_selection_is_named() -> None:
    with pytest.raises(ValueError, match="routing_tokens='first' is none of last, mean, max"):
        select(torch.ones(1, 1, 1), torch.ones(1, 1).bool(), "first")


floats = st.floats(0, 8, width=16)
values = st.lists(floats, min_size=1, max_size=4)


@pytest.mark.parametrize("reduction", ["rows", "violating"])
@given(edit=values, irrelevant=values)
def test_the_margin_loss_is_0_exactly_when_all_margins_hold(
    reduction: str, edit: list[float], irrelevant: list[float]
) -> None:
    holds = (
        max(irrelevant) <= MARGINS["alpha"]
        and min(edit) >= MARGINS["beta"]
        and min(edit) - max(irrelevant) >= MARGINS["gamma"]
    )
    loss = loss_of(edit, irrelevant, reduction)
    assert loss >= 0
    assert (loss == 0) == holds


@given(values, values, st.integers(0, 3), floats)
def test_the_margin_loss_falls_with_edits_and_rises_with_irrelevant_prompts(
    edit: list[float], irrelevant: list[float], index: int, more: float
) -> None:
    loss = loss_of(edit, irrelevant)
    raised = [x + more * (i == index % len(edit)) for i, x in enumerate(edit)]
    assert loss_of(raised, irrelevant) <= loss + 1e-5
    raised = [x + more * (i == index % len(irrelevant)) for i, x in enumerate(irrelevant)]
    assert loss_of(edit, raised) >= loss - 1e-5


def test_the_margin_loss_is_equation_5() -> None:
    # relu(D_i - 1) = (1, 0), relu(4 - D_e) = (1, 0), relu(2 - (D_e - D_i)) = (1, 0, 0, 0)
    assert loss_of([3.0, 6.0], [2.0, 0.5]) == pytest.approx(1 / 2 + 1 / 2 + 1 / 4)
    assert loss_of([3.0, 6.0], [2.0, 0.5], "violating") == pytest.approx(1 + 1 + 1)


@pytest.mark.parametrize("reduction", ["rows", "violating"])
@given(edit=values, irrelevant=values, replayed=values)
def test_replay_adds_the_mean_excess_over_alpha_and_no_pair(
    reduction: str, edit: list[float], irrelevant: list[float], replayed: list[float]
) -> None:
    tensors = (torch.tensor(each) for each in (edit, irrelevant, replayed))
    loss = float(margin_loss(*tensors, **MARGINS, reduction=reduction))
    excess = [max(0.0, delta - MARGINS["alpha"]) for delta in replayed]
    counted = excess if reduction == "rows" else [each for each in excess if each] or [0.0]
    mean = sum(counted) / len(counted)
    assert loss == pytest.approx(loss_of(edit, irrelevant, reduction) + mean, abs=1e-5)


@pytest.mark.parametrize("reduction", ["rows", "violating"])
def test_without_irrelevant_prompts_only_beta_counts(reduction: str) -> None:
    assert loss_of([3.5], [], reduction) == pytest.approx(0.5)


@pytest.mark.parametrize("reduction", ["rows", "violating"])
@given(seed=seeds)
def test_the_gradient_of_the_margin_loss_is_that_of_finite_differences(
    reduction: str, seed: int
) -> None:
    # Halves plus a quarter stay away from the kinks at whole numbers.
    draw = torch.randint(0, 16, (7,), generator=torch.Generator().manual_seed(seed))
    points = ((draw + torch.arange(7) / 16) / 2 + 0.13).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: margin_loss(x[:3], x[3:], **MARGINS, reduction=reduction), points, eps=1e-6
    )


@given(seeds)
def test_the_gradient_of_the_activation_in_tau_is_the_analytic_one(seed: int) -> None:
    a, tau = normal(seed, 4), normal(seed + 1, 4, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(routing_activation(a @ tau), tau)
    change = (a @ tau).detach()
    torch.testing.assert_close(gradient, torch.outer(a, change / change.norm()))


def test_at_a_zero_change_the_gradient_is_0_not_nan() -> None:
    tau = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(routing_activation(normal(0, 4) @ tau), tau)
    assert gradient.eq(0).all()


def test_an_unknown_reduction_is_named() -> None:
    with pytest.raises(ValueError, match="margin_reduction='sum' is none of rows, violating"):
        loss_of([1.0], [1.0], "sum")


def test_a_memory_that_changes_nothing_opens_for_nothing_and_closes_no_other() -> None:
    """Its epsilon is 0, and no activation has a ratio to that."""
    tau, rows = normal(0, 6, 4), normal(1, 3, 2, 6)
    router = Router(tokens="mean", weight=torch.zeros_like(tau), thresholds="per-memory")
    changes = (lambda keys: keys @ tau), (lambda keys: keys @ torch.zeros_like(tau))
    memories = [
        SimpleNamespace(change=change, epsilon=epsilon)
        for change, epsilon in zip(changes, (1e-3, 0.0), strict=True)
    ]
    asked = router.select([rows], torch.ones(3, 2, dtype=torch.bool))
    assert router.choose(asked, memories).tolist() == [0, 0, 0]
