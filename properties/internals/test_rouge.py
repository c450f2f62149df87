"""Laws of ROUGE-L: values by hand, words of every script, and what is told of long answers."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.internals.measured import ROW
from wise.measures.quantities import told_of
from wise.measures.rouge import n_words, rouge_l
from wise.measures.rows import UNSTOPPED, Row

pytest.importorskip("rouge_score")
pytestmark = pytest.mark.internals

TEN = "one two three four five six seven eight nine ten"
ASCII = st.text(st.characters(max_codepoint=127), max_size=40)


def answered(answer: str, *, expected: str = TEN, metric: str = "reliability", t: int = 9,
             aliases: tuple[str, ...] = ()) -> Row:  # fmt: skip
    return replace(
        ROW, protocol="free", when="final", t=t, metric=metric, kind="", age=0, expected=expected,
        answer=answer, score=0.0, aliases=aliases,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "answer", "f1", "recall"),
    [
        ("the cat sat down", "the cat sat down", 1.0, 1.0),
        ("the cat sat down", "the dog sat", 4 / 7, 1 / 2),  # "the sat": 2 of 4 and of 3 words
        ("a b c d", "d c b a", 1 / 4, 1 / 4),  # one word in order
        ("Ein süßes Büro", "ein BÜRO", 4 / 5, 2 / 3),
        ("我们去北京", "我去北京。", 8 / 9, 4 / 5),
        ("a b", "a b and more words that nobody asked for", 4 / 11, 1.0),
        ("a b", "", 0.0, 0.0),
        ("snow", "...", 0.0, 0.0),
    ],
)
def test_it_is_that_of_the_longest_common_subsequence(
    target: str, answer: str, f1: float, recall: float
) -> None:
    assert rouge_l((target,), answer) == pytest.approx((f1, recall))


@given(ASCII, ASCII)
def test_of_ascii_it_is_the_librarys_own(target: str, answer: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rougeL"]).score(target, answer)["rougeL"]
    assert rouge_l((target,), answer) == (theirs.fmeasure, theirs.recall)


def test_words_are_counted_in_every_script() -> None:
    assert [n_words(text) for text in (TEN, "", "…", "go-to 3", "东京 tower")] == [10, 0, 0, 3, 3]


def test_long_answers_alone_are_told_of() -> None:
    eight = TEN.removesuffix(" nine ten")
    rows = [
        answered(TEN), answered(eight + UNSTOPPED),
        answered("no", aliases=("never", "no")),
        answered(TEN, metric="generalization"), answered(TEN, t=1),
        answered("nine", expected="nine"), replace(answered(TEN), metric="locality", kind="far"),
        replace(answered(TEN), protocol="forced"), replace(answered(TEN), when="at-edit"),
        replace(answered(""), score=None, excluded="too long"),
    ]  # fmt: skip
    (told,) = told_of(rows)
    assert told.what.startswith("ROUGE-L, F1 and recall, of free-run answers to targets of 10 ")
    once, later = told.at
    assert once.startswith("T=1: reliability 1.00 [")
    reliability, generalization = later.split("; ")
    assert reliability.startswith("T=9: reliability .96 [")  # of 1, 8/9 and 1
    assert reliability.endswith("] and .93, n=3")  # of 1, 4/5 and 1
    assert generalization.endswith("] and 1.00, n=1")
    assert not list(told_of(rows[5:]))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    from wise.measures import rouge

    monkeypatch.setattr(rouge, "_scorer", rouge._scorer.__wrapped__)
    (told,) = told_of([answered("an answer that nothing else asks for")])
    assert told.at == ("not computed: pip install 'model-editor-suite[longform]'",)
