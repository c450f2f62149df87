"""Figures of layers, regressions, strongest layers, costs and merges."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import EngFormatter

from reports.figures.style import (
    MUTED,
    PALETTE,
    intervals,
    label,
    mark,
    share_axis,
    t_axis,
    tick_labels,
)  # fmt: skip
from reports.published import MERGES
from wise.measures.estimates import TRIANGLE

__all__ = ["draw_costs", "draw_layers", "draw_merges", "draw_r2", "draw_scatter", "draw_strongest"]

_COSTS = {
    "seconds_per_edit": "seconds per edit",
    "bytes": "bytes added",
    "inference_ratio": "inference time / bare model's",
}
_SHADES = LinearSegmentedColormap.from_list("layers", ["#2b7bba", "#8a6fbf", "#d1662f"])
_UNITS: dict[str, str | EngFormatter] = {
    "seconds_per_edit": "{x:g}",
    "bytes": EngFormatter("B"),
    "inference_ratio": "{x:g}",
}


def draw_costs(ax: Axes, table: pd.DataFrame) -> Axes:
    """One cost along T, a line for each editor; bars from the lowest to the highest seed."""
    for index, (editor, own) in enumerate(table.groupby("editor", sort=False)):
        how = {"label": label(str(editor)), **mark(index)._asdict()}
        intervals(ax, own.t, own["mean"], own.low, own.high, **how)
    t_axis(ax, sorted(table.t.unique()))
    if table.high.max() > 20 * max(table.low.min(), 1e-12) and table.low.min() > 0:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    cost = table.cost.iloc[0]
    ax.yaxis.set_major_formatter(_UNITS[cost])
    ax.minorticks_off()
    ax.set_ylabel(_COSTS[cost])
    return ax


def draw_layers(ax: Axes, tables: dict[str, pd.DataFrame], *, unit: str) -> Axes:
    """Means of shares by layer with their intervals, a line for each name in `tables`."""
    for index, (name, table) in enumerate(tables.items()):
        how = {"label": name, **mark(index)._asdict()}
        intervals(ax, table.layer, table["mean"], table.low, table.high, **how)
    layers = sorted({layer for table in tables.values() for layer in table.layer})
    ax.set_xticks(layers[:: math.ceil(len(layers) / 12)])
    ax.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    ax.set_xlabel("layer")
    share_axis(ax, "y", unit)
    return ax


def draw_scatter(ax: Axes, study: pd.DataFrame, lines: pd.DataFrame, *, score: str) -> Axes:
    """A point for each fact and layer; a line for each layer, from blue to orange."""
    layers = sorted(study.layer.unique())
    colors = {layer: _SHADES(i / max(len(layers) - 1, 1)) for i, layer in enumerate(layers)}
    ax.scatter(
        study.tracing, study[score], s=12, alpha=0.5, linewidths=0, clip_on=False,
        c=[colors[layer] for layer in study.layer],
    )  # fmt: skip
    for line in lines.itertuples():
        ends = [line.least, line.most]
        heights = [line.intercept + line.slope * x for x in ends]
        is_end = line.layer in (layers[0], layers[-1])
        name = f"layer {line.layer}" if is_end else None
        ax.plot(ends, heights, color=colors[line.layer], label=name)
    share_axis(ax, "x", "tracing effect: share of the total effect restored")
    share_axis(ax, "y", f"{score} score")
    return ax


def draw_r2(ax: Axes, table: pd.DataFrame) -> Axes:
    """R2 of edit success on the layer, without and with the tracing effect, for each problem."""
    table = table.reset_index(drop=True)
    for index, (column, name) in enumerate(
        (("r2_layer", "layer"), ("r2_both", "layer and tracing"))
    ):
        y = [place + (index - 0.5) * 0.36 for place in table.index]
        ax.barh(y, table[column], height=0.32, color=PALETTE[index], label=name)
        low, high = f"{column}_low", f"{column}_high"
        if low in table and high in table:
            how = {"fmt": "none", "ecolor": MUTED, "elinewidth": 1.6}
            intervals(ax, table[column], y, table[low], table[high], axis="x", **how)
    ax.set_yticks(table.index, tick_labels(table.problem))
    ax.set_ylim(len(table) - 0.5, -0.5)
    share_axis(ax, "x", "share of variance explained, R²")
    return ax


def draw_strongest(ax: Axes, table: pd.DataFrame) -> Axes:
    """How many facts have their strongest effect at each layer."""
    sns.histplot(
        x=table.layer, weights=table.n_facts, discrete=True, ax=ax,
        color=PALETTE[0], alpha=1, edgecolor="none", shrink=0.8,
    )  # fmt: skip
    ax.set(xlabel="layer of the strongest effect", ylabel="facts")
    ax.set_xticks(table.layer[:: math.ceil(len(table) / 12)])
    ax.locator_params("y", integer=True)
    return ax


def draw_merges(ax: Axes, table: pd.DataFrame, *, confidence: float) -> Axes:
    """The three corners of each merge method, and the paper's for those that it has in grey."""
    methods = list(dict.fromkeys(table["merge"]))
    for index, corner in enumerate(TRIANGLE):
        own = table[table.metric == corner]
        shift = (index - 1) * 0.24
        y = [methods.index(method) + shift for method in own["merge"]]
        how = {"label": corner, **mark(index)._asdict()}
        intervals(ax, own["mean"], y, own.low, own.high, axis="x", **how)
        named = [method for method in methods if method in MERGES]
        ax.plot(
            [MERGES[method][index] for method in named],
            [methods.index(method) + shift for method in named],
            linestyle="none", marker="|", color=MUTED, markersize=8, markeredgewidth=1.6,
            label="WISE paper*" if named and not index else None,
        )  # fmt: skip
    share_axis(ax, "x", f"mean score, {100 * confidence:g} % interval")
    ax.set_yticks(range(len(methods)), tick_labels(methods))
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    return ax
