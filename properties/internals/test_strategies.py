"""Laws of the strategies of edits and prompts: what is drawn, and what it shrinks to."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from transformers import AutoTokenizer

from fixtures.candidates import SIGNS, UNICODE, candidates_of
from fixtures.encyclopedia import Encyclopedia
from fixtures.models import PRETRAINED
from fixtures.strategies import edits, paraphrase_sets, prompts
from fixtures.tiny import tiny_tokenizer
from fixtures.world import SPLITS
from fixtures.world_facts import WorldFact, say
from properties.internals.examples import EVERY, SPEAKS, find_any, minimal
from wise.edits import Edit
from wise.lm.tokens import IGNORED, encode

pytestmark = pytest.mark.internals


def facts(split: str = "evaluation") -> dict[str, WorldFact]:
    candidates = candidates_of(None, split)
    return {fact.key: fact for fact in (*candidates.people, *candidates.places, *SIGNS)}


def test_the_simplest_edit_is_short_and_plain() -> None:
    assert minimal(edits()) == SPEAKS


@pytest.mark.parametrize("split", SPLITS)
def test_an_edit_is_of_a_fact_of_the_split_to_another_answer(split: str) -> None:
    @given(edits(split=split, target_variants=["plain"]))
    @EVERY
    def law(edit: Edit) -> None:
        fact = facts(split)[edit.id]
        assert edit.prompt.endswith(say(fact.seen[0], fact.subject))
        assert (edit.subject, edit.ground_truth) == (fact.subject, fact.object)
        assert edit.target in candidates_of(None, split).answers[fact.relation]
        assert edit.target != edit.ground_truth

    law()


@given(edits(max_chars=150, max_paraphrases=4))
@EVERY
def test_what_is_asked_of_an_edit_is_all_different_and_not_too_long(edit: Edit) -> None:
    texts = (edit.prompt, *edit.paraphrases)
    assert len(set(texts)) == len(texts) <= 5
    assert max(map(len, texts)) <= 150


def test_another_world_can_be_asked() -> None:
    world = Encyclopedia(7, n_people=8, n_cities=8, n_firms=8)
    subjects = {person.name for person in world.people}
    edit = minimal(edits(world=world, prompt_variants=["plain"]))
    assert edit.subject in subjects


@pytest.mark.parametrize(
    ("variant", "simplest"),
    [
        ("plain", "Alexandra Lilwick speaks"),
        ("prefixed", "Before noon the rain stopped. Alexandra Lilwick speaks"),
        ("long", "Before noon the rain stopped. " * 12 + "Alexandra Lilwick speaks"),
        ("one-token", "#"),
    ],
)
def test_every_variant_of_a_prompt_can_be_asked_for(variant: str, simplest: str) -> None:
    assert minimal(edits(prompt_variants=[variant])).prompt == simplest
    assert minimal(prompts(variants=[variant])) == simplest


@pytest.mark.parametrize("max_chars", [150, 1000, 20_000])
def test_a_long_prompt_leaves_no_room_for_another_sentence(max_chars: int) -> None:
    @given(prompts(variants=["long"], max_chars=max_chars))
    @settings(EVERY, max_examples=20)
    def law(prompt: str) -> None:
        assert max_chars - 50 < len(prompt) <= max_chars

    law()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_to_three_sentences_stand_before_a_prefixed_prompt(n: int) -> None:
    find_any(prompts(variants=["prefixed"]), lambda prompt: prompt.count(". ") == n)


@pytest.mark.parametrize("family", [None, "gpt2", "llama", "mistral", "gptj"])
def test_a_one_token_prompt_is_one_token(family: str | None) -> None:
    path = PRETRAINED / str(family)
    tokenizer = AutoTokenizer.from_pretrained(path) if family else tiny_tokenizer()
    encoded = tokenizer([fact.subject for fact in SIGNS], add_special_tokens=False).input_ids
    assert {len(ids) for ids in encoded} == {1}


@given(edits(max_chars=150))
@EVERY
def test_every_edit_has_tokens_to_ask_and_to_learn(edit: Edit) -> None:
    batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
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
    "listed nowhere": lambda text: text not in UNICODE,
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
    find_any(edits(target_variants=["unicode"]), lambda edit: has(edit.target))


@pytest.mark.parametrize("feature", WHITESPACE_FEATURES)
def test_whitespace_in_targets_is_of_every_kind(feature: str) -> None:
    has = WHITESPACE_FEATURES[feature]
    find_any(edits(target_variants=["whitespace"]), lambda edit: has(edit.target))


@pytest.mark.parametrize(
    ("variant", "simplest"), [("plain", "Czech"), ("unicode", "Málaga"), ("whitespace", "Czech ")]
)
def test_every_variant_of_a_target_can_be_asked_for(variant: str, simplest: str) -> None:
    assert minimal(edits(target_variants=[variant])).target == simplest


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_paraphrases_are_of_every_level(level: int) -> None:
    edit = minimal(edits(), lambda edit: level in edit.levels)
    assert (edit.prompt, edit.target, edit.levels) == (SPEAKS.prompt, SPEAKS.target, (level,))
    assert minimal(edits(levels=[level]), lambda edit: bool(edit.levels)).levels == (level,)


def test_the_simplest_paraphrase_set_is_the_prompt_and_another_phrasing() -> None:
    assert minimal(paraphrase_sets()) == (SPEAKS.prompt, "Alexandra Lilwick grew up speaking")


@given(paraphrase_sets(max_size=6))
@EVERY
def test_paraphrases_are_different_and_all_about_one_person(texts: tuple[str, ...]) -> None:
    plain = {say(fact.seen[0], fact.subject): fact for fact in facts().values()}
    fact = plain[texts[0]]
    assert len(set(texts)) == len(texts) in range(2, 7)
    assert fact.about is not None
    assert all(fact.about.family in text for text in texts)


def test_the_largest_paraphrase_set_can_be_drawn() -> None:
    assert len(find_any(paraphrase_sets(max_size=4), lambda texts: len(texts) == 4)) == 4


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (edits, dict(split="test"), "split='test' is none of train, tuning, evaluation"),
        (edits, dict(prompt_variants="long"), "prompt_variants='long' is not a collection"),
        (edits, dict(prompt_variants=[]), r"prompt_variants=\[\] is not a collection"),
        (edits, dict(prompt_variants=["short"]), "prompt_variants holds 'short', .* none of"),
        (edits, dict(target_variants=["emoji"]), "target_variants holds 'emoji', .* none of"),
        (edits, dict(levels=[1, 6]), "levels holds 6, which is none of"),
        (edits, dict(max_paraphrases=-1), "max_paraphrases=-1 is not a whole number >= 0"),
        (edits, dict(max_chars=50.0), "max_chars=50.0 is not a whole number >= 1"),
        (edits, dict(max_chars=100), "max_chars=100 is too few.* after a sentence, has up to"),
        (edits, dict(max_chars=9, levels=[1], prompt_variants=["plain"]), "max_chars=9 is too few"),
        (prompts, dict(variants=["hard"]), "variants holds 'hard', which is none of"),
        (prompts, dict(split=""), "split='' is none of"),
        (paraphrase_sets, dict(max_size=1), "max_size=1 is not a whole number >= 2"),
        (paraphrase_sets, dict(levels=()), r"levels=\(\) is not a collection"),
    ],
)
def test_a_bad_option_is_an_error_that_names_it_at_once(
    strategy: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(**options)
