"""Laws of `fixtures.encyclopedia`: its size, its names, and the five levels of a question."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures import lexicon
from fixtures.encyclopedia import Encyclopedia
from fixtures.world import LEVELS
from fixtures.world_facts import Person, WorldFact, say, say_pronoun
from properties.internals.known_world import facts_by_key, facts_by_prompt, stream, world

pytestmark = pytest.mark.internals


def paraphrases(level: int) -> list[tuple[WorldFact, str]]:
    found = [
        (facts_by_key()[edit.id], text)
        for edit in stream().edits
        for graded, text in edit.graded_paraphrases()
        if graded == level
    ]
    assert len(found) == 2000
    return found


def test_the_world_is_as_large_as_the_suite_needs() -> None:
    assert len(facts_by_key()) == len(world().facts) >= 3000
    assert len({fact.key for fact in world().far_facts}) == len(world().far_facts) >= 800
    assert len(lexicon.PEOPLE) >= 6


@pytest.mark.parametrize("relation", [*lexicon.PEOPLE, *lexicon.CITIES, *lexicon.FIRMS])
def test_a_relation_has_eight_phrasings_questions_and_statements(
    relation: lexicon.Relation,
) -> None:
    phrasings = set(relation.phrasings)
    assert len(phrasings) == len(relation.phrasings) >= 8
    assert {phrasing.endswith("?") for phrasing in phrasings} == {True, False}
    assert all("{s}" in phrasing or "{p}" in phrasing for phrasing in phrasings)


def test_people_share_their_names_and_no_alias_is_two_peoples() -> None:
    people = world().people
    for part in ("first", "family"):
        names = [getattr(person, part) for person in people]
        assert sum(names.count(name) > 1 for name in names) > 0.9 * len(people), part
    names = [name for person in people for name in (person.name, *person.aliases)]
    assert len(set(names)) == 3 * len(people)


def test_one_prompt_asks_for_one_fact() -> None:
    n_phrasings = sum(len(f.seen) + len(f.held_out) for f in (*world().facts, *world().far_facts))
    assert len(facts_by_prompt()) == n_phrasings


def test_worlds_are_the_same_by_seed_and_otherwise_different() -> None:
    assert Encyclopedia(3).facts == Encyclopedia(3).facts != Encyclopedia(4).facts
    assert Encyclopedia(3).far_facts == Encyclopedia(3).far_facts != Encyclopedia(4).far_facts


def test_level_1_is_a_phrasing_seen_with_the_fact() -> None:
    for fact, text in paraphrases(1):
        assert text in {say(phrasing, fact.subject) for phrasing in fact.seen}


def test_level_2_is_a_phrasing_never_seen_with_the_fact() -> None:
    for fact, text in paraphrases(2):
        assert text in {say(phrasing, fact.subject) for phrasing in fact.held_out}
        assert not set(fact.seen) & set(fact.held_out)


def test_level_3_is_a_seen_phrasing_after_one_to_three_sentences_about_nobody() -> None:
    openings, events = "|".join(lexicon.OPENINGS), "|".join(map(re.escape, lexicon.EVENTS))
    before = re.compile(f"(({openings}) ({events}) ){{1,3}}")
    for fact, text in paraphrases(3):
        asked = text[before.match(text).end() :]
        assert asked in {say(phrasing, fact.subject) for phrasing in fact.seen}


def aliases_of(fact: WorldFact) -> tuple[str, ...]:
    assert fact.about is not None
    return fact.about.aliases


def test_level_4_is_a_seen_phrasing_with_an_alias_in_place_of_the_name() -> None:
    for fact, text in paraphrases(4):
        assert fact.subject not in text
        assert text in {say(phrasing, a) for phrasing in fact.seen for a in aliases_of(fact)}


def test_level_5_names_the_subject_in_another_sentence_than_it_asks() -> None:
    for fact, text in paraphrases(5):
        naming, asking = text.split(". ", 1)
        assert f"{naming}." in {say(text, fact.subject) for text in lexicon.INTRODUCTIONS}
        assert asking in {say_pronoun(phrasing, fact.about) for phrasing in fact.seen}
        assert not any(part in asking for part in fact.subject.split())


@pytest.mark.parametrize("level", LEVELS)
def test_a_fact_about_nobody_is_asked_plainly_at_every_level(level: int) -> None:
    for fact in (world().far_facts[0], WorldFact("Rome", "river", "Tiber", ("{s} stands on the",))):
        asked = world().ask(fact, level, random.Random(level))
        assert asked in {say(phrasing, fact.subject) for phrasing in (*fact.seen, *fact.held_out)}


@pytest.mark.parametrize("level", [0, 6, -1, "2"])
def test_an_unknown_level_is_an_error_that_names_it(level: int) -> None:
    for fact in (world().facts[0], world().far_facts[0]):
        with pytest.raises(ValueError, match=f"level={level} is none of"):
            world().ask(fact, level, random.Random(0))


@given(st.sampled_from(range(380)), st.sampled_from(LEVELS), st.integers())
@settings(deadline=None, max_examples=50)
def test_a_consequence_can_be_asked_at_every_level(index: int, level: int, seed: int) -> None:
    hop = world().hops[index]
    assert isinstance(hop.about, Person)
    text = world().ask(hop, level, random.Random(seed))
    assert hop.about.family in text


@pytest.mark.parametrize("size", ["n_people", "n_cities", "n_firms"])
def test_a_world_too_small_is_an_error_that_names_its_sizes(size: str) -> None:
    with pytest.raises(ValueError, match=f"{size}=7.*each must be >= 8"):
        Encyclopedia(**{size: 7})
