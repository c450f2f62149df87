"""Intervals and verdicts on mean scores in [0, 1]: exact for independent 0/1 scores.

One method for all scores: the Clopper-Pearson interval of their mean, at as many items as they are
worth. Scores between 0 and 1 count as 0/1 scores of the same mean, the most spread that they can
be; of all two-valued scores none has a larger error (computed exactly, n up to 200). Items of one
cluster count for less than as many independent ones, by a design effect: see `_effective_n`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scipy.special import betaincinv

__all__ = [
    "Interval",
    "Verdict",
    "format_p",
    "format_share",
    "interval",
    "interval_at",
    "lower_bound",
    "n_to_decide",
    "upper_bound",
    "verdict",
    "verdict_at",
]

_Outcome = Literal["pass", "fail", "inconclusive"]

_DOUBLED = [2**k for k in range(31)]  # items; what the last cannot decide, nothing will


class Interval(NamedTuple):
    """Bounds of a mean."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mean score is known to reach `threshold` (pass), to miss it (fail), or neither.

    `low` and `high` are the two-sided interval at `confidence`; `bound` is the one-sided bound that
    decided, at the same confidence, or None. `n_needed` is, where inconclusive, how many items
    would decide at the mean and design effect seen; None where no number would, or none was seen.
    """

    outcome: _Outcome
    mean: float | None
    low: float
    high: float
    n: int
    threshold: float
    n_needed: int | None
    bound: float | None
    confidence: float

    def describe(self, name: str = "") -> str:
        """One line, as in `fail: reliability .62 [.52, .72] at n=100; needed >= .90`."""
        mean = "unknown" if self.mean is None else format_share(self.mean)
        bounds = f"[{format_share(self.low)}, {format_share(self.high)}]"
        text = " ".join(filter(None, (f"{self.outcome}:", name, mean, bounds, f"at n={self.n}")))
        if self.bound is not None and self.low < self.threshold <= self.high:
            side = "at least" if self.outcome == "pass" else "at most"
            bound = f"{self.bound:.3f}".removeprefix("0")
            text += f", {side} {bound} at {100 * self.confidence:.4g} % confidence"
        needed = max(f"{self.threshold:.2f}", f"{self.threshold:g}", key=len).removeprefix("0")
        text += f"; needed >= {needed}"
        if self.n_needed is not None:
            text += f", which n={self.n_needed} would decide at this rate"
        return text

    def __str__(self) -> str:
        return self.describe()


def format_share(share: float) -> str:
    """`.97` or `1.00`; `.997` where two decimals would claim all or none."""
    text = f"{share:.2f}"
    if text == "1.00" and share < 1:
        text = f"{min(share, 0.999):.3f}"
    if text == "0.00" and share > 0:
        text = f"{max(share, 0.001):.3f}"
    return text.removeprefix("0")


def format_p(p_value: float) -> str:
    """`p=.43`, `p=.043`, or `p<.001`."""
    if p_value < 0.001:
        return "p<.001"
    return f"p={p_value:.{3 if p_value < 0.0995 else 2}f}".replace("=0.", "=.")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} is outside [0, 1]")


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence} is outside [0.5, 1)")


def lower_bound(mean: float, n: float, error: float) -> float:
    """The mean at which a mean of `n` items as high as this one has probability `error`."""
    return float(betaincinv(mean * n, n - mean * n + 1, error)) if mean * n > 0 else 0.0


def upper_bound(mean: float, n: float, error: float) -> float:
    """The mean at which a mean of `n` items as low as this one has probability `error`."""
    return 1.0 - lower_bound(1.0 - mean, n, error)


def _worth(scores: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple[float, float]:
    """The mean, and the number of independent items it is worth: 0 where there is none."""
    if clusters is not None and len(clusters) != len(scores):
        raise ValueError(f"clusters are {len(clusters)} for {len(scores)} scores; one for each")
    for index, score in enumerate(scores):
        _check_share(f"scores[{index}]", score)
    if not len(scores):
        return 0.0, 0.0
    return math.fsum(scores) / len(scores), _effective_n(scores, clusters)


def _effective_n(scores: Sequence[float], clusters: Sequence[Hashable] | None) -> float:
    """The number of independent items that the clustered ones are worth: n by the design effect.

    The design effect is the variance between clusters over that of independent items, with two
    clusters of the largest size added, one all right and one all wrong. They keep it defined where
    every score is alike, and high where so few are wrong that the clusters cannot tell. The result
    is never more than n, nor less than (sum of sizes)^2 / sum of squared sizes, each cluster then
    counting once. Simulated one-sided errors, 5 to 300 clusters, means .5 to .98, any correlation
    within: at most the stated one within noise at sizes up to 8 to 1; 6.0 % for 5 % at 30 to 1.
    Source: Kish, Survey Sampling, 1965; into Clopper-Pearson: Korn and Graubard, 1998.
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
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Two-sided interval of the mean of `scores`, each in [0, 1]; (0, 1) where there are none.

    Each side is wrong at most (1 - confidence) / 2 of the time: exactly so for independent 0/1
    scores. `clusters` names, item by item, what is not independent, as by its subject. Raises
    ValueError. Source: Clopper and Pearson, 1934.
    """
    return interval_at(*_worth(scores, clusters), confidence=confidence)


def interval_at(mean: float, effective_n: float, *, confidence: float = 0.95) -> Interval:
    """Two-sided Clopper-Pearson interval of a mean worth `effective_n` independent items."""
    _check_confidence(confidence)
    error = (1 - confidence) / 2
    return Interval(lower_bound(mean, effective_n, error), upper_bound(mean, effective_n, error))


def verdict(
    scores: Sequence[float],
    threshold: float,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Verdict:
    """Pass if the one-sided lower bound reaches `threshold`, fail if the upper one is below it.

    A false pass and a false fail each have a rate of at most 1 - confidence; without scores the
    verdict is inconclusive. Scores and clusters as in `interval`. Raises ValueError.
    """
    return verdict_at(*_worth(scores, clusters), threshold, n=len(scores), confidence=confidence)


def verdict_at(
    mean: float, effective_n: float, threshold: float, *, n: int, confidence: float = 0.95
) -> Verdict:
    """The verdict on a mean of `n` items that are worth `effective_n` independent ones."""
    low, high = interval_at(mean, effective_n, confidence=confidence)
    _check_share("threshold", threshold)
    error = 1 - confidence
    lower, upper = lower_bound(mean, effective_n, error), upper_bound(mean, effective_n, error)
    outcome: _Outcome = "inconclusive"
    bound = n_needed = None
    if n and lower >= threshold:
        outcome, bound = "pass", lower
    elif upper < threshold:
        outcome, bound = "fail", upper
    elif n and (independent := n_to_decide(mean, threshold, confidence=confidence)):
        n_needed = math.ceil(independent * n / effective_n)
    seen = (mean if n else None, low, high, n, threshold)
    return Verdict(outcome, *seen, n_needed, bound, confidence)


def n_to_decide(rate: float, threshold: float, *, confidence: float = 0.95) -> int | None:
    """The smallest n of independent items at which a mean of `rate` passes or fails.

    None where no n up to a thousand million does, as where the rate is the threshold.
    """
    for name, value in (("rate", rate), ("threshold", threshold)):
        _check_share(name, value)
    _check_confidence(confidence)
    error = 1 - confidence

    def decides(n: int) -> bool:
        if rate < threshold:
            return upper_bound(rate, n, error) < threshold
        return lower_bound(rate, n, error) >= threshold

    enough = next((n for n in _DOUBLED if decides(n)), None)
    return None if enough is None else 1 + bisect_left(range(1, enough + 1), True, key=decides)
