"""A league's standings: corners, levels and averages, ties with the best, and what was forgotten.

Only final free-run rows count. Seeds are pooled; a subject in several seeds is one cluster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from wise.evaluation.entries import GROUPS
from wise.measures.ceilings import Ceiling, ceilings, pooled
from wise.measures.estimates import (
    CORNERS,
    TRIANGLE,
    Estimate,
    Measure,
    estimate,
    estimates,
    in_order,
    long_table,
    places,
    with_corners,
)
from wise.measures.paired import mcnemar
from wise.measures.rows import Row

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Contestant", "Results", "Retained", "Standing", "counted", "measures_of", "retained",
           "standings"]  # fmt: skip


class Contestant(NamedTuple):
    """An entry on a model; those of one model and group are ranked together."""

    model: str
    group: str
    title: str
    editor: str


# By T: the rows of all seeds, or why there are none.
Results = Mapping[Contestant, Mapping[int, list[Row] | str]]


def counted(rows: Iterable[Row], t: int) -> list[Row]:
    """The final free-run rows of the corners after `t` edits."""
    return [
        row
        for row in rows
        if (row.when, row.protocol, row.t) == ("final", "free", t)
        and Measure(row.metric, row.kind).corner
    ]


def measures_of(rows: Sequence[Row], *, confidence: float = 0.95) -> dict[str, Estimate]:
    """Each corner, each level of generalization, and "average": of one T, over all seeds."""

    def named(table: pd.DataFrame, by: str, prefix: str = "") -> dict[str, Estimate]:
        lines = estimates(table, [by], confidence=confidence).itertuples(index=False)
        return {f"{prefix}{line[0]}": Estimate(*line[1:]) for line in lines if line.n}

    table = with_corners(in_order(long_table(rows)))
    levels = table[(table.metric == "generalization") & (table.kind != "")]
    found = named(table, "corner") | named(levels, "kind", "level ")
    average = _average(table, confidence)
    return found | ({"average": average} if average.n else {})


def _average(table: pd.DataFrame, confidence: float) -> Estimate:
    """The mean over edits of reliability, generalization and locality, each a third.

    An edit without one of them is left out. Source: the "Avg." of WISE, Table 2, here per edit.
    """
    edit, scored = ["seed", "edit_id"], table[table.score.notna() & (table.edit_id != "")]
    by_metric = scored.groupby([*edit, "metric"], observed=True).score.mean().unstack()
    averages = by_metric.reindex(columns=TRIANGLE).mean(axis=1, skipna=False)
    clusters = scored.groupby(edit, observed=True).cluster.last()[averages.notna()]
    lacking = ["a corner is lacking"] * int(averages.isna().sum())
    how = {"excluded": lacking, "n_runs": scored.seed.nunique(), "confidence": confidence}
    return estimate(averages.dropna().tolist(), clusters.tolist(), **how)


def _attainable(rows: Iterable[Row]) -> dict[str, Ceiling]:
    """The ceilings below 1 of corners, over all seeds, of answers as they are written."""
    of_seeds, parts = defaultdict[int, list[Row]](list), defaultdict[str, list[Ceiling]](list)
    for row in rows:
        if row.metric != "locality":  # what the unedited model answers can always be answered
            of_seeds[row.seed].append(row)
    for of_seed in of_seeds.values():
        for measure, ceiling in ceilings(of_seed).items():
            parts[measure.corner].append(ceiling)
    found = {}
    for corner, own in parts.items():
        whole = Measure(corner, "")
        over_all = pooled([{whole: each} for each in own], whole)
        if over_all is not None and over_all.share < 1:
            found[corner] = over_all
    return found


@dataclass(frozen=True)
class Standing:
    """A contestant after `t` edits.

    `measures` has the corners, "average" (of them, edit by edit), and "level 1" and so on. `worst`
    names the lowest corner; `at_most` has the ceilings below 1 of corners. `place` ranks it within
    model, group and T, from 1, and equal ones share a place; None for the calibration corners.
    `is_tied` is known only at the group's last T. With an `error` there are no numbers.
    """

    contestant: Contestant
    t: int
    n_seeds: int = 0
    measures: Mapping[str, Estimate] = field(default_factory=dict)
    at_most: Mapping[str, Ceiling] = field(default_factory=dict)
    place: int | None = None
    is_tied: bool = False
    error: str = ""

    @property
    def worst(self) -> str:
        """The lowest corner; "" where none was measured."""
        corners = [corner for corner in CORNERS if corner in self.measures]
        return min(corners, key=lambda corner: self.measures[corner].mean, default="")

    @property
    def _height(self) -> float:
        return self.measures[self.worst].mean if self.worst else -1.0


def standings(results: Results, *, confidence: float = 0.95) -> list[Standing]:
    """By model, group and T (the last first), sorted by the worst corner, errors at the end.

    At a group's last T the contestants tied with its best are marked: those that are not
    significantly worse on any corner at 1 - `confidence`, by McNemar's exact test on the items of
    both, two-sided, after Holm's correction over all corners and contestants of the group. Source:
    Holm, 1979.
    """
    tables: dict[tuple[str, str, int], list[Standing]] = defaultdict(list)
    for contestant, by_t in results.items():
        for t, rows in by_t.items():
            standing = Standing(contestant, t, error=rows if isinstance(rows, str) else "")
            if not isinstance(rows, str):
                own = counted(rows, t)
                standing = replace(
                    standing,
                    n_seeds=len({row.seed for row in own}),
                    measures=measures_of(own, confidence=confidence),
                    at_most=_attainable(own),
                )
            tables[contestant.model, contestant.group, t].append(standing)
    last = {(model, group): max(t for m, g, t in tables if (m, g) == (model, group))
            for model, group, _ in tables}  # fmt: skip
    models = list(dict.fromkeys(model for model, _, _ in tables))
    found: list[Standing] = []
    for key in sorted(tables, key=lambda k: (models.index(k[0]), GROUPS.index(k[1]), -k[2])):
        model, group, t = key
        ranked = sorted(tables[key], key=lambda each: each._height, reverse=True)
        if group != "corner":
            of_each = places([each._height for each in ranked])
            ranked = [replace(each, place=place) if each.measures else each
                      for place, each in zip(of_each, ranked, strict=True)]  # fmt: skip
            if t == last[model, group]:
                ranked = _with_ties(ranked, results, confidence)
        found += ranked
    return found


def _with_ties(ranked: Sequence[Standing], results: Results, confidence: float) -> list[Standing]:
    """The standings, with those marked that are not significantly below the first."""
    from statsmodels.stats.multitest import multipletests  # which loads pandas

    measured = [each for each in ranked if each.measures]
    if not measured:
        return list(ranked)
    scores = [_by_item(results, each) for each in measured]
    tests = [
        (which, *_compared(scores[0], other, corner))
        for which, other in enumerate(scores[1:], start=1)
        for corner in CORNERS
    ]
    adjusted = multipletests([p_value for _, _, p_value in tests], method="holm")[1]
    worse = {
        which
        for (which, is_lower, _), p_value in zip(tests, adjusted, strict=True)
        if is_lower and p_value <= 1 - confidence
    }
    tied = {each.contestant for which, each in enumerate(measured) if which not in worse}
    return [replace(each, is_tied=each.contestant in tied) for each in ranked]


def _by_item(results: Results, standing: Standing) -> dict[Hashable, Row]:
    rows = results[standing.contestant][standing.t]
    own = [] if isinstance(rows, str) else counted(rows, standing.t)
    return {_item(row): row for row in own if row.score is not None}


def _item(row: Row) -> tuple[Hashable, ...]:
    return row.seed, row.metric, row.kind, row.edit_id, row.prompt


def _compared(
    best: Mapping[Hashable, Row], other: Mapping[Hashable, Row], corner: str
) -> tuple[bool, float]:
    """Whether `other` is lower on the corner's items that both have, and the p-value."""
    pairs = [(row, other[item]) for item, row in best.items()
             if item in other and Measure(row.metric, row.kind).corner == corner]  # fmt: skip
    if not pairs:
        return False, 1.0
    before, after = ([row.score or 0.0 for row in side] for side in zip(*pairs, strict=True))
    clusters = [row.cluster for row, _ in pairs]
    found = mcnemar(before, after, clusters, alternative="two-sided")
    return found.n_worse > found.n_better, found.p_value


class Retained(NamedTuple):
    """The scores of a contestant's first `early` edits, right then and after `late` edits."""

    contestant: Contestant
    early: int
    late: int
    metric: str
    before: float
    after: float
    p_value: float


def retained(results: Results, *, early: int = 10) -> list[Retained]:
    """For reliability and locality, the same items after `early` edits and after the last T.

    The p-value is McNemar's for a drop. Corners of calibration and mass edits are left out, and
    contestants without both numbers.
    """
    found = []
    for contestant, by_t in results.items():
        late = max(by_t)
        first, final = by_t.get(early, ""), by_t[late]
        if (
            contestant.group in ("corner", "mass")  # a mass edit makes a new model at each T
            or late <= early
            or isinstance(first, str)
            or isinstance(final, str)
        ):
            continue
        later = {_item(row): row for row in counted(final, late) if row.score is not None}
        for metric in ("reliability", "locality"):
            rows = [row for row in counted(first, early) if row.metric == metric]
            rows = [row for row in rows if row.score is not None and _item(row) in later]
            if rows:
                scores = [row.score or 0.0 for row in rows]
                last = [later[_item(row)].score or 0.0 for row in rows]
                test = mcnemar(scores, last, [row.cluster for row in rows])
                numbers = test.before, test.after, test.p_value
                found.append(Retained(contestant, early, late, metric, *numbers))
    return found
