"""The results of Hase et al. on GPT-J: shown beside own results, never used as thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["TABLE_3", "PublishedR2"]


class PublishedR2(NamedTuple):
    """R2 of the rewrite score by layer, by tracing, by both."""

    layer: float
    tracing: float
    both: float


# Hase et al., NeurIPS 2023, Table 3: GPT-J, 652 facts of CounterFact (489 to erase) at 9 layers.
TABLE_3: Mapping[str, Mapping[str, PublishedR2]] = {
    problem: dict(zip(("ft-1", "ft-5", "rome", "memit"), map(PublishedR2._make, rows), strict=True))
    for problem, rows in {
        "error-injection": (
            (0.756, 0.062, 0.758), (0.775, 0.055, 0.777), (0.947, 0.016, 0.948),
            (0.677, 0.024, 0.678),
        ),
        "tracing-reversal": (
            (0.067, 0.0, 0.067), (0.751, 0.045, 0.752), (0.294, 0.017, 0.310),
            (0.212, 0.036, 0.218),
        ),
        "fact-erasure": (
            (0.643, 0.028, 0.646), (0.698, 0.025, 0.70), (0.857, 0.019, 0.858),
            (0.925, 0.019, 0.925),
        ),
        "fact-amplification": (
            (0.383, 0.014, 0.393), (0.424, 0.01, 0.436), (0.88, 0.02, 0.88),
            (0.905, 0.018, 0.906),
        ),
        "fact-forcing": (
            (0.697, 0.104, 0.724), (0.634, 0.10, 0.666), (0.422, 0.004, 0.425),
            (0.345, 0.041, 0.354),
        ),
    }.items()
}  # fmt: skip
