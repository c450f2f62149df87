"""Intervals of mean scores in [0, 1]: exact for independent 0/1 scores.

One method for all scores: the Clopper-Pearson interval of their mean at their effective number.
Scores between 0 and 1 are treated as 0/1 scores of the same mean, which have the largest variance;
no other two-valued scores have a larger error (computed exactly, n up to 200). Items of one cluster
count as fewer independent ones, by a design effect: see `_effective_n`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from scipy.special import betaincinv

__all__ = [
    "Interval",
    "format_p",
    "format_share",
    "interval",
    "interval_at",
    "lower_bound",
    "upper_bound",
    "worth",
]


class Interval(NamedTuple):
    """Bounds of a mean."""

    low: float
    high: float


def format_share(share: float) -> str:
    """`.97` or `1.00`; `.997`, `<.001` or `>.999` where two decimals would read as all or none."""
    if 0 < share < 0.001:
        return "<.001"
    if 0.999 < share < 1:
        return ">.999"
    text = f"{share:.2f}"
    is_whole = text in ("0.00", "1.00") and share not in (0, 1)
    return (f"{share:.3f}" if is_whole else text).removeprefix("0")


def format_p(p_value: float) -> str:
    """`p=.43`, `p=.043`, or `p<.001`."""
    if p_value < 0.001:
        return "p<.001"
    return f"p={p_value:.{3 if p_value < 0.0995 else 2}f}".replace("=0.", "=.")


def lower_bound(mean: float, n: float, error: float) -> float:
    """The mean at which a mean of `n` items as high as this one has probability `error`.

    `mean` times `n` need not be whole, as it has to be for scipy.stats.binomtest.
    """
    return float(betaincinv(mean * n, n - mean * n + 1, error)) if mean * n > 0 else 0.0


def upper_bound(mean: float, n: float, error: float) -> float:
    """The mean at which a mean of `n` items as low as this one has probability `error`."""
    return 1.0 - lower_bound(1.0 - mean, n, error)


def worth(scores: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple[float, float]:
    """The mean, and the number of independent items that it counts as (0 without scores)."""
    if clusters is not None and len(clusters) != len(scores):
        raise ValueError(f"{len(clusters)} clusters for {len(scores)} scores; give one for each")
    for index, score in enumerate(scores):
        if not 0 <= score <= 1:
            raise ValueError(f"scores[{index}]={score} is outside [0, 1]")
    if not len(scores):
        return 0.0, 0.0
    return math.fsum(scores) / len(scores), _effective_n(scores, clusters)


def _effective_n(scores: Sequence[float], clusters: Sequence[Hashable] | None) -> float:
    """The number of independent items that clustered ones count as: n / design effect.

    The design effect (Kish, Survey Sampling, 1965) is the variance of the mean over clusters
    divided by that over independent items; Clopper-Pearson at n / design effect is the interval of
    Korn and Graubard (Survey Methodology, 1998). Their factor for the degrees of freedom is left
    out: where few items are wrong, bounds with a stated error of 5 % would still be wrong up to 19
    % of the time. Instead two clusters of the largest size are added to the design effect, one all
    right and one all wrong. They keep it defined where all scores are equal, and high where too few
    are wrong to show the effect of clusters. The result is at most n, and at least (sum of sizes)^2
    / sum of squared sizes, where each cluster counts once.

    In simulations with 5 to 300 clusters of any mean and correlation, bounds keep the stated error
    at cluster sizes up to 8 to 1; at 30 to 1 it is up to 7 % where 5 % is stated.
    """
    n = len(scores)
    if clusters is None:
        return float(n)
    members: dict[Hashable, list[float]] = defaultdict(list)
    for cluster, score in zip(clusters, scores, strict=True):
        members[cluster].append(score)
    sizes = [len(each) for each in members.values()]
    totals = [math.fsum(each) for each in members.values()]
    m, largest = len(sizes) + 2, max(sizes)
    n_with = n + 2 * largest
    mean = math.fsum([*totals, largest]) / n_with
    groups = [*zip(totals, sizes, strict=True), (largest, largest), (0.0, largest)]
    between = math.fsum((total - size * mean) ** 2 for total, size in groups) * m / (m - 1)
    design_effect = between / (n_with * mean * (1 - mean))
    fewest = n**2 / sum(size**2 for size in sizes)
    return min(max(n / design_effect, fewest), float(n))


def interval(
    scores: Sequence[float], clusters: Sequence[Hashable] | None = None, *, confidence: float = 0.95
) -> Interval:
    """Two-sided interval of the mean of `scores`, each in [0, 1]; (0, 1) where there are none.

    Each side is wrong at most (1 - confidence) / 2 of the time: exactly so for independent 0/1
    scores. `clusters` gives the cluster of each item, such as its subject. Raises ValueError.
    Source: Clopper and Pearson, 1934.
    """
    return interval_at(*worth(scores, clusters), confidence=confidence)


def interval_at(mean: float, effective_n: float, *, confidence: float = 0.95) -> Interval:
    """Two-sided Clopper-Pearson interval of a mean of `effective_n` independent items."""
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence} is outside [0.5, 1)")
    error = (1 - confidence) / 2
    return Interval(lower_bound(mean, effective_n, error), upper_bound(mean, effective_n, error))
