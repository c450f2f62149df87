"""The league of a page: its worst corner is that of `reports league`, and ties are told as ties."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from properties.internals.measured import RATES, RUN, rows_of, run_rows
from reports import captions, tables
from reports.reading import Items
from wise.evaluation.league_table import counted, measures_of
from wise.measures.estimates import CORNERS, Estimate

pytestmark = pytest.mark.internals


def league_of(items: Items) -> pd.DataFrame:
    return tables.league(tables.cells(items), tables.corners(items))


def test_the_worst_corner_is_that_of_the_league_command(items_of: Callable[..., Items]) -> None:
    """Of unequal numbers of items, so that a mean of means is another number."""
    uneven = [("generalization", "1", 9), ("generalization", "2", 3), ("locality", "far", 7),
              ("locality", "near-subject", 8), ("locality", "near-relation", 2)]  # fmt: skip
    rows = rows_of("reliability", "", [1.0] * 9) + rows_of("portability", "portability", [0.0])
    for metric, kind, n in uneven:
        rows += rows_of(metric, kind, [float(index % 3 > 0) for index in range(n)])
    found = tables.corners(items_of(rows))
    expected = measures_of(counted(rows, 10))
    numbers = found.set_index("corner")[list(Estimate._fields)]
    assert [tuple(line) for line in numbers.itertuples(index=False)] == [
        expected[corner] for corner in numbers.index
    ]
    assert tuple(numbers.index) == CORNERS
    worst = min(expected[corner].mean for corner in CORNERS)
    assert set(league_of(items_of(rows)).worst) == {worst}


def test_equal_editors_share_a_place_and_corners_of_calibration_have_none(
    items_of: Callable[..., Items],
) -> None:
    runs = [RUN._replace(editor=name) for name in ("perfect", "a", "b", "none")]
    items = items_of([row for run in runs for row in run_rows(run, ts=(10,), protocols=("free",))])
    ranked = league_of(items)
    places = ranked.drop_duplicates("editor")[["editor", "place"]].to_numpy().tolist()
    assert places[:2] == [["a", 1], ["b", 1]]
    assert [editor for editor, _ in places[2:]] == ["perfect", "none"]
    assert ranked.place[ranked.editor.isin(["perfect", "none"])].isna().all()
    told = captions.league(ranked, tables.corners(items))
    assert "a and b are tied for the best worst corner, .55, among 2 editors" in told
    alone = ranked[ranked.editor != "b"]
    assert "a has the best worst corner, near at .55 [" in captions.league(
        alone, tables.corners(items)
    )
    assert "no editor is ranked" in captions.league(
        ranked[ranked.place.isna()], tables.corners(items)
    )


def test_equally_low_corners_are_all_named(items_of: Callable[..., Items]) -> None:
    rows = [row for pair in RATES for row in rows_of(*pair, [1.0] * 4)]
    items = items_of(rows)
    told = captions.triangle(tables.cells(items), tables.corners(items))
    assert "is reliability, generalization, far and near for wise, 1.00 [" in told


def test_the_league_is_sorted_by_the_worst_corner_at_the_last_common_t(
    items_of: Callable[..., Items],
) -> None:
    rows = run_rows(ts=(10, 20))
    even = dict.fromkeys(RATES, 0.7) | {("portability", "portability"): 0.0}
    rows += run_rows(RUN._replace(editor="even"), ts=(10,), rates=even)
    ranked = league_of(items_of(rows))
    free = ranked[ranked.protocol == "free"]
    assert set(free.t) == {10}
    places = free.drop_duplicates("editor")[["editor", "place", "worst"]].to_numpy().tolist()
    assert places == [["even", 1, 0.7], ["wise", 2, pytest.approx(0.55)]]


def test_an_editor_without_the_t_of_the_league_is_not_ranked(
    items_of: Callable[..., Items],
) -> None:
    runs = [RUN._replace(editor=name) for name in ("first", "second", "late")]
    rows = [row for run, t in zip(runs, (5, 5, 9), strict=True) for row in run_rows(run, ts=(t,))]
    ranked = league_of(items_of(rows))
    assert set(ranked.editor) == {"first", "second"}
