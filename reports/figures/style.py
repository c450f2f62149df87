"""The look of every figure: colours for light and dark pages, marks, fonts, axes of a share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from wise.measures.text import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.typing import RcKeyType

__all__ = [
    "AXIS",
    "GRID",
    "INK",
    "MUTED",
    "PALETTE",
    "PANEL_WIDTH",
    "PAPER",
    "THEME",
    "Mark",
    "figure_of",
    "intervals",
    "label",
    "legend_below",
    "mark",
    "new_axes",
    "share_axis",
    "styled",
    "t_axis",
    "tick_labels",
    "titled",
]

PANEL_WIDTH = 3.55  # inches; 341 pixels of a page, so that it fits a phone
_MOST_LABEL = 34  # characters
_FOLDERS = re.compile(r"^([^\s:(/]*/)+(?=[^/:]+:)|^(\w+\.)+(?=\w+:)")
_LEGEND_DROP = -32  # points below the axes: ticks and label
_LEGEND_LINE = 0.17  # inches
_MOST_TICK = 20  # characters
_MOST_TITLE = 42  # characters
_MOST_IN_COLUMN = 17  # characters

PAPER, INK, AXIS, GRID, MUTED = "#fffffe", "#1f2328", "#6e7781", "#d8dee4", "#6e7782"
# After Okabe and Ito, Color Universal Design, 2008, darkened or lightened to a contrast of 3 to 1.
PALETTE = (
    "#0072b2", "#c25a00", "#00795c", "#a8528c", "#8a6d00", "#3a7ca5", "#7a4fbf", "#5c5c5c",
)  # fmt: skip
_LIGHT = (
    "#56b4e9", "#f0963c", "#2fbf94", "#dd94c5", "#d9c03f", "#8cc4e0", "#b79cf0", "#b0b0b0",
)  # fmt: skip
# What a dark page shows in place of each colour above.
THEME = {
    PAPER: "#0d1117",
    INK: "#e6edf3",
    AXIS: "#8b949e",
    GRID: "#373e47",
    MUTED: "#9aa3ad",
    **dict(zip(PALETTE, _LIGHT, strict=True)),
}
_MARKERS = "osD^vPX*"

_RC: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": AXIS,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "reports",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": AXIS,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.color": AXIS,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 7.5,
}


class Mark(NamedTuple):
    """How one series is drawn: a colour, and a marker for readers who cannot tell colours apart."""

    color: str
    marker: str


@contextmanager
def styled() -> Iterator[None]:
    """Gives figures made and written inside the style of the page."""
    with mpl.rc_context(_RC):
        yield


def new_axes(width: float = PANEL_WIDTH, height: float = 2.6) -> Axes:
    """The only axes of a new figure of `width` x `height` inches."""
    return Figure(figsize=(width, height), layout="constrained").subplots()


def figure_of(ax: Axes) -> Figure:
    """The whole figure that `ax` is in; raises ValueError for axes in none, or in a part of one."""
    if not isinstance(ax.figure, Figure):
        raise ValueError(f"the axes are in {ax.figure}; they must be in a whole figure")
    return ax.figure


def mark(index: int) -> Mark:
    """The mark of series number `index`; from the ninth on, colours repeat."""
    return Mark(PALETTE[index % len(PALETTE)], _MARKERS[(index + index // 8) % len(_MARKERS)])


def label(text: str, most: int = _MOST_LABEL) -> str:
    """Any name as a label: with invisible characters shown, and shortened where it is long.

    `package.module:factory` keeps the last module, `folder/file.py:factory` the file; any other
    name loses its middle.
    """
    text = visible(text)
    if len(text) > most:
        text = _FOLDERS.sub("…", text)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def tick_labels(names: Iterable[object]) -> list[str]:
    """Names as labels beside an axis, short enough to leave it room."""
    return [label(str(name), _MOST_TICK) for name in names]


def intervals(
    ax: Axes,
    x: pd.Series | Sequence[float],
    y: pd.Series | Sequence[float],
    low: pd.Series,
    high: pd.Series,
    *,
    axis: str = "y",
    **how: Any,
) -> None:
    """Marks with their intervals; missing numbers are not drawn."""
    along: pd.Series = y if axis == "y" else x
    how = {"linestyle": "-" if axis == "y" else "none", "elinewidth": 1.1, **how}
    how[f"{axis}err"] = [along - low, high - along]
    ax.errorbar(x, y, capsize=0, **how)


def titled(ax: Axes, text: str) -> None:
    """A title over the whole figure, from its left edge."""
    shown = label(text, _MOST_TITLE)
    figure_of(ax).suptitle(shown, x=0.01, ha="left", fontsize=9, fontweight="bold")


def share_axis(ax: Axes, axis: str, text: str) -> None:
    """An axis of a share in [0, 1], with room for marks at its ends."""
    ax.set(**{f"{axis}lim": (-0.04, 1.04), f"{axis}ticks": [0, 0.25, 0.5, 0.75, 1]})
    ax.set(**{f"{axis}ticklabels": ["0", ".25", ".50", ".75", "1"], f"{axis}label": text})


def t_axis(ax: Axes, checkpoints: Sequence[int]) -> None:
    """The number of edits, with a tick at each checkpoint."""
    ax.set_xscale("log" if len(checkpoints) > 1 else "linear")
    ax.set_xticks(checkpoints, [f"{t:,}" for t in checkpoints])
    ax.minorticks_off()
    ax.set_xlabel("edits made, T")


def legend_below(ax: Axes) -> None:
    """A legend below the axis label; the figure grows by its height. None without labels."""
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    n_columns = 2 if max(map(len, labels)) <= _MOST_IN_COLUMN else 1
    figure = figure_of(ax)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * math.ceil(len(labels) / n_columns))
    below = ScaledTranslation(0, _LEGEND_DROP / 72, figure.dpi_scale_trans)
    ax.legend(
        handles, labels, ncols=n_columns, bbox_transform=ax.transAxes + below,
        loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0,
    )  # fmt: skip
