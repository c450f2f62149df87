"""Laws of `fixtures.samples`: seeded, independent, and stopping early changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import chisquare

from fixtures.encyclopedia import Encyclopedia
from fixtures.samples import SAMPLE_KINDS, sample_questions, sample_streams, stream_seed
from fixtures.world import LEVELS
from properties.internals.known_world import stream
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.datasets import load_stream, write_jsonl

pytestmark = pytest.mark.internals

make = partial(Encyclopedia(0, n_people=64, n_cities=16, n_firms=16).stream, n_edits=20)


def digests(seed: int, n_streams: int, *, start: int = 0) -> list[str]:
    streams = sample_streams(make, seed=seed, n_streams=n_streams, start=start)
    return [each.sha256 for each in streams]


def test_streams_are_the_same_by_seed_and_otherwise_all_different() -> None:
    assert digests(0, 20) == digests(0, 20)
    assert len({*digests(0, 20), *digests(1, 20)}) == 40


def test_a_stream_depends_on_its_look_alone() -> None:
    assert digests(0, 3) + digests(0, 2, start=3) == digests(0, 5)


def test_seeds_of_looks_do_not_collide() -> None:
    seeds = [stream_seed(seed, look) for seed in range(100) for look in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def counted(seed: int) -> EditStream:
        made.append(seed)
        return make(seed)

    list(islice(sample_streams(counted, seed=0, n_streams=10**9), 2))
    assert made == [stream_seed(0, 0), stream_seed(0, 1)]


def test_streams_of_a_file_are_sampled_too(tmp_path: Path) -> None:
    spec = f"jsonl:{tmp_path / 'stream.jsonl'}"
    write_jsonl(make(0), tmp_path / "stream.jsonl")
    drawn = list(
        sample_streams(lambda seed: load_stream(spec, n_edits=5, seed=seed), seed=0, n_streams=4)
    )
    assert len({each.sha256 for each in drawn}) == 4
    assert {edit for each in drawn for edit in each.edits} <= set(make(0).edits)


def test_a_maker_that_does_not_heed_its_seed_is_an_error() -> None:
    with pytest.raises(ValueError, match="stream 1 of seed=0 is stream 0 again"):
        list(sample_streams(lambda seed: make(3), seed=0, n_streams=2))


@pytest.mark.parametrize(("n_streams", "start"), [(0, 0), (-1, 0), (1, -1)])
def test_a_number_of_streams_below_one_is_an_error_at_once(n_streams: int, start: int) -> None:
    with pytest.raises(ValueError, match=f"n_streams={n_streams}, start={start}"):
        sample_streams(make, seed=0, n_streams=n_streams, start=start)


def test_facts_are_shared_by_two_streams_as_often_as_is_said() -> None:
    """n = 200 pairs; their mean has a standard error of .085 around 20^2 / 256, of 256 facts.

    The bound is four of them: a false fail for one seed in 16 000; that a split's facts were fewer
    by a quarter, which moves the mean by .5, is seen with a probability above .95.
    """
    drawn = [
        {edit.id for edit in each.edits} for each in sample_streams(make, seed=0, n_streams=400)
    ]
    shared = [len(one & other) for one, other in zip(drawn[::2], drawn[1::2], strict=True)]
    assert sum(shared) / 200 == pytest.approx(20**2 / 256, abs=0.34)


def probes_of(kind: str, stream: EditStream) -> set[str]:
    return {probe.prompt for probe in stream.probes if probe.kind == kind}


OF_KIND: dict[str, Callable[[EditStream], set[str]]] = {
    "edit": lambda s: {edit.prompt for edit in s.edits},
    "paraphrase": lambda s: {text for edit in s.edits for text in edit.paraphrases},
    **{kind: partial(probes_of, kind) for kind in SAMPLE_KINDS[2:]},
}


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
def test_all_prompts_of_a_kind_are_drawn_once(kind: str) -> None:
    drawn = [question.prompt for question in sample_questions(stream(n=100), kind, seed=0)]
    assert len(drawn) == len(set(drawn)) > 9
    assert set(drawn) == OF_KIND[kind](stream(n=100))


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
@pytest.mark.parametrize("one_per_subject", [False, True])
def test_a_smaller_sample_is_the_beginning_of_a_larger(kind: str, one_per_subject: bool) -> None:
    draw = partial(sample_questions, stream(n=100), kind, seed=5, one_per_subject=one_per_subject)
    assert draw(n=3) == draw(n=8)[:3] == draw()[:3]
    assert draw(n=0) == []


def test_samples_are_the_same_by_seed_and_otherwise_different() -> None:
    drawn = [sample_questions(stream(n=100), "edit", seed=seed, n=20) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("level", LEVELS)
def test_paraphrases_are_drawn_by_level(level: int) -> None:
    drawn = sample_questions(stream(n=50), "paraphrase", seed=0, level=level)
    graded = {pair for edit in stream(n=50).edits for pair in edit.graded_paraphrases()}
    assert {question.prompt for question in drawn} == {text for at, text in graded if at == level}


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
def test_one_prompt_per_subject_is_drawn_where_that_is_asked(kind: str) -> None:
    every = sample_questions(stream(n=200), kind, seed=0)
    drawn = sample_questions(stream(n=200), kind, seed=0, one_per_subject=True)
    subjects = [question.subject for question in drawn]
    assert len(subjects) == len(set(subjects)) < len(every)
    assert set(subjects) == {question.subject for question in every}


@pytest.mark.parametrize("one_per_subject", [False, True])
def test_every_prompt_comes_first_equally_often(one_per_subject: bool) -> None:
    """n = 2000 seeds, 8 prompts, one of them asked twice, in 8 or 4 subjects of other sizes.

    Chi-squared test of what comes first; it fails falsely for one set of seeds in 10 000, and sees
    a prompt that comes first twice as often as it should with a probability above .99.
    """
    edits = [
        Edit(f"{subject} {n} is", "x", subject, id=f"{subject} {n}")
        for subject, n_facts in (("A", 4), ("B", 2), ("C", 1), ("D", 1))
        for n in range(n_facts)
    ]
    probes = [Probe(f"not {edit.prompt}", "far", edit_id=edit.id) for edit in edits]
    small = EditStream(tuple(edits), (probes[7], *probes))
    first = Counter(
        (question.subject if one_per_subject else question.prompt)
        for seed in range(2000)
        for question in sample_questions(
            small, "far", seed=seed, n=1, one_per_subject=one_per_subject
        )
    )
    assert len(first) == (4 if one_per_subject else 8)
    assert chisquare(list(first.values())).pvalue > 1e-4


def test_what_is_not_in_force_is_not_drawn() -> None:
    edits = stream(n=2).edits
    overwritten = EditStream((*edits, replace(edits[0], target="nothing", id="again")))
    drawn = sample_questions(overwritten, "edit", seed=0)
    assert {(q.prompt, q.expected) for q in drawn} == {
        (edits[0].prompt, "nothing"),
        (edits[1].prompt, edits[1].target),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kind="distant"), "kind='distant' is none of edit, paraphrase, far"),
        (
            dict(kind="far", level=1),
            "level=1 applies to paraphrases only; kind='far' has no levels",
        ),
        (dict(kind="edit", n=11), r"n=11 is outside 0\.\.10"),
        (dict(kind="edit", n=-1), r"n=-1 is outside 0\.\.10"),
        (dict(kind="paraphrase", level=9, n=1), r"n=1 is outside 0\.\.0"),
    ],
)
def test_a_bad_option_is_an_error_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_questions(stream(n=10), seed=0, **options)
