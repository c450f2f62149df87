"""Laws of `wise.editors.knowledge_editor`: what gates do to a gradient, and the bound on KL."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from properties.internals.tiny_editors import EDITS, FACTS, make, taught
from properties.internals.tiny_wise import is_same
from wise.editors.knowledge_editor import Gates, KEConfig, lagrangian

pytestmark = pytest.mark.internals

M, D, F = 5, 3, 8


def reading(n: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """[u; delta] of `n` tokens at two matrices."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n, F, generator=generator)
    return first, second


def gates(*, is_start: bool = False) -> Gates:
    """Those of two matrices."""
    found = Gates.start([reading(6, 2), reading(9, 3)], n_inner=M, width=6, rank=4, seed=0)
    if is_start:
        return found
    generator = torch.Generator().manual_seed(4)
    drawn = {name: each + torch.rand(each.shape, generator=generator)
             for name, each in found.tensors.items()}  # fmt: skip
    return Gates(**drawn)


def change(found: Gates, of: tuple[Tensor, Tensor], index: int) -> Tensor:
    (factors,) = found.factors([[of]], index, M)
    return factors[:, :M].T @ factors[:, M:]


@pytest.mark.parametrize("index", [0, 1])
def test_a_change_is_that_of_its_formula(index: int) -> None:
    g, of = gates(), reading()
    z = ((of[1] - g.mean) / (g.deviation + 1e-7)).mean(0)
    h = torch.tanh(g.E @ z + g.e)
    predicted = g.O[index] @ torch.tanh(g.V[index] @ h + g.v[index]) + g.o[index]
    alpha, beta = predicted[:M], predicted[M : 2 * M]
    gamma, zeta = predicted[2 * M : 2 * M + D], predicted[2 * M + D : 2 * F]
    gradient = sum(torch.outer(row[:M], row[M:]) for row in of[index]) / g.unit[index]
    gated = torch.outer(alpha.softmax(0), gamma) * gradient
    offset = torch.outer(beta.softmax(0), zeta)
    expected = -g.scale[index] * predicted[-1].sigmoid() * (gated + offset)
    torch.testing.assert_close(change(g, of, index), expected)


def test_at_its_start_a_change_is_half_a_gradient_step_of_every_entry_alike() -> None:
    of = reading()
    gradient = of[0][:, :M].T @ of[0][:, M:]
    torch.testing.assert_close(change(gates(is_start=True), of, 0), -0.5 / M * gradient)


def test_without_a_gradient_a_change_is_the_offset_alone() -> None:
    nothing = torch.zeros(0, F)
    found = change(gates(), (nothing, nothing), 0)
    assert bool(found.isfinite().all())
    assert int(torch.linalg.matrix_rank(found)) == 1


def test_the_rank_of_a_change_is_at_most_one_above_the_number_of_tokens() -> None:
    found = change(gates(), reading(1), 0).double()
    assert int(torch.linalg.matrix_rank(found, rtol=1e-5)) == 2 < D


def test_the_order_of_tokens_does_not_matter() -> None:
    first, second = reading()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        change(gates(), (first[order], second[order]), 0), change(gates(), (first, second), 0)
    )


def test_edits_of_a_turn_are_read_each_by_itself() -> None:
    """Their changes add up, and one edit's gates are not another's."""
    g, one, two = gates(), reading(2, 5), reading(3, 6)
    together, alone = g.factors([[one, two], [two]], 0, M)
    torch.testing.assert_close(alone[:, :M].T @ alone[:, M:], change(g, two, 0))
    torch.testing.assert_close(
        together[:, :M].T @ together[:, M:], change(g, one, 0) + change(g, two, 0)
    )


def test_every_part_of_the_untrained_gates_is_learned() -> None:
    """After a first step; before it, what lies below O has no gradient."""
    trained = taught("ke", n_steps=2, lr=1e-3)
    start = trained.training().start
    for name, each in trained.network.tensors.items():
        is_fixed = name in ("mean", "deviation", "unit", "scale")
        assert each.equal(getattr(start, name)) == is_fixed, name


def test_a_descent_of_the_lagrangian_ascends_in_the_multiplier() -> None:
    excess, multiplier = (torch.tensor(each, requires_grad=True) for each in (0.3, 2.0))
    loss = torch.tensor(1.0, requires_grad=True)
    found = lagrangian(loss, excess, multiplier)
    found.backward()
    assert found.item() == pytest.approx(1.0 + 2.0 * 0.3)
    assert [each.grad.item() for each in (loss, excess, multiplier)] == pytest.approx(
        [1.0, 2.0, -0.3]
    )


@pytest.mark.parametrize("is_above", [True, False])
def test_the_multiplier_grows_while_the_divergence_is_above_the_margin(is_above: bool) -> None:
    """The gates descend in L_e + multiplier KL, whatever the margin."""
    found = taught("ke", n_steps=0).training()
    start = {name: each for name, (each, _) in found.learned().items()}
    L_e, apart = found.losses(found.network(start), found.turns(3))
    margin = apart.item() * (0.5 if is_above else 2.0)
    training = taught("ke", n_steps=0, margin=margin).training()
    learned = {name: each.clone().requires_grad_() for name, each in start.items()}
    objective = training.objective(learned, 3)
    objective.backward()
    multiplier: Any = learned["multiplier"]
    assert multiplier.grad.item() == pytest.approx(margin - apart.item(), rel=1e-5)
    assert objective.item() == pytest.approx((L_e + (apart - margin)).item(), rel=1e-5)


def test_a_training_keeps_to_its_bound() -> None:
    """Where a loose one does not."""

    def trained(margin: float) -> float:
        editor = taught("ke", n_steps=60, lr=0.03, multiplier_lr=3.0, margin=margin)
        training = editor.training()
        return sum(training.losses(editor.network, training.turns(step))[1].item()
                   for step in range(20)) / 20  # fmt: skip

    assert trained(0.1) < 0.1 < 1.0 < trained(10.0)


def test_a_turn_is_its_edits_one_by_one() -> None:
    together = make("ke")
    together.edit(EDITS)
    one_by_one = make("ke", edits=EDITS)
    assert is_same(together._state.changes, one_by_one._state.changes)
    assert (len(together._state.turns), len(one_by_one._state.turns)) == (1, len(EDITS))


@pytest.mark.parametrize("layer", [0, 1])
def test_units_of_the_model_change_an_entry_by_a_share_of_its_size(layer: int) -> None:
    """Before training, the edits of the background, in the root mean square."""
    editor = taught("ke", n_steps=0, n_layers=1, layer=layer, units="model", scale=0.3)
    squares = list[Tensor]()
    for edit in FACTS.edits:
        editor.reset()
        editor.edit([edit])
        squares.append(editor._state.changes[layer].square().mean())
    found = torch.stack(squares).mean().sqrt()
    entries = editor.lm.value_weight(layer).square().mean().sqrt()
    torch.testing.assert_close(found, 0.3 / 2 * entries)


def test_a_bad_option_is_refused() -> None:
    with pytest.raises(ValueError, match="margin=-1 is not allowed"):
        KEConfig(margin=-1)
    with pytest.raises(ValueError, match="width=0 is not allowed"):
        KEConfig(width=0)
