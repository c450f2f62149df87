"""Rows to numbers: one long table of items, and the mean of each group of them with its interval.

Every mean of scores that the project shows or judges is an `Estimate`. Tables are pandas data
frames; pandas is imported where one is made, so that the editors load without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from wise.measures.rows import ASIDE, Row, Run
from wise.measures.statistics import format_share, interval_at, worth

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CONDITION",
    "CORNERS",
    "MAIN_PROTOCOLS",
    "PROTOCOL_WORDS",
    "TRIANGLE",
    "Estimate",
    "Measure",
    "at_checkpoints",
    "bounded",
    "estimate",
    "estimates",
    "estimates_of_runs",
    "in_order",
    "long_table",
    "places",
    "with_corners",
]

CONDITION = ["protocol", "when", "t", "metric", "kind"]
CORNERS = ("reliability", "generalization", "far", "near")
PROTOCOL_WORDS = {
    "free": "free-run",
    "forced": "teacher-forced",
    "likelihood": "by likelihood",
    "compared": "by comparison",
    "drift": "drift",
    "fluency": "fluency",
}
MAIN_PROTOCOLS = ("free", "forced")  # that score what a model says
TRIANGLE = ["reliability", "generalization", "locality"]
# In the order of the tables; the first protocol and the first moment are the main ones.
_WORDS = (*PROTOCOL_WORDS, "final", "unedited", "at-edit", *TRIANGLE, "far", "near-subject",
          "near-relation", "portability")  # fmt: skip


def _place(word: str) -> tuple[bool, int]:
    """The levels of generalization come first."""
    return (True, _WORDS.index(word)) if word in _WORDS else (False, int(word or 0))


class Measure(NamedTuple):
    """What was measured."""

    metric: str
    kind: str

    @property
    def name(self) -> str:
        """Its name in thresholds and checks: `far`, `generalization-2`."""
        if self.metric == "locality":
            return self.kind
        is_graded = self.metric == "generalization" and self.kind
        return f"generalization-{self.kind}" if is_graded else self.metric

    @property
    def corner(self) -> str:
        """The corner of the triangle that its items belong to; "" where they belong to none.

        Generalization pools all its levels; near pools near-subject and near-relation.
        """
        if self.metric == "locality":
            return "far" if self.kind == "far" else "near"
        return self.metric if self.metric in CORNERS else ""

    @property
    def is_extra(self) -> bool:
        """Whether it is reported beside the triangle: the harder levels, and portability."""
        return self.metric == "portability" or (self.kind.isdecimal() and int(self.kind) > 2)

    @property
    def place(self) -> tuple[object, ...]:
        """The sort key of measures: those of the triangle come first."""
        return self.is_extra, _place(self.metric), _place(self.kind)

    @property
    def header(self) -> tuple[str, str]:
        """The two header lines of its column."""
        if self.metric == "generalization" and self.kind:
            return self.metric, f"level {self.kind}"
        return self.metric, "" if self.kind == self.metric else self.kind

    def __str__(self) -> str:
        return " ".join(self.header).strip()


class Estimate(NamedTuple):
    """The mean of `n` scores in [0, 1], of `n_clusters` clusters, and its interval.

    It counts as `effective_n` independent items; without items it is NaN. `n_excluded` more items
    were not scored, for these `reasons` with their counts.
    """

    n: int
    n_excluded: int
    n_runs: int
    mean: float
    low: float
    high: float
    n_clusters: int
    effective_n: float
    confidence: float
    reasons: tuple[tuple[str, int], ...] = ()


def bounded(mean: float, low: float, high: float) -> str:
    """`.97 [.92, .99]`."""
    return f"{format_share(mean)} [{format_share(low)}, {format_share(high)}]"


def estimate(
    scores: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    excluded: Iterable[str] = (),
    n_runs: int = 1,
    confidence: float = 0.95,
) -> Estimate:
    """The mean of `scores` with its interval; `excluded` has a reason for each item without one.

    `clusters` gives the cluster of each item: items of one cluster are not independent. Raises
    ValueError.
    """
    mean, effective_n = worth(scores, clusters)
    reasons = Counter(excluded)
    return Estimate(
        len(scores),
        reasons.total(),
        n_runs,
        mean if len(scores) else math.nan,
        *interval_at(mean, effective_n, confidence=confidence),
        len(set(clusters)),
        effective_n,
        confidence,
        tuple(sorted(reasons.items())),
    )


def long_table(rows: Iterable[Row]) -> pd.DataFrame:
    """A line for each row, with its fields and `run`, the number of its run.

    Texts are categories in the order of first appearance.
    """
    import pandas as pd

    rows, columns = list(rows), dict[str, object]()
    for field in fields(Row):
        values = [getattr(row, field.name) for row in rows]
        if field.type == "str":
            values = pd.Categorical(values, list(dict.fromkeys(values)))
        columns[field.name] = values
    table = pd.DataFrame(columns).astype({"score": float, "value": float})
    run = table.groupby(list(Run._fields), observed=True, sort=False).ngroup()
    return table.assign(run=run)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The items with a score or a reason for having none, sorted by condition and measure.

    Rows of metrics that are no results, such as routing, are left out.
    """
    table = table[~table.metric.isin(ASIDE)].copy()
    for name in ("protocol", "when", "metric", "kind"):
        words = sorted(table[name].unique(), key=_place)
        table[name] = table[name].cat.set_categories(words, ordered=True)
    return table


def at_checkpoints(table: pd.DataFrame) -> pd.DataFrame:
    """The final items, then for each T with final items the at-edit items of the first T edits.

    A run without final items has its at-edit items at its last edit. Items of the unedited model
    are at the last T with final items, as the same questions are asked there.
    """
    import pandas as pd

    final, unedited = (table[table.when == when] for when in ("final", "unedited"))
    checkpoints = final.groupby("run").t.unique()
    last = final.groupby("run").t.max()
    parts = [final, unedited.assign(t=unedited.run.map(last).fillna(0).astype("int64"))]
    for run, at_edit in table[table.when == "at-edit"].groupby("run"):
        for t in sorted(checkpoints.get(run, [at_edit.t.max()])):
            parts.append(at_edit[at_edit.t <= t].assign(t=t))
    return pd.concat(parts)


def with_corners(table: pd.DataFrame) -> pd.DataFrame:
    """The final items, each with its `corner`, which is missing where an item belongs to none."""
    import pandas as pd

    table = table[table.when == "final"]
    pairs = list(zip(table.metric, table.kind, strict=True))
    corner_of = {pair: Measure(*pair).corner or None for pair in set(pairs)}
    named = pd.Categorical([corner_of[pair] for pair in pairs], CORNERS, ordered=True)
    return table.assign(corner=named)


def estimates(table: pd.DataFrame, by: Sequence[str], *, confidence: float = 0.95) -> pd.DataFrame:
    """One line for each group of items: the columns `by`, then the group's `Estimate`."""
    import pandas as pd

    lines = []
    for key, group in table.groupby(list(by), observed=True, sort=True):
        scored = group[group.score.notna()]
        found = estimate(
            scored.score.tolist(),
            scored.cluster.cat.codes.tolist(),
            excluded=group.excluded[group.score.isna()],
            n_runs=group.run.nunique(),
            confidence=confidence,
        )
        lines.append((*key, *found))
    return pd.DataFrame(lines, columns=[*by, *Estimate._fields])


def estimates_of_runs(rows: Iterable[Row], *, confidence: float = 0.95) -> pd.DataFrame:
    """An estimate for each run, condition, T and measure; runs as they first appear.

    At-edit estimates are over the first T edits, each measured right after it was made.
    """
    table = at_checkpoints(in_order(long_table(rows)))
    return estimates(table, [*Run._fields, *CONDITION], confidence=confidence)


def places(heights: Sequence[float]) -> list[int]:
    """The rank of each height: the highest is 1, and equal heights share a rank."""
    return [1 + sum(other > height for other in heights) for height in heights]
