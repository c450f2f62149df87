"""Heat maps of the league, of two options and of tracing effects; the kill matrix by its checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

from reports.figures.style import AXIS, PALETTE, PAPER, label, tick_labels
from wise.measures.estimates import Measure
from wise.measures.statistics import format_share

__all__ = ["HEAT", "draw_effects", "draw_kills", "draw_league", "draw_options", "league_size"]

# From bad to good without red and green; text is white on its dark ends, black on its light middle.
HEAT = LinearSegmentedColormap.from_list(
    "reports", ["#7f3b08", "#e08214", "#fee0b6", "#d1e5f0", "#4393c3", "#053061"]
)
_MOST_CHECK = 56  # characters of a name
_EFFECT = LinearSegmentedColormap.from_list("effect", ["#f7fbff", "#6baed6", "#08306b"])


def league_size(table: pd.DataFrame) -> tuple[float, float]:
    """Width and height in inches of a league."""
    n_measures = len(table[["metric", "kind"]].drop_duplicates())
    width = 0.6 + 0.08 * min(48, table.editor.map(len).max())
    return width + 0.72 * (n_measures + 1), 0.9 + 0.44 * table.editor.nunique()


def _grid(
    ax: Axes, numbers: np.ndarray, texts: np.ndarray, *, colors: Colormap, low: float, high: float
) -> None:
    """A heat map with black text on light cells and white text on dark ones, on any page."""
    sns.heatmap(
        numbers, ax=ax, mask=np.isnan(numbers), vmin=low, vmax=high, cmap=colors, cbar=False,
        annot=texts, fmt="", annot_kws={"fontsize": 7, "linespacing": 1.25}, linewidths=0,
    )  # fmt: skip
    for text in ax.texts:
        is_light = text.get_color() not in ("w", "white", "#ffffff")
        text.set_color("#000000" if is_light else "#ffffff")
    ax.grid(visible=False)
    ax.tick_params(length=0)


def draw_league(ax: Axes, table: pd.DataFrame) -> Axes:
    """A line for each editor, in the order of the table: worst corner, then means and intervals."""
    editors = list(dict.fromkeys(table.editor))
    pairs = list(dict.fromkeys(zip(table.metric, table.kind, strict=True)))
    found = {(row.editor, row.metric, row.kind): row for row in table.itertuples()}
    numbers = np.full((len(editors), len(pairs) + 1), math.nan)
    texts = np.full(numbers.shape, "", dtype=object)
    for line, editor in enumerate(editors):
        for column, pair in enumerate(pairs):
            cell = found.get((editor, *pair))
            if cell is not None and not math.isnan(cell.mean):
                numbers[line, column + 1] = cell.mean
                bounds = f"{format_share(cell.low)}–{format_share(cell.high)}"
                texts[line, column + 1] = f"{format_share(cell.mean)}\n{bounds}"
                numbers[line, 0] = cell.worst
                texts[line, 0] = "" if math.isnan(cell.worst) else format_share(cell.worst)
    _grid(ax, numbers, texts, colors=HEAT, low=0, high=1)
    names = ["worst\ncorner", *("\n".join(_wrapped(Measure(*pair))) for pair in pairs)]
    ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=0, fontsize=7)
    ax.set_yticks(
        np.arange(len(editors)) + 0.5, [label(editor, 48) for editor in editors], rotation=0
    )
    ax.xaxis.tick_top()
    ax.axvline(1, color=PAPER, linewidth=4)
    return ax


def _wrapped(measure: Measure) -> list[str]:
    metric, kind = measure.header
    short = {"generalization": "general-\nization"}.get(metric, metric)
    return [short, kind] if kind else [short]


def draw_kills(ax: Axes, table: pd.DataFrame, checks: Sequence[str]) -> Axes:
    """A bar for each of `checks`: the faults that no other catches, and those that others do."""
    trips = table[table.trips]
    is_alone = trips.groupby("fault").check.transform("size") == 1
    parts = {"no other check catches": trips[is_alone], "others catch, too": trips[~is_alone]}
    left = np.zeros(len(checks))
    for color, (name, own) in zip(PALETTE, parts.items(), strict=False):
        n_faults = own.check.value_counts().reindex(checks, fill_value=0).to_numpy()
        ax.barh(range(len(checks)), n_faults, left=left, height=0.7, color=color, label=name)
        left += n_faults
    ax.set_yticks(range(len(checks)), [label(check, _MOST_CHECK) for check in checks])
    ax.set(ylim=(len(checks) - 0.4, -0.6), xlabel="planted faults that")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return ax


def draw_options(ax: Axes, table: pd.DataFrame, *, x: str, y: str) -> Axes:
    """The mean of the three corners at each value of two options; columns x, y, mean, text."""
    numbers = table.pivot_table(index=y, columns=x, values="mean").sort_index()
    texts = table.pivot_table(index=y, columns=x, values="text", aggfunc="first").sort_index()
    filled = texts.reindex_like(numbers).fillna("").to_numpy(dtype=object)
    _grid(ax, numbers.to_numpy(), filled, colors=HEAT, low=0, high=1)
    ax.set_xticks(np.arange(numbers.shape[1]) + 0.5, [f"{each:g}" for each in numbers.columns])
    ax.set_yticks(np.arange(numbers.shape[0]) + 0.5, [f"{each:g}" for each in numbers.index])
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    return ax


def draw_effects(ax: Axes, table: pd.DataFrame, *, row: str) -> Axes:
    """Tracing effects by layer and by `row` ("place" or "role"), in the order of the table."""
    order = list(dict.fromkeys(table[row]))
    numbers = table.pivot_table(index=row, columns="layer", values="effect").loc[order]
    reach = max(numbers.max().max(), 1e-9)
    how = {"cmap": _EFFECT, "vmin": 0, "vmax": reach, "edgecolors": "face", "linewidth": 0.4}
    mesh = ax.pcolormesh(numbers.to_numpy(), **how)
    layers = list(numbers.columns)
    every = math.ceil(len(layers) / 12)
    ax.set_xticks(np.arange(len(layers))[::every] + 0.5, layers[::every])
    ax.set_yticks(np.arange(len(order)) + 0.5, tick_labels(order))
    ax.set(ylim=(len(order), 0), xlabel="layer restored")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")
    bar.set_label("indirect effect (probability)", color=AXIS)
    return ax
