"""Laws of `wise.evaluation.metrics`: how an answer scores, by each protocol."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.notebook import BO, STREAM, EndlessNotebook, Notebook, with_edits
from properties.internals.test_tokenizer_kinds import tokenizer_of
from wise.editor import Editor
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.asked import Question, final_questions, knowledge_questions
from wise.evaluation.lifelong import reader_of
from wise.evaluation.metrics import BaseAnswers, Measured, measure
from wise.lm.decoding import Answer, Reader, Unedited
from wise.lm.tokens import canonical, reading_of
from wise.measures.ceilings import ceilings
from wise.measures.estimates import MAIN_PROTOCOLS

pytestmark = pytest.mark.internals

EOS = str(tiny_tokenizer().eos_token)
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


@pytest.mark.parametrize("protocol", MAIN_PROTOCOLS)
def test_a_perfect_editor_scores_one_in_everything(protocol: str) -> None:
    assert isinstance(notebook(), Editor)
    assert {item.score for item in measured(notebook(), protocol)} == {1.0}


def test_free_run_any_alias_is_right_and_teacher_forced_the_target_alone() -> None:
    edits = [Edit(prompt, "Oslo", aliases=("Kristiania", "Oslo city"), id=prompt)
             for prompt in ("A:", "B:", "C:", "D:")]  # fmt: skip
    stream = EditStream((*edits, Edit("E:", "Rome", aliases=("Roma",), id="E:")))
    said = {"A:": "Oslo", "B:": "Kristiania", "C:": "Oslo town", "D:": "Roma", "E:": "Roma"}
    reader = reader_of(tiny_model("llama"), tiny_tokenizer(), stream)
    scores = {}
    for kind in (Notebook, EndlessNotebook):
        editor = notebook(kind, stream)
        for prompt, answer in said.items():
            editor.note(prompt, answer)
        for protocol in MAIN_PROTOCOLS:
            questions = final_questions(stream, protocol=protocol)
            found = measure(editor, reader, questions, protocol, BaseAnswers({}, {}))
            assert [item.expected for item in found] == ["Oslo"] * 4 + ["Rome"]
            scores[kind, protocol] = [item.score for item in found]
    assert scores[Notebook, "free"] == [1.0, 1.0, 0.0, 0.0, 1.0]  # .6 by hand
    assert scores[EndlessNotebook, "free"] == [0.0] * 5
    bare = EditStream(tuple(replace(edit, aliases=()) for edit in stream.edits))
    editor, questions = notebook(stream=bare), final_questions(bare)
    for prompt, answer in said.items():
        editor.note(prompt, answer)
    alone = measure(editor, reader, questions, "forced", BaseAnswers({}, {}))
    assert scores[Notebook, "forced"] == [item.score for item in alone] != [1.0] * 5


def test_an_editor_that_never_stops_has_no_reliability_free_run_but_teacher_forced() -> None:
    of = {
        protocol: [m for m in measured(notebook(EndlessNotebook), protocol) if m.question.expected]
        for protocol in MAIN_PROTOCOLS
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


@pytest.mark.parametrize("protocol", MAIN_PROTOCOLS)
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


@pytest.mark.parametrize("protocol", MAIN_PROTOCOLS)
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


@pytest.mark.parametrize("protocol", MAIN_PROTOCOLS)
def test_measuring_changes_nothing(protocol: str) -> None:
    editor = notebook()
    first = measured(editor, protocol)
    notes = dict(editor.next_token)
    base = BaseAnswers.ask(tiny_model("llama"), READER, final_questions(STREAM))
    assert measure(editor, READER, final_questions(STREAM), protocol, base) == first
    assert editor.next_token == notes


def log_p(model: PreTrainedModel, prompt: str, target: str) -> list[float]:
    """Of each token of `target`, computed by itself."""
    tokenizer = tiny_tokenizer()
    own, told = (tokenizer(text).input_ids for text in (prompt, f" {target}"))
    with torch.no_grad():
        found = model(input_ids=torch.tensor([own + told])).logits[0].log_softmax(-1)
    return [float(found[len(own) + n - 1, token]) for n, token in enumerate(told)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_likelihood_is_the_inverse_of_the_perplexity_and_of_locality_what_is_left() -> None:
    questions, before, later = final_questions(STREAM), tiny_model("llama"), tiny_model("llama")
    base = BaseAnswers.ask(before, READER, questions)
    with torch.no_grad():
        later.lm_head.weight.mul_(1.5)
    editor = Unedited(later, READER.tokenizer)
    found = measure(editor, READER, questions, "likelihood", base)
    scores = {True: list[float](), False: list[float]()}
    for item in found:
        is_local = item.question.metric == "locality"
        gained = mean(log_p(later, item.question.prompt, item.expected))
        if is_local:
            gained -= mean(log_p(before, item.question.prompt, item.expected))
        assert item.score == pytest.approx(min(1, math.exp(gained)), rel=1e-4)
        scores[is_local].append(item.score or 0.0)
    assert all(0 < min(each) < 1 for each in scores.values())


@pytest.mark.parametrize("protocol", ["free", "forced", "likelihood", "compared"])
def test_an_editor_whose_logits_are_not_numbers_scores_nothing(protocol: str) -> None:
    edits = tuple(replace(edit, ground_truth="no") for edit in STREAM.edits)
    stream = EditStream(edits, STREAM.probes)
    model = tiny_model("llama")
    base = BaseAnswers.ask(model, READER, final_questions(stream))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    editor = Unedited(model, READER.tokenizer)
    found = measure(editor, READER, final_questions(stream), protocol, base)
    assert {item.score for item in found} - {None} == {0.0}


def test_an_answer_is_compared_a_token_with_the_one_that_it_was_exchanged_with() -> None:
    """The longer of two answers is the less likely as a whole, and the likelier a token."""
    model, tokenizer = tiny_model("llama", seed=1), tiny_tokenizer()
    names = ("Oslo", "Danish", "Rome, of all places", "a lute", "the north of the town", "no")
    edits = [
        Edit(
            f"{name} {verb}",
            one,
            name,
            (f"Why {name} {verb}",),
            ground_truth=other,
            id=f"{name} {one} {other}",
        )
        for name, verb in (("Ada", "lives in"), ("Bo", "speaks"))
        for one, other in itertools.permutations(names, 2)
    ]
    probes = [Probe(f"Ann and {e.prompt}", "near-relation", e.ground_truth, e.id) for e in edits]
    questions = [
        question
        for edit, probe in zip(edits, probes, strict=True)
        for question in final_questions(EditStream((edit,), (probe,)))
    ]
    base = BaseAnswers({}, {})
    found = measure(Unedited(model, tokenizer), READER, questions, "compared", base)
    n_by_length = 0
    for item in found:
        right, wrong = item.question.compared
        if item.question.metric == "locality":
            (edit,) = (e for e in edits if e.id == item.question.edit_id)
            assert (right, wrong) == (edit.ground_truth, edit.target)
        one, other = (log_p(model, item.question.prompt, text) for text in (right, wrong))
        assert item.score == (mean(one) > mean(other))
        assert (item.expected, item.answer) == (right, right if item.score else wrong)
        n_by_length += (mean(one) > mean(other)) != (sum(one) > sum(other))
    assert {item.score for item in found} == {0.0, 1.0}
    assert n_by_length > 0


@pytest.mark.parametrize(
    ("truth", "why"),
    [
        ("", "the record has no other answer to compare with"),
        (" warm", "the answers to compare are the same"),
        (EOS, f"an answer to compare holds the special token {EOS!r}, which is not text"),
        ("cold " * 64, "an answer to compare is too long for the model"),
    ],
)
def test_what_cannot_be_compared_is_excluded_with_the_reason(truth: str, why: str) -> None:
    edit = Edit("The sun is", "warm", ground_truth=truth, id="sun")
    (question,) = final_questions(EditStream((edit,)))
    (found,) = measure(notebook(), READER, [question], "compared", BaseAnswers({}, {}))
    assert (found.score, found.question.excluded) == (None, why)


@pytest.mark.parametrize(
    ("truth", "why"),
    [
        (EOS, f"the answer before the edit holds the special token {EOS!r}, which is not text"),
        ("cold " * 64, "the answer before the edit is too long for the model"),
    ],
)
def test_an_answer_before_the_edit_that_cannot_be_read_is_excluded_with_the_reason(
    truth: str, why: str
) -> None:
    questions = knowledge_questions([Edit("The sun is", "warm", ground_truth=truth)])
    (found,) = measure(notebook(), READER, questions, "forced", BaseAnswers({}, {}))
    assert (found.score, found.question.excluded) == (None, why)


class Mute:
    """Ends every answer at once."""

    def edit(self, edits: Sequence[Edit]) -> None:
        """Stays mute."""

    def reset(self) -> None:
        """Stays mute."""

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokenizer = tokenizer_of("word pieces")
        logits = torch.zeros(*input_ids.shape, len(tokenizer))
        logits[..., tokenizer.eos_token_id] = 1
        return logits


def test_no_answer_is_not_right_by_an_alias_that_the_tokenizer_reads_as_nothing() -> None:
    tokenizer = tokenizer_of("word pieces")
    assert canonical(tokenizer, "\u200b") == ""
    edit = Edit("Ada lives in", "Paris", aliases=("\u200b",))
    questions = final_questions(EditStream((edit,)))
    reader = Reader(tokenizer, max_new_tokens=8)
    (found,) = measure(Mute(), reader, questions, "free", BaseAnswers({}, {}))
    assert (found.answer, found.score) == ("", 0.0)


@pytest.mark.parametrize("max_length", [None, 40])
def test_a_long_alias_is_read_to_its_end_and_locality_no_further_than_before(
    max_length: int | None,
) -> None:
    long = "Kristiania by the old sea"
    edits = (Edit("A:", "Oslo", aliases=(long, "K"), id="a"), Edit("B:", "Rome", id="b"),
             Edit("C:", "Rome", aliases=(long * 9,), id="c"))  # fmt: skip
    stream = EditStream(edits, (Probe("The sun is", "far"),))
    bare = EditStream(tuple(replace(edit, aliases=()) for edit in edits), stream.probes)
    readers = [replace(reader_of(tiny_model("llama"), tiny_tokenizer(), each),
                       max_length=max_length) for each in (stream, bare)]  # fmt: skip
    assert readers[0] == readers[1]
    reader, editor, questions = readers[0], notebook(stream=stream), final_questions(stream)
    assert reader.max_new_tokens < len(tiny_tokenizer()(f" {long}").input_ids) < 30
    base = BaseAnswers.ask(tiny_model("llama"), reader, questions)
    for edit in edits:
        editor.note(edit.prompt, long)
    found = measure(editor, reader, questions, "free", base)
    assert [item.score for item in found] == [1.0, 0.0, 0.0, 1.0]
    assert found[0].answer == long
    assert found[1].answer.endswith("[did not stop]")
    alone = measure(editor, reader, final_questions(bare), "free", base)
    assert [(item.answer, item.score) for item in found[3:]] == [
        (item.answer, item.score) for item in alone[3:]
    ]


def test_a_target_that_leaves_no_room_for_a_prompt_is_named() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    target = "a"
    while len(tokenizer(f" {target}").input_ids) < model.config.max_position_embeddings - 2:
        target += "a"
    stream = EditStream((Edit("The first letter is", target),))
    with pytest.raises(ValueError, match=rf"target '{target[:60]}\.\.\.' has"):
        reader_of(model, tokenizer, stream)
