"""Laws of `wise.evaluation.metrics`: how an answer scores, by both protocols."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.notebook import BO, STREAM, EndlessNotebook, Notebook, with_edits
from wise.editor import Editor
from wise.edits import Edit, EditStream
from wise.evaluation.asked import Question, final_questions
from wise.evaluation.lifelong import PROTOCOLS, reader_of
from wise.evaluation.metrics import BaseAnswers, Measured, measure
from wise.lm.decoding import Answer, Unedited
from wise.lm.tokens import reading_of
from wise.measures.ceilings import ceilings

pytestmark = pytest.mark.internals

READER = reader_of(tiny_model("llama"), tiny_tokenizer(), STREAM)


def measured(editor: Editor, protocol: str, stream: EditStream = STREAM) -> list[Measured]:
    """All of `stream` after it was edited; the bare model is asked before."""
    questions = final_questions(stream)
    base = BaseAnswers.ask(tiny_model("llama"), READER, questions)
    for edit in stream.edits:
        editor.edit([edit])
    return measure(editor, READER, questions, protocol, base)


def notebook(kind: type[Notebook] = Notebook, stream: EditStream = STREAM) -> Notebook:
    return kind(tiny_model("llama"), tiny_tokenizer(), stream)


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
    local = [
        item
        for item in measure(editor, READER, questions, "free", base)
        if item.question.metric == "locality"
    ]
    assert [m.score for m in local] == [0.0] * len(local)
    assert [m.expected for m in local] == [base.free[m.question.prompt].text for m in local]
    assert all(m.answer != m.expected for m in local)


def test_locality_is_lost_where_an_answer_that_ended_goes_on() -> None:
    question = final_questions(STREAM)[-1]
    editor = notebook()
    editor.note(question.prompt, "warm")
    (before,) = READER.free(editor, [question.prompt])
    base = BaseAnswers({question.prompt: before}, {})
    assert before.is_exactly("warm", READER.tokenizer)
    for text, score in (("warm", 1.0), ("warm now", 0.0)):
        editor.note(question.prompt, text)
        (found,) = measure(editor, READER, [question], "free", base)
        assert (found.answer, found.score) == (text, score)


def test_locality_is_lost_where_only_one_of_two_equal_answers_ended() -> None:
    question = final_questions(STREAM)[-1]
    editor = notebook()
    editor.note(question.prompt, "warm")
    (answer,) = READER.free(editor, [question.prompt])
    base = BaseAnswers({question.prompt: replace(answer, stopped=False)}, {})
    (found,) = measure(editor, READER, [question], "free", base)
    assert found.score == 0.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_best_answers_to_contradictory_questions_score_the_ceiling(protocol: str) -> None:
    edits = (
        Edit("B:", "Danish now", paraphrases=("Q", "R"), id="b"),
        Edit("C:", "Danish then, now", paraphrases=("Q",), id="c"),
    )
    stream, tokenizer = EditStream(edits), tiny_tokenizer()
    reader = reader_of(tiny_model("llama"), tokenizer, stream)
    questions = [q for q in final_questions(stream) if q.metric == "generalization"]
    (ceiling,) = ceilings(questions, protocol=protocol, reading=reading_of(tokenizer)).values()
    means = []
    for order in (questions, questions[::-1]):  # what is noted last is answered
        editor = notebook()
        for question in order:
            editor.note(question.prompt, question.expected)
        found = measure(editor, reader, questions, protocol, BaseAnswers({}, {}))
        means.append(sum(item.score or 0 for item in found) / len(found))
    assert max(means) == pytest.approx(float(ceiling.share))
    assert ceiling.share < 1


def test_forced_scores_are_those_computed_one_by_one() -> None:
    model, tokenizer = tiny_model("llama", seed=1), tiny_tokenizer()
    questions = [replace_prompt(q, i) for i, q in enumerate(final_questions(STREAM)[:6])]
    found = measure(Unedited(model, tokenizer), READER, questions, "forced", BaseAnswers({}, {}))
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


def test_a_target_that_leaves_no_room_for_a_prompt_is_named() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    target = "a"
    while len(tokenizer(f" {target}").input_ids) < model.config.max_position_embeddings - 2:
        target += "a"
    stream = EditStream((Edit("The first letter is", target),))
    with pytest.raises(ValueError, match=f"target '{target[:60]}' has"):
        reader_of(model, tokenizer, stream)
