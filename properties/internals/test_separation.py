"""Laws of `wise.measures.separation`: scipy's numbers, clusters count once, honest extremes.

How often its interval errs is measured in `properties/meta/test_calibration.py`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, mannwhitneyu, permutation_test

from wise.measures.separation import separate
from wise.measures.statistics import interval
from wise.measures.verdicts import judge

pytestmark = pytest.mark.internals

law = settings(deadline=None, max_examples=60)
scores = st.sampled_from([-math.inf, -2.0, 0.0, 0.5, 1.0, 3.0, math.inf])
sides = st.lists(scores, min_size=1, max_size=12)
QUICK: dict[str, Any] = dict(seed=0, n_permutations=9)


def normal(shift: float, n: int, seed: int = 0) -> list[float]:
    return (np.random.default_rng(seed).normal(size=n) + shift).tolist()


@law
@given(positives=sides, negatives=sides)
def test_auroc_is_the_share_of_pairs_in_order_with_ties_as_half(
    positives: list[float], negatives: list[float]
) -> None:
    found = separate(positives, negatives, **QUICK)
    pairs = [(x > y) + (x == y) / 2 for x in positives for y in negatives]
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert found.interval.low <= found.auroc <= found.interval.high


@law
@given(positives=sides, negatives=sides)
def test_ks_is_the_largest_distance_of_the_distribution_functions(
    positives: list[float], negatives: list[float]
) -> None:
    x, y = np.array(positives), np.array(negatives)
    at = np.concatenate([x, y])[:, None]
    expected = np.abs((x <= at).mean(axis=1) - (y <= at).mean(axis=1)).max()
    assert separate(positives, negatives, **QUICK).ks == pytest.approx(expected, abs=1e-12)


@law
@given(positives=sides, negatives=sides)
def test_turning_the_sides_round_mirrors_auroc_and_interval(
    positives: list[float], negatives: list[float]
) -> None:
    found, turned = separate(positives, negatives, **QUICK), separate(negatives, positives, **QUICK)
    assert turned.auroc == pytest.approx(1 - found.auroc)
    assert turned.interval == pytest.approx((1 - found.interval.high, 1 - found.interval.low))
    assert turned.ks == pytest.approx(found.ks)


@law
@given(positives=sides, negatives=sides, n_copies=st.integers(1, 3), seed=st.integers(0, 99))
def test_copies_within_a_cluster_add_nothing_and_order_does_not_matter(
    positives: list[float], negatives: list[float], n_copies: int, seed: int
) -> None:
    alone = separate(positives, negatives, **QUICK)
    items = [("x", i, x) for i, x in enumerate(positives)] * n_copies
    np.random.default_rng(seed).shuffle(items)
    x, of_x = [float(each[2]) for each in items], [each[1] for each in items]
    of_y = [("y", i) for i in range(len(negatives))]
    found = separate(x, negatives, positive_clusters=of_x, negative_clusters=of_y, **QUICK)
    assert found.auroc == pytest.approx(alone.auroc)
    assert found.effective_n == pytest.approx(alone.effective_n)
    assert found.mann_whitney_p == pytest.approx(alone.mann_whitney_p)


@pytest.mark.parametrize(("shift", "n"), [(0.0, 5), (0.4, 40), (1.0, 300)])
def test_without_clusters_tests_and_distance_are_those_of_scipy(shift: float, n: int) -> None:
    x, y = normal(shift, n), normal(0, 2 * n, seed=1)
    found = separate(x, y, seed=0, n_permutations=9_999)
    ranks = np.argsort(np.argsort(x + y))
    exact = permutation_test(
        (ranks[:n], ranks[n:]), lambda a, b, axis: a.mean(axis) - b.mean(axis),
        alternative="greater", vectorized=True, rng=1,
    )  # fmt: skip
    assert found.mann_whitney_p == mannwhitneyu(x, y, alternative="greater").pvalue
    assert found.permutation_p == pytest.approx(exact.pvalue, abs=0.02)
    assert found.ks == pytest.approx(ks_2samp(x, y).statistic)


def test_subjects_on_both_sides_are_compared_with_themselves() -> None:
    subjects = np.random.default_rng(0).normal(size=30) * 10
    x, y = (subjects + 0.2).tolist(), subjects.tolist()
    names = list(range(30))
    paired = separate(x, y, seed=0, positive_clusters=names, negative_clusters=names)
    assert paired.permutation_p < 0.01 < 0.3 < separate(x, y, seed=0).permutation_p
    assert paired.effective_n > separate(x, y, seed=0).effective_n


def test_a_perfect_score_is_worth_the_pairs_of_the_smaller_side() -> None:
    for m, n in [(1, 1), (3, 50), (40, 20)]:
        found = separate(normal(99, m), normal(0, n), **QUICK)
        assert (found.auroc, found.effective_n) == (1.0, pytest.approx(min(m, n)))
        assert found.interval == pytest.approx(interval([1.0] * min(m, n)))


def test_a_perfect_score_of_subjects_on_both_sides_is_worth_half_of_them() -> None:
    names = [index // 2 for index in range(20)]
    found = separate(
        normal(99, 20), normal(0, 20), positive_clusters=names, negative_clusters=names, **QUICK
    )
    assert found.effective_n == pytest.approx(5)


def test_where_nothing_is_told_apart_auroc_is_one_half() -> None:
    found = separate([math.inf] * 20, [math.inf] * 30, threshold=math.inf, **QUICK)
    assert (found.auroc, found.ks, found.permutation_p) == (0.5, 0.0, 1.0)
    assert found.own is not None
    assert (found.own.true_positive, found.own.false_positive) == (0.0, 0.0)


@law
@given(positives=sides, negatives=sides)
def test_no_threshold_is_better_than_the_best_and_its_rates_are_there(
    positives: list[float], negatives: list[float]
) -> None:
    def rates(threshold: float) -> tuple[float, float]:
        above = ([score > threshold for score in side] for side in (positives, negatives))
        true, false = map(np.mean, above)
        return float(true), float(false)

    best = separate(positives, negatives, **QUICK).best
    assert (best.true_positive, best.false_positive) == pytest.approx(rates(best.threshold))
    candidates = [rates(threshold) for threshold in [*positives, *negatives, -math.inf]]
    largest = max(true - false for true, false in candidates)
    assert best.true_positive - best.false_positive == pytest.approx(largest)


def test_rates_at_the_given_threshold_have_the_intervals_of_their_clusters() -> None:
    x, y, of_x, of_y = normal(1, 60), normal(0, 40), [i // 3 for i in range(60)], list(range(40))
    found = separate(x, y, positive_clusters=of_x, negative_clusters=of_y, threshold=0.5, **QUICK)
    above = [score > 0.5 for score in x]
    assert found.own is not None
    assert found.own.true_positive == pytest.approx(np.mean(above))
    assert found.own.true_positive_interval == interval(above, of_x)
    assert found.own.false_positive_interval == interval([score > 0.5 for score in y])


def test_the_verdict_is_that_of_as_many_independent_pairs() -> None:
    found = separate(normal(99, 60), normal(0, 80), **QUICK)
    assert found.judge(0.95).outcome == judge([1.0] * 60, 0.95).outcome == "pass"
    assert found.judge(0.96).n_needed == round(140 / 60 * 74)
    assert separate(normal(0, 60), normal(0, 80), **QUICK).judge(0.9).outcome == "fail"


def test_the_same_seed_gives_the_same_result() -> None:
    x, y = normal(0.3, 30), normal(0, 30, seed=1)
    assert separate(x, y, seed=5) == separate(x, y, seed=5)
    assert separate(x, y, seed=5).permutation_p != separate(x, y, seed=6).permutation_p


def test_a_separation_reads_well() -> None:
    found = separate([3.0] * 18 + [0.5] * 2, [0.0] * 25, threshold=1, seed=0)
    assert found.describe("far") == (
        "far: AUROC 1.00 [.83, 1.00] of 20 positives against 25 negatives, "
        "p<.001 (Mann-Whitney), p<.001 (permutations), KS 1.00; "
        "TPR .90 [.68, .99], FPR .00 [.00, .14] above 1; best TPR 1.00, FPR .00 above 0.25"
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"positives": []}, "positives have shape (0,); allowed is (n,) with n of 1 or more"),
        ({"negatives": [0.0, math.nan]}, "negatives[1]=nan; allowed is any number"),
        ({"threshold": math.nan}, "threshold=nan; allowed is any number"),
        ({"positive_clusters": ["a"]}, "clusters are given for one side"),
        (
            {"positive_clusters": ["a"], "negative_clusters": ["a"]},
            "1 and 1 clusters for 1 and 2 scores",
        ),
        ({"n_permutations": 0}, "n_permutations=0 is too few; allowed is 1 or more"),
        ({"confidence": 1.0}, "confidence=1.0 is outside [0.5, 1)"),
    ],
)
def test_what_is_refused_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        separate(**{"positives": [1.0], "negatives": [0.0, 0.5], "seed": 0, **arguments})
