"""Two runs on the same items, and one run's items by age: tests that are exact at any n."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata

from wise.measures.statistics import format_p, format_share, interval, lower_bound, upper_bound

__all__ = ["Comparison", "Trend", "mcnemar", "retention_trend"]

Alternative = Literal["drop", "rise", "two-sided"]
_SCIPY: dict[Alternative, str] = {"drop": "greater", "rise": "less", "two-sided": "two-sided"}
_SAME = 1e-9  # smaller differences of scores are rounding
_NEVER = 10**9  # edits of a quarter: the search for n_needed stops here


@dataclass(frozen=True, slots=True)
class Comparison:
    """The scores of `n` items in two runs; `n_better` and `n_worse` of `n_clusters` changed."""

    n: int
    n_clusters: int
    n_better: int
    n_worse: int
    before: float
    after: float
    p_value: float

    @property
    def mean_difference(self) -> float:
        return self.after - self.before

    def describe(self, name: str = "") -> str:
        """One line, as in `drop of .06 on n=100 items of 98 subjects (9 worse, 3 better), p=.073`.

        The subjects are the clusters, left out where each has one item.
        """
        difference = self.mean_difference
        change = "drop" if difference < 0 else "rise"
        size = abs(difference)
        text = f"{change} of {format_share(size)}" if size > _SAME else "no change"
        subjects = f" of {self.n_clusters} subjects" if self.n_clusters < self.n else ""
        counts = f"({self.n_worse} worse, {self.n_better} better)"
        start = f"{name}: " if name else ""
        return f"{start}{text} on n={self.n} items{subjects} {counts}, {format_p(self.p_value)}"


def mcnemar(
    before: Sequence[float],
    after: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    alternative: Alternative = "drop",
) -> Comparison:
    """Whether `after` is worse (or better, or either) than `before`, item by item the same.

    Scores are in [0, 1]. A cluster is worse where its sum fell, and the p-value is the exact sign
    test of the clusters that changed: McNemar's where each is one item. Where the two runs of a
    cluster are exchangeable, P(p <= alpha) <= alpha at any n, whatever the dependence within
    clusters. Fewer than 5 changes never reach .05, one-sided.

    Raises ValueError. Source: McNemar, Psychometrika, 1947 (its exact form is binomial).
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(
            f"before has {len(before)} scores and after {len(after)}; "
            "both need the same number, 1 or more"
        )
    if alternative not in _SCIPY:
        raise ValueError(f"alternative={alternative!r} is none of {', '.join(_SCIPY)}")
    for scores in (before, after):
        interval(scores, clusters)  # checks the scores and the clusters
    changes: dict[Hashable, list[float]] = defaultdict(list)
    names = range(len(before)) if clusters is None else clusters
    for name, old, new in zip(names, before, after, strict=True):
        changes[name].append(new - old)
    totals = [math.fsum(each) for each in changes.values()]
    n_better, n_worse = sum(t > _SAME for t in totals), sum(t < -_SAME for t in totals)
    p_value = 1.0
    if n_changed := n_better + n_worse:
        p_value = float(binomtest(n_worse, n_changed, 0.5, _SCIPY[alternative]).pvalue)
    means = math.fsum(before) / len(before), math.fsum(after) / len(after)
    return Comparison(len(before), len(totals), n_better, n_worse, *means, p_value)


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether old edits fare worse than new ones: fail where they do by more than `allowed`.

    `quarters` are mean scores from the newest quarter of the edits to the oldest, and `upper` the
    one-sided bound of the drop between these two, at `confidence`; with fewer than four edits there
    are no quarters and the bound is 1. Where inconclusive, `n_needed` is about how many edits would
    decide at the drop seen.
    """

    outcome: Literal["pass", "fail", "inconclusive"]
    n: int
    quarters: tuple[float, ...]
    upper: float
    allowed: float
    p_value: float
    n_needed: int | None
    confidence: float

    @property
    def drop(self) -> float | None:
        return self.quarters[0] - self.quarters[-1] if self.quarters else None

    def describe(self, name: str = "") -> str:
        """One line: `fail: from newest to oldest quarter .96 .90 .85 .70, a drop of .26, ...`."""
        start = f"{self.outcome}: " + (f"{name} " if name else "")
        allowed = f"; allowed is a drop of {format_share(self.allowed)}"
        if self.drop is None:
            return f"{start}has no quarters at n={self.n}{allowed}"
        means = " ".join(map(format_share, self.quarters))
        drop = f"a drop of {format_share(self.drop)}" if self.drop > 0 else "no drop"
        bound = f"at most {format_share(max(0.0, self.upper))} at {100 * self.confidence:g} %"
        text = f"{start}from newest to oldest quarter {means}, {drop} ({bound} confidence), "
        text += f"{format_p(self.p_value)} at n={self.n}{allowed}"
        if self.n_needed is not None:
            text += f", which about n={self.n_needed:,} would decide at this drop"
        return text


def retention_trend(
    scores_by_age: Iterable[tuple[float, float]], *, allowed_drop: float, confidence: float = 0.95
) -> Trend:
    """Whether reliability declines with the age of edits: Page's trend test over four quarters.

    Each pair is an edit's age (any number, larger is older) and its score in [0, 1]. The edits,
    sorted by age, are cut into four quarters of the same size, up to three edits left out; block i
    is the i-th edit of each quarter. Where age makes no difference, all orders of a block's scores
    are equally likely. So the p-value, from the exact distribution over these orders given the
    ties, is exact at any n.

    Fail: p < 1 - confidence and the drop from the newest to the oldest quarter is more than
    `allowed_drop`. Without a decline this has a rate of at most 1 - confidence. Pass: the drop's
    upper bound is at most `allowed_drop`. With a larger drop this has about the same rate at most.
    Edits count as independent. Raises ValueError.

    Source: Page, JASA, 1963; the bound: Zou and Donner, Statistics in Medicine, 2008, from
    Clopper-Pearson limits.
    """
    ages_scores = sorted(scores_by_age, key=lambda pair: pair[0])
    n, size = len(ages_scores), len(ages_scores) // 4
    if not 0 <= allowed_drop <= 1:
        raise ValueError(f"allowed_drop={allowed_drop} is outside [0, 1]")
    for age, _ in ages_scores:
        if math.isnan(age):
            raise ValueError("age=nan; allowed is any number")
    scores = [score for _, score in ages_scores]
    interval(scores, confidence=confidence)  # checks the scores and the confidence
    if not size:
        return Trend("inconclusive", n, (), 1.0, allowed_drop, 1.0, None, confidence)
    quarters = [part[:size] for part in np.array_split(np.array(scores), 4)]
    p_value = _decline_p_value(np.stack(quarters[::-1], axis=1))
    means = tuple(float(quarter.mean()) for quarter in quarters)
    drop, error, n_needed = means[0] - means[-1], 1 - confidence, None

    def bound(size: int) -> float:
        above = upper_bound(means[0], size, error) - means[0]
        below = means[-1] - lower_bound(means[-1], size, error)
        return min(1.0, drop + math.hypot(above, below))

    outcome: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    if p_value < error and drop > allowed_drop + _SAME:
        outcome = "fail"
    elif bound(size) <= allowed_drop:
        outcome = "pass"
    elif drop < allowed_drop:
        sizes = range(size, _NEVER)
        index = bisect_left(sizes, True, key=lambda each: bound(each) <= allowed_drop)
        n_needed = 4 * sizes[index] if index < len(sizes) else None
    elif drop > allowed_drop and p_value < 0.5:
        n_needed = math.ceil(n * (norm.isf(error) / norm.isf(p_value)) ** 2)
    return Trend(outcome, n, means, bound(size), allowed_drop, p_value, n_needed, confidence)


def _decline_p_value(blocks: NDArray[np.float64]) -> float:
    """P(Page's L >= the one seen) given each block's ties; columns from the oldest to the newest.

    scipy.stats.page_trend_test takes its exact p-value as if there were no ties, and scores of 0
    and 1 are little else. Here it is the sum over blocks of 2 L, a whole number, by its transform.
    """
    columns = np.arange(1, blocks.shape[1] + 1)
    ranks = 2 * rankdata(blocks, axis=1)
    patterns, counts = np.unique(np.sort(ranks, axis=1), axis=0, return_counts=True)
    values = np.rint(patterns @ np.array(list(permutations(columns))).T).astype(int)
    least = values.min(axis=1)
    n_values = int(counts @ (values.max(axis=1) - least)) + 1
    spectrum = np.ones(n_values // 2 + 1, complex)
    for of_pattern, first, count in zip(values, least, counts, strict=True):
        rates = np.bincount(of_pattern - first) / len(of_pattern)
        spectrum *= np.fft.rfft(rates, n_values) ** count
    observed = round(float((ranks @ columns).sum())) - int(counts @ least)
    return float(np.clip(np.fft.irfft(spectrum, n_values)[observed:].sum(), 0, 1))
