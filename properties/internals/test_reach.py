"""The harder rates are judged on what the unedited model can do, and else said not to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.faulty import FAULTS
from fixtures.models import load_model
from fixtures.tiny import tiny_tokenizer
from properties.bench import Bench
from properties.checks import CHECKS, run_check
from properties.findings import Broken, Unasked, Undecided
from properties.internals.measured import RUN
from properties.rates import check_rate, judged_rows
from properties.reach import within_reach
from properties.runs import world_bench
from wise.edits import Edit, EditStream, Probe
from wise.lm.decoding import Answer
from wise.measures.rows import Row
from wise.measures.verdicts import DEFAULT_THRESHOLDS

pytestmark = pytest.mark.internals


class _Told(Bench):
    """A bench whose unedited model says `old N` to every prompt that ends with N, but to a few."""

    unknown: Sequence[str] = ()

    def base_answers(self, prompts: Sequence[str]) -> list[Answer]:
        texts = [
            "?" if prompt in self.unknown else f"old {prompt.split()[-1]}" for prompt in prompts
        ]
        return [Answer(text, (), True) for text in texts]


class _Named:
    name = "named"
    tokenizer = tiny_tokenizer()


def stream_of(n: int, **more: str) -> EditStream:
    """`n` edits, each with a paraphrase of level 3 and a consequence."""
    edits = [Edit(f"prompt {i}", f"new {i}", paraphrases=(f"harder {i}",), levels=(3,), id=str(i),
                  **{"ground_truth": f"old {i}", **more}) for i in range(n)]  # fmt: skip
    probes = [Probe(f"then {i}", "portability", f"so {i}", str(i), edit.ground_truth)
              for i, edit in enumerate(edits)]  # fmt: skip
    return EditStream(tuple(edits), tuple(probes))


def rows_of(stream: EditStream, *, direct: Sequence[int], harder: Sequence[int]) -> list[Row]:
    """The final rows: which edits are answered directly, and of which the harder question."""
    own = RUN._replace(stream=stream.name, stream_sha256=stream.sha256)

    def row(metric: str, kind: str, i: int, prompt: str, score: float) -> Row:
        return Row(
            **own._asdict(), protocol="free", when="final", t=len(stream.edits), metric=metric,
            kind=kind, edit_id=str(i), cluster=str(i), age=0, prompt=prompt, expected="new",
            answer="", score=score, block="checkpoint",
        )  # fmt: skip

    numbers = range(len(stream.edits))
    return [row("reliability", "", i, f"prompt {i}", i in direct) for i in numbers] + [
        row("generalization", "3", i, f"harder {i}", i in harder) for i in numbers
    ]


def bench_of(stream: EditStream, rows: Sequence[Row], *, unknown: Sequence[str] = ()) -> Bench:
    bench = _Told(
        name="editor", factory=None, loaded=_Named, stream=stream, background=None, runs=[rows],
        streams=[stream], thresholds=DEFAULT_THRESHOLDS,
    )  # fmt: skip
    object.__setattr__(bench, "unknown", unknown)
    return bench


def test_a_question_is_within_reach_where_the_unedited_model_answers_it_and_the_edit() -> None:
    stream = stream_of(3)
    bench = bench_of(stream, [], unknown=["prompt 0", "harder 1"])
    assert within_reach(bench, stream) == {("1", "then 1"), ("2", "harder 2"), ("2", "then 2")}


def test_a_harder_rate_is_of_edits_that_are_answered_and_questions_within_reach() -> None:
    stream = stream_of(9)
    rows = rows_of(stream, direct=range(3, 9), harder=range(5))
    bench = bench_of(stream, rows, unknown=["harder 3", "prompt 4"])
    judged = judged_rows(bench, rows, "generalization-3")
    assert [row.edit_id for row in judged] == ["5", "6", "7", "8"]


def test_an_editor_is_not_failed_for_paraphrases_of_edits_that_it_misses() -> None:
    stream = stream_of(20)
    rows = rows_of(stream, direct=range(12), harder=range(12))
    told = check_rate(bench_of(stream, rows), "generalization-3")
    assert told.startswith("pass: generalization-3 1.00 [.74, 1.00] at n=12")


def test_a_long_answer_is_told_by_its_beginning_and_end() -> None:
    stream, long = stream_of(20), f"It begins, {'goes on, ' * 200}and ends"
    rows = [replace(row, expected=long) for row in rows_of(stream, direct=(), harder=())]
    with pytest.raises(Broken, match=r"It begins, .*and ends'") as told:
        check_rate(bench_of(stream, rows), "reliability")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("more", "direct", "unknown", "why"),
    [
        ({}, (), (), "the editor answers none of its edits directly"),
        ({"ground_truth": ""}, (0, 1), (), "does not say what the answers were before the edits"),
        ({}, (0, 1), ("prompt 0", "prompt 1"), "to the stream and to the unedited model"),
        ({}, (0,), ("harder 0",), "answers 1 of its 2 questions about the facts as they were"),
    ],
)
def test_a_rate_that_is_not_judged_says_why(
    more: dict[str, str], direct: Sequence[int], unknown: Sequence[str], why: str
) -> None:
    stream = stream_of(2, **more)
    bench = bench_of(stream, rows_of(stream, direct=direct, harder=()), unknown=unknown)
    with pytest.raises(Undecided, match=f"generalization-3 is not judged: .*{why}"):
        check_rate(bench, "generalization-3")


@pytest.mark.parametrize(
    ("truth", "told"),
    [("old", "set one with --threshold=portability=VALUE"),
     ("", "none could be judged: the stream does not say what the answers were before")],
)  # fmt: skip
def test_a_threshold_is_asked_for_where_it_could_be_judged(truth: str, told: str) -> None:
    whole = stream_of(2)
    probes = tuple(replace(probe, ground_truth=truth) for probe in whole.probes)
    stream = replace(whole, probes=probes)
    rows = [replace(row, metric="portability", kind="portability")
            for row in rows_of(stream, direct=(), harder=()) if row.kind == "3"]  # fmt: skip
    with pytest.raises(Unasked, match=f"no threshold is set for portability.*{told}"):
        check_rate(bench_of(stream, rows), "portability")


BLIND = {
    "BlindToContext": "generalization-3",
    "BlindToAliases": "generalization-4",
    "BlindToPronouns": "generalization-5",
    "IgnoresConsequences": "portability",
}


@pytest.mark.parametrize("fault", BLIND)
def test_what_an_editor_does_not_understand_fails_a_run_of_twenty_edits(
    fault: str, tmp_path: Path
) -> None:
    bench = world_bench(FAULTS[fault].editor, load_model("mistral"), tmp_path, n_edits=20,
                        thresholds={"portability": 0.5})  # fmt: skip
    found = {name: run_check(CHECKS[name], bench).outcome for name in BLIND.values()}
    assert found == {name: "fail" if name == BLIND[fault] else "pass" for name in BLIND.values()}
