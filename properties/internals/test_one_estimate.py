"""The same rows have one estimate and one verdict wherever they are read.

In the terminal's table, the checks of the suite, the league, and the page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.bench import Bench
from properties.findings import Broken, Undecided
from properties.internals.measured import RATES, RUN, rows_of, write_rows
from properties.rates import check_rate
from properties.report import _retention_lines, editor_lines
from properties.retention import retention_of
from reports import judged, tables
from reports.reading import Items, read_items
from wise.evaluation import league_text
from wise.evaluation.league_table import Contestant, counted, measures_of, standings
from wise.measures.estimates import (
    CONDITION,
    CORNERS,
    Estimate,
    Measure,
    bounded,
    estimates_of_runs,
)
from wise.measures.rows import Row
from wise.measures.statistics import format_share
from wise.measures.verdicts import MAX_LOOKS, THRESHOLDS, Ruling, judge, read_rulings, write_rulings

pytestmark = pytest.mark.internals

SEEDS = [RUN._replace(seed=seed, stream=f"world-0/evaluation-{seed}") for seed in range(MAX_LOOKS)]
SETTINGS: Any = SimpleNamespace(
    confidence=0.95, max_looks=1, model="llama", protocols=("free",), editor_name=str, dataset=""
)
OUTCOMES = {"pass": "passed", "fail": "failed", "inconclusive": "skipped"}  # in words of pytest
shown = re.compile(r"[01<>]?\.\d+ \[\S+, \S+\]")
scores = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, None])


class _Recorder:
    """What the bench of a check needs, with the numbers that it records and what it says."""

    def __init__(self, looks: Sequence[Sequence[Row]], *, max_looks: int = MAX_LOOKS) -> None:
        self.numbers: dict[str, object] = {}
        self.text = ""
        self.bench = Bench(
            name="wise", factory=None, loaded=_Named, stream=_Named, background=None, runs=looks,
            thresholds=THRESHOLDS, max_looks=max_looks,
        )  # fmt: skip

    def rate(self, metric: str) -> dict[str, object]:
        with self.bench.recording(self.numbers.__setitem__):
            try:
                self.text = check_rate(self.bench, metric)
            except (Broken, Undecided) as error:
                self.text = str(error)
        return self.numbers

    def report(self, metric: str) -> pytest.TestReport:
        """What pytest has of the check once it ran."""
        numbers = self.rate(metric)
        told = {"check": metric, "editor": "wise", "message": self.text, **numbers}
        outcome: Any = OUTCOMES[str(numbers["outcome"])]
        return pytest.TestReport(
            metric, ("", 0, ""), {}, outcome, None, "call", user_properties=list(told.items())
        )


class _Named:
    name = "named"


def page_items(rows: Sequence[Row]) -> Items:
    with TemporaryDirectory() as folder:
        return read_items([write_rows(Path(folder) / "rows.jsonl", rows)])


@st.composite
def looks(draw: st.DrawFn) -> list[list[Row]]:
    """Rows of one to three runs that differ by their seed, with subjects of several items."""
    measures = draw(st.lists(st.sampled_from(list(RATES)), min_size=1, unique=True))
    found = []
    for run in SEEDS[: draw(st.integers(1, MAX_LOOKS))]:
        rows = []
        for metric, kind in measures:
            drawn = draw(st.lists(scores, min_size=1, max_size=40))
            rows += rows_of(metric, kind, drawn, run=run, t=40)
        subjects = draw(st.integers(1, 40))
        found.append(
            [replace(row, cluster=f"subject {index % subjects}") for index, row in enumerate(rows)]
        )
    return found


@settings(max_examples=40, deadline=None)
@given(looks())
def test_the_same_rows_have_one_estimate(drawn: list[list[Row]]) -> None:
    rows = [row for of_look in drawn for row in of_look]
    league, items = measures_of(counted(rows, 40)), page_items(rows)
    corners = {line.corner: line for line in tables.corners(items).itertuples() if line.n}
    assert {corner for corner in CORNERS if corner in league} == set(corners)
    for corner, line in corners.items():
        for field in Estimate._fields:
            assert getattr(league[corner], field) == getattr(line, field), field
    first = tables.cells(page_items(drawn[0])).set_index(CONDITION)[list(Estimate._fields)]
    of_terminal = estimates_of_runs(drawn[0]).set_index(CONDITION)[list(Estimate._fields)]
    pd.testing.assert_frame_equal(first, of_terminal, rtol=0, atol=0)


@settings(max_examples=10, deadline=None)
@given(looks())
def test_terminal_checks_and_league_show_what_the_page_has(drawn: list[list[Row]]) -> None:
    rows = drawn[0]
    items = page_items(rows)
    of_page = {Measure(line.metric, line.kind): bounded(line.mean, line.low, line.high)
               for line in tables.cells(items).itertuples() if line.n}  # fmt: skip
    judged_on_page = {
        Measure(line.metric, line.kind).name: f"{line.outcome:<12} {name} {line.words}"
        for line in judged.verdicts(items, max_looks=1).itertuples()
        for name in [Measure(line.metric, line.kind).name]
    }
    reports = [_Recorder([rows], max_looks=1).report(name) for name in judged_on_page]

    with TemporaryDirectory() as folder:
        path = write_rows(Path(folder) / "rows.jsonl", rows)
        (_, table), *checks = editor_lines(SETTINGS, path, "wise", reports)
    at_last = " ".join(line for line in table if line.startswith("40 "))
    in_terminal = [cell.removeprefix("0") for cell in shown.findall(at_last)]
    assert in_terminal == [of_page[each] for each in sorted(of_page, key=lambda m: m.place)]
    told = [line for _, lines in checks for line in lines]
    for line, expected in zip(sorted(told), sorted(judged_on_page.values()), strict=True):
        assert line.startswith(expected)

    found = standings({Contestant("llama", "online", "wise", "wise"): {40: rows}})
    cells = [line.split("|")[1:-1] for line in league_text.tables(found, {}).splitlines()[2:]]
    in_league = {head.strip(): cell.strip() for head, cell in zip(cells[0], cells[2], strict=True)}
    for corner in tables.corners(items).itertuples():
        expected = bounded(corner.mean, corner.low, corner.high) if corner.n else "-"
        assert in_league[corner.corner] == expected


@settings(max_examples=40, deadline=None)
@given(looks())
def test_a_page_of_the_rows_that_a_check_took_has_its_verdict(drawn: list[list[Row]]) -> None:
    for metric, kind in {(row.metric, row.kind) for row in drawn[0] if row.score is not None}:
        if (name := Measure(metric, kind).name) in THRESHOLDS:
            check = _Recorder(drawn).rate(name)
            taken = [row for of_look in drawn[: check["n_looks"]] for row in of_look]
            lines = judged.verdicts(page_items(taken)).itertuples()
            [line] = [each for each in lines if (each.metric, each.kind) == (metric, kind)]
            for field in ("outcome", "mean", "low", "high", "n", "threshold", "confidence"):
                assert getattr(line, field) == check[field], field


@pytest.mark.parametrize("n_right", [77, 78, 92])
def test_a_page_and_a_check_agree_where_a_look_has_a_third_of_the_error(n_right: int) -> None:
    rows = rows_of("reliability", "", [1.0] * n_right + [0.0] * (100 - n_right), t=100)
    [line] = judged.verdicts(page_items(rows)).itertuples()
    check = _Recorder([rows]).rate("reliability")
    assert line.outcome == check["outcome"] == "inconclusive"
    assert judge([row.score or 0.0 for row in rows], 0.85).outcome != "inconclusive"


def test_the_terminal_and_the_check_of_retention_have_the_same_quarters() -> None:
    drawn = [float(index % 3 > 0) for index in range(50)]
    rows = rows_of("reliability", "", drawn, t=50)
    quarters = ", ".join(map(format_share, reversed(retention_of(rows, "free").quarters)))
    [line] = _retention_lines(rows, "free")
    assert line.endswith(f"oldest quarter first: {quarters}")


def test_equal_contestants_share_a_place_in_the_league_and_on_the_page() -> None:
    runs = [RUN._replace(editor=editor) for editor in ("a", "b", "c")]
    by_editor = {run.editor: [row for pair in RATES
                              for row in rows_of(*pair, [1.0] * (9 - (run.editor == "c")) + [0.0],
                                                 run=run)]
                 for run in runs}  # fmt: skip
    results = {Contestant("llama", "online", name, name): {10: rows}
               for name, rows in by_editor.items()}  # fmt: skip
    items = page_items([row for rows in by_editor.values() for row in rows])
    ranked = tables.league(tables.cells(items), tables.corners(items))
    places = dict(zip(ranked.editor, ranked.place, strict=True))
    assert places == {each.contestant.title: each.place for each in standings(results)}
    assert places == {"a": 1, "b": 1, "c": 3}


def test_a_verdict_of_the_suite_is_shown_and_not_judged_again(tmp_path: Path) -> None:
    rows = rows_of("reliability", "", [1.0] * 100, t=100)
    verdict = replace(judge([1.0] * 90 + [0.0] * 110, 0.6), n_looks=2, max_looks=3)
    path = tmp_path / "rows.verdicts.jsonl"
    write_rulings(path, [Ruling(RUN, "free", 100, "reliability", verdict)])
    [line] = judged.verdicts(page_items(rows), rulings=read_rulings(path)).itertuples()
    assert (line.outcome, line.mean, line.n, line.threshold) == ("fail", 0.45, 200, 0.6)
    assert line.words.endswith("(look 2 of 3)")


def test_a_line_that_is_no_verdict_is_named(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text('{"editor": "wise"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is not a verdict: 'model'"):
        read_rulings(path)


def test_a_resumed_call_keeps_the_verdicts_that_it_does_not_judge_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.verdicts.jsonl"
    low, high = judge([0.0] * 50, 0.85), judge([1.0] * 50, 0.85)
    first = [Ruling(RUN, "free", 100, name, low) for name in ("reliability", "far")]
    write_rulings(path, first)
    write_rulings(path, [Ruling(RUN, "free", 100, "far", high)], resume=True)
    assert [each.verdict for each in read_rulings(path)] == [low, high]
    write_rulings(path, first[1:])
    assert read_rulings(path) == first[1:]


def test_a_disk_that_is_full_leaves_the_verdicts_as_they_were(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limits on files")
    path = tmp_path / "rows.verdicts.jsonl"
    first = [Ruling(RUN, "free", 100, "reliability", judge([0.0] * 50, 0.85))]
    write_rulings(path, first)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_rulings(path, [Ruling(RUN, "free", 100, "far", first[0].verdict)], resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_rulings(path) == first
