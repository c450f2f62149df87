"""What is left of a change of W_v: RECT keeps the entries that change most, PRUNE bounds the sum.

RECT: Gu et al., EMNLP 2024, arXiv 2401.04700. PRUNE: Ma et al., ICLR 2025, arXiv 2405.16821.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["most_changed", "restrained"]


def most_changed(
    change: Float[Tensor, "M D"], weight: Float[Tensor, "M D"], *, share: float
) -> Float[Tensor, "M D"]:
    """`change` at the `share` of entries with the largest delta = |Delta W / W|, else zero.

    Entries of equal delta are kept or not together, in favour of keeping. Source: RECT's delta and
    its top-k%.
    """
    delta = change.abs() / weight.abs().clamp_min(torch.finfo(weight.dtype).tiny)
    n_kept = math.ceil(share * delta.numel())
    least = delta.flatten().kthvalue(delta.numel() - n_kept + 1).values
    return change.where(delta >= least, 0.0)


def restrained(change: Float[Tensor, "M D"], *, sigma: float, base: float) -> Float[Tensor, "M D"]:
    """`change` with each singular value s above `sigma`, the largest of W, lowered to F(s).

    F(s) = log_base(s) - log_base(sigma) + sigma. Where that would be more than s, as it can be for
    a `base` below e^(1 / sigma), s stays. A change with no s above sigma comes back as it is.
    Source: PRUNE's F, for the condition number of the edited matrix.
    """
    squares, V = torch.linalg.eigh(change.T @ change)  # D, D D: change = U S V^T
    s, V = squares[squares > sigma**2].sqrt(), V[:, squares > sigma**2]
    F = sigma + (s / sigma).log() / math.log(base)
    return change + (change @ V) @ ((F / s).clamp(max=1) - 1).diag() @ V.T if len(s) else change
