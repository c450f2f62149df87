"""Rows to numbers: the mean of each measurement with its interval, and the terminal table of them.

Of one run at a time; a page pools seeds, and of one run its cells are these.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wise.measures.rows import Row, Run
from wise.measures.statistics import Interval, format_share, interval

__all__ = ["CONDITIONS", "Cell", "Condition", "Measure", "summarize", "table"]


class Condition(NamedTuple):
    """How an item was measured. Numbers of two conditions are never mixed."""

    when: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.when}, {'free-run' if self.protocol == 'free' else 'teacher-forced'}"


# The first is the one that counts; the others stand beside it.
CONDITIONS = (
    Condition("final", "free"),
    Condition("at-edit", "free"),
    Condition("final", "forced"),
    Condition("at-edit", "forced"),
)


class Measure(NamedTuple):
    """What was measured."""

    metric: str
    kind: str

    @property
    def header(self) -> tuple[str, str]:
        """Two lines over a column."""
        if self.metric == "generalization" and self.kind:
            return self.metric, f"level {self.kind}"
        return self.metric, "" if self.kind == self.metric else self.kind

    def __str__(self) -> str:
        return " ".join(self.header).strip()


# Columns from left to right; the levels from 3 up come between locality and portability.
_FIRST = (
    Measure("reliability", ""),
    Measure("generalization", ""),
    Measure("generalization", "1"),
    Measure("generalization", "2"),
    Measure("locality", "far"),
    Measure("locality", "near-subject"),
    Measure("locality", "near-relation"),
)


def _place(measure: Measure) -> tuple[int, int]:
    if measure in _FIRST:
        return _FIRST.index(measure), 0
    is_level = measure.metric == "generalization"
    return len(_FIRST) + (not is_level), int(measure.kind) if is_level else 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One number: the mean score of one measure, in one condition, after T = `t` edits.

    `n` items were measured, and `mean` is None where that is none; `n_excluded` more were not, for
    these `reasons`, each with its count. At-edit, it is about the first T edits, each of them
    measured right after it was made.
    """

    run: Run
    condition: Condition
    t: int
    measure: Measure
    n: int
    n_excluded: int
    mean: float | None
    interval: Interval
    confidence: float
    reasons: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        low, high = map(format_share, self.interval)
        return f"{format_share(self.mean):0>4} [{low}, {high}]"


_Key = tuple[Run, Condition, int, Measure]


def summarize(rows: Iterable[Row], *, confidence: float = 0.95) -> list[Cell]:
    """A cell for each run, condition, T and measure that has a row; runs as they first appear.

    Routing is no score and has no cell.
    At-edit cells stand at the T of the run's final rows; where it has none, at its last edit. The
    interval takes the rows of one cluster as dependent. Raises ValueError for the confidence.
    """
    rows = [row for row in rows if row.metric != "routing"]
    checkpoints: dict[Run, set[int]] = {row.run: set() for row in rows}
    last: Counter[Run] = Counter()
    for row in rows:
        last[row.run] = max(last[row.run], row.t)
        if row.when == "final":
            checkpoints[row.run].add(row.t)
    groups: dict[_Key, list[Row]] = defaultdict(list)
    for row in rows:
        run, condition = row.run, Condition(row.when, row.protocol)
        later = (t for t in checkpoints[run] or (last[run],) if t >= row.t)
        for t in (row.t,) if row.when == "final" else later:
            groups[run, condition, t, Measure(row.metric, row.kind)].append(row)
    place = {run: index for index, run in enumerate(checkpoints)}

    def order(key: _Key) -> tuple[object, ...]:
        run, condition, t, measure = key
        return place[run], CONDITIONS.index(condition), t, _place(measure)

    return [_cell(key, groups[key], confidence) for key in sorted(groups, key=order)]


def _cell(key: _Key, rows: Sequence[Row], confidence: float) -> Cell:
    scores = [row.score for row in rows if row.score is not None]
    clusters = [row.cluster for row in rows if row.score is not None]
    reasons = Counter(row.excluded for row in rows if row.score is None)
    return Cell(
        *key,
        n=len(scores),
        n_excluded=reasons.total(),
        mean=math.fsum(scores) / len(scores) if scores else None,
        interval=interval(scores, clusters, confidence=confidence),
        confidence=confidence,
        reasons=tuple(sorted(reasons.items())),
    )


def table(cells: Sequence[Cell], *, width: int = 120) -> str:
    """The cells as text of at most `width` columns (60 or more), one part for each run.

    First T by measure in the condition that counts (the first of CONDITIONS that was measured),
    then all conditions side by side at the last T, then what was excluded. A dash is no number.
    """
    if width < 60:
        raise ValueError(f"width={width} is too narrow; allowed is 60 or more")
    runs = dict.fromkeys(cell.run for cell in cells)
    parts = (_part(run, [cell for cell in cells if cell.run == run], width) for run in runs)
    return "\n\n".join(parts) or "no rows"


def _part(run: Run, cells: Sequence[Cell], width: int) -> str:
    found = {(cell.condition, cell.t, cell.measure): cell for cell in cells}
    main, *others = (each for each in CONDITIONS if any(key[0] == each for key in found))
    measures = sorted({cell.measure for cell in cells}, key=_place)
    checkpoints = sorted({cell.t for cell in cells if cell.condition == main})
    last = max(cell.t for cell in cells)

    def column(condition: Condition, t: int) -> list[Cell | None]:
        return [found.get((condition, t, measure)) for measure in measures]

    name = f"{run.editor} on {run.model}, stream {run.stream} ({run.stream_sha256[:12]})"
    lines = [*textwrap.wrap(f"{name}, seed {run.seed}", width), ""]
    lines += [f"{main}: mean [{100 * cells[0].confidence:g} % interval] after T edits", ""]
    shown = [column(main, t) for t in checkpoints]
    by_measure = [
        [*measure.header, *(str(cell or "-") for cell in row)]
        for measure, row in zip(measures, zip(*shown, strict=True), strict=True)
    ]
    n_first = sum(measure in _FIRST for measure in measures)
    groups = by_measure[:n_first], by_measure[n_first:]
    lines += _grid(["", "T", *map(str, checkpoints)], groups, width, numbers=True)
    if others:
        beside = [column(condition, last) for condition in (main, *others)]
        by_condition = [["", "items", *map(_n_items, zip(*beside, strict=True))]]
        for condition, of_condition in zip((main, *others), beside, strict=True):
            header = str(condition).split(", ")
            by_condition.append([*header, *(str(cell or "-") for cell in of_condition)])
        lines += ["", f"side by side at T={last}", ""]
        lines += _grid(["", "", *map(str, measures)], [by_condition], width)
        shown += beside[1:]
    excluded = [_exclusions([cell for cell in each if cell and cell.n_excluded]) for each in shown]
    lines += [""] * any(excluded)
    for text in filter(None, excluded):
        lines += textwrap.wrap(text, width, subsequent_indent="  ")
    return "\n".join(lines)


def _n_items(cells: Iterable[Cell | None]) -> str:
    counts = sorted({cell.n for cell in cells if cell})
    return f"{counts[0]}-{counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))


def _exclusions(cells: Sequence[Cell]) -> str:
    """What was excluded in one condition at one T, with the reasons; empty where nothing was."""
    if not cells:
        return ""
    counts = (f"{each.n_excluded} of {each.n + each.n_excluded} {each.measure}" for each in cells)
    reasons = sorted({reason for each in cells for reason, _ in each.reasons})
    place = f"{cells[0].condition}, T={cells[0].t}"
    return f"excluded, {place}: {', '.join(counts)} ({'; '.join(reasons)})"


def _grid(
    labels: Sequence[str],
    groups: Sequence[Sequence[Sequence[str]]],
    width: int,
    *,
    numbers: bool = False,
) -> list[str]:
    """Lines of columns beside their labels; where they are too wide, group under group."""
    label_width = max(map(len, labels))
    panels = _fit([column for group in groups for column in group], width - label_width)
    if len(panels) > 1:
        panels = [panel for group in groups for panel in _fit(group, width - label_width)]
    lines: list[str] = []
    for panel in panels:
        lines += [""] * bool(lines)
        for index, label in enumerate(labels):
            start = label.rjust(label_width) if numbers else label.ljust(label_width)
            cells = (column[index].ljust(max(map(len, column))) for column in panel)
            lines.append("  ".join([start, *cells]).rstrip())
    return lines


def _fit(columns: Sequence[Sequence[str]], room: int) -> list[list[Sequence[str]]]:
    panels: list[list[Sequence[str]]] = []
    taken = room
    for column in columns:
        needed = 2 + max(map(len, column))
        if taken + needed > room:
            panels.append([])
            taken = 0
        panels[-1].append(column)
        taken += needed
    return panels
