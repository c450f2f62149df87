"""Merge side memories: W_v' <- W_v + merged task vector, by TIES (WISE) or another method.

Pure tensor functions on task vectors tau_i = W_v'^i - W_v, one row per shard. A method is defined
by what it keeps of a shard (all, the largest entries, a random part) and how it unites shards
(mean, elected sign and disjoint mean, slerp). Sums are float32, in shard order. Only the ratios of
weights matter, so equal weights, such as WISE's lambda = 1/k, give the plain mean.
Source: WISE, arXiv 2405.14768, equation 8 and Table 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

__all__ = ["MERGES", "Merge", "drop_and_rescale", "merge", "trim"]

TaskVector = Float[Tensor, "*shape"]
TaskVectors = Float[Tensor, "k *shape"]
Weights = Sequence[float]
Draws = Generator | None
_Keep = Callable[[Tensor], Tensor]
_Unite = Callable[[Tensor, Weights, _Keep], Tensor]

_COLINEAR = 0.9995  # above it the sine is too small to divide by; released configuration


def trim(tau: TaskVector, density: float, _: Draws = None) -> TaskVector:
    """`tau` with its round(density * n) largest entries by magnitude, the others 0.

    Python's `round`: a half goes to the even count. Of equal magnitudes at the threshold those
    first in row-major order stay. Raises ValueError where the count is 0.
    Source: TIES, arXiv 2306.01708, algorithm 1, step 1 (there the top k%).
    """
    n_kept = round(density * tau.numel())
    if n_kept < 1:
        raise ValueError(f"density={density} keeps none of {tau.numel()} entries; one must stay")
    if int(torch.count_nonzero(tau)) <= n_kept:
        return tau  # WISE's usual case: the mask ratio is below the density
    size = tau.abs().flatten()  # topk, as CUDA's kthvalue counts as nondeterministic
    threshold = size.topk(n_kept, sorted=False).values.amin()
    kept = size > threshold
    at_threshold = (size == threshold).nonzero()[:, 0]
    kept[at_threshold[: n_kept - int(kept.sum())]] = True
    return torch.where(kept.view(tau.shape), tau, 0)


def _all(tau: TaskVector, _density: float, _: Draws) -> TaskVector:
    """`tau` whole."""
    return tau


def drop_and_rescale(tau: TaskVector, density: float, generator: Draws) -> TaskVector:
    """`tau` with each entry kept with probability `density` and divided by it: unbiased.

    The drop rate is p = 1 - density; draws are made on the generator's own device. Raises
    ValueError without a generator. Source: DARE, arXiv 2311.03099.
    """
    if generator is None:
        raise ValueError("generator=None; dare and dare-ties need a torch.Generator to draw from")
    kept = torch.rand(tau.shape, generator=generator, device=generator.device) < density
    return torch.where(kept.to(tau.device), tau / density, 0)


def _mean(tau: Tensor, weights: Weights, keep: _Keep) -> Tensor:
    total = torch.zeros_like(tau[0])
    for weight, tau_i in zip(weights, tau, strict=True):
        total.add_(keep(tau_i), alpha=weight)
    return total.div_(sum(weights))


def _disjoint_mean(tau: Tensor, weights: Weights, keep: _Keep) -> Tensor:
    """Per entry: elect the sign of greater total magnitude, average the shards that have it.

    A zero does not vote, a tie goes to +, an entry without votes is 0.
    """
    mass = tau.new_zeros((2, *tau.shape[1:]))  # of the positive and of the negative entries
    votes = torch.zeros_like(mass)
    for weight, tau_i in zip(weights, tau, strict=True):
        kept = keep(tau_i)
        mass[0].add_(kept.clamp(min=0), alpha=weight)
        mass[1].sub_(kept.clamp(max=0), alpha=weight)
        votes[0].add_(kept > 0, alpha=weight)
        votes[1].add_(kept < 0, alpha=weight)
    is_positive = mass[0] >= mass[1]
    elected = torch.where(is_positive, mass[0], mass[1].neg_())
    n_votes = torch.where(is_positive, votes[0], votes[1])
    return elected.div_(n_votes.masked_fill_(n_votes == 0, 1))


def _slerp(tau: TaskVectors, weights: Weights, keep: _Keep) -> TaskVector:
    """Turn from shard to shard by the angle between whole task vectors; no length is normalised.

    More than two shards are folded in order: shard i joins what is merged so far at the fraction
    w_i / (w_1 + ... + w_i), so from three on their order counts. No arc is defined where a vector
    is zero or the pair is parallel or opposite (|cosine| > 0.9995): the weighted mean there.
    Source: Shoemake, SIGGRAPH 1985; form and 0.9995: released configuration, there on whole W_v'.
    """
    merged, total = keep(tau[0]), weights[0]
    for weight, tau_i in zip(weights[1:], tau[1:], strict=True):
        total += weight
        merged = _slerp_pair(merged, keep(tau_i), weight / total if total else 0.0)
    return merged


def _slerp_pair(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    norms = float(torch.linalg.vector_norm(start)) * float(torch.linalg.vector_norm(end))
    cosine = float((start * end).sum()) / norms if norms > 0 else 1.0
    if abs(cosine) > _COLINEAR:
        return torch.lerp(start, end, fraction)
    omega = math.acos(cosine)
    merged = start * (math.sin((1 - fraction) * omega) / math.sin(omega))
    return merged.add_(end, alpha=math.sin(fraction * omega) / math.sin(omega))


Merge = Literal["ties", "linear", "slerp", "dare", "dare-ties", "sign", "magnitude"]
# What a method keeps of each shard, and how it unites them. Sources: TIES, arXiv 2306.01708,
# algorithm 1; DARE, arXiv 2311.03099; WISE, arXiv 2405.14768, equation 8 (TIES) and Table 11.
MERGES: Mapping[Merge, tuple[Callable[[Tensor, float, Draws], Tensor], _Unite]] = {
    "ties": (trim, _disjoint_mean),
    "linear": (_all, _mean),
    "slerp": (_all, _slerp),
    # In expectation the weighted mean; the shards draw in turn, so that their order counts.
    "dare": (drop_and_rescale, _mean),
    # The released configuration leaves out the division by the votes, TIES does not.
    "dare-ties": (drop_and_rescale, _disjoint_mean),
    "sign": (_all, _disjoint_mean),  # TIES without the trim
    "magnitude": (trim, _mean),  # without the election; released as "magnitude_norm"
}


def _check_weights(weights: Weights | None, n_shards: int) -> list[float]:
    if weights is None:
        return [1.0] * n_shards
    shares = [float(weight) for weight in weights]
    if len(shares) != n_shards:
        raise ValueError(
            f"weights={shares}: {len(shares)} for {n_shards} tensors; give one for each"
        )
    if not all(0 <= share < math.inf for share in shares) or not any(shares):
        raise ValueError(f"weights={shares} must be finite and >= 0, and not all 0")
    # By the largest, not by the sum: equal weights become exactly 1 and cancel bitwise.
    return [share / max(shares) for share in shares]


def _task_vectors(base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    if not tensors or not base.numel():
        raise ValueError(f"{len(tensors)} tensors of {base.numel()} entries; need at least 1 of 1")
    tau = base.new_empty((len(tensors), *base.shape), dtype=torch.float32)
    for index, tensor in enumerate(tensors):
        if tensor.shape != base.shape:
            raise ValueError(f"tensors[{index}] has {tensor.shape}; the base has {base.shape}")
        wide = torch.promote_types(tensor.dtype, torch.float32)
        torch.sub(tensor.to(base.device, wide), base, out=tau[index])
        if not all(bound.isfinite() for bound in torch.aminmax(tau[index])):
            raise ValueError(f"tensors[{index}] - base has entries that are not finite")
    return tau


@torch.no_grad()
def merge(
    method: Merge,
    base: Float[Tensor, "..."],
    tensors: Sequence[Float[Tensor, "..."]],
    *,
    weights: Weights | None = None,
    density: float = 0.53,
    generator: Draws = None,
) -> Float[Tensor, "..."]:
    """`base` (W_v) plus the task vector that `method` merges from `tensors` (the shards W_v'^i).

    In the base's dtype and device, without gradient. `weights` default to 1/k each; `density` in
    (0, 1] is the share that ties, magnitude, dare and dare-ties keep. Where the merged task vector
    equals a shard's own the result is bitwise that shard (`base + (t - base)` may round): so one
    shard merges to itself, and an entry that only one shard wrote stays its own (ties, sign; equal
    weights). Raises ValueError; for a base that is not floating point TypeError.
    Source: WISE, arXiv 2405.14768, equation 8; density: released configuration.
    """
    if method not in MERGES:
        raise ValueError(f"method={method!r} is none of {', '.join(MERGES)}")
    if not 0 < density <= 1:
        raise ValueError(f"density={density} is outside (0, 1]")
    if not base.is_floating_point():
        raise TypeError(f"base has dtype {base.dtype}; allowed are the floating point dtypes")
    tau = _task_vectors(base, tensors)
    keep, unite = MERGES[method]
    shares = _check_weights(weights, len(tensors))
    merged = unite(tau, shares, lambda tau_i: keep(tau_i, density, generator))
    result = base + merged
    for tau_i, tensor in zip(tau, tensors, strict=True):
        result = torch.where(merged == tau_i, tensor.to(base.device), result)
    return result.to(base.dtype)
