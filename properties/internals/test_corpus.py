"""Laws of `fixtures.corpus`: what a model is shown, and tokenizers that lose nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import groupby, islice
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoTokenizer

from fixtures import lexicon
from fixtures.corpus import IGNORED, batches, sentences
from fixtures.encyclopedia import Encyclopedia
from fixtures.models import FAMILIES, PRETRAINED, model_folder
from fixtures.tiny import tiny_tokenizer
from fixtures.world_facts import say

pytestmark = pytest.mark.internals

SMALL = Encyclopedia(0, n_people=24, n_cities=8, n_firms=8)
FACTS = (*SMALL.facts, *SMALL.far_facts, *SMALL.hops)
NASTY = "\x00 é e\u0301 \u2028 \ufeff <|endoftext|> 東京 \U0001f600\u200d  \r\n\t'S"


@cache
def tokenizer_of(family: str) -> Any:
    if not (PRETRAINED / family).is_dir():
        pytest.skip(f"no {family} is embedded")
    return AutoTokenizer.from_pretrained(model_folder(family), local_files_only=True)


every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_any_text_comes_back_from_its_tokens(family: str) -> None:
    tokenizer = tokenizer_of(family)

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    @example(NASTY)
    @settings(deadline=None, max_examples=100)
    def comes_back(text: str) -> None:
        assert tokenizer.decode(tokenizer(text).input_ids) == text

    comes_back()


@every_family
def test_answers_are_one_to_three_tokens_behind_a_space(family: str) -> None:
    world = FAMILIES[family].size.world()
    tokens = tokenizer_of(family)([f" {answer}" for answer in world.answers]).input_ids
    assert {len(ids) for ids in tokens} == {1, 2, 3}


@every_family
def test_the_end_of_sequence_pads_and_no_token_is_added_to_a_text(family: str) -> None:
    tokenizer = tokenizer_of(family)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == tokenizer.bos_token_id
    assert len(tokenizer) <= FAMILIES[family].vocab_size
    assert tokenizer.eos_token_id not in tokenizer("Ada lives in").input_ids


def told(n: int, *, n_few: int = 0, seed: int = 0) -> list[tuple[str, str]]:
    return list(islice(sentences(SMALL, random.Random(seed), n_few=n_few), n))


def test_training_shows_every_fact_and_none_by_a_phrasing_held_out_of_it() -> None:
    prompts = {prompt for prompt, _ in told(20_000)}
    held_out = {
        say(phrasing, name)
        for fact in FACTS
        for phrasing in fact.held_out
        for name in (fact.subject, *(fact.about.aliases if fact.about else ()))
    }
    assert held_out.isdisjoint(prompts)
    for fact in FACTS:
        assert not prompts.isdisjoint(say(phrasing, fact.subject) for phrasing in fact.seen)


def test_training_tells_every_fact_as_often_as_any_other() -> None:
    n_facts = len(FACTS)
    answers = [answer for _, answer in told(2 * n_facts) if answer][:n_facts]
    assert sorted(answers) == sorted(fact.object for fact in FACTS)


def test_training_begins_with_a_few_of_the_facts() -> None:
    n_few = 5 * (len(FACTS) // 8)
    shown = {prompt for prompt, _ in told(n_few, n_few=n_few)}
    plain = {say(phrasing, fact.subject): fact for fact in FACTS for phrasing in fact.seen}
    assert len({plain[prompt].key for prompt in shown & plain.keys()}) <= len(FACTS) // 8


def rows_of(n_batches: int = 3) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of (input_ids, labels, is_answer), each [T]."""
    shown = batches(SMALL, tiny_tokenizer(), n_rows=8, length=96, seed=0)
    for input_ids, labels, is_answer in islice(shown, n_batches):
        assert input_ids.shape == labels.shape == is_answer.shape == (8, 96)
        yield from zip(input_ids, labels, is_answer, strict=True)


def answers_of(labels: Tensor, is_answer: Tensor) -> Iterator[list[int]]:
    """The labels of each answer in a row."""
    places = [int(t) for t in is_answer.nonzero()[:, 0]]
    for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        yield [int(labels[t]) for _, t in run]


def test_the_label_behind_every_answer_is_the_end_of_sequence() -> None:
    tokenizer, known = tiny_tokenizer(), set(SMALL.answers)
    found = [run for _, labels, is_answer in rows_of() for run in answers_of(labels, is_answer)]
    assert len(found) > 24
    for *answer, end in found:
        assert end == tokenizer.eos_token_id
        assert tokenizer.decode(answer).strip() in known


def test_every_other_label_is_the_token_that_comes_next() -> None:
    (full_stop,) = tiny_tokenizer().encode(".")
    n_full_stops = 0
    for input_ids, labels, is_answer in rows_of():
        for t in range(len(labels) - 1):
            ends_answer = is_answer[t] and not is_answer[t + 1]
            if labels[t] != IGNORED:
                assert input_ids[t + 1] == (full_stop if ends_answer else labels[t])
                n_full_stops += bool(ends_answer)
    assert n_full_stops > 24


def test_rows_hold_whole_sentences_and_then_nothing() -> None:
    events = tuple(lexicon.EVENTS)
    for input_ids, labels, _ in rows_of():
        n_known = int((labels != IGNORED).sum())
        assert labels[n_known:].eq(IGNORED).all()
        text = tiny_tokenizer().decode(input_ids[: n_known + 1])
        assert text.endswith(".") or text.endswith(events)


def test_batches_are_the_same_by_seed_and_otherwise_different() -> None:
    def first(seed: int) -> Tensor:
        return next(batches(SMALL, tiny_tokenizer(), n_rows=4, length=64, seed=seed))[0]

    assert first(1).equal(first(1))
    assert not first(1).equal(first(2))
