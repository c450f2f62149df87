"""Laws of `wise.evaluation.asked`: what is asked, and what is left out and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.internals.notebook import ADA, BO, CLEO, STREAM, with_edits
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.asked import at_edit_questions, final_questions

pytestmark = pytest.mark.internals


def excluded(stream: EditStream) -> dict[str, str]:
    return {q.prompt: q.excluded for q in final_questions(stream) if q.excluded}


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


def test_a_question_that_is_asked_again_is_of_the_cluster_of_the_first() -> None:
    probes = [Probe("The sun is", kind, "hot", each)
              for kind in ("far", "near-relation") for each in ("bo", "ada", "cleo")]  # fmt: skip
    questions = final_questions(replace(STREAM, probes=tuple(probes)))
    asked = [(q.kind, q.subject) for q in questions if q.prompt == "The sun is"]
    assert asked == [("far", "Bo")] * 3 + [("near-relation", "Bo")] * 3


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


@pytest.mark.parametrize("again", [ADA, replace(ADA)], ids=["the same object", "a copy"])
def test_an_edit_made_again_counts_once_with_the_age_of_the_last(again: Edit) -> None:
    questions = final_questions(with_edits(again))
    asked = [(q.age, bool(q.excluded)) for q in questions if q.prompt == ADA.prompt]
    assert asked == [(3, True), (0, False)]
    (consequence,) = (q for q in questions if q.metric == "portability")
    assert (consequence.age, consequence.excluded) == (0, "")


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


NAMED = replace(ADA, aliases=("Oslo, Norway", "Kristiania"))
LAND = Probe("In which country is Ada?", "portability", "Norway", "ada", "Peru", ("Norge",))
KEPT = Probe("Ada works as a", "near-subject", "smith", "ada", aliases=("blacksmith",))


def test_aliases_are_right_free_run_and_where_no_kept_answer_is_asked_for() -> None:
    stream = EditStream((NAMED,), (LAND, KEPT))
    own, *rest = stream.edits[0].answers
    assert [q.answers for q in at_edit_questions(stream.edits)] == [(own, *rest)]
    asked = [(q.metric, q.answers) for q in final_questions(stream)]
    assert asked == [
        ("reliability", (own, *rest)), ("generalization", (own, *rest)),
        ("generalization", (own, *rest)), ("portability", ("Norway", "Norge")), ("locality", ("",)),
    ]  # fmt: skip
    bare = EditStream((ADA,), (replace(LAND, aliases=()), replace(KEPT, aliases=())))
    assert final_questions(stream, protocol="forced") == final_questions(bare, protocol="forced")
    assert NAMED.as_taught() == ADA.as_taught()


def test_a_prompt_that_another_edit_answers_by_an_alias_is_asked_free_run_alone() -> None:
    stream = EditStream((NAMED, Edit("Where is Ada?", "Kristiania", id="other")), (LAND,))
    assert excluded(stream) == {}
    why = "edit 'other' of the stream writes another answer here"
    forced = final_questions(stream, protocol="forced")
    assert [(q.prompt, q.excluded) for q in forced if q.excluded] == [("Where is Ada?", why)]
    other = EditStream((NAMED, Edit("Where is Ada?", "Rome", aliases=("Oslo",), id="other")))
    assert excluded(other) == {"Where is Ada?": why}  # what is taught there is not right here


def test_an_alias_of_the_right_answer_is_none_to_compare_it_with() -> None:
    edit = replace(NAMED, ground_truth="Kristiania")
    blind = replace(KEPT, prompt="Ada loves", answer="Rome", aliases=("Oslo",))
    stream = EditStream((edit,), (LAND, KEPT, blind))
    asked = {q.prompt: q.compared for q in final_questions(stream, protocol="compared")}
    assert asked == {
        **dict.fromkeys((ADA.prompt, *ADA.paraphrases), ("Oslo", "")),
        LAND.prompt: ("Norway", "Peru"), KEPT.prompt: ("smith", "Oslo"),
        blind.prompt: ("Rome", ""),
    }  # fmt: skip


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
