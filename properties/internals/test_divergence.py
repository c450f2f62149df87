"""Laws of `wise.lm.divergence`."""

from __future__ import annotations

import math

import pytest
import torch

from wise.lm.divergence import divergence

pytestmark = pytest.mark.internals


@pytest.mark.parametrize(
    ("before", "after", "far"),
    [
        ([0.5, 0.5, 0.0], [0.25, 0.75, 0.0], 0.5 * math.log(4 / 3)),
        ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5], math.log(2)),
        ([0.5, 0.5, 0.0], [0.0, 1.0, 0.0], math.inf),
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5], 0.0),
        ([0.2, 0.3, 0.5], [0.2, 0.8, math.nan], math.nan),
        ([0.2, 0.8, math.nan], [0.2, 0.3, 0.5], math.nan),
    ],
)
def test_a_divergence_counts_no_token_that_the_first_rules_out(
    before: list[float], after: list[float], far: float
) -> None:
    found = divergence(
        *(torch.tensor([each], dtype=torch.double).log() for each in (before, after))
    )
    assert found.tolist() == pytest.approx([far], rel=1e-12, nan_ok=True)


def test_a_divergence_is_that_of_its_formula_and_has_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, generator=generator, dtype=torch.double)
    p, q = logits.softmax(-1)
    after = logits[1].requires_grad_()
    found = divergence(logits[0].log_softmax(-1), after.log_softmax(-1))
    torch.testing.assert_close(found, (p * (p / q).log()).sum(-1))
    found.sum().backward()
    torch.testing.assert_close(after.grad, q - p)


def test_the_divergence_from_itself_is_0_with_a_gradient_of_0() -> None:
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    same = logits.log_softmax(-1)
    found = divergence(same.detach(), same)
    assert found.tolist() == [0.0] * 4
    found.sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6
