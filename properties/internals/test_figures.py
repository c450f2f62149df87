"""Every figure draws the numbers that its rows hold: marks, intervals, texts, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from properties.internals.measured import RATES, RUN, contradicting, rows_of, run_rows, write_rows
from reports import tables
from reports.figures import grids, style
from reports.figures import triangle_figures as triangle
from reports.figures.style import new_axes, styled
from reports.reading import read_items
from wise.measures.rows import Row
from wise.measures.statistics import format_share, interval

pytestmark = pytest.mark.internals

Tabulated = Callable[[Sequence[Row]], pd.DataFrame]
HOW: dict[str, Any] = {"confidence": 0.95}


@pytest.fixture(autouse=True)
def in_style() -> Iterator[None]:
    with styled():
        yield


@pytest.fixture
def cells_of(tmp_path: Path) -> Tabulated:
    def cells_of(rows: Sequence[Row]) -> pd.DataFrame:
        return tables.cells(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))

    return cells_of


@pytest.fixture
def ranked_of(tmp_path: Path) -> Tabulated:
    def ranked_of(rows: Sequence[Row]) -> pd.DataFrame:
        items = read_items([write_rows(tmp_path / "rows.jsonl", rows)])
        return tables.league(tables.cells(items), tables.corners(items))

    return ranked_of


def plotted(ax: Axes, name: str) -> list[tuple[float, float, float, float]]:
    """x, y, and the ends of the interval of each mark with the label `name`."""
    found = []
    for container in ax.containers:
        if container.get_label() != name:
            continue
        line, _, (bars,) = container
        for (x, y), (start, end) in zip(line.get_xydata(), bars.get_segments(), strict=True):
            along = 1 if start[0] == end[0] else 0
            found.append((float(x), float(y), float(start[along]), float(end[along])))
    return found


def labels(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def test_the_triangle_shows_each_mean_with_its_interval(cells_of: Tabulated) -> None:
    cells = cells_of(run_rows())
    own = cells[(cells.when == "final") & (cells.protocol == "free")]
    ax = triangle.draw_triangle(new_axes(), own, **HOW)
    found = plotted(ax, "T=10")
    scores = [[0.0] * (10 - round(10 * rate)) + [1.0] * round(10 * rate) for rate in RATES.values()]
    expected = [(sum(each) / 10, *interval(each)) for each in scores]
    assert [(x, low, high) for x, _, low, high in found] == pytest.approx(
        [pytest.approx(each) for each in expected]
    )
    rows = ["reliability", "generalization", "level 1", "level 2", "locality", "far"]
    assert labels(ax) == [*rows, "near-subject", "near-relation", "portability"]
    assert [round(y) for _, y, _, _ in found] == [0, 2, 3, 5, 6, 7, 8]
    assert len(plotted(ax, "T=1")) == len(RATES)


def test_the_most_that_any_editor_can_reach_is_a_bar_beside_the_score(tmp_path: Path) -> None:
    rows = [*run_rows(protocols=("free",), ts=(10,)), *contradicting(4, t=100)]
    items = read_items([write_rows(tmp_path / "rows.jsonl", rows)])
    cells = tables.cells(items, tables.attainable(items))
    final = cells[cells.when == "final"]
    for draw, place in ((triangle.draw_triangle, 0), (triangle.draw_curves, 1)):
        ax = draw(new_axes(), final, **HOW)
        (most,) = (line for line in ax.lines if line.get_label() == triangle.AT_MOST)
        drawn = [point[place] for point in most.get_xydata() if not math.isnan(point[place])]
        assert drawn == [4 / 5]


def test_papers_are_grey_marks_of_their_own(cells_of: Tabulated) -> None:
    cells = cells_of(run_rows(protocols=("free",)))
    ax = triangle.draw_triangle(new_axes(), cells[cells.when == "final"], **HOW)
    papers = {line.get_label(): line for line in ax.lines if "paper" in str(line.get_label())}
    assert list(papers["WISE paper*"].get_xdata()) == [0.77, 0.72, 1.00]
    assert list(papers["MEMOIR paper*"].get_xdata()) == [0.94, 0.85, 1.00]
    assert {line.get_color() for line in papers.values()} == {style.MUTED}


def test_curves_go_through_the_means_of_each_editor(cells_of: Tabulated) -> None:
    other = RUN._replace(editor="other")
    rows = []
    for t in (2, 20):
        rows += rows_of("reliability", "", [1.0] * t, t=t)
        rows += rows_of("reliability", "", [0.0, 1.0] * (t // 2), run=other, t=t)
    cells = cells_of(rows)
    ax = triangle.draw_curves(new_axes(), cells, published="reliability", **HOW)
    assert [y for _, y, _, _ in plotted(ax, "wise")] == [1.0, 1.0]
    found = plotted(ax, "other")
    assert [x for x, *_ in found] == pytest.approx([2, 20], rel=0.1)  # beside the other editor
    assert found[1][1:] == pytest.approx((0.5, *interval([0.0] * 10 + [1.0] * 10)))
    (paper,) = (line for line in ax.lines if line.get_label() == "WISE paper*")
    assert paper.get_xydata().tolist() == [[10, 0.94]]
    assert ax.get_xscale() == "log"


def test_one_t_alone_is_drawn_on_a_plain_axis(cells_of: Tabulated) -> None:
    cells = cells_of(rows_of("reliability", "", [1.0] * 7, t=7))
    ax = triangle.draw_curves(new_axes(), cells, **HOW)
    assert ax.get_xscale() == "linear"
    assert plotted(ax, "wise")[0][:2] == (7, 1.0)


def test_retention_shows_final_and_at_edit_by_age(tmp_path: Path) -> None:
    rows = rows_of("reliability", "", [1.0] * 10, when="at-edit")
    rows += rows_of("reliability", "", [0.0] * 5 + [1.0] * 5)
    ages = tables.retention(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))
    ax = triangle.draw_retention(new_axes(), ages, **HOW)
    assert [(x, y) for x, y, _, _ in plotted(ax, "final")] == [(2, 1.0), (7, 0.0)]
    assert [y for _, y, _, _ in plotted(ax, "at-edit")] == [1.0, 1.0]
    assert "edits made after it" in ax.get_xlabel()


def test_protocols_are_two_marks_and_never_one(cells_of: Tabulated) -> None:
    rows = rows_of("reliability", "", [0.0, 1.0]) + rows_of(
        "reliability", "", [1.0, 1.0], protocol="forced"
    )
    ax = triangle.draw_protocols(new_axes(), cells_of(rows), **HOW)
    assert [x for x, *_ in plotted(ax, "free-run")] == [0.5]
    assert [x for x, *_ in plotted(ax, "teacher-forced")] == [1.0]


def test_the_league_writes_each_number_and_sorts_by_the_worst_corner(ranked_of: Tabulated) -> None:
    even = RUN._replace(editor="even")
    rows = run_rows(protocols=("free",), ts=(10,))
    rows += run_rows(even, protocols=("free",), ts=(10,), rates=dict.fromkeys(RATES, 0.7))
    ranked = ranked_of(rows)
    ax = grids.draw_league(new_axes(8, 3), ranked)
    assert labels(ax) == ["even", "wise"]
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == ".70"
    assert texts[len(RATES) + 1] == ".55"  # near is near-subject and near-relation together
    low, high = interval([1.0] * 9 + [0.0])
    assert texts[len(RATES) + 2] == f".90\n{format_share(low)}–{format_share(high)}"
    numbers = ax.collections[0].get_array()
    assert np.allclose(numbers[1], [0.55, *RATES.values()])


def test_a_measure_that_an_editor_lacks_is_an_empty_cell(ranked_of: Tabulated) -> None:
    other = RUN._replace(editor="other")
    rows = rows_of("reliability", "", [1.0]) + rows_of("locality", "far", [1.0])
    ranked = ranked_of([*rows, *rows_of("reliability", "", [1.0], run=other)])
    ax = grids.draw_league(new_axes(8, 3), ranked)
    assert np.ma.getmaskarray(ax.collections[0].get_array()).tolist() == [
        [False, False, False],
        [False, False, True],
    ]


def test_a_check_has_a_bar_of_the_faults_that_it_catches_alone_and_with_others() -> None:
    caught = dict(forgets="a", leaks="ab", crashes="a", drifts="b", stays="")
    table = pd.DataFrame(
        [(fault, check, check in checks) for fault, checks in caught.items() for check in "abc"],
        columns=["fault", "check", "trips"],
    )
    ax = grids.draw_kills(new_axes(), table, ["a", "b"])
    alone, shared = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert (alone, shared) == ([2, 1], [1, 1])
    assert labels(ax) == ["a", "b"]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_mark_and_text_stands_out_from_the_page(theme: int) -> None:
    def luminance(color: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)
        ]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(color: str) -> float:
        high, low = sorted([luminance(color), luminance(colors(style.PAPER))], reverse=True)
        return (high + 0.05) / (low + 0.05)

    def colors(color: str) -> str:
        return style.THEME[color] if theme else color

    marks = {color: contrast(colors(color)) for color in style.PALETTE}
    assert min(marks.values()) >= 3, marks
    texts = {color: contrast(colors(color)) for color in (style.INK, style.AXIS, style.MUTED)}
    assert min(texts.values()) >= 4.5, texts


def test_marks_of_sixty_series_differ() -> None:
    assert len({style.mark(index) for index in range(60)}) >= 56


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("wise", "wise"),
        ("wise(memory=merge, mask_ratio=0.1, n_shards=2)", "wise(memory=merge…=0.1, n_shards=2)"),
        ("a\x00b\u202ec", "a⟨U+0000⟩b⟨U+202E⟩c"),
        ("x" * 10_000, "x" * 17 + "…" + "x" * 17),
    ],
)
def test_a_label_is_visible_and_short(name: str, shown: str) -> None:
    assert style.label(name) == shown
