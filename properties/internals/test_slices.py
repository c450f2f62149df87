"""Laws of `wise.measures.slices`: the planted kind is found, and p is that of all orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from fixtures.tiny import tiny_tokenizer
from properties.bench import Bench
from properties.findings import Broken
from properties.internals.measured import ROW
from properties.patterns import check_misses_look_like_chance, features_of
from wise.edits import Edit, EditStream
from wise.measures.rows import Row
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


def test_one_kind_by_its_name_has_the_p_of_exchanged_subjects() -> None:
    subjects = [place // 5 for place in range(50)]
    missed = [subject == 3 for subject in subjects]
    values = [str(subject % 5) for subject in subjects]
    found = slice_of(Kind("of {}", "3"), missed, values, clusters=subjects)
    assert found is not None
    assert (found.n_missed, found.n) == (5, 10)
    assert found.p_value == pytest.approx(2 / 10, abs=0.04)  # one of ten subjects, two in the kind


def run_of(stream: int, *, lost: Sequence[int], n_items: int) -> list[Row]:
    """A run of 40 subjects, the first eight of two words, that loses the paraphrases of some."""
    subjects = [f"{'Ada ' * (i < 8)}N{stream}x{i}" for i in range(40)]
    return [
        replace(ROW, kind="", edit_id=f"{i}", cluster=subject, prompt=f"Version {j} of {subject}?",
                score=float(i not in lost))
        for i, subject in enumerate(subjects) for j in range(n_items)
    ]  # fmt: skip


def misses_look_like_chance(*runs: Sequence[Row]) -> None:
    loaded = SimpleNamespace(name="named", tokenizer=tiny_tokenizer())
    check_misses_look_like_chance(Bench(
        name="editor", factory=None, loaded=loaded, stream=EditStream((Edit("Is it?", "yes"),)),
        background=None, runs=runs, thresholds={"generalization": 0.75}, max_looks=len(runs),
    ))  # fmt: skip


def test_a_kind_of_many_items_and_few_subjects_does_not_fail_an_editor() -> None:
    first = run_of(0, lost=[*range(6), 20, 30], n_items=10)
    second = run_of(1, lost=[*range(3), *range(20, 25)], n_items=10)
    misses_look_like_chance(first, second)


def test_a_kind_that_is_lost_on_every_stream_fails_an_editor() -> None:
    with pytest.raises(Broken, match="misses 80 of 80 paraphrases"):
        misses_look_like_chance(*(run_of(stream, lost=range(8), n_items=10) for stream in (0, 1)))


def test_no_miss_and_no_kind_is_no_slice() -> None:
    assert strongest_slice([False] * 9, {"a {}": list("xxxyyyzzz")}) is None
    assert strongest_slice([True] * 3, {"a {}": list("xyz")}) is None


def test_a_feature_of_other_items_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'a \{\}' has 2 values for 3 items"):
        strongest_slice([True] * 3, {"a {}": ["x", "y"]})


def test_every_feature_is_a_phrase_with_a_value_for_every_item() -> None:
    features = features_of([], {}, len)
    assert all(phrase.count("{}") == 1 for phrase in features)
