"""The router: its activations, the share it lets through, and how both drift with T."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from reports.figures.style import INK, intervals, mark, t_axis
from reports.routing_tables import OUTSIDE
from wise.measures.estimates import bounded

__all__ = ["draw_activations", "draw_drift"]

_KINDS = ("edit", "paraphrase", *OUTSIDE)
_THRESHOLD = {"color": INK, "marker": "_", "linestyle": "--"}


def draw_activations(ax: Axes, table: pd.DataFrame) -> Axes:
    """One editor at one T: middle 50 % and 90 % of each kind; right, the share let through."""
    kinds = list(table.kind)
    outside = table.kind.isin(OUTSIDE).to_numpy()
    for is_outside, index, name in ((False, 0, "in scope"), (True, 1, "outside")):
        own = table[outside == is_outside]
        y = [kinds.index(kind) for kind in own.kind]
        color = mark(index).color
        ax.hlines(y, own.q05, own.q95, color=color, linewidth=1.1)
        ax.hlines(y, own.q25, own.q75, color=color, linewidth=4)
        ax.plot(own["median"], y, "o", color=color, markersize=6, markeredgecolor=INK, label=name)
    ax.axvline(1, color=INK, linewidth=1, linestyle="--", label="threshold")
    _positive_axis(ax, "x", table.q05.min(), max(2.0, table.q95.max() * 1.5))
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_xlabel("routing activation / threshold")
    for place, row in enumerate(table.itertuples()):
        text = bounded(row.mean, row.low, row.high)
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
    ax.text(1.02, -0.75, "let through", transform=ax.get_yaxis_transform(), fontsize=7)
    ax.tick_params(axis="y", length=0)
    return ax


def _positive_axis(ax: Axes, axis: str, low: float, high: float) -> None:
    """A logarithmic axis; where 0 occurs, logarithmic only above .1."""
    how = {"value": "log"} if low > 0 else {"value": "symlog", "linthresh": 0.1}
    getattr(ax, f"set_{axis}scale")(**how)
    getattr(ax, f"set_{axis}lim")(low / 1.5, high)
    getattr(ax, f"{axis}axis").set_major_formatter(lambda value, _: f"{value:g}")
    ax.minorticks_off()


def draw_drift(ax: Axes, table: pd.DataFrame) -> Axes:
    """One editor along T: the median and middle 50 % of each kind, and the threshold."""
    for what in ("threshold", *_KINDS):
        own = table[table.what == what]
        if own.empty:
            continue
        how = _THRESHOLD if what == "threshold" else mark(_KINDS.index(what))._asdict()
        intervals(ax, own.t, own["median"], own.low, own.high, label=what, **how)
    t_axis(ax, sorted(table.t.unique()))
    _positive_axis(ax, "y", table.low.min(), table.high.max() * 1.5)
    ax.set_ylabel("routing activation")
    return ax
