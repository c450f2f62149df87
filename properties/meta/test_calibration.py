"""The suite's statistics err as seldom as they say, and see what they say they see.

Independent 0/1 scores have few outcomes: their rates are sums over them, exact. All else is
simulated from fixed seeds, N_SIMULATIONS = 1,000 a setting, with an error stated as 5 %; a setting
fails where the exact binomial test of that has p < 1e-4, from 78 errors on. So of right methods 1
in 10,000 would fail, and of those wrong 9.3 % of the time 19 in 20 would. For each kind of method
a wrong one, which leaves out what the right one does, is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice, product
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, multinomial, norm, t

from wise.measures import verdicts
from wise.measures.paired import Trend, mcnemar, retention_trend
from wise.measures.separation import separate
from wise.measures.statistics import interval, interval_at
from wise.measures.verdicts import Draw, judge, judge_in_looks

pytestmark = pytest.mark.meta

N_SIMULATIONS = 1_000
THRESHOLDS = sorted(set(verdicts.THRESHOLDS.values()))
NEAR = 0.01  # just above and just below a threshold

Generator = np.random.Generator
Side = tuple[NDArray[np.float64], NDArray[np.int64]]
Make = Callable[[Generator, float], tuple[Side, Side]]


def is_refused(n_wrong: int, n: int = N_SIMULATIONS, stated: float = 0.05) -> bool:
    return binomtest(n_wrong, n, stated, alternative="greater").pvalue < 1e-4


def editor(generator: Generator, rate: float, n_clusters: int, icc: float = 0.4) -> Draw:
    """Beta-binomial scores of `rate`: clusters of 1 to 5 items, each with a rate of its own."""
    sizes = generator.integers(1, 6, n_clusters)
    shape = 1 / icc - 1
    rates = generator.beta(rate * shape, (1 - rate) * shape, n_clusters)
    right = generator.random(sizes.sum()) < np.repeat(rates, sizes)
    return Draw(right.astype(float).tolist(), np.repeat(np.arange(n_clusters), sizes).tolist())


@cache
def outcomes(n: int, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each number of right answers among `n`, whether it passes, and whether it fails."""
    found = [judge([1.0] * k + [0.0] * (n - k), threshold).outcome for k in range(n + 1)]
    return np.array(found) == "pass", np.array(found) == "fail"


@pytest.mark.parametrize("n", [100, 1_000])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_no_verdict_on_independent_items_is_wrong_more_often_than_stated(
    threshold: float, n: int
) -> None:
    passes, fails = outcomes(n, threshold)
    below, at, above = (binom.pmf(range(n + 1), n, threshold + d) for d in (-NEAR, 0, NEAR))
    assert below @ passes < at @ passes <= 0.05  # at: the rate of any editor below, at most
    assert above @ fails < at @ fails <= 0.05


# At these rates a threshold is decided 4 times in 5, the numbers as computed.
DECIDED = {
    (0.75, 100): (0.63, 0.855),
    (0.75, 1_000): (0.71, 0.785),
    (0.85, 100): (0.745, 0.94),
    (0.85, 1_000): (0.82, 0.88),
    (0.9, 100): (0.81, 0.97),
    (0.9, 1_000): (0.87, 0.925),
    (0.95, 100): (0.875, 0.995),
    (0.95, 1_000): (0.93, 0.97),
}


@pytest.mark.parametrize(("threshold", "n"), DECIDED)
def test_editors_at_this_distance_are_told_four_times_in_five(threshold: float, n: int) -> None:
    (passes, fails), (low, high) = outcomes(n, threshold), DECIDED[threshold, n]
    assert binom.pmf(range(n + 1), n, low) @ fails > 0.8
    assert binom.pmf(range(n + 1), n, high) @ passes > 0.8


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_no_verdict_on_clustered_items_is_wrong_more_often_than_stated(threshold: float) -> None:
    generator = np.random.default_rng(0)
    wrong_at: dict[float, set[Literal["pass", "fail"]]]
    wrong_at = {-NEAR: {"pass"}, 0: {"pass", "fail"}, NEAR: {"fail"}}
    for distance, wrong in wrong_at.items():
        draws = [editor(generator, threshold + distance, 35) for _ in range(N_SIMULATIONS)]
        found = [judge(scores, threshold, clusters=of).outcome for scores, of in draws]
        for outcome in wrong:
            assert not is_refused(found.count(outcome)), (distance, outcome)


EVEN, PAIRS, SKEWED, ONE_LARGE = (5,), (2,), (1, 1, 1, 2, 3, 8), (1, 1, 1, 1, 1, 30)


def clustered(n_clusters: int, sizes: tuple[int, ...], mean: float, icc: float) -> Iterator[Draw]:
    """0/1 scores of `mean`; (1 - mean) icc of the clusters are wrong altogether."""
    generator, lost = np.random.default_rng(0), (1 - mean) * icc
    for _ in range(N_SIMULATIONS):
        size = generator.choice(sizes, n_clusters)
        rates = np.where(generator.random(n_clusters) < lost, 0, mean / (1 - lost))
        right = generator.random(size.sum()) < np.repeat(rates, size)
        yield Draw(right.astype(float).tolist(), np.repeat(np.arange(n_clusters), size).tolist())


def n_means_missed(draws: Iterable[Draw], mean: float) -> tuple[int, int]:
    """How many lower and upper bounds, each stated to be wrong 5 % of the time, were."""
    found = [interval(*draw, confidence=0.9) for draw in draws]
    return sum(low > mean for low, _ in found), sum(high < mean for _, high in found)


@pytest.mark.parametrize("icc", [0, 0.4, 1])
@pytest.mark.parametrize("mean", [0.5, 0.8, 0.98])
@pytest.mark.parametrize("sizes", [EVEN, SKEWED], ids=str)
@pytest.mark.parametrize("n_clusters", [5, 30, 300])
def test_no_bound_of_a_clustered_mean_is_wrong_more_often_than_stated(
    n_clusters: int, sizes: tuple[int, ...], mean: float, icc: float
) -> None:
    draws = clustered(n_clusters, sizes, mean, icc)
    assert not any(map(is_refused, n_means_missed(draws, mean)))


@pytest.mark.parametrize("mean", [0.8, 0.9])
def test_a_cluster_of_thirty_times_the_others_costs_two_percent_at_most(mean: float) -> None:
    missed = n_means_missed(clustered(300, ONE_LARGE, mean, 0.4), mean)
    assert not any(is_refused(n_wrong, stated=0.07) for n_wrong in missed)


def test_an_interval_that_left_out_the_clusters_would_be_seen() -> None:
    draws = (Draw(draw.scores) for draw in clustered(30, EVEN, 0.8, 0.3))
    assert is_refused(n_means_missed(draws, 0.8)[0])


def test_clusters_that_do_not_matter_widen_the_interval_by_less_than_a_tenth() -> None:
    draws = islice(clustered(100, PAIRS, 0.8, 0), 200)
    found = np.array([[interval(*draw), interval(draw.scores)] for draw in draws])
    of_clusters, independent = np.ptp(found, axis=-1).mean(axis=0)
    assert of_clusters < 1.1 * independent


def korn_graubard(draw: Draw) -> tuple[float, float]:
    """Their interval as published, at 90 %: degrees of freedom instead of added clusters."""
    scores, clusters = np.array(draw.scores), np.array(draw.clusters)
    n, mean = len(scores), float(scores.mean())
    totals = np.bincount(clusters, weights=scores - mean)
    m = len(totals)
    if not 0 < mean < 1:
        return 0.0, 1.0  # undefined
    design_effect = (totals**2).sum() * m / (m - 1) / (n * mean * (1 - mean))
    factor = (t.ppf(0.95, n - 1) / t.ppf(0.95, m - 1)) ** 2
    return interval_at(mean, min(n, n / design_effect * factor), confidence=0.9)


def test_degrees_of_freedom_instead_of_the_added_clusters_would_be_seen() -> None:
    found = [korn_graubard(draw) for draw in clustered(100, EVEN, 0.98, 0.7)]
    assert is_refused(sum(low > 0.98 for low, _ in found))


def test_a_verdict_that_left_out_the_clusters_would_be_seen() -> None:
    generator = np.random.default_rng(0)
    draws = [editor(generator, 0.75, 35) for _ in range(N_SIMULATIONS)]
    found = [judge(scores, 0.75).outcome for scores, _ in draws]
    assert is_refused(found.count("pass"))
    assert is_refused(found.count("fail"))


@pytest.mark.parametrize("threshold", [THRESHOLDS[0], THRESHOLDS[-1]])
@pytest.mark.parametrize("clustered", [False, True], ids=["independent", "clustered"])
def test_no_sequence_of_looks_is_wrong_more_often_than_stated(
    clustered: bool, threshold: float
) -> None:
    found = [look_on(seed, threshold, threshold, clustered) for seed in range(N_SIMULATIONS)]
    assert not is_refused(found.count("pass"))
    assert not is_refused(found.count("fail"))


@pytest.mark.parametrize(("rate", "outcome"), [(0.68, "fail"), (0.90, "pass")])
def test_a_sequence_of_looks_tells_an_editor_at_this_distance_nine_times_in_ten(
    rate: float, outcome: str
) -> None:
    found = [look_on(seed, rate, 0.8, clustered=False) for seed in range(300)]
    assert binomtest(found.count(outcome), 300, 0.9, alternative="less").pvalue > 1e-4


def test_looks_that_each_took_the_whole_error_would_be_seen() -> None:
    spent = 1 - 4 * 0.05  # which judge_in_looks splits into four times 5 %
    found = [look_on(seed, 0.85, 0.85, False, confidence=spent) for seed in range(N_SIMULATIONS)]
    assert is_refused(found.count("pass"))
    assert is_refused(found.count("fail"))


def look_on(
    seed: int, rate: float, threshold: float, clustered: bool, *, confidence: float = 0.95
) -> str:
    """The outcome of up to four looks, each with some 50 new items of an editor of `rate`."""
    generator = np.random.default_rng(seed)

    def draw() -> Draw:
        if clustered:
            return editor(generator, rate, 17)
        return Draw((generator.random(50) < rate).astype(float).tolist())

    draws = (draw() for _ in range(4))
    return judge_in_looks(draws, threshold, confidence=confidence, max_looks=4).outcome


def normal(generator: Generator, area: float) -> tuple[Side, Side]:
    """30 and 60 prompts on their own; both normal."""
    x = generator.normal(np.sqrt(2) * norm.ppf(area), 1, 30)
    return (x, np.arange(30)), (generator.normal(size=60), np.arange(30, 90))


def lost(generator: Generator, area: float) -> tuple[Side, Side]:
    """40 and 50 prompts on their own; some of those in scope are below all others."""
    x = np.where(generator.random(40) < 1 - area, -9.0, 9.0)
    return (x, np.arange(40)), (generator.normal(size=50), np.arange(40, 90))


def lost_subjects(generator: Generator, area: float) -> tuple[Side, Side]:
    """30 edits in 5 phrasings, mostly lost all together; 90 prompts out of scope."""
    bad = np.repeat(generator.random(30) < 0.8 * (1 - area), 5)
    left = 0.2 * (1 - area) / (1 - 0.8 * (1 - area))
    x = np.where(bad | (generator.random(150) < left), -9.0, 9.0)
    return (x, np.repeat(np.arange(30), 5)), (generator.normal(size=90), np.arange(30, 120))


def bad_subjects(generator: Generator, area: float) -> tuple[Side, Side]:
    """40 subjects in scope and out of it twice each; a bad one is wrong on both sides."""
    of = np.repeat(np.arange(40), 2)
    bad = np.repeat(generator.random(40) < 1 - np.sqrt(area), 2)
    noise = generator.normal(size=(2, 80)) / 100
    return (np.where(bad, -9, 2) + noise[0], of), (np.where(bad, 9, -2) + noise[1], of)


def n_bounds_wrong(make: Make, area: float, *, clusters: bool = True) -> tuple[int, int]:
    """How many lower and upper bounds, each stated to be wrong 5 % of the time, were."""
    generator, n_low, n_high = np.random.default_rng(0), 0, 0
    for _ in range(N_SIMULATIONS):
        (x, of_x), (y, of_y) = make(generator, area)
        found = separate(
            x.tolist(), y.tolist(), seed=0, n_permutations=1, confidence=0.9,
            positive_clusters=of_x.tolist() if clusters else None,
            negative_clusters=of_y.tolist() if clusters else None,
        )  # fmt: skip
        low, high = found.interval
        n_low, n_high = n_low + (low > area), n_high + (high < area)
    return n_low, n_high


@pytest.mark.parametrize("area", [0.7, 0.9, 0.97])
@pytest.mark.parametrize("make", [normal, lost, lost_subjects])
def test_no_bound_of_auroc_is_wrong_more_often_than_stated(make: Make, area: float) -> None:
    assert not any(map(is_refused, n_bounds_wrong(make, area)))


@pytest.mark.parametrize("area", [0.81, 0.9])
def test_no_bound_of_auroc_is_wrong_where_subjects_are_on_both_sides(area: float) -> None:
    assert not any(map(is_refused, n_bounds_wrong(bad_subjects, area)))


def test_bounds_of_auroc_that_left_out_the_clusters_would_be_seen() -> None:
    assert is_refused(n_bounds_wrong(lost_subjects, 0.7, clusters=False)[0])


def rates_of_a_drop(clusters: bool) -> int:
    """How often two runs of the same clustered editor differ by a significant drop."""
    generator, n_found = np.random.default_rng(0), 0
    for _ in range(N_SIMULATIONS):
        rates = generator.beta(0.4, 0.4, (2, 25))  # subjects change as a whole from run to run
        before, after = (generator.random((2, 100)) < np.repeat(rates, 4, axis=1)).astype(float)
        of = np.repeat(np.arange(25), 4).tolist() if clusters else None
        n_found += mcnemar(before.tolist(), after.tolist(), of).p_value <= 0.05
    return n_found


def test_no_drop_is_found_where_there_is_none_more_often_than_stated() -> None:
    assert not is_refused(rates_of_a_drop(clusters=True))


def test_a_comparison_that_left_out_the_clusters_would_be_seen() -> None:
    assert is_refused(rates_of_a_drop(clusters=False))


def test_a_drop_of_a_tenth_on_a_hundred_items_is_found_four_times_in_five() -> None:
    found = 0.0
    for n_worse, n_better in product(range(40), range(12)):
        before = [1.0] * n_worse + [0.0] * n_better + [1.0] * (100 - n_worse - n_better)
        after = [0.0] * n_worse + [1.0] * (100 - n_worse)
        if mcnemar(before, after).p_value <= 0.05:
            counts = [n_worse, n_better, 100 - n_worse - n_better]
            found += multinomial.pmf(counts, 100, [0.12, 0.02, 0.86])
    assert found > 0.8


def trends(n: int, newest: float, oldest: float, allowed_drop: float) -> list[Trend]:
    """Of `n` edits whose rate falls in a straight line with their age."""
    generator, rates = np.random.default_rng(0), np.linspace(newest, oldest, n)
    scores = (generator.random((N_SIMULATIONS, n)) < rates).astype(float)
    return [retention_trend(enumerate(each), allowed_drop=allowed_drop) for each in scores]


@pytest.mark.parametrize(("n", "rate"), [(40, 0.5), (100, 0.9), (103, 0.97)])
def test_no_trend_is_found_where_there_is_none_more_often_than_stated(n: int, rate: float) -> None:
    found = trends(n, rate, rate, 0.0)
    assert not is_refused(sum(each.p_value <= 0.05 for each in found))
    assert not is_refused(sum(each.outcome == "fail" for each in found))


def test_a_decline_is_found_nine_times_in_ten_and_passes_as_seldom_as_stated() -> None:
    found = [each.outcome for each in trends(200, 1.0, 0.6, 0.1)]
    assert found.count("fail") > 0.9 * N_SIMULATIONS
    # From quarter to quarter a straight line falls by three quarters of its whole fall.
    at_the_limit = [each.outcome for each in trends(200, 0.98, 0.98 - 0.1 / 0.75, 0.1)]
    assert not is_refused(at_the_limit.count("pass"))
