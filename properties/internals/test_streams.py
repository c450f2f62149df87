"""Laws of the world's streams: splits share no fact, probes are what they claim to be."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures import lexicon
from fixtures.encyclopedia import Encyclopedia
from fixtures.world import LEVELS, SPLITS
from fixtures.world_facts import say
from properties.internals.known_world import (
    N_EDITABLE,
    facts_by_key,
    facts_by_prompt,
    probes_of,
    stream,
    world,
)
from wise.edits import PROBE_KINDS, Background, Edit

pytestmark = pytest.mark.internals


@pytest.mark.parametrize("split", SPLITS)
def test_a_stream_is_the_same_by_seed_and_otherwise_different(split: str) -> None:
    digests = [Encyclopedia().stream(seed, 50, split=split).sha256 for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert stream(split).sha256 != world(1).stream(0, 50, split=split).sha256


def test_streams_of_two_splits_share_no_fact() -> None:
    facts = {
        split: {edit.id for edit in stream(split).edits}
        | {facts_by_prompt()[p.prompt].key for p in stream(split).probes if p.kind != "portability"}
        for split in SPLITS
    }
    for one, other in (("train", "tuning"), ("train", "evaluation"), ("tuning", "evaluation")):
        assert not facts[one] & facts[other]


@pytest.mark.parametrize("split", SPLITS)
def test_an_edit_replaces_the_truth_by_another_answer_to_the_same_question(split: str) -> None:
    for edit in stream(split).edits:
        fact = facts_by_key()[edit.id]
        assert (edit.subject, edit.ground_truth, fact.split) == (fact.subject, fact.object, split)
        assert edit.target in set(world().objects(fact.relation)) - {fact.object}
        assert edit.prompt in {say(phrasing, fact.subject) for phrasing in fact.seen}


@pytest.mark.parametrize("split", SPLITS)
def test_no_fact_is_edited_twice_and_no_text_is_asked_twice_of_an_edit(split: str) -> None:
    edits = stream(split).edits
    assert len({edit.id for edit in edits}) == len({edit.prompt for edit in edits}) == len(edits)
    for edit in edits:
        assert len({edit.prompt, *edit.paraphrases}) == 1 + 2 * len(LEVELS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_far_probe_is_of_a_city_or_firm_and_rightly_answered(split: str) -> None:
    far = set(world().far_facts)
    for _, probe in probes_of("far", split):
        fact = facts_by_prompt()[probe.prompt]
        assert fact in far
        assert probe.answer == fact.object


@pytest.mark.parametrize("split", ["tuning", "evaluation"])
def test_a_near_subject_probe_is_of_the_edits_subject_and_never_edited(split: str) -> None:
    edited = {edit.id for edit in stream(split).edits}
    assert len(probes_of("near-subject", split)) == len(edited)
    for edit, probe in probes_of("near-subject", split):
        fact = facts_by_prompt()[probe.prompt]
        assert (fact.subject, fact.object, fact.split) == (edit.subject, probe.answer, split)
        assert fact.key not in edited


@pytest.mark.parametrize("split", ["tuning", "evaluation"])
def test_a_near_relation_probe_asks_the_relation_of_somebody_else(split: str) -> None:
    edited = {edit.id for edit in stream(split).edits}
    assert len(probes_of("near-relation", split)) == len(edited)
    for edit, probe in probes_of("near-relation", split):
        fact = facts_by_prompt()[probe.prompt]
        assert (fact.relation, fact.object) == (facts_by_key()[edit.id].relation, probe.answer)
        assert fact.subject != edit.subject
        assert fact.key not in edited


def test_a_portability_probe_asks_where_the_edit_leads() -> None:
    second = {(fact.subject, fact.relation): fact.object for fact in world().far_facts}
    hops = {first: (then, phrasings) for _, first, then, phrasings in lexicon.HOPS}
    leading = []
    for edit in stream().edits:
        then, _ = hops.get(facts_by_key()[edit.id].relation, ("", ()))
        if then and second[edit.target, then] != second[edit.ground_truth, then]:
            leading.append(edit)
    found = probes_of("portability")
    assert [edit for edit, _ in found] == leading
    for edit, probe in found:
        then, phrasings = hops[facts_by_key()[edit.id].relation]
        assert probe.answer == second[edit.target, then]
        assert probe.prompt in {say(phrasing, edit.subject) for phrasing in phrasings}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(n_edits=0), "n_edits=0 is outside the evaluation split's 1..1140 editable facts"),
        (dict(n_edits=1141), "n_edits=1141 is outside the evaluation split's 1..1140"),
        (dict(n_edits=761, split="tuning"), "n_edits=761 is outside the tuning split's 1..760"),
        (dict(n_edits=1, split="test"), "split='test' is none of train, tuning, evaluation"),
        (dict(n_edits=1, n_paraphrases=3), r"n_paraphrases=3 is outside 0\.\.2"),
    ],
)
def test_a_stream_that_the_world_cannot_give_is_an_error(
    arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        world().stream(0, **arguments)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("split", ["tuning", "evaluation"])
def test_the_background_shares_nothing_with_a_stream_of_another_split(
    split: str, seed: int
) -> None:
    assert len(stream(split, seed).edits) == min(1000, N_EDITABLE[split])
    world().background().check_disjoint(stream(split, seed))


def test_no_plain_question_of_another_split_stands_in_the_background() -> None:
    known = world().background()
    corpus = "\n".join(known.texts)
    edited = {text for edit in known.edits for text in (edit.prompt, *edit.paraphrases)}
    background_facts = {facts_by_key()[edit.id] for edit in known.edits}
    for prompt, fact in facts_by_prompt().items():
        if fact.split in ("tuning", "evaluation"):
            assert fact not in background_facts
            assert prompt not in edited
            assert prompt not in corpus


def asked(what: str) -> str:
    """One text that the evaluation stream asks, by what it is."""
    edit = stream(n=60).edits[7]
    texts = {f"{probe.kind} probe": probe.prompt for probe in stream(n=60).probes}
    return {"edit": edit.prompt, "paraphrase": edit.paraphrases[3], **texts}[what]


@pytest.mark.parametrize("where", ["text", "edit", "paraphrase of an edit"])
@pytest.mark.parametrize("what", ["edit", "paraphrase", *(f"{kind} probe" for kind in PROBE_KINDS)])
def test_a_planted_overlap_with_the_background_is_caught_and_named(what: str, where: str) -> None:
    prompt = asked(what)
    planted = {
        "text": Background((f"Is it so? {prompt} Rome",)),
        "edit": Background((), (Edit(prompt, "Rome"),)),
        "paraphrase of an edit": Background((), (Edit("So?", "Rome", paraphrases=(prompt,)),)),
    }[where]
    with pytest.raises(ValueError, match="the background holds the stream's") as caught:
        (world().background() + planted).check_disjoint(stream(n=60))
    assert str(caught.value).endswith(f"{what} {prompt!r}")


def test_the_background_is_the_same_every_time() -> None:
    assert Encyclopedia().background() == Encyclopedia().background()


def test_a_text_is_no_background_of_its_letters() -> None:
    with pytest.raises(ValueError, match=r"Background\.texts='It rains\.' is not a tuple"):
        Background("It rains.")
