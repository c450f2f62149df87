"""Laws of the strategies of turns and queries: what is drawn, and what it shrinks to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.strategies import Queries, edit_streams, queries, turn_lists, turns
from properties.internals.examples import EVERY, SPEAKS, find_any, minimal
from wise.edits import Edit, EditStream

pytestmark = pytest.mark.internals


@given(turns(min_size=2, max_size=6))
@EVERY
def test_a_turn_edits_no_prompt_twice(turn: tuple[Edit, ...]) -> None:
    assert len({each.prompt for each in turn}) == len(turn) in range(2, 7)


def test_the_simplest_turn_is_one_plain_edit() -> None:
    assert minimal(turns()) == (SPEAKS,)
    assert minimal(turn_lists()) == ((SPEAKS,),)


@given(st.data(), edit_streams(max_edits=6), st.integers(1, 4))
@EVERY
def test_turns_hold_the_stream_in_order_and_no_prompt_twice(
    data: st.DataObject, stream: EditStream, max_size: int
) -> None:
    turn_list = data.draw(turn_lists(st.just(stream), max_size=max_size))
    assert tuple(chain(*turn_list)) == stream.edits
    for turn in turn_list:
        assert len({each.prompt for each in turn}) == len(turn) in range(1, max_size + 1)


def test_turns_of_mixed_sizes_can_be_drawn() -> None:
    turn_list = minimal(turn_lists(), lambda turns: {1, 2} <= {len(turn) for turn in turns})
    assert Counter(map(len, turn_list)) == {1: 1, 2: 1}
    find_any(turn_lists(max_size=4), lambda turns: 4 in {len(turn) for turn in turns})


def test_the_simplest_query_is_one_prompt_without_padding() -> None:
    assert minimal(queries()) == Queries((SPEAKS.prompt,), "left", 0)


@given(queries(st.sampled_from("abc"), max_prompts=3, max_padding=2))
@EVERY
def test_a_query_is_of_the_texts_that_are_given(query: Queries) -> None:
    assert set(query.prompts) <= set("abc")
    assert len(query.prompts) in range(1, 4)
    assert query.padding_side in ("left", "right")
    assert query.extra_padding in range(3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_largest_query_can_be_drawn_on_both_sides(side: str) -> None:
    drawn = queries(st.just("a"), max_prompts=3, max_padding=2)
    find_any(drawn, lambda query: query == Queries(("a",) * 3, side, 2))


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (turns, dict(min_size=9), "max_size=4 is not a whole number >= 9"),
        (turn_lists, dict(max_size=0), "max_size=0 is not a whole number >= 1"),
        (queries, dict(max_prompts=0), "max_prompts=0 is not a whole number >= 1"),
        (queries, dict(max_padding=-1), "max_padding=-1 is not a whole number >= 0"),
    ],
)
def test_a_bad_option_is_an_error_that_names_it_at_once(
    strategy: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(**options)
