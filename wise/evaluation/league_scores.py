"""A league's rows as scores: corners, levels and averages, with intervals over subjects.

Final free-run rows alone count. Seeds are pooled; a subject that several of them ask for is one
cluster.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from wise.measures.rows import CORNERS, Row, corner_of
from wise.measures.statistics import interval

__all__ = ["Contestant", "Estimate", "Results", "corner_means", "counted", "measures_of"]


class Contestant(NamedTuple):
    """An entry on a model; those of one model and group are ranked together."""

    model: str
    group: str
    title: str
    editor: str


# By T: the rows of every seed, or why there are none.
Results = Mapping[Contestant, Mapping[int, list[Row] | str]]


class Estimate(NamedTuple):
    """A mean of `n` items, its interval, and how many items it leaves out."""

    n: int
    n_excluded: int
    mean: float
    low: float
    high: float


def counted(rows: Iterable[Row], t: int) -> list[Row]:
    """The final free-run rows of the corners after `t` edits."""
    return [
        row
        for row in rows
        if (row.when, row.protocol, row.t) == ("final", "free", t)
        and corner_of(row.metric, row.kind)
    ]


def corner_means(rows: Iterable[Row], t: int) -> dict[str, float]:
    """The mean score of each corner after `t` edits; generalization is over all its levels."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in counted(rows, t):
        if row.score is not None:
            scores[corner_of(row.metric, row.kind)].append(row.score)
    return {corner: math.fsum(scores[corner]) / len(scores[corner]) for corner in CORNERS
            if corner in scores}  # fmt: skip


def _estimate(rows: Sequence[Row], confidence: float) -> Estimate | None:
    scored = [(row.score, row.cluster) for row in rows if row.score is not None]
    if not scored:
        return None
    return _mean_of(scored, len(rows) - len(scored), confidence)


def _mean_of(
    scored: Sequence[tuple[float, Hashable]], n_excluded: int, confidence: float
) -> Estimate:
    scores, clusters = zip(*scored, strict=True)
    bounds = interval(scores, clusters, confidence=confidence)
    return Estimate(len(scores), n_excluded, math.fsum(scores) / len(scores), *bounds)


def measures_of(rows: Sequence[Row], *, confidence: float = 0.95) -> dict[str, Estimate]:
    """Each corner, each level of generalization, and "average": of one T, over all seeds."""
    named: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        named[corner_of(row.metric, row.kind)].append(row)
        if row.metric == "generalization" and row.kind:
            named[f"level {row.kind}"].append(row)
    found = {name: _estimate(named[name], confidence) for name in (*CORNERS, *sorted(named))}
    average = _average(rows, confidence)
    return {name: each for name, each in {**found, "average": average}.items() if each is not None}


def _average(rows: Sequence[Row], confidence: float) -> Estimate | None:
    """The mean over edits of reliability, generalization and locality, each a third.

    An edit that lacks one of them is left out. Source: the "Avg." of WISE, Table 2, per item.
    """
    by_edit: dict[Hashable, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    clusters: dict[Hashable, str] = {}
    for row in rows:
        if row.score is not None and row.edit_id:
            by_edit[row.seed, row.edit_id][row.metric].append(row.score)
            clusters[row.seed, row.edit_id] = row.cluster
    scored: list[tuple[float, Hashable]] = [
        (math.fsum(math.fsum(each) / len(each) for each in metrics.values()) / 3, clusters[edit])
        for edit, metrics in by_edit.items()
        if len(metrics) == 3
    ]
    return _mean_of(scored, len(by_edit) - len(scored), confidence) if scored else None
