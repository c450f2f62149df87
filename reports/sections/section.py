"""A section of a page, and the panels in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from reports.csv_text import counted
from reports.figures.style import PANEL_WIDTH, figure_of, legend_below, new_axes, styled, titled
from reports.figures.svg import to_svg

__all__ = ["Panel", "Section", "panel", "panels_of", "rows_height", "shown"]

_MOST_EDITORS = 6  # with panels of their own; the league and the tables have all


@dataclass(frozen=True)
class Panel:
    """One figure: its file's name without the ending, and its SVG."""

    name: str
    title: str
    svg: str
    is_wide: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, one sentence on what is seen, the figures, and the table they are drawn from.

    `scene` names model and stream where a page has several such sections; `note` is shown below.
    """

    name: str
    title: str
    caption: str
    table: pd.DataFrame
    panels: tuple[Panel, ...]
    note: str = ""
    scene: str = ""


def panel(
    plot: Callable[..., Axes],
    *of: object,
    name: str,
    title: str,
    caption: str,
    height: float = 2.7,
    width: float = PANEL_WIDTH,
    heading: str | None = None,
    **how: Any,
) -> Panel:
    """Draw `of` by `plot` on new axes, sized in inches; `caption` is the text alternative.

    `heading` is shown above it, by default its title.
    """
    with styled():
        ax = plot(new_axes(width, height), *of, **how)
        if heading := title if heading is None else heading:
            titled(ax, heading)
        legend_below(ax)
        svg = to_svg(figure_of(ax), name=name, title=title, description=caption)
    return Panel(name, title, svg, is_wide=width > PANEL_WIDTH)


def panels_of(
    plot: Callable[..., Axes],
    groups: Iterable[tuple[str, pd.DataFrame]],
    *,
    name: str,
    caption: Callable[[str, pd.DataFrame], str],
    height: Callable[[pd.DataFrame], float] = lambda _: 2.7,
    **how: Any,
) -> tuple[Panel, ...]:
    """A numbered panel for each group of a table under its title."""
    return tuple(
        panel(plot, own, name=f"{name}-{index}", title=title, caption=caption(title, own),
              height=height(own), **how)
        for index, (title, own) in enumerate(groups, start=1)
    )  # fmt: skip


def rows_height(n_rows: int) -> float:
    """Inches that a panel with `n_rows` lines of marks needs."""
    return 1.2 + 0.22 * n_rows


def shown(table: pd.DataFrame) -> tuple[list[str], str]:
    """The first editors, which get panels of their own, and a remark on the others."""
    editors = list(dict.fromkeys(table.editor))
    left = len(editors) - _MOST_EDITORS
    word = f"{counted(left, 'more editor')} in the table." if left > 0 else ""
    return editors[:_MOST_EDITORS], word
