"""How well a score tells prompts in scope from prompts outside it, as a routing activation does."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, mannwhitneyu, rankdata

from wise.measures.estimates import bounded
from wise.measures.statistics import Interval, format_p, format_share, interval, interval_at
from wise.measures.verdicts import Verdict, judge_mean

__all__ = ["Rates", "Separation", "separate"]

_Array = NDArray[np.float64]
_Index = NDArray[np.int64]
_Clusters = Sequence[Hashable] | None
_N_AT_ONCE = 2**20  # permuted labels in memory at a time


class Rates(NamedTuple):
    """Shares of positives and of negatives with a score above `threshold`, and their intervals.

    The best threshold has no intervals: it was chosen on the same items.
    """

    threshold: float
    true_positive: float
    false_positive: float
    true_positive_interval: Interval | None = None
    false_positive_interval: Interval | None = None

    def __str__(self) -> str:
        true = _share(self.true_positive, self.true_positive_interval)
        false = _share(self.false_positive, self.false_positive_interval)
        return f"TPR {true}, FPR {false} above {self.threshold:.4g}"


def _share(share: float, bounds: Interval | None) -> str:
    return format_share(share) if bounds is None else bounded(share, *bounds)


@dataclass(frozen=True, slots=True)
class Separation:
    """Scores of `n_positives` against `n_negatives` prompts.

    `auroc` is P(positive > negative) + P(equal) / 2, its `interval` two-sided at `confidence`, and
    `effective_n` the number of independent pairs that it counts as. The p-values are one-sided:
    positives score higher. `ks` is the largest distance between the two distribution functions.
    `own` are the rates at the threshold that was given, `best` those where TPR - FPR is largest.
    """

    n_positives: int
    n_negatives: int
    auroc: float
    interval: Interval
    effective_n: float
    mann_whitney_p: float
    permutation_p: float
    ks: float
    own: Rates | None
    best: Rates
    confidence: float

    def judge(self, threshold: float) -> Verdict:
        """Whether the AUROC reaches `threshold`; n counts positives and negatives together."""
        n, worth = self.n_positives + self.n_negatives, self.effective_n
        return judge_mean(self.auroc, worth, threshold, n=n, confidence=self.confidence)

    def describe(self, name: str = "") -> str:
        """One line: `far: AUROC .97 [.92, .99] of 60 positives against 80 negatives, ...`."""
        parts = [
            f"AUROC {_share(self.auroc, self.interval)} of {self.n_positives} positives against "
            f"{self.n_negatives} negatives, {format_p(self.mann_whitney_p)} (Mann-Whitney), "
            f"{format_p(self.permutation_p)} (permutations), KS {format_share(self.ks)}"
        ]
        parts += [] if self.own is None else [str(self.own)]
        return f"{name}: " * bool(name) + "; ".join([*parts, f"best {self.best}"])


def separate(
    positives: Sequence[float],
    negatives: Sequence[float],
    *,
    seed: int,
    positive_clusters: _Clusters = None,
    negative_clusters: _Clusters = None,
    threshold: float | None = None,
    confidence: float = 0.95,
    n_permutations: int = 1_999,
) -> Separation:
    """How well scores separate positives from negatives; a larger score is more in scope.

    Scores may be infinite, as an unedited router's are; ties count half; in scope is above the
    `threshold`. Clusters give the cluster of each item, such as its subject; a name on both sides
    is one cluster. For both p-values a cluster counts once on each side, by its mean rank, and
    Mann-Whitney's takes the sides as independent. The permutation test exchanges, by `seed`, the
    sides of clusters on one side and of the two halves of those on both: P(p <= alpha) <= alpha
    where these are exchangeable, and p is at least 1 / (n_permutations + 1). Neither p-value is
    adjusted for several comparisons.

    Raises ValueError for an empty side, NaN, or clusters of other items. Source: Mann and Whitney,
    1947; the interval: see `_effective_n`; the best threshold: Youden, 1950.
    """
    x, y = _checked("positives", positives), _checked("negatives", negatives)
    if n_permutations < 1:
        raise ValueError(f"n_permutations={n_permutations} is too few; allowed is 1 or more")
    if threshold is not None and math.isnan(threshold):
        raise ValueError("threshold=nan; allowed is any number, infinite too")
    of_x, of_y = _cluster_numbers(len(x), len(y), positive_clusters, negative_clusters)
    shares = _shares_below(x, y), 1 - _shares_below(y, x)
    area, worth = float(shares[0].mean()), _effective_n(*shares, of_x, of_y)
    rank_x, rank_y = np.split(rankdata(np.concatenate([x, y])), [len(x)])
    mean_x, mean_y = _means_by_cluster(rank_x, of_x), _means_by_cluster(rank_y, of_y)
    own = None
    if threshold is not None:
        above = [(x > threshold).tolist(), (y > threshold).tolist()]
        rates = [sum(each) / len(each) for each in above]
        in_scope = zip(above, (of_x.tolist(), of_y.tolist()), strict=True)
        own = Rates(threshold, *rates, *(interval(*e, confidence=confidence) for e in in_scope))
    means = list(mean_x.values()), list(mean_y.values())
    with np.errstate(divide="ignore"):  # in the p-value of very few scores, which is not used
        ks = float(ks_2samp(x, y, method="asymp").statistic)
    return Separation(
        n_positives=len(x),
        n_negatives=len(y),
        auroc=area,
        interval=interval_at(area, worth, confidence=confidence),
        effective_n=worth,
        mann_whitney_p=float(mannwhitneyu(*means, alternative="greater").pvalue),
        permutation_p=_permutation_p(mean_x, mean_y, n_permutations, seed),
        ks=ks,
        own=own,
        best=_best_rates(x, y),
        confidence=confidence,
    )


def _checked(name: str, scores: Sequence[float]) -> _Array:
    array = np.asarray(scores, float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} have shape {array.shape}; allowed is (n,) with n of 1 or more")
    if missing := np.flatnonzero(np.isnan(array)).tolist():
        raise ValueError(f"{name}[{missing[0]}]=nan; allowed is any number, infinite too")
    return array


def _cluster_numbers(m: int, n: int, of_x: _Clusters, of_y: _Clusters) -> tuple[_Index, _Index]:
    """The clusters of both sides as 0, 1, ...: the same number for the same name."""
    if of_x is None and of_y is None:
        return np.arange(m), np.arange(m, m + n)
    if of_x is None or of_y is None:
        raise ValueError("clusters are given for one side; give them for both or for neither")
    if (len(of_x), len(of_y)) != (m, n):
        raise ValueError(
            f"{len(of_x)} and {len(of_y)} clusters for {m} and {n} scores; give one for each"
        )
    number = {name: index for index, name in enumerate(dict.fromkeys(chain(of_x, of_y)))}
    return np.array([number[each] for each in of_x]), np.array([number[each] for each in of_y])


def _shares_below(scores: _Array, others: _Array) -> _Array:
    """For each score the share of `others` below it, and half of those equal to it."""
    others = np.sort(others)
    below = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return below / (2 * len(others))


def _effective_n(v_x: _Array, v_y: _Array, of_x: _Index, of_y: _Index) -> float:
    """The number of independent pairs that the scores count as.

    `v_x` is each positive's share of negatives below it, `v_y` each negative's of positives above
    it. There are as many pairs without a common cluster as the smaller side has clusters, counted
    as (sum of sizes)^2 / sum of squared sizes. Whatever the distributions, a true AUROC of A gives
    a perfect score at a rate of at most A^pairs and a variance of at most A (1 - A) / pairs; so at
    1.00 the scores count as these pairs, and below as more, in the ratio of that variance to the
    one over clusters. Two clusters of the largest size, one all right and one all wrong, are added
    on each side to the latter, so that few errors do not prove much.

    Simulated one-sided errors, stated as 5 %: at most 5.3 %, so within noise, for AUROCs of .5 to
    .98, 5 to 500 items a side, normal and two-valued scores, and 10 to 100 clusters of 1 to 8 on
    one side or both, of any correlation.
    Source: Birnbaum and Klose, 1957; DeLong et al., 1988; for clusters Obuchowski, 1997.
    """
    n_clusters = int(max(of_x.max(), of_y.max())) + 1

    def of_side(v: _Array, of: _Index) -> tuple[_Array, float, _Array, float]:
        sizes = np.bincount(of, minlength=n_clusters)
        largest, n = int(sizes.max()), len(of) + 2 * int(sizes.max())
        mean = (float(v.sum()) + largest) / n
        influence = (np.bincount(of, weights=v, minlength=n_clusters) - sizes * mean) / n
        return sizes / len(of), mean, influence, (largest / n) ** 2 * (mean**2 + (1 - mean) ** 2)

    size_x, p, influence_x, added_x = of_side(v_x, of_x)
    size_y, q, influence_y, added_y = of_side(v_y, of_y)
    pairs = min(1 / (size_x @ size_x), 1 / (size_y @ size_y), 2 / ((size_x + size_y) ** 2).sum())
    fewest = min(np.count_nonzero(size_x), np.count_nonzero(size_y))
    variance = ((influence_x + influence_y) ** 2).sum() + added_x + added_y
    mean = (p + q) / 2
    return float(max(mean * (1 - mean) / variance * fewest / (fewest + 2), pairs))


def _means_by_cluster(values: _Array, of: _Index) -> dict[int, float]:
    names, index, sizes = np.unique(of, return_inverse=True, return_counts=True)
    return dict(zip(names.tolist(), np.bincount(index, weights=values) / sizes, strict=True))


def _permutation_p(
    in_x: dict[int, float], in_y: dict[int, float], n_permutations: int, seed: int
) -> float:
    """P(mean of the positives' clusters less that of the negatives' >= the one seen).

    scipy.stats.permutation_test exchanges between the sides or within pairs, not both at once.
    """
    to_x, to_y, both = 1 / len(in_x), 1 / len(in_y), sorted(in_x.keys() & in_y.keys())
    kept = np.array([in_x[each] * to_x - in_y[each] * to_y for each in both])
    gain = np.array([in_y[each] * to_x - in_x[each] * to_y for each in both]) - kept
    of_one = [in_x[each] for each in in_x if each not in in_y]
    weights = np.repeat([to_x, -to_y], [len(of_one), len(in_y) - len(both)])
    values = np.array(of_one + [in_y[each] for each in in_y if each not in in_x])
    seen = weights @ values - 1e-9  # less than any difference of mean ranks, more than rounding
    generator, n_reached = np.random.default_rng(seed), 0
    n_at_once = max(1, _N_AT_ONCE // (len(values) + len(both)))
    for start in range(0, n_permutations, n_at_once):
        n_drawn = min(n_at_once, n_permutations - start)
        labels = generator.permuted(np.tile(weights, (n_drawn, 1)), axis=1)
        swapped = generator.random((n_drawn, len(both))) < 0.5
        n_reached += int((labels @ values + swapped @ gain >= seen).sum())
    return (1 + n_reached) / (1 + n_permutations)


def _best_rates(x: _Array, y: _Array) -> Rates:
    """The rates where TPR - FPR is largest, half-way between two scores."""
    scores = np.unique(np.concatenate([[-np.inf], x, y]))
    true = 1 - np.searchsorted(np.sort(x), scores, "right") / len(x)
    false = 1 - np.searchsorted(np.sort(y), scores, "right") / len(y)
    best = int((true - false).argmax())
    below, above = float(scores[best]), float(scores[min(best + 1, len(scores) - 1)])
    middle = below + (above - below) / 2
    threshold = middle if below < middle < above else below
    return Rates(threshold, float(true[best]), float(false[best]))
