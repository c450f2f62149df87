"""How far one next-token distribution is from another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["divergence"]


def divergence(before: Float[Tensor, "T V"], after: Float[Tensor, "T V"]) -> Float[Tensor, " T"]:
    """KL(before || after) of log-probabilities, in nats, at least 0; exactly 0 where all are equal.

    Infinite where `after` rules out what `before` allows; NaN where either has one.
    """
    p = before.exp()
    return torch.where(p == 0, 0, p * (before - after)).sum(-1).clamp(min=0)
