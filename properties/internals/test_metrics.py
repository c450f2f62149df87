"""Laws of `wise.evaluation.metrics`: what is asked, what is left out and why, and how it scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.notebook import EndlessNotebook, Notebook
from wise.editor import Editor
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.lifelong import PROTOCOLS, reader_of
from wise.evaluation.metrics import (
    BaseAnswers,
    Measured,
    Question,
    at_edit_questions,
    final_questions,
    measure,
)
from wise.lm.decoding import Answer, Unedited

pytestmark = pytest.mark.internals

ADA = Edit("Ada lives in", "Oslo", "Ada", ("Where is Ada?", "Ada's home:"), id="ada", levels=(1, 4))
BO = Edit("Bo speaks", "Danish", "Bo", ("Bo's language is",), id="bo")
CLEO = Edit("Cleo plays the", "lute", "Cleo", id="cleo")
STREAM = EditStream(
    (ADA, BO, CLEO),
    (
        Probe("Rome lies in", "far", edit_id="ada"),
        Probe("Ada works as a", "near-subject", edit_id="ada"),
        Probe("In which country is Ada?", "portability", "Norway", "ada"),
        Probe("Ann speaks", "near-relation", edit_id="bo"),
        Probe("The sun is", "far"),
    ),
)
READER = reader_of(tiny_model("llama"), tiny_tokenizer(), STREAM)


def with_edits(*edits: Edit, probes: tuple[Probe, ...] = STREAM.probes) -> EditStream:
    return EditStream((*STREAM.edits, *edits), probes)


def excluded(stream: EditStream) -> dict[str, str]:
    return {q.prompt: q.excluded for q in final_questions(stream) if q.excluded}


def measured(editor: Editor, protocol: str, stream: EditStream = STREAM) -> list[Measured]:
    """All of `stream` after it was edited; the bare model is asked before."""
    questions = final_questions(stream)
    base = BaseAnswers.ask(tiny_model("llama"), READER, questions)
    for edit in stream.edits:
        editor.edit([edit])
    return measure(editor, READER, questions, protocol, base)


def notebook(kind: type[Notebook] = Notebook, stream: EditStream = STREAM) -> Notebook:
    return kind(tiny_model("llama"), tiny_tokenizer(), stream)


def test_everything_of_the_stream_is_asked_in_its_order() -> None:
    asked = [(q.metric, q.kind, q.prompt, q.expected) for q in final_questions(STREAM)]
    assert asked == [
        ("reliability", "", "Ada lives in", "Oslo"),
        ("generalization", "1", "Where is Ada?", "Oslo"),
        ("generalization", "4", "Ada's home:", "Oslo"),
        ("reliability", "", "Bo speaks", "Danish"),
        ("generalization", "", "Bo's language is", "Danish"),
        ("reliability", "", "Cleo plays the", "lute"),
        ("locality", "far", "Rome lies in", ""),
        ("locality", "near-subject", "Ada works as a", ""),
        ("portability", "portability", "In which country is Ada?", "Norway"),
        ("locality", "near-relation", "Ann speaks", ""),
        ("locality", "far", "The sun is", ""),
    ]
    assert excluded(STREAM) == {}


def test_a_question_carries_the_edit_that_it_is_of_its_subject_and_its_age() -> None:
    of = {q.prompt: (q.edit_id, q.subject, q.age) for q in final_questions(STREAM)}
    assert of["Ada's home:"] == of["Ada works as a"] == ("ada", "Ada", 2)
    assert of["Bo speaks"] == of["Ann speaks"] == ("bo", "Bo", 1)
    assert of["Cleo plays the"] == ("cleo", "Cleo", 0)
    assert of["The sun is"] == ("", "The sun is", 0)


@pytest.mark.parametrize(
    ("edit", "cluster"),
    [
        (Edit("A b", "c", "A", id="i"), "A"),
        (Edit("A b", "c", id="i"), "i"),
        (Edit("A b", "c"), "A b"),
    ],
)
def test_items_cluster_by_subject_else_by_id_else_by_prompt(edit: Edit, cluster: str) -> None:
    questions = at_edit_questions([edit]) + final_questions(EditStream((edit,)))
    assert [q.subject for q in questions] == [cluster] * 2


def test_an_overwritten_edit_is_excluded_with_what_follows_from_it() -> None:
    later = Edit(ADA.prompt, "Bergen", "Ada", id="ada 2")
    why = "a later edit of the stream overwrote this one"
    questions = final_questions(with_edits(later))
    assert {q.prompt for q in questions if q.edit_id == "ada" and q.excluded == why} == {
        ADA.prompt, *ADA.paraphrases, "In which country is Ada?",
    }  # fmt: skip
    kept = [q for q in questions if not q.excluded]
    assert [q.edit_id for q in kept if q.prompt == ADA.prompt] == ["ada 2"]
    assert {"Rome lies in", "Ada works as a"} <= {q.prompt for q in kept}  # probes stay


@pytest.mark.parametrize(
    "prompt", ["Ada's home:", "In which country is Ada?", "Ada works as a", "The sun is"]
)
def test_a_prompt_that_another_live_edit_answers_otherwise_is_excluded(prompt: str) -> None:
    other = Edit(prompt, "Lima", id="other")
    assert excluded(with_edits(other)) == {
        prompt: "edit 'other' of the stream writes another answer here"
    }


@pytest.mark.parametrize(
    ("prompt", "answer"), [("Ada's home:", "Oslo"), ("In which country is Ada?", "Norway")]
)
def test_a_prompt_that_another_live_edit_answers_alike_is_asked(prompt: str, answer: str) -> None:
    assert excluded(with_edits(Edit(prompt, answer, id="other"))) == {}


def test_an_edit_that_is_overwritten_excludes_nothing_but_itself() -> None:
    first, last = Edit("Ada's home:", "Lima", id="x"), Edit("Ada's home:", "Oslo", id="y")
    questions = final_questions(with_edits(first, last))
    assert [q.edit_id for q in questions if q.excluded] == ["x"]


def test_a_locality_probe_that_its_own_edit_writes_is_excluded() -> None:
    stream = EditStream((ADA,), (Probe(ADA.prompt, "near-subject", edit_id="ada"),))
    assert [q.metric for q in final_questions(stream) if q.excluded] == ["locality"]


@pytest.mark.parametrize("t", range(len(STREAM.edits) + 1))
def test_a_prefix_asks_only_for_edits_made_and_for_probes_of_no_edit(t: int) -> None:
    made = {edit.id for edit in STREAM.edits[:t]}
    expected = [q.prompt for q in final_questions(STREAM) if q.edit_id in {"", *made}]
    assert [q.prompt for q in final_questions(STREAM.prefix(t))] == expected


@given(order=st.permutations(range(5)), t=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_in_any_order_of_writes_each_prompt_has_one_live_answer(order: list[int], t: int) -> None:
    writes = (ADA, replace(ADA, target="Rome", id="ada 2"), BO, CLEO,
              replace(BO, target="Thai", id="bo 2"))  # fmt: skip
    stream = EditStream(tuple(writes[index] for index in order)).prefix(t)
    asked = [q for q in final_questions(stream) if q.metric == "reliability"]
    live = {q.prompt: q.expected for q in asked if not q.excluded}
    assert live == {edit.prompt: edit.target for edit in stream.edits}
    assert [q.age for q in asked] == list(range(t))[::-1]
    assert sum(not q.excluded for q in asked) == len(live)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_perfect_editor_scores_one_in_everything(protocol: str) -> None:
    assert isinstance(notebook(), Editor)
    assert {item.score for item in measured(notebook(), protocol)} == {1.0}


def test_an_editor_that_never_stops_has_no_reliability_free_run_but_teacher_forced() -> None:
    of = {
        protocol: [m for m in measured(notebook(EndlessNotebook), protocol) if m.question.expected]
        for protocol in PROTOCOLS
    }
    assert {item.score for item in of["free"]} == {0.0}
    assert all(item.answer.endswith("[did not stop]") for item in of["free"])
    assert {item.score for item in of["forced"]} == {1.0}


def test_the_bare_model_is_local_and_not_reliable() -> None:
    bare = Unedited(tiny_model("llama"), tiny_tokenizer())
    scores = {(m.question.metric == "locality", m.score) for m in measured(bare, "free")}
    assert scores == {(True, 1.0), (False, 0.0)}


def test_locality_compares_with_the_model_as_it_was_before_the_edits() -> None:
    model = tiny_model("llama")
    questions = final_questions(STREAM)
    base = BaseAnswers.ask(model, READER, questions)
    editor = Unedited(model, tiny_tokenizer())
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(1, dims=0))  # an edit in place
    found = [m for m in measure(editor, READER, questions, "free", base) if not m.expected == ""]
    local = [m for m in found if m.question.metric == "locality"]
    assert [m.score for m in local] == [0.0] * len(local)
    assert [m.expected for m in local] == [base.free[m.question.prompt].text for m in local]
    assert all(m.answer != m.expected for m in local)


def test_locality_is_lost_where_an_answer_that_ended_goes_on() -> None:
    question = final_questions(STREAM)[-1]
    editor = notebook()
    editor.note(question.prompt, "warm")
    (before,) = READER.free(editor, [question.prompt])
    base = BaseAnswers({question.prompt: before}, {})
    assert before.is_exactly("warm")
    for text, score in (("warm", 1.0), ("warm and bright", 0.0)):
        editor.note(question.prompt, text)
        (found,) = measure(editor, READER, [question], "free", base)
        assert (found.answer, found.score) == (text, score)


def test_forced_scores_are_those_computed_one_by_one() -> None:
    model, tokenizer = tiny_model("llama", seed=1), tiny_tokenizer()
    questions = [replace_prompt(q, i) for i, q in enumerate(final_questions(STREAM)[:6])]
    found = measure(
        Unedited(model, tokenizer), READER, questions, "forced", BaseAnswers({}, {})
    )  # fmt: skip
    for item, question in zip(found, questions, strict=True):
        prompt, target = (
            tokenizer(text).input_ids for text in (question.prompt, f" {question.expected}")
        )
        with torch.no_grad():
            logits = model(torch.tensor([prompt + target])).logits[0]
        predicted = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert item.score == sum(map(int.__eq__, predicted, target)) / len(target)
        assert item.answer == tokenizer.decode(predicted).strip()


def replace_prompt(question: Question, n: int) -> Question:
    """The question behind `n` more words, so that rows are padded differently."""
    return replace(question, prompt="so " * n + question.prompt)


def test_forced_locality_is_the_share_of_tokens_on_which_both_agree() -> None:
    question = final_questions(STREAM)[-1]
    base_editor, editor = notebook(), notebook()
    base_editor.note(question.prompt, "warm")
    base = BaseAnswers(
        {question.prompt: READER.free(base_editor, [question.prompt])[0]},
        {question.prompt: READER.forced(base_editor, [question.prompt], ["warm"])[0]},
    )
    (found,) = measure(editor, READER, [question], "forced", base)
    (own,) = READER.forced(editor, [question.prompt], ["warm"])
    assert found.score == own.share_right < 1
    assert found.expected == "warm"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_excluded_questions_keep_their_places_and_have_no_score(protocol: str) -> None:
    stream = with_edits(Edit(BO.prompt, "Thai", id="bo 2"), Edit("The sun is", "hot", id="sun"))
    questions = final_questions(stream)
    found = measured(notebook(stream=stream), protocol, stream)
    assert [item.question for item in found] == questions
    assert [item.score is None for item in found] == [bool(q.excluded) for q in questions]
    assert {item.answer for item in found if item.score is None} == {""}
    assert {item.score for item in found} == {1.0, None}


def test_a_base_model_that_answers_nothing_excludes_forced_locality_with_a_reason() -> None:
    question = final_questions(STREAM)[-1]
    base = BaseAnswers({question.prompt: Answer("", (), True)}, {})
    (found,) = measure(notebook(), READER, [question], "forced", base)
    assert (found.score, found.question.excluded) == (None, "the unedited model answers nothing")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_measuring_changes_nothing(protocol: str) -> None:
    editor = notebook()
    first = measured(editor, protocol)
    notes = dict(editor.next_token)
    base = BaseAnswers.ask(tiny_model("llama"), READER, final_questions(STREAM))
    assert measure(editor, READER, final_questions(STREAM), protocol, base) == first
    assert editor.next_token == notes
