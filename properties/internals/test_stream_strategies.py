"""Laws of the strategy of edit streams: what each variant is, and what it shrinks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given, settings

from fixtures.candidates import candidates_of
from fixtures.strategies import STREAM_VARIANTS, edit_streams
from properties.internals.examples import EVERY, SPEAKS, find_any, minimal
from wise.edits import Background, Edit, EditStream

pytestmark = pytest.mark.internals


@cache
def background() -> Background:
    return candidates_of(None, "evaluation").world.background(n_texts=500)


def again(edit: Edit, target: str) -> Edit:
    return replace(edit, target=target, id=f"{edit.id} (2)")


def edit(subject: str, relation: str, prompt: str, target: str, truth: str) -> Edit:
    return Edit(
        f"{subject} {prompt}", target, subject, ground_truth=truth, id=f"{subject} / {relation}"
    )


STUDIED = edit("Alexandra Lilwick", "study", "studied", "law", "geography")
SIMPLEST = {
    "plain": [SPEAKS],
    "same-subject": [SPEAKS, STUDIED],
    "same-family": [
        SPEAKS,
        edit("Patrick Lilwick", "employer", "has a job at", "Pronson Works", "Flunfield Bank"),
    ],
    "chained": [
        edit("Edward Moldale", "employer", "works for", "Moldale Textiles", "Sturberg Foods"),
        edit("Moldale Textiles", "product", "makes", "furs", "cut glass"),
    ],
    "duplicate": [SPEAKS, again(SPEAKS, "Czech")],
    "overwritten": [SPEAKS, again(SPEAKS, "Dutch")],
    "reverted": [SPEAKS, again(SPEAKS, "Bengali")],
}


def by_prompt(stream: EditStream) -> dict[str, list[Edit]]:
    writes: dict[str, list[Edit]] = {}
    for each in stream.edits:
        writes.setdefault(each.prompt, []).append(each)
    return writes


def subjects(stream: EditStream) -> set[str]:
    return {each.subject for each in stream.edits}


def is_reverted(writes: list[Edit]) -> bool:
    first, *later = writes
    truth = first.ground_truth
    return first.target != truth and all(each.target == truth for each in later)


HOLDS: dict[str, Callable[[EditStream], bool]] = {
    "plain": lambda s: len(by_prompt(s)) == len(s.edits),
    "same-subject": lambda s: len(subjects(s)) == 1 and len(by_prompt(s)) == len(s.edits) > 1,
    "same-family": lambda s: (
        len({name.split()[-1] for name in subjects(s)}) == 1 < len(subjects(s))
    ),
    "chained": lambda s: bool({each.target for each in s.edits} & subjects(s)),
    "duplicate": lambda s: (
        len(by_prompt(s)) < len(s.edits)
        and all(len({each.target for each in writes}) == 1 for writes in by_prompt(s).values())
    ),
    "overwritten": lambda s: any(
        len({each.target for each in writes}) > 1 for writes in by_prompt(s).values()
    ),
    "reverted": lambda s: (
        len(by_prompt(s)) < len(s.edits) and all(map(is_reverted, by_prompt(s).values()))
    ),
}


@pytest.mark.parametrize("variant", STREAM_VARIANTS)
def test_the_simplest_stream_of_a_variant_is_the_shortest(variant: str) -> None:
    stream = minimal(edit_streams(variants=[variant], max_probes=2))
    assert (stream.name, list(stream.edits), stream.probes) == (variant, SIMPLEST[variant], ())


@pytest.mark.parametrize("variant", STREAM_VARIANTS)
def test_every_stream_of_a_variant_is_hard_in_its_way(variant: str) -> None:
    @given(edit_streams(variants=[variant], target_variants=["plain"]))
    @settings(EVERY, max_examples=30)
    def law(stream: EditStream) -> None:
        assert HOLDS[variant](stream)

    law()


def test_the_simplest_of_all_streams_is_one_plain_edit() -> None:
    assert minimal(edit_streams()) == EditStream((SPEAKS,), name="plain")


@pytest.mark.parametrize("variant", STREAM_VARIANTS)
def test_every_variant_is_among_the_streams_unless_others_are_asked_for(variant: str) -> None:
    find_any(edit_streams(), lambda stream: stream.name == variant)


@given(edit_streams(min_edits=3, max_edits=6, max_probes=4))
@EVERY
def test_a_stream_is_sound(stream: EditStream) -> None:
    ids = [each.id for each in stream.edits]
    assert 3 <= len(ids) == len(set(ids)) <= 6
    assert len(stream.probes) <= 4
    assert not {probe.prompt for probe in stream.probes} & set(by_prompt(stream))
    background().check_disjoint(stream)


@pytest.mark.parametrize("kind", ["far", "near-subject", "near-relation"])
def test_probes_are_of_every_kind_and_near_what_they_say(kind: str) -> None:
    stream = minimal(edit_streams(max_probes=2), lambda s: kind in {p.kind for p in s.probes})
    (probe,) = stream.probes
    assert stream.edits == (SPEAKS,)
    assert probe.edit_id == SPEAKS.id
    assert probe.prompt.startswith(SPEAKS.subject) == (kind == "near-subject")
    speaks = [
        f.object for f in candidates_of(None, "evaluation").people if f.relation == "language"
    ]
    assert (probe.answer in speaks) == (kind == "near-relation")


def test_the_text_of_a_strategy_does_not_list_the_world() -> None:
    assert len(repr(edit_streams(max_probes=1))) < 5000


def test_a_prompt_can_be_written_three_times() -> None:
    stream = minimal(
        edit_streams(variants=["overwritten"]), lambda s: max(map(len, by_prompt(s).values())) > 2
    )
    assert [each.id.removeprefix(SPEAKS.id) for each in stream.edits] == ["", " (2)", " (3)"]


def test_other_edits_can_stand_between_two_of_a_prompt() -> None:
    stream = minimal(
        edit_streams(variants=["reverted"]), lambda s: s.edits[0].prompt != s.edits[1].prompt
    )
    assert [each.prompt for each in stream.edits[::2]] == [SPEAKS.prompt] * 2


@pytest.mark.parametrize("first", [0, 1])
def test_a_chain_is_drawn_in_both_orders(first: int) -> None:
    find_any(
        edit_streams(variants=["chained"], max_edits=2),
        lambda stream: stream.edits[first].target == stream.edits[1 - first].subject,
    )


@pytest.mark.parametrize("n_edits", [1, 20, 100])
def test_a_stream_can_be_as_long_as_the_split_allows(n_edits: int) -> None:
    @given(edit_streams(variants=["plain"], min_edits=n_edits, max_edits=n_edits))
    @settings(EVERY, max_examples=3)
    def law(stream: EditStream) -> None:
        assert len(stream.edits) == n_edits

    law()


LARGE = partial(edit_streams, min_edits=200, max_edits=200)


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (edit_streams, dict(variants="plain"), "variants='plain' is not a collection"),
        (edit_streams, dict(variants=["hard"]), "variants holds 'hard', which is none of"),
        (edit_streams, dict(min_edits=0), "min_edits=0 is not a whole number >= 1"),
        (edit_streams, dict(min_edits=6), "max_edits=5 is not a whole number >= 6"),
        (edit_streams, dict(max_probes=True), "max_probes=True is not a whole number >= 0"),
        (edit_streams, dict(levels=[0]), "levels holds 0, which is none of"),
        (edit_streams, dict(max_edits=1), "max_edits=1 is too few; variants='same-subject'"),
        (edit_streams, dict(split="train"), "needs 2 such facts; split='train' has at most 1"),
        (LARGE, dict(variants=["same-subject"]), "needs 200 such facts; .* has at most 4"),
        (LARGE, dict(variants=["chained"]), "'evaluation' has too few facts to chain 200"),
        (LARGE, dict(variants=["plain"]), "200 different edits are wanted; there are 152"),
        (
            edit_streams, dict(prompt_variants=["one-token"], variants=["reverted"]),
            r"prompt_variants=\('one-token',\) ask for no fact; variants='reverted' needs",
        ),
    ],
)  # fmt: skip
def test_a_bad_option_is_an_error_that_names_it_at_once(
    strategy: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(**options)
