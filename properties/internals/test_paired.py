"""Laws of `wise.measures.paired`: p-values are scipy's where it has them, exact where ties are.

How often they err is measured in `properties/meta/test_calibration.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, page_trend_test, rankdata

from wise.measures.paired import Trend, mcnemar, retention_trend

pytestmark = pytest.mark.internals

law = settings(deadline=None, max_examples=60)
shares = st.sampled_from([0.0, 0.25, 1 / 3, 1.0])
pairs = st.lists(st.tuples(shares, shares), min_size=1, max_size=30)


def changed(n_worse: int, n_better: int, n: int) -> tuple[list[float], list[float]]:
    same = [1.0] * (n - n_worse - n_better)
    before, after = [1.0] * n_worse + [0.0] * n_better, [0.0] * n_worse + [1.0] * n_better
    return before + same, after + same


def trend(scores: list[float], allowed_drop: float = 0.1) -> Trend:
    """Of scores from the newest edit to the oldest."""
    return retention_trend(list(enumerate(scores)), allowed_drop=allowed_drop)


@law
@given(pairs=pairs)
def test_items_on_their_own_have_the_exact_test_of_those_that_changed(
    pairs: list[tuple[float, float]],
) -> None:
    before, after = map(list, zip(*pairs, strict=True))
    n_worse = sum(new < old for old, new in pairs)
    n_changed = sum(new != old for old, new in pairs)
    for alternative, of_scipy in (("drop", "greater"), ("rise", "less"), ("two-sided",) * 2):
        found = mcnemar(before, after, alternative=alternative)
        expected = binomtest(n_worse, n_changed, 0.5, of_scipy).pvalue if n_changed else 1.0
        assert found.p_value == pytest.approx(expected)
    assert (found.n_worse, found.n_better) == (n_worse, n_changed - n_worse)
    assert found.mean_difference == pytest.approx(np.mean(after) - np.mean(before))


@law
@given(pairs=pairs)
def test_exchanged_runs_rise_where_they_dropped(pairs: list[tuple[float, float]]) -> None:
    before, after = map(list, zip(*pairs, strict=True))
    drop, rise = mcnemar(before, after), mcnemar(after, before, alternative="rise")
    assert drop.p_value == rise.p_value
    assert (drop.n_worse, drop.n_better) == (rise.n_better, rise.n_worse)


@law
@given(pairs=pairs, n_copies=st.integers(1, 4))
def test_copies_within_a_cluster_prove_nothing_more(
    pairs: list[tuple[float, float]], n_copies: int
) -> None:
    before, after = map(list, zip(*pairs, strict=True))
    alone = mcnemar(before, after)
    clusters = list(range(len(pairs))) * n_copies
    copied = mcnemar(before * n_copies, after * n_copies, clusters)
    assert (copied.p_value, copied.n_clusters) == (alone.p_value, len(pairs))


def test_thirds_that_add_up_to_the_same_are_no_change() -> None:
    found = mcnemar([0.1, 0.2, 0.3], [0.3, 0.1, 0.2], ["a", "a", "a"])
    assert (found.n_worse, found.n_better, found.p_value) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("n_worse", "n_better", "expected"),
    [
        (9, 3, "drop of .06 on n=100 items of 98 subjects (9 worse, 3 better), p=.073"),
        (0, 20, "rise of .20 on n=100 items of 98 subjects (0 worse, 20 better), p=1.00"),
        (20, 0, "drop of .20 on n=100 items of 98 subjects (20 worse, 0 better), p<.001"),
        (3, 3, "no change on n=100 items of 98 subjects (3 worse, 3 better), p=.66"),
    ],
)
def test_a_comparison_reads_well(n_worse: int, n_better: int, expected: str) -> None:
    clusters = [*range(98), 97, 97]
    found = mcnemar(*changed(n_worse, n_better, 100), clusters)
    assert found.describe() == expected
    assert found.describe("reliability") == f"reliability: {expected}"
    alone = mcnemar(*changed(n_worse, n_better, 100)).describe()
    assert alone == expected.replace(" of 98 subjects", "")


@pytest.mark.parametrize("n_blocks", [2, 3, 9])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_without_ties_the_trend_has_the_exact_p_value_of_scipy(n_blocks: int, slope: float) -> None:
    generator = np.random.default_rng(n_blocks)
    quarters = generator.random((4, n_blocks)) - slope * np.arange(4)[:, None] / 4
    scores = (quarters - quarters.min()) / np.ptp(quarters)
    expected = page_trend_test(scores[::-1].T, method="exact").pvalue  # oldest first, rising
    assert trend(scores.ravel().tolist()).p_value == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_with_ties_the_p_value_counts_every_order_of_every_block(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 2, 12).astype(float)
    blocks = rankdata(scores.reshape(4, 3).T[:, ::-1], axis=1)
    statistics = [
        sum(float(np.dot(order, [1, 2, 3, 4])) for order in orders)
        for orders in product(*(list(permutations(block)) for block in blocks))
    ]
    seen = float((blocks @ [1, 2, 3, 4]).sum())
    assert trend(scores.tolist()).p_value == pytest.approx(np.mean(np.array(statistics) >= seen))


@law
@given(scores=st.lists(shares, min_size=4, max_size=40), seed=st.integers(0, 99))
def test_the_order_of_the_list_and_the_unit_of_age_do_not_matter(
    scores: list[float], seed: int
) -> None:
    pairs = [(3.5 * age - 7, score) for age, score in enumerate(scores)]
    mixed = [pairs[index] for index in np.random.default_rng(seed).permutation(len(pairs))]
    assert retention_trend(mixed, allowed_drop=0.1) == trend(scores)


def test_a_steep_decline_fails_and_a_rise_or_level_passes() -> None:
    newest_to_oldest = [1.0] * 500 + [1.0, 0.0] * 250
    assert trend(newest_to_oldest).outcome == "fail"
    assert trend(newest_to_oldest[::-1]).outcome == trend([1.0] * 400).outcome == "pass"


def test_a_small_decline_does_not_fail_however_significant() -> None:
    scores = np.random.default_rng(0).random(40_000) < np.linspace(0.95, 0.90, 40_000)
    found = trend(scores.astype(float).tolist())
    assert found.p_value < 1e-9
    assert found.outcome == "pass"


@pytest.mark.parametrize("n", [0, 3, 4, 20, 112])
def test_too_few_edits_are_inconclusive_and_say_how_many_would_do(n: int) -> None:
    found = trend([1.0] * n)
    assert found.outcome == "inconclusive"
    assert found.n_needed == (116 if n >= 4 else None)
    assert trend([1.0] * 116).outcome == "pass"


def test_a_drop_of_few_edits_needs_about_as_many_as_it_says() -> None:
    newest_to_oldest = [1.0] * 15 + [0.0, 1.0, 1.0, 1.0, 1.0]
    found = trend(newest_to_oldest)
    assert found.outcome == "inconclusive"
    more = [score for score in newest_to_oldest for _ in range(math.ceil(found.n_needed / 20))]
    assert trend(more).outcome == "fail"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (
            [1.0] * 300 + [1.0, 0.0, 1.0, 1.0] * 25,
            "fail: reliability from newest to oldest quarter 1.00 1.00 1.00 .75, a drop of .25 "
            "(at most .33 at 95 % confidence), p<.001 at n=400; allowed is a drop of .10",
        ),
        (
            [1.0] * 100,
            "inconclusive: reliability from newest to oldest quarter 1.00 1.00 1.00 1.00, no drop "
            "(at most .11 at 95 % confidence), p=1.00 at n=100; allowed is a drop of .10, "
            "which about n=116 would decide at this drop",
        ),
        ([1.0], "inconclusive: reliability has no quarters at n=1; allowed is a drop of .10"),
    ],
)
def test_a_trend_reads_well(scores: list[float], expected: str) -> None:
    assert trend(scores).describe("reliability") == expected


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (
            lambda: mcnemar([], []),
            "before has 0 scores and after 0; both need the same number, 1 or more",
        ),
        (
            lambda: mcnemar([1], [1, 1]),
            "before has 1 scores and after 2; both need the same number",
        ),
        (lambda: mcnemar([2], [1]), "scores[0]=2 is outside [0, 1]"),
        (lambda: mcnemar([1], [1], [1, 2]), "2 clusters for 1 scores; give one for each"),
        (lambda: mcnemar([1], [1], alternative="less"), "alternative='less' is none of drop, rise"),
        (lambda: trend([1.0, 5.0]), "scores[1]=5.0 is outside [0, 1]"),
        (lambda: trend([1.0], allowed_drop=-1), "allowed_drop=-1 is outside [0, 1]"),
        (
            lambda: retention_trend([(math.nan, 1)], allowed_drop=0),
            "age=nan; allowed is any number",
        ),
    ],
)
def test_what_is_out_of_range_is_named(call: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        call()
