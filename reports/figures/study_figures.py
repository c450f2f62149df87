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
    legend_below,
    mark,
    share_axis,
    tick_labels,
    titled,
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
_UNITS = {"seconds_per_edit": "{x:g}", "bytes": EngFormatter("B"), "inference_ratio": "{x:g}"}


def draw_costs(ax: Axes, table: pd.DataFrame, *, what: str, cost: str) -> Axes:
    """One cost along T, a line for each editor; bars from the lowest to the highest seed."""
    checkpoints = sorted(table.t.unique())
    for index, (editor, own) in enumerate(table.groupby("editor", sort=False)):
        how = {
            "color": mark(index).color,
            "marker": mark(index).marker,
            "label": label(str(editor)),
        }
        intervals(ax, own.t, own["mean"], own.low, own.high, **how)
    ax.set_xscale("log" if len(checkpoints) > 1 else "linear")
    ax.set_xticks(checkpoints, [f"{t:,}" for t in checkpoints])
    if table.high.max() > 20 * max(table.low.min(), 1e-12) and table.low.min() > 0:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(_UNITS[cost])
    ax.minorticks_off()
    ax.set(xlabel="edits made, T", ylabel=_COSTS[cost])
    titled(ax, what)
    legend_below(ax)
    return ax


def draw_layers(ax: Axes, tables: dict[str, pd.DataFrame], *, what: str, unit: str) -> Axes:
    """Means by layer with their intervals, a line for each name in `tables`."""
    for index, (name, table) in enumerate(tables.items()):
        how = {"color": mark(index).color, "marker": mark(index).marker, "label": name}
        intervals(ax, table.layer, table["mean"], table.low, table.high, **how)
    layers = sorted({layer for table in tables.values() for layer in table.layer})
    every = max(1, math.ceil(len(layers) / 12))
    ax.set_xticks(layers[::every])
    ax.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    ax.set(xlabel="layer", ylabel=unit)
    titled(ax, what)
    legend_below(ax)
    return ax


def draw_scatter(
    ax: Axes, study: pd.DataFrame, lines: pd.DataFrame, *, what: str, score: str
) -> Axes:
    """A point for each fact and layer; a line for each layer, from blue to orange."""
    layers = sorted(study.layer.unique())
    colors = {layer: _SHADES(i / max(len(layers) - 1, 1)) for i, layer in enumerate(layers)}
    ax.scatter(
        study.tracing, study[score], s=7, alpha=0.45, linewidths=0,
        c=[colors[layer] for layer in study.layer],
    )  # fmt: skip
    for line in lines.itertuples():
        ends = [line.least, line.most]
        heights = [line.intercept + line.slope * x for x in ends]
        is_end = line.layer in (layers[0], layers[-1])
        name = f"layer {line.layer}" if is_end else None
        ax.plot(ends, heights, color=colors[line.layer], label=name)
    ax.set(xlabel="tracing effect at the layer", ylabel=f"{score} score")
    titled(ax, what)
    legend_below(ax)
    return ax


def draw_r2(ax: Axes, table: pd.DataFrame, *, what: str) -> Axes:
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
    titled(ax, what)
    legend_below(ax)
    return ax


def draw_strongest(ax: Axes, table: pd.DataFrame, *, what: str) -> Axes:
    """How many facts have their strongest effect at each layer."""
    weights = {"x": table.layer, "weights": table.n_facts, "discrete": True}
    sns.histplot(**weights, ax=ax, color=PALETTE[0], alpha=1, edgecolor="none", shrink=0.8)
    ax.set(xlabel="layer of the strongest effect", ylabel="facts")
    ax.set_xticks(table.layer[:: math.ceil(len(table) / 12)])
    ax.yaxis.get_major_locator().set_params(integer=True)
    titled(ax, what)
    return ax


def draw_merges(ax: Axes, table: pd.DataFrame, *, what: str, confidence: float) -> Axes:
    """The three corners of each merge method, and the paper's for those that it has in grey."""
    methods = list(dict.fromkeys(table["merge"]))
    for index, corner in enumerate(TRIANGLE):
        own = table[table.metric == corner]
        shift = (index - 1) * 0.24
        y = [methods.index(method) + shift for method in own["merge"]]
        how = {"fmt": mark(index).marker, "color": mark(index).color, "label": corner}
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
    titled(ax, what)
    legend_below(ax)
    return ax
