"""The league, the triangle, the curves along T, retention and protocols, from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from reports import captions, tables
from reports.csv_text import listed
from reports.figures import grids
from reports.figures import triangle_figures as triangle
from reports.figures.style import label
from reports.published import TRIANGLES
from reports.reading import Items
from reports.sections.section import Panel, Section, panel, panels_of, rows_height, shown
from wise.measures.estimates import PROTOCOL_WORDS, TRIANGLE, Measure

__all__ = ["of_scores"]

_MOST_TS = 4


@dataclass(frozen=True)
class _Scene:
    """The content of one figure: one model, stream and protocol, the best editor first."""

    number: int
    place: str
    cells: pd.DataFrame
    corners: pd.DataFrame
    ranked: pd.DataFrame
    ages: pd.DataFrame
    confidence: float


def of_scores(
    items: Items, reached: pd.DataFrame | None = None, *, confidence: float = 0.95
) -> Iterator[Section]:
    """Scene by scene: free-run, teacher-forced where an editor has nothing else, then both.

    `reached` are the ceilings of `tables.attainable`, shown beside the scores.
    """
    cells = tables.cells(items, reached, confidence=confidence)
    ages = tables.retention(items, confidence=confidence)
    corners = tables.corners(items, confidence=confidence)
    ranked = tables.league(cells, corners)
    final = cells[cells.when == "final"]
    scenes = final.groupby(["model", "stream"], sort=False)
    for number, ((model, stream), of_stream) in enumerate(scenes, start=1):
        place = f"{model}, {stream}" if len(scenes) > 1 else ""
        for protocol in _main_protocols(of_stream):
            where = {"model": model, "stream": stream, "protocol": protocol}
            parts = [_where(each, where) for each in (final, corners, ranked, ages)]
            editors = list(dict.fromkeys([*parts[2].editor, *parts[0].editor]))
            here, edges, best, aged = (_in_order(each, editors) for each in parts)
            name = " · ".join(filter(None, [place, PROTOCOL_WORDS[protocol]]))
            key = number * 10 + list(PROTOCOL_WORDS).index(protocol)
            yield from _of_scene(_Scene(key, name, here, edges, best, aged, confidence))
        beside = _where(cells[cells.when != "at-edit"], {"model": model, "stream": stream})
        last = beside[beside.t == beside.groupby("editor").t.transform("max")]
        if len(last[["protocol", "when"]].drop_duplicates()) > 1:
            best_first = list(dict.fromkeys([*ranked.editor, *last.editor]))
            last = _in_order(last, best_first)
            yield _by_editor(
                _Scene(number * 10, place, last, corners, ranked, ages, confidence), last,
                "protocols", "The protocols side by side", triangle.draw_protocols,
                captions.protocols, _rows_height,
            )  # fmt: skip


def _main_protocols(table: pd.DataFrame) -> list[str]:
    of_editors = table.groupby("editor").protocol.agg(set)
    wanted = {min(found, key=[*PROTOCOL_WORDS].index) for found in of_editors}
    return [protocol for protocol in PROTOCOL_WORDS if protocol in wanted]


def _where(table: pd.DataFrame, values: dict[str, str]) -> pd.DataFrame:
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def _in_order(table: pd.DataFrame, editors: list[str]) -> pd.DataFrame:
    place = {editor: index for index, editor in enumerate(editors)}
    return table.sort_values("editor", key=lambda names: names.map(place), kind="stable")


def _of_scene(scene: _Scene) -> Iterator[Section]:
    if scene.ranked.editor.nunique() > 1:
        name, title = f"league-{scene.number}", "The league, best worst corner first"
        caption = captions.league(scene.ranked, scene.corners)
        width, height = grids.league_size(scene.ranked)
        grid = panel(
            grids.draw_league, scene.ranked, name=name, title=title, caption=caption, heading="",
            width=width, height=height,
        )  # fmt: skip
        absent = [e for e in dict.fromkeys(scene.cells.editor) if e not in set(scene.ranked.editor)]
        note = f"Not measured at this T: {listed([label(e) for e in absent])}." if absent else ""
        yield Section(name, title, caption, scene.ranked, (grid,), note, scene.place)
    yield _by_editor(
        scene, scene.cells, "triangle", "The triangle after T edits", triangle.draw_triangle,
        lambda table: captions.triangle(table, scene.corners), _rows_height, of=_some_ts,
        note=captions.footnote(),
    )  # fmt: skip
    if scene.cells.t.nunique() > 1:
        yield _curves(scene)
    if len(scene.ages):
        yield _by_editor(
            scene, scene.ages, "retention", "Retention by age of the edit",
            triangle.draw_retention, captions.retention,
        )  # fmt: skip


def _by_editor(
    scene: _Scene,
    table: pd.DataFrame,
    name: str,
    title: str,
    plot: Callable[..., Axes],
    caption: Callable[[pd.DataFrame], str],
    height: Callable[[pd.DataFrame], float] = lambda _: 2.7,
    *,
    of: Callable[[pd.DataFrame], pd.DataFrame] = lambda own: own,
    note: str = "",
) -> Section:
    """A section with a panel for each of the first editors, drawn `of` its part of the table."""
    editors, word = shown(table)
    name = f"{name}-{scene.number}"
    panels = panels_of(
        plot, ((editor, of(table[table.editor == editor])) for editor in editors), name=name,
        caption=lambda _, own: caption(own), height=height, confidence=scene.confidence,
    )  # fmt: skip
    note = " ".join(filter(None, [note, word]))
    return Section(name, title, caption(table), table, panels, note, scene.place)


def _rows_height(table: pd.DataFrame) -> float:
    return rows_height(len(table[["metric", "kind"]].drop_duplicates()) + 2) - 0.4


def _some_ts(table: pd.DataFrame) -> pd.DataFrame:
    """First and last T, and some evenly between."""
    ts = sorted(table.t.unique())
    steps = range(min(_MOST_TS, len(ts)))
    return table[table.t.isin([ts[round(i * (len(ts) - 1) / max(steps[-1], 1))] for i in steps])]


def _curves(scene: _Scene) -> Section:
    cells, name = scene.cells, f"curves-{scene.number}"
    editors, word = shown(cells)
    drawn = cells[cells.editor.isin(editors)]
    corners, panels = list(TRIANGLE), list[Panel]()
    for (metric, kind), own in drawn.groupby(["metric", "kind"], sort=False):
        published = metric if metric in corners else ""
        corners = [corner for corner in corners if corner != metric]
        panels.append(panel(
            triangle.draw_curves, own, name=f"{name}-{len(panels) + 1}",
            title=str(Measure(metric, kind)), caption=captions.curves(own), height=2.1,
            published=published, confidence=scene.confidence,
        ))  # fmt: skip
    has_papers = any(cells.t.min() <= paper.t <= cells.t.max() for paper in TRIANGLES)
    note = " ".join(filter(None, [captions.footnote() if has_papers else "", word]))
    caption = captions.curves(cells[cells.metric == "reliability"])
    return Section(name, "Along T", caption, cells, tuple(panels), note, scene.place)
