"""Laws of `wise.measures.slices`: the planted kind is found, and p is that of all orders."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from properties.patterns import features_of
from wise.measures.slices import Kind, slice_of, strongest_slice

pytestmark = pytest.mark.internals

TOKENS = "with an answer of {} tokens"


def test_the_kind_that_is_lost_is_named() -> None:
    n_tokens = [1 + place % 4 for place in range(40)]
    parity = [str(place % 2) for place in range(40)]
    missed = [n == 3 for n in n_tokens]
    found = strongest_slice(missed, {TOKENS: n_tokens, "at parity {}": parity})
    assert found is not None
    assert found.kind == Kind(TOKENS, 3)
    assert found.describe("edits") == (
        "misses 10 of 10 edits with an answer of 3 tokens, 0 of 30 others (p<.001)"
    )


@given(missed=st.lists(st.booleans(), min_size=7, max_size=7))
def test_p_is_the_share_of_all_orders_with_as_strong_a_kind(missed: list[bool]) -> None:
    features = {"a {}": list("xxyyyzz"), "b {}": [1, 2, 3, 1, 2, 3, 4]}
    found = strongest_slice(missed, features, n_permutations=4000)
    if found is None:
        assert not any(missed)
        return
    kinds = [Kind("a {}", value) for value in "xyz"] + [Kind("b {}", n) for n in (1, 2, 3)]
    kinds += [Kind("b {}", n, side) for n in (2, 3) for side in (" or more", " or fewer")]

    def least(missed: list[bool]) -> float:
        own = (slice_of(kind, missed, features[kind.feature]) for kind in kinds)
        return min(each.p_value for each in own if each is not None)

    places = combinations(range(len(missed)), sum(missed))
    orders = [least([place in chosen for place in range(len(missed))]) for chosen in places]
    exact = np.mean([p <= least(missed) * (1 + 1e-9) for p in orders])
    assert found.p_value == pytest.approx(exact, abs=0.04)


@given(missed=st.lists(st.booleans(), min_size=8, max_size=8))
def test_one_kind_by_its_name_has_the_p_of_fishers_test(missed: list[bool]) -> None:
    found = slice_of(Kind("a {}", "x"), missed, list("xxxyyyyy"))
    assert found is not None
    table = [[found.n_missed, found.n - found.n_missed],
             [found.others_missed, found.n_others - found.others_missed]]  # fmt: skip
    assert found.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_misses_of_one_subject_are_one_miss() -> None:
    subjects = [place // 5 for place in range(50)]
    missed = [subject == 3 for subject in subjects]
    features = {"of {}": [str(subject % 5) for subject in subjects]}
    alone = strongest_slice(missed, features)
    together = strongest_slice(missed, features, clusters=subjects)
    assert alone is not None
    assert alone.p_value < 0.01
    assert together is not None
    assert together.p_value > 0.1


def test_no_miss_and_no_kind_is_no_slice() -> None:
    assert strongest_slice([False] * 9, {"a {}": list("xxxyyyzzz")}) is None
    assert strongest_slice([True] * 3, {"a {}": list("xyz")}) is None


def test_a_feature_of_other_items_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'a \{\}' has 2 values for 3 items"):
        strongest_slice([True] * 3, {"a {}": ["x", "y"]})


def test_every_feature_is_a_phrase_with_a_value_for_every_item() -> None:
    features = features_of([], {}, len)
    assert all(phrase.count("{}") == 1 for phrase in features)
