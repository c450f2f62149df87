"""Laws of `fixtures.atlas`: its facts, their phrasings, and the streams that are drawn from it."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import combinations

import pytest

from fixtures import atlas_lexicon as words
from fixtures import lexicon
from fixtures.atlas import Atlas
from fixtures.scope import Scope, without_context
from fixtures.world import LEVELS, SPLITS
from fixtures.world_facts import WorldFact, say, say_pronoun, without_article
from properties.internals.known_atlas import N_EDITS, atlas, fact_of, needs_data, stream
from wise.edits import Edit, Probe

pytestmark = [pytest.mark.internals, needs_data]

EDITABLE = (*words.COUNTRIES, *words.WORLD_CITIES, *words.STATES)
every_split = pytest.mark.parametrize("split", SPLITS)


def phrasings(fact: WorldFact) -> tuple[str, ...]:
    return (*fact.seen, *fact.held_out)


def paraphrases(level: int, split: str = "evaluation") -> list[tuple[WorldFact, str]]:
    return [
        (fact_of(edit.id), text)
        for edit in stream(split).edits
        for graded, text in edit.graded_paraphrases()
        if graded == level
    ]


def probes(kind: str, split: str = "evaluation") -> list[tuple[Edit, Probe]]:
    edits = {edit.id: edit for edit in stream(split).edits}
    return [(edits[p.edit_id], p) for p in stream(split).probes if p.kind == kind]


def test_the_atlas_is_as_large_as_the_suite_needs() -> None:
    editable = [fact for fact in atlas().facts if fact.is_editable]
    assert len({fact.key for fact in atlas().facts}) == len(atlas().facts)
    assert len(editable) >= 1500
    assert {fact.relation for fact in editable} == {relation.name for relation in EDITABLE}
    assert len(EDITABLE) >= 8
    assert len(atlas().far_facts) >= 500


@pytest.mark.parametrize("relation", [*EDITABLE, *words.PLACES, *words.ELEMENTS])
def test_a_relation_has_eight_phrasings_that_end_differently(relation: lexicon.Relation) -> None:
    assert len(relation.phrasings) >= 8
    assert {phrasing.endswith("?") for phrasing in relation.phrasings} == {True, False}
    ends = [re.findall(r"\w+|[^\w\s]", phrasing)[-1] for phrasing in relation.phrasings]
    assert len(set(ends)) == len(ends)


def test_atlases_are_the_same_by_seed_and_otherwise_different() -> None:
    assert Atlas(3).facts == Atlas(3).facts != atlas().facts
    assert Atlas(3).far_facts == Atlas(3).far_facts != atlas().far_facts
    assert Atlas(3).background() == Atlas(3).background() != atlas().background()


@every_split
def test_a_stream_is_the_same_by_seed_and_otherwise_different(split: str) -> None:
    digests = [Atlas().stream(seed, 50, split=split).sha256 for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert atlas(1).stream(0, 50, split=split).sha256 != digests[0]


@pytest.mark.parametrize("seed", range(5))
def test_splits_share_no_subject(seed: int) -> None:
    splits = defaultdict(set)
    for fact in (*atlas(seed).facts, *atlas(seed).far_facts):
        splits[fact.subject].add(fact.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == set(SPLITS)


def test_no_name_or_alias_is_two_subjects() -> None:
    subjects = {fact.about for fact in atlas().facts}
    names = [without_article(name) for each in subjects for name in (each.name, *each.aliases)]
    assert len(set(names)) == len(names)
    assert all(subject.aliases for subject in subjects)


def test_a_sentence_names_a_country_with_its_article() -> None:
    names = {fact.subject for fact in atlas().facts} | set(atlas().objects("country"))
    for name in ("Netherlands", "United States", "Philippines", "Central African Republic"):
        assert f"the {name}" in names
        assert name not in names
    assert "France" in names


def test_one_prompt_asks_for_one_fact() -> None:
    facts = (*atlas().facts, *atlas().far_facts)
    prompts = [say(phrasing, fact.subject) for fact in facts for phrasing in phrasings(fact)]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("seed", range(5))
@every_split
def test_the_background_holds_nothing_that_is_asked(split: str, seed: int) -> None:
    asked = Atlas(seed).stream(seed, N_EDITS[split], split=split, n_paraphrases=2)
    if split != "train":  # whose facts the background says
        Atlas(seed).background().check_disjoint(asked)


def test_the_background_is_running_text_in_many_forms() -> None:
    texts = atlas().background().texts
    assert sum(len(text.split()) for text in texts) >= 15_000
    assert len(set(texts)) > 0.9 * len(texts)
    assert sum(text.count(". ") >= 1 for text in texts) >= len(texts) // 4


def test_the_background_never_uses_a_phrasing_that_is_held_out() -> None:
    held_out = {fact.relation: fact.held_out for fact in atlas().facts if fact.held_out}
    text = "\n".join(atlas().background().texts)
    asked = {edit.id for edit in atlas().background().edits}
    for fact in (fact for fact in atlas().facts if fact.split == "train"):
        assert (fact.key in asked) == fact.is_editable
        assert not any(say(each, fact.subject) in text for each in held_out[fact.relation])


@every_split
def test_an_edit_replaces_the_truth_by_a_false_object_of_the_same_relation(split: str) -> None:
    for edit in stream(split).edits:
        fact = fact_of(edit.id)
        assert (edit.subject, edit.ground_truth, fact.split) == (
            without_article(fact.subject), fact.object, split,
        )  # fmt: skip
        assert edit.target in atlas().objects(fact.relation)
        assert edit.target not in fact.truths
        assert edit.prompt in {say(phrasing, fact.subject) for phrasing in fact.seen}


@pytest.mark.parametrize(
    ("subject", "relation", "also"),
    [
        ("Switzerland", "language", {"French", "Italian"}),
        ("Belgium", "language", {"Dutch", "French", "German"}),
        ("Canada", "language", {"English", "French"}),
        ("Turkey", "continent", {"Asia", "Europe"}),
        ("Panama", "currency", {"balboa", "dollar"}),
        ("the United States", "capital", {"Washington", "Paris"}),  # Paris, Texas
    ],
)
def test_a_second_truth_is_no_false_answer(subject: str, relation: str, also: set[str]) -> None:
    assert also <= set(fact_of(f"{subject} / {relation}").truths)


@every_split
def test_no_fact_is_edited_twice_and_no_text_is_asked_twice_of_an_edit(split: str) -> None:
    edits = stream(split).edits
    assert len({edit.id for edit in edits}) == len({edit.prompt for edit in edits}) == len(edits)
    for edit in edits:
        assert len({edit.prompt, *edit.paraphrases}) == 1 + 2 * len(LEVELS)


def test_level_1_is_a_phrasing_of_the_background() -> None:
    for fact, text in paraphrases(1):
        assert text in {say(phrasing, fact.subject) for phrasing in fact.seen}


def test_level_2_is_a_phrasing_held_out_of_the_background() -> None:
    for fact, text in paraphrases(2):
        assert text in {say(phrasing, fact.subject) for phrasing in fact.held_out}
    for fact in atlas().facts:
        assert bool(fact.held_out) == (fact.split != "train")


def test_level_3_is_a_phrasing_after_sentences_about_nothing_in_the_atlas() -> None:
    for fact, text in paraphrases(3):
        asked = without_context(text)
        assert asked != text
        assert asked in {say(phrasing, fact.subject) for phrasing in fact.seen}


def test_level_4_is_a_phrasing_with_an_alias_in_place_of_the_name() -> None:
    for fact, text in paraphrases(4):
        assert without_article(fact.subject) not in text
        assert text in {say(each, alias) for each in fact.seen for alias in fact.about.aliases}


def test_level_5_names_the_subject_in_another_sentence_than_it_asks() -> None:
    for fact, text in paraphrases(5):
        naming, asking = text.split(". ", 1)
        assert f"{naming}." in {say(each, fact.subject) for each in words.INTRODUCTIONS}
        assert asking in {say_pronoun(each, fact.about) for each in fact.seen}


@every_split
def test_every_edit_has_a_far_and_two_near_probes(split: str) -> None:
    ids = [edit.id for edit in stream(split).edits]
    for kind in ("far", "near-subject", "near-relation"):
        assert [edit.id for edit, _ in probes(kind, split)] == ids, kind


@every_split
def test_a_near_relation_probe_is_the_edits_own_wording_about_another_subject(split: str) -> None:
    by_prompt = {
        say(phrasing, fact.subject): (fact, phrasing)
        for fact in atlas().facts
        for phrasing in phrasings(fact)
    }
    for edit, probe in probes("near-relation", split):
        fact, phrasing = by_prompt[probe.prompt]
        assert say(phrasing, fact_of(edit.id).subject) == edit.prompt
        assert fact.subject != fact_of(edit.id).subject
        assert (fact.object, fact.split) == (probe.answer, split)


@every_split
def test_a_far_probe_is_about_an_element_or_running_text(split: str) -> None:
    far = {
        say(phrasing, fact.subject): fact
        for fact in atlas().far_facts
        for phrasing in phrasings(fact)
    }
    asked = [far[probe.prompt] for _, probe in probes("far", split)]
    assert {fact.split for fact in asked} == {split}
    n_passages = sum(fact.relation.startswith("passage") for fact in asked)
    assert 0.2 < n_passages / len(asked) < 0.8


@every_split
def test_no_locality_probe_is_in_the_scope_of_an_edit(split: str) -> None:
    scope = Scope(atlas())
    within = {text for edit in stream(split).edits for text, _ in scope.answers(edit)}
    for kind in ("far", "near-subject", "near-relation"):
        assert not any(without_context(probe.prompt) in within for _, probe in probes(kind, split))


def test_no_edit_changes_what_is_true_of_another_subject() -> None:
    subjects = {fact.subject for fact in atlas().facts if fact.relation in ("country", "state")}
    assert not subjects & set(atlas().objects("capital"))


def test_a_portability_probe_asks_where_the_edit_leads() -> None:
    second = {(fact.subject, fact.relation): fact for fact in atlas().facts}
    edited = {edit.id for edit in stream().edits}
    found = probes("portability")
    assert {hop.second for hop in words.HOPS} == {"currency", "language", "continent"}
    assert len(found) > len(stream().edits) / 4
    for edit, probe in found:
        (hop,) = (
            hop
            for hop in words.HOPS
            if probe.prompt in {say(each, edit.subject) for each in hop.phrasings}
        )
        assert fact_of(edit.id).relation == hop.first
        assert probe.answer == second[edit.target, hop.second].object
        assert probe.answer not in second[edit.ground_truth, hop.second].truths
        assert second[edit.target, hop.second].key not in edited


def test_a_consequence_is_asked_in_words_of_its_own() -> None:
    asked = [phrasing for relation in EDITABLE for phrasing in relation.phrasings]
    for one, other in combinations(words.HOPS, 2):
        assert not set(one.phrasings) & set(other.phrasings)
    city = {phrasing for relation in words.WORLD_CITIES for phrasing in relation.phrasings}
    assert not city & {phrasing for hop in words.HOPS for phrasing in hop.phrasings}
    assert len(asked) == 8 * len(EDITABLE)
