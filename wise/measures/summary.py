"""The terminal's table of estimates, fitted to a width."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wise.measures.ceilings import Ceiling
from wise.measures.estimates import PROTOCOL_WORDS, Measure, bounded
from wise.measures.rows import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["estimate_text", "perplexity_text", "table_text"]

_CLIPPED_AT = 100  # WISE's released evaluation has it so, commented out
_MOST_REASONS = 4  # of exclusions, that one line tells
_NO_CEILINGS: Mapping[tuple[str, int], Mapping[Measure, Ceiling]] = MappingProxyType({})


def table_text(
    estimates: pd.DataFrame,
    at_most: Mapping[tuple[str, int], Mapping[Measure, Ceiling]] = _NO_CEILINGS,
    *,
    width: int = 120,
) -> str:
    """`estimates_of_runs` as text of at most `width` columns (60 or more), one part for each run.

    First T by measure in the main condition (the final model by the first protocol), then all
    conditions side by side at the last T, then what was excluded. A dash means no number. `at_most`
    has the ceilings of final scores by protocol and T; those below 1 stand beside their scores, as
    "max", with the reasons at the last T.
    """
    if width < 60:
        raise ValueError(f"width={width} is too narrow; allowed is 60 or more")
    runs = estimates.groupby(list(Run._fields), sort=False)
    return "\n\n".join(_part(Run(*run), own, at_most, width) for run, own in runs) or "no rows"


def estimate_text(line: Any, most: Ceiling | None = None) -> str:
    """Mean and interval of a line of estimates; a dash for no number.

    `most` is its ceiling, where that is below 1.
    """
    if line is None or not line.n:
        return "-"
    mean, _, bounds = bounded(line.mean, line.low, line.high).partition(" ")
    return f"{mean:0>4} {bounds}" + (f" max {most}" if most else "")


def perplexity_text(likelihoods: Sequence[float], t: int) -> str:
    """The perplexity of targets of these likelihoods after `t` edits; empty without any.

    A few large ones drag a mean along, so that the median and a clipped mean are given too.
    """
    found = [1 / each if each else math.inf for each in likelihoods]
    if not found:
        return ""
    clipped = fmean(min(each, _CLIPPED_AT) for each in found)
    return (
        f"Perplexity of the targets at T={t}: median {median(found):.4g}, mean {fmean(found):.4g}, "
        f"{clipped:.4g} where each counts at most {_CLIPPED_AT} (n={len(found)})"
    )


def _part(
    run: Run,
    own: pd.DataFrame,
    at_most: Mapping[tuple[str, int], Mapping[Measure, Ceiling]],
    width: int,
) -> str:
    found = {
        ((line.protocol, line.when), line.t, Measure(line.metric, line.kind)): line
        for line in own.itertuples(index=False)
    }
    asked = dict.fromkeys(condition for condition, _, _ in found)
    main, *others = conditions = sorted(asked, key=lambda condition: _is_beside(condition, asked))
    measures = sorted({key[2] for key in found}, key=lambda measure: measure.place)
    checkpoints = sorted({t for condition, t, _ in found if condition == main})
    last = own.t.max()

    def column(condition: tuple[str, str], t: int) -> list[Any]:
        return [found.get((condition, t, measure)) for measure in measures]

    def texts(condition: tuple[str, str], t: int) -> list[str]:
        lowered = _lowered(condition, t, at_most)
        each = zip(column(condition, t), measures, strict=True)
        return [estimate_text(line, lowered.get(measure)) for line, measure in each]

    name = f"{run.editor} on {run.model}, stream {run.stream} ({run.stream_sha256[:12]})"
    lines = [*textwrap.wrap(f"{name}, seed {run.seed}", width), ""]
    share = f"{100 * own.confidence.iloc[0]:g}"
    lines += [f"{_words(*main)}: mean [{share} % interval] after T edits", ""]
    shown = [column(main, t) for t in checkpoints]
    cells = zip(*(texts(main, t) for t in checkpoints), strict=True)
    by_measure = [[*measure.header, *row] for measure, row in zip(measures, cells, strict=True)]
    n_first = sum(not measure.is_extra for measure in measures)
    groups = by_measure[:n_first], by_measure[n_first:]
    lines += _grid(["", "T", *map(str, checkpoints)], groups, width, numbers=True)
    if others:
        beside = [column(condition, last) for condition in conditions]
        by_condition = [["", "items", *map(_n_items, zip(*beside, strict=True))]]
        for condition in conditions:
            header = _words(*condition).split(", ")
            by_condition.append([*header, *texts(condition, last)])
        lines += ["", f"side by side at T={last}", ""]
        lines += _grid(["", "", *map(str, measures)], [by_condition], width)
        shown += [
            of_condition
            for condition, of_condition in zip(conditions[1:], beside[1:], strict=True)
            if condition[1] != "unedited"  # which is asked what the edited model is
        ]
    excluded = [_exclusions([line for line in each if line and line.n_excluded]) for each in shown]
    bounded_by = [
        f"the most that any editor can reach, {_words(*condition)}, T={last}: {measure} {ceiling}, "
        f"as {ceiling.reason}"
        for condition in conditions
        for measure, ceiling in _lowered(condition, last, at_most).items()
    ]
    for remarks, indent in (([text for told in excluded for text in told], 4), (bounded_by, 2)):
        lines += [""] * bool(remarks)
        for text in remarks:
            lines += textwrap.wrap(text, width, subsequent_indent=" " * indent)
    return "\n".join(lines)


def _is_beside(condition: tuple[str, str], asked: Iterable[tuple[str, str]]) -> bool:
    """Whether a condition stands behind all of the final model; the unedited one is beside it."""
    protocol, when = condition
    return when != "final" and not (when == "unedited" and (protocol, "final") in asked)


def _lowered(
    condition: tuple[str, str], t: int, at_most: Mapping[tuple[str, int], Mapping[Measure, Ceiling]]
) -> dict[Measure, Ceiling]:
    """The ceilings below 1 of the scores in one condition after `t` edits."""
    protocol, when = condition
    found = at_most.get((protocol, t), {}) if when == "final" else {}
    return {measure: each for measure, each in found.items() if each.share < 1}


def _words(protocol: str, when: str) -> str:
    return f"{when}, {PROTOCOL_WORDS[protocol]}"


def _n_items(lines: Iterable[Any]) -> str:
    counts = sorted({line.n for line in lines if line})
    return f"{counts[0]}-{counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))


def _exclusions(lines: Sequence[Any]) -> list[str]:
    """What was excluded in one condition at one T, then each reason with its number of items."""
    if not lines:
        return []
    counts = (f"{each.n_excluded} of {each.n + each.n_excluded} {Measure(each.metric, each.kind)}"
              for each in lines)  # fmt: skip
    n_of = Counter[str]()
    for each in lines:
        n_of.update(dict(each.reasons))
    reasons = sorted(n_of.items(), key=lambda item: (-item[1], item[0]))
    told = [f"  {n}: {reason}" for reason, n in reasons]
    if len(told) > _MOST_REASONS:
        n_left = sum(n for _, n in reasons[_MOST_REASONS - 1 :])
        told[_MOST_REASONS - 1 :] = [f"  {n_left}: {len(told) - _MOST_REASONS + 1} more reasons"]
    place = f"{_words(lines[0].protocol, lines[0].when)}, T={lines[0].t}"
    return [f"excluded, {place}: {', '.join(counts)}", *told]


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
