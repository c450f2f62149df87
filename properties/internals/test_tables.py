"""Laws of `reports.tables` and `reports.judged`: the suite's own numbers, pooled right."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from properties.internals.measured import RATES, RUN, contradicting, rows_of, run_rows
from reports import judged, tables
from reports.pooling import apart
from reports.reading import Items
from wise.measures.ceilings import TextReading
from wise.measures.estimates import CONDITION, Estimate, Measure, estimates_of_runs
from wise.measures.rows import Row, Run
from wise.measures.statistics import interval
from wise.measures.verdicts import MAX_LOOKS, THRESHOLDS, judge

pytestmark = pytest.mark.internals

OTHER = RUN._replace(seed=1, stream="world-0/evaluation-1", stream_sha256="1f" * 32)


def random_rows(n: int = 200) -> list[Row]:
    draw = random.Random(5)
    rows = []
    for number in range(n):
        when, protocol = draw.choice(["final", "at-edit"]), draw.choice(["free", "forced"])
        metric, kind = draw.choice(list(RATES))
        score = draw.choice([0.0, 0.5, 1.0, 1.0, None])
        of_one = rows_of(
            metric, kind, [score], run=draw.choice([RUN, OTHER._replace(model="gpt2")]),
            protocol=protocol, when=when, t=draw.choice([1, 3, 10]), block=f"block {number}",
        )  # fmt: skip
        t = draw.choice([1, 3, 10])
        rows += [replace(row, cluster=f"subject {draw.randrange(9)}", t=t) for row in of_one]
    return rows


def test_a_cell_is_the_one_of_the_terminal(items_of: Callable[..., Items]) -> None:
    rows = random_rows()
    found, expected = (
        table.set_index(["model", *CONDITION]).sort_index()[list(Estimate._fields)]
        for table in (tables.cells(items_of(rows)), estimates_of_runs(rows))
    )
    pd.testing.assert_frame_equal(found, expected)


def test_means_are_those_of_the_rows(items_of: Callable[..., Items]) -> None:
    cells = tables.cells(items_of(run_rows()))
    last = cells[(cells.t == 10) & (cells.when == "final")]
    for protocol in ("free", "forced"):
        own = last[last.protocol == protocol]
        found = {(row.metric, row.kind): row.mean for row in own.itertuples()}
        assert found == pytest.approx(dict(RATES))


def test_seeds_are_pooled_with_their_subjects_as_clusters(items_of: Callable[..., Items]) -> None:
    first = rows_of("reliability", "", [1.0, 1.0, 0.0, 0.0])
    second = rows_of("reliability", "", [1.0, 1.0, 1.0, 0.0], run=OTHER)
    cells = tables.cells(items_of([*first, *second]))
    assert len(cells) == 1
    cell, scores = cells.iloc[0], [1, 1, 0, 0, 1, 1, 1, 0]
    assert (cell["n"], cell.n_runs, cell["mean"]) == (8, 2, 5 / 8)
    assert (cell.low, cell.high) == interval(scores, [0, 1, 2, 3] * 2)
    assert cell.stream == "world-0/evaluation"


@pytest.mark.parametrize("field", ["editor", "model", "stream"])
def test_runs_that_differ_by_more_than_their_seed_are_kept_apart(
    field: str, items_of: Callable[..., Items]
) -> None:
    other = OTHER._replace(**{field: "other"})
    rows = rows_of("reliability", "", [1.0]) + rows_of("reliability", "", [0.0], run=other)
    cells = tables.cells(items_of(rows))
    assert sorted(cells["mean"]) == [0.0, 1.0]


def test_another_stream_of_one_name_and_seed_is_kept_apart_with_a_word(
    items_of: Callable[..., Items],
) -> None:
    second, third = (RUN._replace(stream_sha256=digit * 64) for digit in "23")
    rows = rows_of("reliability", "", [1.0])
    rows += rows_of("reliability", "", [0.0], run=second)
    rows += rows_of("reliability", "", [0.5], run=second._replace(editor="b"))
    rows += rows_of("reliability", "", [1.0], run=third, t=20)  # no cell would mix it with others
    items = items_of(rows)
    found = [(row.editor, row.stream, row.t, row.mean) for row in tables.cells(items).itertuples()]
    assert sorted(found) == [
        ("b", "world-0/evaluation, sha256 22222222", 10, 0.5),
        ("wise", "world-0/evaluation", 10, 1.0),
        ("wise", "world-0/evaluation", 20, 1.0),
        ("wise", "world-0/evaluation, sha256 22222222", 10, 0.0),
    ]
    [notice] = apart(items)
    assert "two streams of this name; the one of sha256 22222222 is kept apart" in notice.text


def test_protocols_and_conditions_are_never_in_one_cell(items_of: Callable[..., Items]) -> None:
    cells = tables.cells(items_of(run_rows()))
    assert set(cells.protocol) == {"free", "forced"}
    key = [*tables.SERIES, *CONDITION]
    assert not cells.duplicated(key).any()
    assert cells[cells.when == "final"].groupby(key).size().eq(1).all()


def test_cells_stand_in_the_order_of_the_triangle(items_of: Callable[..., Items]) -> None:
    rows = [row for pair in reversed(list(RATES)) for row in rows_of(*pair, [1.0])]
    rows += rows_of("generalization", "10", [1.0]) + rows_of("generalization", "", [1.0])
    cells = tables.cells(items_of(rows))
    kinds = [*zip(cells.metric, cells.kind, strict=True)]
    graded = [("generalization", kind) for kind in ("", "1", "2", "10")]
    assert kinds == [("reliability", ""), *graded, *list(RATES)[3:]]


def test_excluded_items_are_counted_and_not_scored(items_of: Callable[..., Items]) -> None:
    items = items_of(rows_of("reliability", "", [1.0, None, 0.0, None]))
    cell = tables.cells(items).iloc[0]
    assert (cell["n"], cell.n_excluded, cell["mean"]) == (2, 2, 0.5)
    left_out = judged.exclusions(items)
    assert left_out[["excluded", "n"]].to_numpy().tolist() == [["too long", 2]]


def test_retention_is_cut_by_age_and_compares_the_same_edits(
    items_of: Callable[..., Items],
) -> None:
    final = rows_of("reliability", "", [0.0] * 5 + [1.0] * 5)  # the oldest are forgotten
    at_edit = rows_of("reliability", "", [1.0] * 9 + [0.0], when="at-edit")
    ages = tables.retention(items_of([*at_edit, *final]))
    lines = ages[["age_low", "age_high", "when", "n", "mean"]].to_numpy().tolist()
    assert lines == [
        [0, 4, "final", 5, 1.0],
        [0, 4, "at-edit", 5, 0.8],
        [5, 9, "final", 5, 0.0],
        [5, 9, "at-edit", 5, 1.0],
    ]


def test_too_few_ages_have_no_retention(items_of: Callable[..., Items]) -> None:
    assert tables.retention(items_of(rows_of("reliability", "", [1.0] * 9, t=9))).empty


def test_a_verdict_is_that_of_the_final_scores(items_of: Callable[..., Items]) -> None:
    rows = run_rows(ts=(1, 10, 100))
    found = judged.verdicts(items_of(rows))
    assert len(found) == len(set(RATES) - {("portability", "portability")}) * 3 * 2
    for line in found.itertuples():
        place = ("final", line.t, line.protocol, line.metric, line.kind)
        own = [r for r in rows if (r.when, r.t, r.protocol, r.metric, r.kind) == place]
        threshold = THRESHOLDS[Measure(line.metric, line.kind).name]
        scores = [r.score for r in own if r.score is not None]
        expected = judge(scores, threshold, clusters=[r.cluster for r in own],
                         confidence=1 - 0.05 / MAX_LOOKS)  # fmt: skip
        assert (line.outcome, line.mean, line.low, line.high, line.n, line.threshold) == (
            expected.outcome, expected.mean, expected.low, expected.high, expected.n, threshold,
        )  # fmt: skip
        assert pd.isna(line.n_needed) == (expected.n_needed is None)


@pytest.mark.parametrize(
    ("outcomes", "outcome", "text"),
    [
        ("ppp", "pass", "holds up to T=100"),
        ("ipp", "pass", "holds up to T=100"),
        ("ppf", "fail", "holds up to T=10, fails at T=100"),
        ("pfp", "fail", "holds up to T=1, fails at T=10"),
        ("fff", "fail", "fails at T=1"),
        ("ipi", "inconclusive", "holds up to T=10, undecided at T=100"),
        ("iii", "inconclusive", "undecided at T=100"),
    ],
)
def test_a_property_holds_up_to_the_last_t_before_it_fails(
    outcomes: str, outcome: str, text: str
) -> None:
    names = {"p": "pass", "f": "fail", "i": "inconclusive"}
    series = dict(zip(tables.SERIES, Run("wise", "llama", "world", "", 0)[:3], strict=True))
    table = pd.DataFrame(
        [
            series
            | {"protocol": "free", "when": "final", "t": t, "metric": "reliability", "kind": ""}
            | {"outcome": names[letter], "mean": 0.5, "low": 0.4, "high": 0.6, "n": t}
            | {"threshold": 0.5, "confidence": 0.95, "n_needed": None, "words": "", "at_most": 1}
            for t, letter in zip((1, 10, 100), outcomes, strict=True)
        ]
    )
    held = judged.holds(table)
    assert held[["outcome", "text"]].to_numpy().tolist() == [[outcome, text]]


def test_scores_stand_beside_the_most_that_any_editor_can_reach(
    items_of: Callable[..., Items],
) -> None:
    seeds = [*contradicting(4), *contradicting(1, run=OTHER)]
    items = items_of([*rows_of("reliability", "", [1.0]), *contradicting(1, t=1), *seeds])
    reached = tables.attainable(items)
    told = tables.cells(items, reached)[["metric", "t", "at_most"]].to_numpy().tolist()
    none = pytest.approx(math.nan, nan_ok=True)
    assert told == [["portability", 1, 1 / 2], ["reliability", 10, none],
                    ["portability", 10, 5 / 7]]  # fmt: skip
    assert "7 of 7 questions share a prompt" in reached.why.iloc[-1]
    found = judged.verdicts(items, thresholds={"portability": 0.5}, reached=reached)
    assert found.at_most.tolist() == [1 / 2, 5 / 7]


def test_an_answer_that_an_alias_makes_right_for_all_is_within_reach(
    items_of: Callable[..., Items],
) -> None:
    *rows, last = contradicting(4)
    reached = [tables.attainable(items_of([*rows, replace(last, aliases=aliases)])).at_most.tolist()
               for aliases in ((), ("z",), ("z", " x"))]  # fmt: skip
    assert reached == [[4 / 5], [4 / 5], []]


def test_teacher_forced_ceilings_need_a_tokenizer(items_of: Callable[..., Items]) -> None:
    items = items_of([replace(row, protocol="forced") for row in contradicting(4)])
    assert tables.attainable(items).empty
    read = TextReading(str, str, lambda prompt, answer: [ord(letter) for letter in answer])
    assert tables.attainable(items, lambda: read).at_most.tolist() == [4 / 5]


def test_failures_are_wrong_items_of_the_last_t(items_of: Callable[..., Items]) -> None:
    found = judged.failures(items_of(run_rows()), most=2)
    assert set(found.t) == {10}
    assert found.score.lt(1).all()
    counts = found[found.protocol == "free"].groupby(["metric", "kind"]).size().to_dict()
    assert counts == {
        pair: min(2, round((1 - rate) * 10)) for pair, rate in RATES.items() if rate < 1
    }


def test_a_likelihood_is_no_wrong_answer(items_of: Callable[..., Items]) -> None:
    found = judged.failures(items_of(run_rows(protocols=("likelihood", "compared"))))
    assert set(found.protocol) == {"compared"}
