"""Numbers of papers, drawn as labelled grey marks beside own results; never thresholds.

They are of other models and mostly of another protocol: teacher-forced, the share of right tokens.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "MASK_RATIOS",
    "MASK_RATIO_BY_SHARDS",
    "MERGES",
    "TRIANGLES",
    "Triangle",
]  # fmt: skip


class Triangle(NamedTuple):
    """Mean reliability, generalization and locality after T = `t` edits of ZsRE."""

    name: str
    model: str
    t: int
    reliability: float
    generalization: float
    locality: float
    source: str


_WISE = ("WISE", "LLaMA-2-7B")
_TABLE_2 = "Wang et al., NeurIPS 2024, Table 2"
TRIANGLES = (
    Triangle(*_WISE, 1, 0.98, 0.92, 1.00, _TABLE_2),
    Triangle(*_WISE, 10, 0.94, 0.88, 1.00, _TABLE_2),
    Triangle(*_WISE, 100, 0.90, 0.81, 1.00, _TABLE_2),
    Triangle(*_WISE, 1000, 0.77, 0.72, 1.00, _TABLE_2),
    # The best seen of 7-8B models; second-hand, from a summary of the paper.
    Triangle("MEMOIR", "Llama-3-8B-Instruct", 1000, 0.94, 0.85, 1.00, "MEMOIR, NeurIPS 2025"),
)

# Mean of the three corners, WISE on LLaMA-2-7B, ZsRE. Wang et al., NeurIPS 2024, Figure 5.
MASK_RATIOS = (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
MASK_RATIO_BY_SHARDS = {
    2: (0.780, 0.833, 0.850, 0.840, 0.843, 0.830, 0.790),
    3: (0.717, 0.813, 0.807, 0.820, 0.813, 0.803, 0.750),
    4: (0.660, 0.790, 0.810, 0.817, 0.820, 0.813, 0.813),
    5: (0.577, 0.773, 0.803, 0.803, 0.797, 0.803, 0.750),
    6: (0.637, 0.723, 0.740, 0.790, 0.797, 0.803, 0.797),
}

# Reliability, generalization, locality at T=100, two shards, LLaMA-2-7B. The same, Table 11.
MERGES = {
    "linear": (0.63, 0.61, 0.93),
    "slerp": (0.62, 0.64, 0.91),
    "dare": (0.68, 0.63, 0.92),
    "dare-ties": (0.67, 0.63, 0.83),
    "ties": (0.85, 0.81, 0.94),
    "sign": (0.80, 0.76, 0.97),
}
