"""A league as text: a CSV of every number, and Markdown tables that also read as plain text."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from wise.evaluation.cell import LeagueCell, Outcome
from wise.evaluation.league_table import Retained, Standing
from wise.measures.estimates import CORNERS, bounded
from wise.measures.statistics import format_p, format_share
from wise.measures.text import markdown, markdown_grid, spreadsheet_safe

__all__ = ["SCORE_COLUMNS", "document", "tables", "write_scores"]

SCORE_COLUMNS = (
    "model", "group", "title", "editor", "t", "metric", "kind", "n", "n_excluded", "n_runs", "mean",
    "low", "high", "worst", "place", "is_tied", "error",
)  # fmt: skip
_GROUP_TITLES = {
    "online": "Online editors, one edit at a time",
    "trained": "Editors trained on the background, one edit at a time",
    "context": "In-context editors, one edit at a time",
    "mass": "Mass edits, all T edits in one turn (MASS)",
    "corner": "Corners for calibration, not ranked",
}
_COSTS = ("s/edit", "bytes", "inference")


def _measure_of(name: str) -> tuple[str, str]:
    """Metric and kind, in the words of the rows."""
    if name in ("far", "near"):
        return "locality", name
    if name.startswith("level "):
        return "generalization", name.removeprefix("level ")
    return name, ""


def write_scores(found: Iterable[Standing], path: Path) -> None:
    """One line for each standing and measure, or one with the error where there are no numbers."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SCORE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for standing in found:
            shared = dict(
                standing.contestant._asdict(), t=standing.t, n_runs=standing.n_seeds,
                place=standing.place, is_tied=int(standing.is_tied), error=standing.error,
            )  # fmt: skip
            shared = {key: spreadsheet_safe(value) if isinstance(value, str) else value
                      for key, value in shared.items()}  # fmt: skip
            if not standing.measures:
                writer.writerow(shared)
            for name, estimate in standing.measures.items():
                metric, kind = _measure_of(name)
                bounds = {key: f"{getattr(estimate, key):.6f}" for key in ("mean", "low", "high")}
                counts = {key: getattr(estimate, key) for key in ("n", "n_excluded")}
                worst = f"{standing.measures[standing.worst].mean:.6f}" if standing.worst else ""
                writer.writerow({
                    **shared, "metric": metric, "kind": kind, "worst": worst, **counts, **bounds
                })  # fmt: skip


def _shown(standing: Standing, name: str) -> str:
    """A measure with its interval, and its ceiling where that is below 1."""
    found = standing.measures.get(name)
    told = bounded(found.mean, found.low, found.high) if found else "-"
    return told + (f" max {standing.at_most[name]}" if found and name in standing.at_most else "")


def _mean_costs(outcomes: Mapping[LeagueCell, Outcome]) -> dict[tuple[str, str, int], list[str]]:
    """By model, editor and T, the means over seeds of time, bytes and overhead."""
    costs = defaultdict(list)
    for cell, outcome in outcomes.items():
        for cost in outcome.costs:
            costs[cell.model, cell.entry.editor, cost.t].append(cost)
    found = {}
    for key, each in costs.items():
        n_bytes = [cost.bytes for cost in each if cost.bytes is not None]
        found[key] = [
            f"{statistics.mean(cost.seconds_per_edit for cost in each):.2g}",
            f"{statistics.mean(n_bytes):,.0f}" if n_bytes else "-",
            f"{statistics.mean(cost.inference_ratio for cost in each):.2f}",
        ]
    return found


def tables(
    found: Iterable[Standing], outcomes: Mapping[LeagueCell, Outcome], *, last_only: bool = False
) -> str:
    """A table for each model, group and T, as `standings` orders them; `*` marks the tied set."""
    costs, parts = _mean_costs(outcomes), []
    found = list(found)
    last = {(each.contestant.model, each.contestant.group): each.t for each in reversed(found)}
    levels = sorted({name for each in found for name in each.measures if name.startswith("level")})
    header = ["", "editor", *("worst", *CORNERS, "average"), *levels, *_COSTS]
    for (model, group, t), standing in groupby(found, _table_of):
        if last_only and t != last[model, group]:
            continue
        shown = list(standing)
        grid = markdown_grid(header, [_line(each, levels, costs) for each in shown])
        errors = [
            f"\n- {markdown(f'{each.contestant.title}: {each.error}')}"
            for each in shown if each.error
        ]  # fmt: skip
        title = f"### {model}, T={t:,}: {_GROUP_TITLES[group]}"
        parts.append(f"{title}\n\n{grid}" + ("\n" + "".join(errors) if errors else ""))
    return "\n\n".join(parts)


def _table_of(standing: Standing) -> tuple[str, str, int]:
    return standing.contestant.model, standing.contestant.group, standing.t


def _line(
    standing: Standing, levels: Sequence[str], costs: Mapping[tuple[str, str, int], list[str]]
) -> list[str]:
    contestant, measures = standing.contestant, standing.measures
    place = f"{standing.place or ''}{'*' if standing.is_tied else ''}"
    spent = costs.get((contestant.model, contestant.editor, standing.t), ["-"] * len(_COSTS))
    if standing.error:
        blank = ["-"] * (len(CORNERS) + 1 + len(levels))
        return [place, contestant.title, "error", *blank, *spent]
    worst = f"{_shown(standing, standing.worst)} {standing.worst}".strip()
    corners = [_shown(standing, name) for name in (*CORNERS, "average")]
    means = [measures.get(level) for level in levels]
    levels_shown = [format_share(each.mean) if each else "-" for each in means]
    return [place, contestant.title, worst, *corners, *levels_shown, *spent]


def _faded(found: Sequence[Retained]) -> str:
    lines = [
        [each.contestant.model, each.contestant.title, each.metric, format_share(each.before),
         format_share(each.after), format_p(each.p_value)]
        for each in found
    ]  # fmt: skip
    first = found[0]
    header = ["model", "editor", "metric", f"T={first.early:,}", f"T={first.late:,}", "drop"]
    return markdown_grid(header, lines)


def document(
    found: Sequence[Standing],
    outcomes: Mapping[LeagueCell, Outcome],
    faded: Sequence[Retained],
    *,
    command: str,
    confidence: float,
    left_out: Sequence[str] = (),
    notes: str = "",
) -> str:
    """The league as a Markdown page; only `notes` are written by hand.

    `left_out` says what the reader of the facts left out or changed.
    """
    seeds = sorted({cell.seed for cell in outcomes})
    n_edits = max(cell.n_edits for cell in outcomes)
    protocols = " and ".join({p: None for cell in outcomes for p in cell.protocols})
    settings = {cell.entry.title: cell.entry.editor for cell in outcomes}
    spent = sum(
        max(costs, key=lambda cost: cost.t).seconds_per_edit * max(cost.t for cost in costs)
        for costs in (outcome.costs for outcome in outcomes.values()) if costs
    )  # fmt: skip
    parts = [
        "# The league",
        f"Made by\n\n```\n{command}\n```\n\nand not edited by hand, but for the notes at its end.",
        f"Streams of {n_edits:,} edits, seeds {', '.join(map(str, seeds))}; the final model, "
        f"{protocols}-run, natural stop. Each number is a mean with its {100 * confidence:g} % "
        "interval, subjects being clusters over all seeds. Generalization is over levels 1 to 5 "
        "alike; near is near-subject and near-relation together; worst is the lowest of the four "
        "corners, and tables are sorted by it; average is edit by edit, reliability, "
        "generalization and locality a third each. A `*` marks those that no corner tells from "
        "the group's best: McNemar's exact test on the same items, two-sided, corrected by Holm "
        "over editors and corners. Groups are never ranked together. An error is no score.",
        f"Time per edit and inference (a forward in that of the bare model) were measured while "
        f"other cells ran; all edits together took {_duration(spent)} of one thread.",
        *["`max` is the most that any editor can reach, as questions contradict each other."]
        * any(each.at_most for each in found),
        *["The file of facts was read with these notes:\n\n"
          + "\n".join(f"- {markdown(note)}" for note in left_out)] * bool(left_out),
        "## Standings", tables(found, outcomes),
    ]  # fmt: skip
    if faded:
        early = f"{faded[0].early:,}"
        parts += [f"## What fades\n\nItems of the first {early} edits, then and at the end; "
                  "p by McNemar's exact test for a drop.", _faded(faded)]  # fmt: skip
    parts += ["## Settings", markdown_grid(["editor", "options"], [[t, e] for t, e in
                                                           settings.items()])]  # fmt: skip
    parts += [notes.strip()] if notes.strip() else []
    return "\n\n".join(parts) + "\n"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{math.ceil(seconds / 60)} min"
