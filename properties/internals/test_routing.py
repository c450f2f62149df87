"""Laws of the routing rows: every prompt's activation as if asked alone, and the threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_wise import make_wise, prompts_of, routes
from properties.internals.watched import RUN, STREAM, T
from wise.editors.wise.wise import WISE
from wise.evaluation.asked import final_questions
from wise.evaluation.lifelong import run_lifelong
from wise.evaluation.routing import measure_routing, routed_questions
from wise.lm.decoding import Reader

pytestmark = pytest.mark.internals

*QUESTIONS, THRESHOLD = routed_questions(final_questions(STREAM))


@pytest.fixture(scope="module")
def editor() -> WISE:
    return make_wise(edits=STREAM.edits, n_steps=3)


def test_every_question_but_consequences_is_routed_under_its_own_kind() -> None:
    kinds = {question.kind for question in QUESTIONS}
    assert kinds == {"edit", "paraphrase-1", "far"}
    assert {question.metric for question in QUESTIONS} == {"routing"}
    assert len(QUESTIONS) == 3 * T
    assert (THRESHOLD.metric, THRESHOLD.kind) == ("routing", "threshold")


def test_a_batch_is_routed_as_each_prompt_alone_and_the_threshold_comes_last(editor: WISE) -> None:
    reader = Reader(tiny_tokenizer(), max_new_tokens=4, batch_size=5)
    *found, last = measure_routing(editor, reader, [*QUESTIONS, THRESHOLD])
    assert (last.question.kind, last.value) == ("threshold", editor.threshold)
    for each in found:
        batch = prompts_of([each.question.prompt])
        [alone] = editor.routing_activation(batch.input_ids, batch.attention_mask).tolist()
        assert each.value == pytest.approx(alone, rel=1e-4)


def test_what_is_excluded_or_not_finite_has_no_value_and_says_why() -> None:
    unedited = make_wise()  # its threshold is infinite
    reader = Reader(tiny_tokenizer(), max_new_tokens=4)
    excluded = replace(QUESTIONS[0], excluded="overwritten")
    first, last = measure_routing(unedited, reader, [excluded, THRESHOLD])
    assert (first.question.excluded, first.value) == ("overwritten", None)
    assert (last.question.excluded, last.value) == ("the value inf is non-finite", None)


def test_a_routed_run_writes_one_block_of_routing_at_each_checkpoint(tmp_path: Path) -> None:
    editor = make_wise(n_steps=2)
    options: dict[str, Any] = dict(progress=False)
    rows = run_lifelong(
        RUN, editor, editor.lm.model, editor.tokenizer, tmp_path / "rows", **options
    )
    blocks = {row.block for row in rows if row.metric == "routing"}
    assert blocks == {f"checkpoint {t} routing" for t in RUN.checkpoints}


def test_a_prompt_retrieves_the_edits_of_the_memory_that_it_opens(editor: WISE) -> None:
    prompts = [edit.prompt for edit in STREAM.edits]
    batch = prompts_of(prompts)
    found = editor.retrieved(batch.input_ids, batch.attention_mask)
    assert [bool(memory) for memory in found] == routes(editor, prompts)
    held = [memory for memory in found if memory]
    assert all(any(memory == part.edits for part in editor._state.candidates) for memory in held)
    assert make_wise().retrieved(batch.input_ids, batch.attention_mask) == [()] * len(prompts)
