"""The merges as plain float64 loops, which `wise.editors.wise.merge` must agree with."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import reject
from torch import Tensor

__all__ = ["DROPPED", "ELECTED", "reference", "reference_rows"]

_TRIMMED, DROPPED = ("ties", "magnitude"), ("dare", "dare-ties")
ELECTED = ("ties", "sign", "dare-ties")


def reference_rows(method: str, tau: Tensor, density: float, seed: int = 0) -> np.ndarray:
    """What a method keeps of each shard, entry by entry, in float64; k rows of n."""
    rows = tau.flatten(1).double().numpy().copy()
    generator = torch.Generator().manual_seed(seed)
    for row in rows:
        if method in _TRIMMED:
            by_size = sorted(range(len(row)), key=lambda j: (-abs(row[j]), j))
            for j in by_size[round(density * len(row)) :]:
                row[j] = 0
        if method in DROPPED:
            draws = torch.rand(tau[0].shape, generator=generator).flatten()
            for j in range(len(row)):
                row[j] = row[j] / density if draws[j] < density else 0
    return rows


def reference(method: str, tau: Tensor, weights: list[float], density: float) -> Tensor:
    """The merged task vector; an example that float32 cannot decide is rejected."""
    rows = reference_rows(method, tau, density)
    merged = np.zeros(rows.shape[1])
    for j, column in enumerate(rows.T):
        voters = list(zip(weights, column, strict=True))
        if method in ELECTED:
            elected = 1 if np.dot(weights, column) >= 0 else -1
            voters = [(w, x) for w, x in voters if w and x * elected > 0]
        if voters:
            merged[j] = sum(w * x for w, x in voters) / sum(w for w, _ in voters)
    if method == "slerp":
        merged = _slerp(rows, weights)
    return torch.from_numpy(merged).view(tau.shape[1:])


def _slerp(rows: np.ndarray, weights: list[float]) -> np.ndarray:
    merged, total = rows[0], weights[0]
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total += weight
        t = weight / total if total else 0.0
        norms = math.sqrt(sum(merged**2)) * math.sqrt(sum(row**2))
        cosine = sum(merged * row) / norms if norms else 1.0
        if abs(cosine) > 0.9995:
            merged = (1 - t) * merged + t * row
            continue
        if cosine < -0.9:
            reject()  # near-opposite vectors: float32 leaves too few digits to compare
        omega = math.acos(cosine)
        merged = (math.sin((1 - t) * omega) * merged + math.sin(t * omega) * row) / math.sin(omega)
    return merged
