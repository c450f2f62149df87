"""Laws of `wise.measures.statistics`: errors stay at or below what is stated, and verdicts say why.

Independent scores have few outcomes: their error rates are sums over them, without simulation. How
often clustered ones err is measured in `properties/meta/test_calibration.py`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.proportion import proportion_confint

from wise.measures.statistics import Interval, format_share, interval, interval_at
from wise.measures.verdicts import Verdict, judge, n_to_decide

pytestmark = pytest.mark.internals

law = settings(deadline=None, max_examples=80)
shares = st.integers(0, 100).map(lambda percent: percent / 100)
some_scores = st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]), min_size=1, max_size=30)


def zeros_and_ones(n_right: int, n: int) -> list[float]:
    return [1.0] * n_right + [0.0] * (n - n_right)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_independent_zeros_and_ones_have_the_exact_interval(confidence: float) -> None:
    for n in (1, 2, 7, 30, 100):
        for n_right in range(n + 1):
            expected = binomtest(n_right, n).proportion_ci(confidence, "exact")
            found = interval(zeros_and_ones(n_right, n), confidence=confidence)
            assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


@law
@given(mean=shares, n=st.floats(1, 1000), confidence=st.floats(0.5, 0.999))
def test_any_worth_has_the_clopper_pearson_interval_of_statsmodels(
    mean: float, n: float, confidence: float
) -> None:
    expected = proportion_confint(mean * n, n, 1 - confidence, method="beta")
    assert interval_at(mean, n, confidence=confidence) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 5, 30, 200])
@pytest.mark.parametrize("values", [(0, 1), (0, 0.5), (0.5, 1), (0, 0.95), (1 / 3, 2 / 3)])
def test_no_bound_of_two_valued_scores_is_wrong_more_often_than_stated(
    values: tuple[float, float], n: int
) -> None:
    low, high = values
    found = [interval([high] * k + [low] * (n - k)) for k in range(n + 1)]
    lows, highs = np.array(found).T
    # The error is largest where the mean is all but a bound.
    means = np.concatenate([lows - 1e-9, highs + 1e-9, np.linspace(low, high, 50)[1:-1]])
    for mean in means[(low < means) & (means < high)]:
        rates = binom.pmf(range(n + 1), n, (mean - low) / (high - low))
        assert rates[lows > mean].sum() <= 0.025 + 1e-9
        assert rates[highs < mean].sum() <= 0.025 + 1e-9


@law
@given(items=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 6)), min_size=1))
def test_clusters_are_worth_n_by_the_design_effect_with_a_right_and_a_wrong_one_added(
    items: list[tuple[float, int]],
) -> None:
    scores, clusters = map(np.array, zip(*items, strict=True))
    n, sizes = len(items), np.unique(clusters, return_counts=True)[1]
    largest = sizes.max()
    padded = np.concatenate([scores, np.ones(largest), np.zeros(largest)])
    groups = np.concatenate([clusters, np.repeat([7, 8], largest)])
    robust = sm.OLS(padded, np.ones(len(padded))).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    mean = padded.mean()
    design_effect = robust.cov_params()[0, 0] / (mean * (1 - mean) / len(padded))
    worth = np.clip(n / design_effect, n**2 / (sizes**2).sum(), n)
    expected = proportion_confint(scores.mean() * worth, worth, 0.05, method="beta")
    assert interval(scores.tolist(), clusters.tolist()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("n", [20, 100])
def test_a_verdict_is_wrong_at_most_one_time_in_twenty(threshold: float, n: int) -> None:
    rates = binom.pmf(range(n + 1), n, threshold)
    outcomes = [judge(zeros_and_ones(k, n), threshold).outcome for k in range(n + 1)]
    for wrong in ("pass", "fail"):  # a pass is wrong just below the threshold, a fail at it
        assert sum(r for r, o in zip(rates, outcomes, strict=True) if o == wrong) <= 0.05


@pytest.mark.parametrize(("mean", "outcome"), [(0.98, "pass"), (0.78, "fail")])
def test_a_hundred_items_decide_nine_times_in_ten_at_this_distance(
    mean: float, outcome: str
) -> None:
    rates = binom.pmf(range(101), 100, mean)
    outcomes = [judge(zeros_and_ones(k, 100), 0.9).outcome for k in range(101)]
    assert sum(r for r, o in zip(rates, outcomes, strict=True) if o == outcome) > 0.9


@law
@given(scores=some_scores, confidence=st.floats(0.5, 0.999), data=st.data())
def test_a_better_score_never_lowers_a_bound(
    scores: list[float], confidence: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(scores) - 1))
    better = [*scores[:index], data.draw(st.floats(scores[index], 1)), *scores[index + 1 :]]
    before, after = (interval(each, confidence=confidence) for each in (scores, better))
    assert after.low >= before.low - 1e-12
    assert after.high >= before.high - 1e-12


@law
@given(scores=some_scores, confidence=st.floats(0.5, 0.99))
def test_more_items_narrow_the_interval_and_more_confidence_widens_it(
    scores: list[float], confidence: float
) -> None:
    low, high = interval(scores, confidence=confidence)
    narrow, wide = interval(scores * 2, confidence=confidence), interval(scores, confidence=0.995)
    assert wide.low <= low <= narrow.low <= sum(scores) / len(scores) + 1e-9
    assert wide.high >= high >= narrow.high >= sum(scores) / len(scores) - 1e-9
    assert low < high


@law
@given(scores=some_scores, n_copies=st.integers(1, 4), seed=st.integers(0, 99))
def test_copies_within_a_cluster_add_nothing_and_order_does_not_matter(
    scores: list[float], n_copies: int, seed: int
) -> None:
    items = [(score, index) for index, score in enumerate(scores)] * n_copies
    np.random.default_rng(seed).shuffle(items)
    copied = interval([score for score, _ in items], [int(cluster) for _, cluster in items])
    alone = interval(scores, list(range(len(scores))))
    assert alone == interval(scores)
    spread = all(score in (0, 1) for score in scores)
    assert copied == pytest.approx(alone, abs=1e-9) if spread else copied.low >= alone.low - 1e-9


@law
@given(scores=some_scores, thresholds=st.lists(shares, min_size=2, max_size=5))
def test_a_higher_threshold_never_gets_a_better_verdict(
    scores: list[float], thresholds: list[float]
) -> None:
    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    found = [rank[judge(scores, threshold).outcome] for threshold in sorted(thresholds)]
    assert found == sorted(found, reverse=True)


@law
@given(rate=shares, threshold=shares, confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_n_to_decide_is_the_smallest_n_that_decides(
    rate: float, threshold: float, confidence: float
) -> None:
    n = n_to_decide(rate, threshold, confidence=confidence)
    assert (n is None) == (rate == threshold > 0)
    assume(n is not None and n < 3_000)
    for n_items in {1, n // 2, n - 1} - {0, n}:
        assert judge([rate] * n_items, threshold, confidence=confidence).n_needed == n
    assert judge([rate] * n, threshold, confidence=confidence).outcome != "inconclusive"


def test_clustered_items_need_more_of_them_by_the_design_effect() -> None:
    scores = zeros_and_ones(186, 200)
    alone, paired = (
        judge(scores, 0.9),
        judge(scores, 0.9, clusters=[i // 2 for i in range(200)]),
    )
    assert alone.outcome == paired.outcome == "inconclusive"
    assert alone.n_needed == n_to_decide(0.93, 0.9) == 288
    assert paired.n_needed == pytest.approx(2 * alone.n_needed, abs=1)


def test_without_scores_nothing_is_known() -> None:
    found = judge([], 0.9)
    assert (found.mean, found.n_needed, interval([])) == (None, None, Interval(0.0, 1.0))
    assert str(found) == "inconclusive: unknown [.00, 1.00] at n=0; needed >= .90"


@pytest.mark.parametrize(
    ("n_right", "threshold", "expected"),
    [
        (62, 0.9, "fail: reliability .62 [.52, .72] at n=100; needed >= .90"),
        (90, 0.9, "inconclusive: reliability .90 [.82, .95] at n=100; needed >= .90"),
        (90, 0.995, "fail: reliability .90 [.82, .95] at n=100; needed >= .995"),
        (93, 0.9, "; needed >= .90, which n=288 would decide at this rate"),
        (99, 0.95, ".99 [.95, >.999] at n=100, at least .953 at 95 % confidence; needed >= .95"),
    ],
)
def test_a_verdict_reads_well(n_right: int, threshold: float, expected: str) -> None:
    found = judge(zeros_and_ones(n_right, 100), threshold)
    assert found.describe("reliability").endswith(expected)
    assert str(found) == found.describe("reliability").replace("reliability ", "")


@law
@given(above=st.floats(-0.002, 0.002), threshold=st.sampled_from([0.5, 0.75, 0.9, 0.955]))
def test_a_bound_reads_as_on_its_side_of_the_threshold(above: float, threshold: float) -> None:
    bound = threshold + above
    found = Verdict("pass", 0.5, 0.0, 1.0, 9, threshold, None, bound, 0.95)
    told = re.search(r", at (?:least|most) ([.0-9e-]+) at 95 %", str(found))
    assert told is not None
    assert (float(told[1]) < threshold) == (bound < threshold)


@law
@given(share=st.floats(0, 1))
def test_only_all_is_written_as_one_and_only_none_as_zero(share: float) -> None:
    text = format_share(share)
    assert len(text) <= 5
    assert (text == "<.001") == (0 < share < 0.001)
    assert (text == ">.999") == (0.999 < share < 1)
    number = float(text.lstrip("<>"))
    assert number == pytest.approx(share, abs=0.0051)
    assert (number == 1) == (share == 1)
    assert (number == 0) == (share == 0)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, ".00"), (1e-9, "<.001"), (0.0009, "<.001"), (0.001, ".001"), (0.004, ".004"),
        (0.005, ".01"), (0.97, ".97"), (0.997, ".997"), (0.999, ".999"), (0.9991, ">.999"),
        (1 - 1e-9, ">.999"), (1.0, "1.00"),
    ],
)  # fmt: skip
def test_a_share_reads_well(share: float, text: str) -> None:
    assert format_share(share) == text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"scores": [0.5, 1.5]}, "scores[1]=1.5 is outside [0, 1]"),
        ({"scores": [float("nan")]}, "scores[0]=nan is outside [0, 1]"),
        ({"clusters": ["a"]}, "1 clusters for 2 scores; give one for each"),
        ({"threshold": 90}, "threshold=90 is outside [0, 1]"),
        ({"confidence": 1.0}, "confidence=1.0 is outside [0.5, 1)"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        judge(**{"scores": [0.0, 1.0], "threshold": 0.9, **arguments})
