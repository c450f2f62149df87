"""The triangle: by T, along T, by age of the edit, by protocol, and two runs compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from reports.figures.style import INK, MUTED, intervals, label, mark, share_axis, t_axis
from reports.published import TRIANGLES, Triangle
from wise.measures.estimates import PROTOCOL_WORDS, TRIANGLE, Measure

__all__ = ["AT_MOST", "draw_curves", "draw_differences", "draw_protocols", "draw_retention",
           "draw_triangle"]  # fmt: skip

AT_MOST = "the most that any editor can reach"
_SHARE = "mean score, {confidence:g} % interval"


def _rows(table: pd.DataFrame) -> tuple[dict[tuple[str, str], int], list[tuple[str, bool]]]:
    """The line of each measure, and all labels, each with whether it is a heading."""
    places: dict[tuple[str, str], int] = {}
    labels: list[tuple[str, bool]] = []
    for metric, group in table.groupby("metric", sort=False):
        kinds = list(dict.fromkeys(group.kind))
        heads = kinds not in ([""], [metric])
        if heads:
            labels.append((metric, True))
        for kind in kinds:
            places[metric, kind] = len(labels)
            shown = Measure(metric, kind).header[1] if kind not in ("", metric) else metric
            labels.append((shown, not heads))
    return places, labels


def _measure_axis(ax: Axes, labels: Sequence[tuple[str, bool]]) -> None:
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(range(len(labels)), [text for text, _ in labels])
    for tick, (_, is_head) in zip(ax.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if is_head else "normal")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


def _offsets(n: int, width: float = 0.5) -> list[float]:
    return [width * (index - (n - 1) / 2) / max(n - 1, 1) for index in range(n)]


def draw_triangle(ax: Axes, table: pd.DataFrame, *, confidence: float) -> Axes:
    """The final cells of one editor: a row for each measure, a mark for each T, the last filled."""
    places, labels = _rows(table)
    checkpoints = sorted(table.t.unique())
    color = mark(0).color
    for index, (t, shift) in enumerate(zip(checkpoints, _offsets(len(checkpoints)), strict=True)):
        at_t = table[(table.t == t) & table["mean"].notna()]
        y = [places[pair] + shift for pair in zip(at_t.metric, at_t.kind, strict=True)]
        fill = color if t == checkpoints[-1] else "none"
        intervals(
            ax, at_t["mean"], y, at_t.low, at_t.high, axis="x", label=f"T={t:,}",
            marker=mark(index).marker, color=color, markerfacecolor=fill,
            alpha=1 if t == checkpoints[-1] else 0.65,
        )  # fmt: skip
        _ceilings(ax, at_t.at_most, y)
    _published_rows(ax, labels)
    share_axis(ax, "x", _SHARE.format(confidence=100 * confidence))
    _measure_axis(ax, labels)
    return ax


def _ceilings(ax: Axes, at_most: pd.Series, y: Sequence[float]) -> None:
    """A bar at the most that any editor can reach, in the rows where that is below 1."""
    told = ax.get_legend_handles_labels()[1]
    if at_most.notna().any():
        ax.plot(
            at_most, y, linestyle="none", marker="|", color=INK, markersize=8, markeredgewidth=1.3,
            label="_" if AT_MOST in told else AT_MOST,
        )  # fmt: skip


def _published_rows(ax: Axes, labels: Sequence[tuple[str, bool]]) -> None:
    """Grey marks in the first row of each corner."""
    tops = {text: place for place, (text, is_head) in enumerate(labels) if is_head}
    for index, paper in enumerate(each for each in TRIANGLES if each.t == 1000):
        corners = [corner for corner in TRIANGLE if corner in tops]
        ax.plot(
            [getattr(paper, corner) for corner in corners],
            [tops[corner] + (index - 0.5) * 0.34 for corner in corners],
            linestyle="none", marker="d<"[index], color=MUTED, markersize=4, alpha=0.9,
            label=f"{paper.name} paper*",
        )  # fmt: skip


def _along_t(ax: Axes, checkpoints: Sequence[int]) -> None:
    t_axis(ax, checkpoints)
    low, high = min(checkpoints), max(checkpoints)
    room = (high / low) ** 0.06 if high > low else 2
    ax.set_xlim(low / room, high * room)


def draw_curves(ax: Axes, table: pd.DataFrame, *, confidence: float, published: str = "") -> Axes:
    """The final cells of one measure along T, a line for each editor.

    `published` names the corner of the paper's triangle that is drawn in grey beside them.
    """
    editors = list(dict.fromkeys(table.editor))
    checkpoints = sorted(table.t.unique())
    spread = (max(checkpoints) / min(checkpoints)) ** 0.07
    if published:
        _published_line(ax, published, checkpoints)
    for index, (editor, shift) in enumerate(zip(editors, _offsets(len(editors), 1), strict=True)):
        own = table[(table.editor == editor) & table["mean"].notna()]
        how = {"label": label(editor), **mark(index)._asdict()}
        intervals(ax, own.t * spread**shift, own["mean"], own.low, own.high, **how)
    most = table[table.at_most.notna()].drop_duplicates("t")
    if len(most):
        ax.plot(most.t, most.at_most, ":_", color=INK, linewidth=1, label=AT_MOST)
    share_axis(ax, "y", f"mean score,\n{100 * confidence:g} % interval")
    _along_t(ax, checkpoints)
    return ax


def _published_line(ax: Axes, corner: str, checkpoints: Sequence[int]) -> None:
    def inside(paper: Triangle) -> bool:
        return min(checkpoints) <= paper.t <= max(checkpoints)

    papers = [each for each in TRIANGLES if each.name == "WISE" and inside(each)]
    ts, heights = [each.t for each in papers], [getattr(each, corner) for each in papers]
    ax.plot(ts, heights, ":d", color=MUTED, markersize=3.5, label="WISE paper*")


def draw_retention(ax: Axes, table: pd.DataFrame, *, confidence: float) -> Axes:
    """Reliability of one editor by age of the edit, final and at-edit."""
    for when, color, index in (("at-edit", MUTED, 1), ("final", mark(0).color, 0)):
        own = table[table.when == when]
        middle = (own.age_low + own.age_high) / 2 + (0 if when == "final" else 0.25)
        how = {"color": color, "marker": mark(index).marker, "label": when}
        how["markerfacecolor"] = color if when == "final" else "none"
        how["linestyle"] = "-" if when == "final" else ":"
        intervals(ax, middle, own["mean"], own.low, own.high, **how)
    share_axis(ax, "y", f"reliability, {100 * confidence:g} % interval")
    ax.set_xlabel("age of the edit: edits made after it")
    return ax


def draw_protocols(ax: Axes, table: pd.DataFrame, *, confidence: float) -> Axes:
    """Cells of one editor at one T, with separate marks for each protocol: those of the final
    model, and those of the unedited one where it was asked too."""
    places, labels = _rows(table)
    found = [
        condition
        for condition in itertools.product(PROTOCOL_WORDS, ("final", "unedited"))
        if _in_condition(table, *condition).any()
    ]
    for index, (protocol, when) in enumerate(found):
        own = table[_in_condition(table, protocol, when) & table["mean"].notna()]
        offset = ((index + 0.5) / len(found) - 0.5) * 0.72
        y = [places[pair] + offset for pair in zip(own.metric, own.kind, strict=True)]
        name = "unedited, " * (when == "unedited") + PROTOCOL_WORDS[protocol]
        how = {"label": name, **mark(index)._asdict()}
        how["markerfacecolor"] = how["color"] if index == 0 else "none"
        intervals(ax, own["mean"], y, own.low, own.high, axis="x", **how)
        _ceilings(ax, own.at_most, y)
    share_axis(ax, "x", _SHARE.format(confidence=100 * confidence))
    _measure_axis(ax, labels)
    return ax


def _in_condition(table: pd.DataFrame, protocol: str, when: str) -> pd.Series:
    return (table.protocol == protocol) & (table.when == when)


def draw_differences(ax: Axes, table: pd.DataFrame, *, confidence: float) -> Axes:
    """Paired differences of two runs by measure; right of the line the second is better."""
    places, labels = _rows(table)
    y = [places[pair] for pair in zip(table.metric, table.kind, strict=True)]
    ax.axvline(0, color=INK, linewidth=0.9)
    intervals(ax, table.difference, y, table.low, table.high, axis="x", **mark(0)._asdict())
    reach = max(0.05, *table.high.abs(), *table.low.abs()) * 1.08
    ax.set_xlim(-reach, reach)
    ax.set_xlabel(f"difference of mean scores, {100 * confidence:g} % interval")
    _measure_axis(ax, labels)
    return ax
