"""Laws of `wise.measures.verdicts`: no draw too many, each look at its share of the error.

How often its verdicts err is measured in `properties/meta/test_calibration.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wise.measures.verdicts import Draw, SharedDraws, judge, judge_in_looks

pytestmark = pytest.mark.internals

law = settings(deadline=None, max_examples=60)
draws_of_scores = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40), min_size=1, max_size=6
)


def endless(n_right: int, n: int) -> SharedDraws[Draw]:
    return SharedDraws(lambda number: Draw([1.0] * n_right + [0.0] * (n - n_right)))


@law
@given(drawn=draws_of_scores, max_looks=st.integers(1, 6))
def test_it_is_the_verdict_of_the_first_look_that_decides(
    drawn: list[list[float]], max_looks: int
) -> None:
    found = judge_in_looks([Draw(scores) for scores in drawn], 0.7, max_looks=max_looks)
    looks = [
        judge(list(chain(*drawn[:k])), 0.7, confidence=1 - 0.05 / max_looks)
        for k in range(1, min(len(drawn), max_looks) + 1)
    ]
    decided = [k for k, look in enumerate(looks, start=1) if look.outcome != "inconclusive"]
    assert found.n_looks == (decided[0] if decided else len(looks))
    expected = looks[found.n_looks - 1]
    assert (found.outcome, found.mean, found.n) == (expected.outcome, expected.mean, expected.n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.max_looks, found.confidence) == (max_looks, expected.confidence)


@pytest.mark.parametrize(("n_right", "n_looks"), [(50, 1), (10, 1), (47, 3), (45, 4)])
def test_no_draw_is_made_after_the_one_that_decides(n_right: int, n_looks: int) -> None:
    draws = endless(n_right, 50)
    assert judge_in_looks(draws, 0.88, max_looks=4).n_looks == draws.n_made == n_looks


def test_draws_that_end_leave_the_verdict_open() -> None:
    found = judge_in_looks([Draw([1.0] * 5)], 0.9)
    assert (found.outcome, found.n_looks, found.n) == ("inconclusive", 1, 5)
    assert judge_in_looks([], 0.9).n_looks == judge_in_looks([Draw([])], 0.9).n == 0


def test_a_cluster_may_go_over_several_draws() -> None:
    clusters = [index // 2 for index in range(20)]
    scores = [1.0] * 18 + [0.0] * 2
    found = judge_in_looks([Draw(scores, clusters)] * 3, 0.8, max_looks=3)
    expected = judge(scores * 3, 0.8, clusters=clusters * 3, confidence=1 - 0.05 / 3)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_one_look_is_the_verdict_itself() -> None:
    scores, clusters = [1.0] * 95 + [0.0] * 5, [index // 2 for index in range(100)]
    found = judge_in_looks([Draw(scores, clusters)], 0.85, max_looks=1)
    once = judge(scores, 0.85, clusters=clusters)
    assert found.describe("far") == f"{once.describe('far')} (look 1 of 1)"
    assert str(found) == found.describe()
    assert found.bound == pytest.approx(once.bound)


def test_metrics_share_their_draws() -> None:
    made = []

    def make(number: int) -> dict[str, Draw]:
        made.append(number)
        return {"clear": Draw([1.0] * 100), "close": Draw([1.0] * 80 + [0.0] * 20)}

    draws = SharedDraws(make)

    def of(metric: str) -> Iterator[Draw]:
        return (draw[metric] for draw in draws)

    assert judge_in_looks(of("clear"), 0.75, max_looks=4).n_looks == 1 == draws.n_made
    assert judge_in_looks(of("close"), 0.75, max_looks=4).n_looks == 4 == draws.n_made
    assert judge_in_looks(of("clear"), 0.75, max_looks=4).n_looks == 1
    assert made == [0, 1, 2, 3]


def test_a_draw_that_could_not_be_made_is_an_error_every_time() -> None:
    def make(number: int) -> Draw:
        if number:
            raise MemoryError("no room")
        return Draw([1.0] * 8 + [0.0] * 2)

    draws = SharedDraws(make)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            judge_in_looks(draws, 0.8)


def test_the_last_look_says_how_many_items_would_decide() -> None:
    found = judge_in_looks(endless(45, 50), 0.88, max_looks=4)
    alone = judge(([1.0] * 45 + [0.0] * 5) * 4, 0.88, confidence=0.9875)
    assert found.n_needed == pytest.approx(alone.n_needed, abs=1)
    assert found.describe("far").startswith("inconclusive: far .90 [.84, .95] at n=200; needed")
    assert found.describe("far").endswith("would decide at this rate (look 4 of 4)")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_looks": 0}, "max_looks=0 is too few; allowed is 1 or more"),
        ({"confidence": 1.5}, "confidence=1.5 is outside [0.5, 1)"),
        ({"threshold": 85}, "threshold=85 is outside [0, 1]"),
        ({"draws": [Draw([1.0], ["a", "b"])]}, "2 clusters for 1 scores; give one for each"),
        ({"draws": [Draw([1.0, 7.0])]}, "scores[1]=7.0 is outside [0, 1]"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        judge_in_looks(**{"draws": [Draw([1.0])], "threshold": 0.9, **arguments})
