"""Laws of the strategies: what is drawn, and what it shrinks to."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from transformers import AutoTokenizer

from fixtures.encyclopedia import Encyclopedia
from fixtures.models import PRETRAINED
from fixtures.strategies import SIGNS, UNICODE, Queries, queries, turns
from fixtures.tiny import tiny_tokenizer
from wise.edits import Edit
from wise.lm.tokens import IGNORED, encode

pytestmark = pytest.mark.internals

Example = TypeVar("Example")
EVERY = settings(derandomize=True, database=None, deadline=None, max_examples=60)
SOME = settings(
    EVERY, max_examples=2000, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
SIMPLEST = settings(SOME, phases=[Phase.generate, Phase.shrink])
WORLD = Encyclopedia(0, n_people=32, n_cities=8, n_firms=8)
FACTS = {fact.key: fact for fact in (*WORLD.facts, *SIGNS)}
SPEAKS = Edit(
    "Alexandra Lilwick speaks", "Czech", "Alexandra Lilwick",
    ground_truth="Bengali", id="Alexandra Lilwick / language",
)  # fmt: skip
SENTENCE = "Before noon the rain stopped. "


def minimal(
    strategy: SearchStrategy[Example], condition: Callable[[Example], bool] = lambda _: True
) -> Example:
    """The simplest example for which `condition` holds."""
    return find(strategy, condition, settings=SIMPLEST)


def some_edit(condition: Callable[[Edit], bool]) -> Edit:
    """Some edit for which `condition` holds, not made simpler."""
    return find(turns(WORLD, max_size=1), lambda turn: condition(turn[0]), settings=SOME)[0]


def test_the_simplest_turn_is_one_plain_edit() -> None:
    assert minimal(turns(WORLD)) == (SPEAKS,)


@given(turns(WORLD, max_size=6))
@EVERY
def test_a_turn_edits_no_prompt_twice(turn: tuple[Edit, ...]) -> None:
    assert len({edit.prompt for edit in turn}) == len(turn) in range(1, 7)


def test_the_largest_turn_can_be_drawn() -> None:
    assert find(turns(WORLD, max_size=4), lambda turn: len(turn) == 4, settings=SOME)


@given(turns(WORLD, max_size=2))
@EVERY
def test_an_edit_is_of_a_fact_of_the_evaluation_split_to_another_answer(
    turn: tuple[Edit, ...],
) -> None:
    for edit in turn:
        fact = FACTS[edit.id]
        assert fact in SIGNS or (fact.split, fact.is_editable) == ("evaluation", True)
        assert edit.prompt.endswith(fact.prompt)
        assert (edit.subject, edit.ground_truth) == (fact.subject, fact.object)
        assert edit.target not in fact.truths
        assert len(edit.prompt) <= 400


@pytest.mark.parametrize(
    ("is_variant", "simplest"),
    [
        (lambda prompt: prompt.count(". ") == 1, SENTENCE + SPEAKS.prompt),
        (lambda prompt: prompt.count(". ") > 3, SENTENCE * 12 + SPEAKS.prompt),
        (lambda prompt: len(prompt) == 1, "#"),
    ],
    ids=["prefixed", "long", "one-token"],
)
def test_the_simplest_prompt_of_each_kind_is_short(
    is_variant: Callable[[str], bool], simplest: str
) -> None:
    (edit,) = minimal(turns(WORLD, max_size=1), lambda turn: is_variant(turn[0].prompt))
    assert edit.prompt == simplest


@given(turns(WORLD, max_size=4))
@EVERY
def test_a_long_prompt_leaves_no_room_for_another_sentence(turn: tuple[Edit, ...]) -> None:
    assert all(len(edit.prompt) > 350 for edit in turn if edit.prompt.count(". ") > 3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_to_three_sentences_stand_before_a_prefixed_prompt(n: int) -> None:
    some_edit(lambda edit: edit.prompt.count(". ") == n)


@pytest.mark.parametrize("family", [None, "gpt2", "llama", "mistral", "gptj"])
def test_a_one_token_prompt_is_one_token(family: str | None) -> None:
    path = PRETRAINED / str(family)
    tokenizer = AutoTokenizer.from_pretrained(path) if family else tiny_tokenizer()
    encoded = tokenizer([fact.subject for fact in SIGNS], add_special_tokens=False).input_ids
    assert {len(ids) for ids in encoded} == {1}


@given(turns(WORLD, max_size=1))
@EVERY
def test_every_edit_has_tokens_to_ask_and_to_learn(turn: tuple[Edit, ...]) -> None:
    batch = encode(tiny_tokenizer(), [turn[0].prompt], [turn[0].target])
    assert batch.prompt_mask.any()
    assert (batch.labels != IGNORED).sum() > 1  # an end of sequence is one of them


def of_category(*categories: str) -> Callable[[str], bool]:
    return lambda text: any(unicodedata.category(letter) in categories for letter in text)


UNICODE_FEATURES: dict[str, Callable[[str], bool]] = {
    "accent": lambda text: unicodedata.normalize("NFD", text) != text,
    "combining mark": of_category("Mn"),
    "CJK": lambda text: any("CJK" in unicodedata.name(letter, "") for letter in text),
    "right to left": lambda text: any(unicodedata.bidirectional(c) in ("R", "AL") for c in text),
    "emoji": of_category("So"),
    "joined emoji": lambda text: "\u200d" in text,
    "unseen": of_category("Cf"),
    "changed by normalisation": lambda text: unicodedata.normalize("NFKC", text) != text,
    "changed by case": lambda text: text.lower().upper() != text.upper(),
    "control character": of_category("Cc"),
    "listed nowhere": lambda text: not any(each in text for each in (*UNICODE, *WORLD.answers)),
}
WHITESPACE_FEATURES: dict[str, Callable[[str], bool]] = {
    "leading": lambda text: text[0] == " ",
    "trailing": lambda text: text[-1] == " ",
    "double": lambda text: "  " in text.strip(),
    "double at an end": lambda text: text.startswith("  ") or text.endswith("  "),
    "newline": lambda text: "\n" in text,
    "newline inside": lambda text: "\n" in text.strip(),
    "tab": lambda text: "\t" in text,
    "no-break": lambda text: "\u00a0" in text,
    "ideographic": lambda text: "\u3000" in text,
}


@pytest.mark.parametrize("feature", UNICODE_FEATURES)
def test_unicode_targets_are_of_every_kind(feature: str) -> None:
    has = UNICODE_FEATURES[feature]
    some_edit(lambda edit: has(edit.target))


@pytest.mark.parametrize("feature", WHITESPACE_FEATURES)
def test_whitespace_in_targets_is_of_every_kind(feature: str) -> None:
    has = WHITESPACE_FEATURES[feature]
    some_edit(lambda edit: has(edit.target))


def test_the_text_of_a_strategy_does_not_list_the_world() -> None:
    assert len(repr(turns(WORLD))) < 1000


@given(queries(st.sampled_from("abc"), max_prompts=3, max_padding=2))
@EVERY
def test_a_query_is_of_the_texts_that_are_given(query: Queries) -> None:
    assert set(query.prompts) <= set("abc")
    assert len(query.prompts) in range(1, 4)
    assert query.padding_side in ("left", "right")
    assert query.extra_padding in range(3)


def test_the_simplest_query_is_one_prompt_without_padding() -> None:
    assert minimal(queries(st.just("a"))) == Queries(("a",), "left", 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_largest_query_can_be_drawn_on_both_sides(side: str) -> None:
    drawn = queries(st.just("a"), max_prompts=3, max_padding=2)
    assert find(drawn, lambda query: query == Queries(("a",) * 3, side, 2), settings=SOME)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: turns(WORLD, max_size=0), "max_size=0 is not a whole number >= 1"),
        (lambda: queries(st.just("a"), max_prompts=True), "max_prompts=True is not a whole number"),
        (lambda: queries(st.just("a"), max_padding=-1), "max_padding=-1 is not a whole .* >= 0"),
    ],
)
def test_a_bad_option_is_an_error_that_names_it_at_once(
    make: Callable[[], SearchStrategy[Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
