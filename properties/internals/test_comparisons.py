"""Laws that compare an editor with itself: what they miss, and what they fail falsely."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from properties.bench import Bench, Compared
from properties.findings import Broken, Unasked
from wise.edits import Edit

EDITS = tuple(Edit(f"The capital of country {n} is", f"city {n}") for n in range(120))


def bench_of(n_edits: int) -> Bench:
    return cast(Bench, SimpleNamespace(many_edits=EDITS[:n_edits]))


def n_asked(lost: float, gained: float = 0.0, *, seed: int = 0, n_edits: int = 120) -> int:
    """How many edits are asked of an editor that loses and gains such shares; -1 if Broken."""
    rng, asked = random.Random(seed), list[Edit]()

    def compare(edits: Sequence[Edit]) -> Compared:
        asked.extend(edits)
        drawn = [rng.random() for _ in edits]
        n_gained = sum(lost <= each < lost + gained for each in drawn)
        return Compared(len(edits), ["lost"] * sum(each < lost for each in drawn), n_gained)

    try:
        Bench.no_worse(bench_of(n_edits), compare)
    except Broken:
        return -1
    finally:
        assert len(set(asked)) == len(asked)  # what is asked twice is no new evidence
    return len(asked)


def n_broken(lost: float, gained: float = 0.0, *, of: int = 1000) -> int:
    return sum(n_asked(lost, gained, seed=seed) == -1 for seed in range(of))


def test_an_editor_that_loses_nothing_is_asked_once() -> None:
    assert n_asked(0.0) == 6


@pytest.mark.parametrize("n_edits", [16, 20, 25, 120])
def test_an_editor_that_loses_all_is_broken(n_edits: int) -> None:
    assert n_asked(1.0, n_edits=n_edits) == -1


@pytest.mark.parametrize("n_edits", [2, 6, 7, 14])
def test_so_few_edits_decide_nothing(n_edits: int) -> None:
    assert n_asked(1.0, n_edits=n_edits) > 0


def test_a_third_of_the_edits_is_told_from_chance() -> None:
    assert n_broken(0.34) > 850  # the first six are all spared in one of twelve


def test_a_tenth_of_the_edits_may_be_lost() -> None:
    assert not n_broken(0.1)


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3, 0.5])
def test_an_editor_that_errs_at_random_is_not_broken(share: float) -> None:
    """By the stated rate, at most one of 10,000 is; here, none of 3,000."""
    assert not n_broken(share, share, of=3000)


@pytest.mark.parametrize("n_held", [0, 1])
def test_an_editor_that_holds_nothing_is_not_judged(n_held: int) -> None:
    asked = list[Edit]()

    def compare(edits: Sequence[Edit]) -> Compared:
        asked.extend(edits)
        return Compared(n_held, [], 0)

    if n_held:
        Bench.no_worse(bench_of(120), compare)
    else:
        with pytest.raises(Unasked, match="none of 24 edits is answered"):
            Bench.no_worse(bench_of(120), compare)
    assert len(asked) == (6 if n_held else 24)
