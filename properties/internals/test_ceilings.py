"""Laws of `wise.measures.ceilings`: no answers of one model score more, and some score as much."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.internals.examples import EVERY
from properties.internals.measured import run_rows
from wise.edits import PROBE_KINDS, Edit, EditStream, Probe
from wise.evaluation.asked import Question, final_questions
from wise.measures.ceilings import TextReading, best_mean, ceilings, ceilings_of_rows, pooled
from wise.measures.estimates import Measure

pytestmark = pytest.mark.internals

UNEDITED = object()  # the answer of the unedited model, which no record tells
PROMPTS, ANSWERS = st.sampled_from("ABCD"), st.sampled_from(["x", "y", " y", "z"])
ALIASES = st.lists(ANSWERS, max_size=2).map(tuple)


@st.composite
def streams(draw: st.DrawFn) -> EditStream:
    """Streams in which everything contradicts everything."""
    edits = []
    for number in range(draw(st.integers(1, 5))):
        paraphrases = draw(st.lists(PROMPTS, max_size=3))
        levels = draw(st.sampled_from([(), tuple(1 + n % 2 for n in range(len(paraphrases)))]))
        edits.append(Edit(draw(PROMPTS), draw(ANSWERS), "", tuple(paraphrases), "", str(number),
                          levels, draw(ALIASES)))  # fmt: skip
    probes = st.builds(
        Probe, PROMPTS, st.sampled_from(PROBE_KINDS), ANSWERS,
        st.sampled_from(["", *(edit.id for edit in edits)]), st.just(""), ALIASES,
    )  # fmt: skip
    return EditStream(tuple(edits), tuple(draw(st.lists(probes, max_size=4))))


def share(questions: Sequence[Question], answers: dict[str, object]) -> Fraction:
    """The mean score, free-run, of a model with these answers."""
    right = 0
    for question in questions:
        answer = answers[question.prompt]
        if question.metric == "locality":
            right += answer is UNEDITED
        else:
            right += answer in [each.strip() for each in (question.expected, *question.aliases)]
    return Fraction(right, len(questions))


@given(streams())
@EVERY
def test_a_ceiling_is_the_best_of_all_functions_of_the_prompt(stream: EditStream) -> None:
    asked = final_questions(stream)
    found = ceilings(asked)
    assert found.keys() == {Measure(q.metric, q.kind) for q in asked}
    told = product(["x", "y", "z", UNEDITED], repeat=4)
    models = [dict(zip("ABCD", each, strict=True)) for each in told]
    for measure, ceiling in found.items():
        own = [q for q in asked if (q.metric, q.kind) == measure]
        scored = [q for q in own if not q.excluded]
        assert (ceiling.n, ceiling.n_excluded) == (len(scored), len(own) - len(scored))
        if scored:
            assert ceiling.share == max(share(scored, answers) for answers in models)
            assert bool(ceiling.reason) == (ceiling.share < 1)
        else:
            assert isnan(ceiling.share)


tokens = st.lists(st.integers(0, 1), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.tuples(st.sampled_from("AB"), tokens), min_size=1, max_size=4))
@EVERY
def test_the_best_mean_of_tokens_is_that_of_all_functions_of_what_is_read(
    asked: list[tuple[str, tuple[int, ...]]],
) -> None:
    read = sorted({(p, answer[:n]) for p, answer in asked for n in range(len(answer))})

    def mean(predicted: dict[tuple[str, tuple[int, ...]], int]) -> Fraction:
        return sum(
            (Fraction(sum(predicted[p, a[:n]] == a[n] for n in range(len(a))), len(a))
             for p, a in asked), Fraction(),
        ) / len(asked)  # fmt: skip

    models = (dict(zip(read, each, strict=True)) for each in product((0, 1), repeat=len(read)))
    assert best_mean(asked) == max(map(mean, models))


def edit(target: str, *paraphrases: str, id: str) -> Edit:
    return Edit(f"{id} is", target, "", paraphrases, id=id)


CLASH = EditStream((
    edit("red", "Q", "R", id="a"), edit("blue", "Q", id="b"), edit("blue", "Q", "S", id="c"),
))  # fmt: skip
GENERALIZATION = Measure("generalization", "")


def test_the_reason_counts_the_questions_and_names_the_shortest_pair() -> None:
    found = ceilings(final_questions(CLASH))[GENERALIZATION]
    assert (found.share, str(found)) == (Fraction(4, 5), ".80")
    assert found.reason == (
        "3 of 5 questions share a prompt with one that has another answer, such as 'Q' -> 'red' "
        "(a) and 'blue' (b)"
    )


def test_answers_of_which_no_two_clash_but_no_one_fits_all_are_told_by_the_shortest_two() -> None:
    sides = (("a", "b"), ("b", "cc"), ("cc", "a"))
    edits = [Edit(f"{n} is", one, "", ("Q",), aliases=(other,))
             for n, (one, other) in enumerate(sides)]  # fmt: skip
    found = ceilings(final_questions(EditStream(tuple(edits))))[GENERALIZATION]
    assert (found.share, found.n_clashing) == (Fraction(2, 3), 3)
    assert "such as 'Q' -> 'b' and 'a'" in found.reason
    clear = ceilings(final_questions(EditStream(tuple(edits[:2]))))[GENERALIZATION]
    assert (clear.share, clear.reason) == (1, "")


def test_aliases_of_which_nothing_is_read_are_no_common_answer() -> None:
    edits = [Edit(f"{name} is", name, "", ("Q",), aliases=("*",)) for name in ("red", "blue")]
    asked = final_questions(EditStream(tuple(edits)))
    assert ceilings(asked)[GENERALIZATION].share == 1
    reading = TextReading(str, lambda text: text.strip("*"))
    assert ceilings(asked, reading=reading)[GENERALIZATION].share == Fraction(1, 2)


def letters(prompt: str, answer: str) -> Sequence[int]:
    return [ord(letter) for letter in answer]


def test_teacher_forced_an_answer_counts_in_parts() -> None:
    reading = TextReading(str, str, letters)
    stream = EditStream((edit("red", "Q", id="a"), edit("rust", "Q", id="b")))
    found = ceilings(final_questions(stream), protocol="forced", reading=reading)[GENERALIZATION]
    # r is right for both; behind it one of them is wrong in one letter.
    assert found.share == Fraction(1, 2) * (1 + Fraction(3, 4))


def test_teacher_forced_needs_tokens() -> None:
    with pytest.raises(ValueError, match="protocol='forced' needs a reading with tokens"):
        ceilings(final_questions(CLASH), protocol="forced")


def test_prompts_that_a_tokenizer_reads_alike_are_one() -> None:
    stream = EditStream((Edit("Who?", "Ann"), Edit("who?", "Bo")))
    by_letter = ceilings(final_questions(stream))
    in_lower_case = ceilings(final_questions(stream), reading=TextReading(str.lower, str))
    reliability = Measure("reliability", "")
    assert by_letter[reliability].share == 1
    assert in_lower_case[reliability].share == Fraction(1, 2)


def test_streams_are_pooled_by_their_questions() -> None:
    clear = EditStream((edit("red", "Q", "R", "S", "T", "U", id="a"),))
    each = [ceilings(final_questions(stream)) for stream in (clear, CLASH)]
    found = pooled(each, GENERALIZATION)
    assert found is not None
    assert (found.share, found.n, found.n_clashing) == (Fraction(9, 10), 10, 3)
    assert pooled(each, Measure("portability", "portability")) is None


def test_an_answer_that_no_model_can_give_is_missed_free_run() -> None:
    edits = Edit("Q", "red"), Edit("R", "sky"), Edit("S", "sky", aliases=("red",))
    asked = final_questions(EditStream(edits))
    reading = TextReading(str, lambda text: None if text == "sky" else text, letters)
    found = ceilings(asked, reading=reading)[Measure("reliability", "")]
    assert (found.share, found.n_unsaid) == (Fraction(2, 3), 1)
    assert found.reason == (
        "1 of 3 questions have an answer that the tokenizer cannot write, such as 'R' -> 'sky'"
    )
    forced = ceilings(asked, protocol="forced", reading=reading)
    assert forced[Measure("reliability", "")].share == 1


def test_a_clash_counts_beside_an_answer_that_no_model_can_give() -> None:
    edits = [edit(target, "Q", id=target) for target in ("red", "sky", "blue")]
    reading = TextReading(str, lambda text: None if text == "sky" else text)
    found = ceilings(final_questions(EditStream(tuple(edits))), reading=reading)[GENERALIZATION]
    assert (found.share, found.n_clashing, found.n_unsaid) == (Fraction(1, 3), 2, 1)
    assert found.reason == (
        "2 of 3 questions share a prompt with one that has another answer, such as 'Q' -> 'red' "
        "(red) and 'blue' (blue), and 1 of 3 questions have an answer that the tokenizer cannot "
        "write, such as 'Q' -> 'sky' (sky)"
    )


def test_rows_are_read_by_the_tokenizer_once_where_there_is_one() -> None:
    asked = list[TextReading]()

    def reading() -> TextReading:
        asked.append(TextReading(str, lambda text: None, letters))
        return asked[-1]

    found = ceilings_of_rows(run_rows(), reading)
    assert len(asked) == 1
    free = {m: e.share for (protocol, _), of_t in found.items() if protocol == "free"
            for m, e in of_t.items()}  # fmt: skip
    assert {each.metric for each, share in free.items() if share == 1} == {"locality"}
    as_written = ceilings_of_rows(run_rows(), lambda: None)
    assert {each.share for of_t in as_written.values() for each in of_t.values()} == {1}
