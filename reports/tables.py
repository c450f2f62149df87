"""Items to tidy tables: every score that a figure shows, with its interval.

Runs of one editor on one model and stream that differ by their seed alone are pooled; items of one
subject count as dependent, also across seeds. Protocols are never pooled, nor models, streams
(also of one name, where their digests differ at one seed) or versions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from reports.calibration import is_calibration
from reports.pooling import stream_names
from reports.reading import Items
from wise.measures.rows import CORNERS, corner_of
from wise.measures.statistics import interval

__all__ = [
    "CONDITION",
    "SERIES",
    "TRIANGLE",
    "cells",
    "corners",
    "groups",
    "in_series",
    "league",
    "retention",
    "scores_of",
]

SERIES = ["model", "stream", "editor"]
CONDITION = ["protocol", "when", "t", "metric", "kind"]
TRIANGLE = ["reliability", "generalization", "locality"]
_ORDERS = {
    "protocol": ["free", "forced"],
    "when": ["final", "at-edit"],
    "metric": [*TRIANGLE, "portability"],
}
_PROBES = ["far", "near-subject", "near-relation", "portability"]
_LEAST_PER_BIN = 5  # edits
_MOST_BINS = 10
_MEAN = ["n", "n_excluded", "n_runs", "mean", "low", "high"]


def in_series(items: Items, table: pd.DataFrame) -> pd.DataFrame:
    """`table`, lines of the items, with the columns of SERIES, in the order of first appearance."""
    runs = items.runs
    editors = [
        f"{editor}, version {version}" if version > 1 else editor
        for editor, version in zip(runs.editor, runs.version, strict=True)
    ]
    named = zip(SERIES, (list(runs.model), stream_names(items), editors), strict=True)
    columns = {
        name: pd.Categorical(each, list(dict.fromkeys(each)))[table.run] for name, each in named
    }
    return pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1)


def scores_of(items: Items) -> pd.DataFrame:
    """Every scored or excluded item in its series; conditions and measures are in their order."""
    table = in_series(items, items.table[items.table.metric != "routing"])
    levels = sorted(filter(str.isdecimal, table.kind.cat.categories), key=int)
    for name, order in {**_ORDERS, "kind": ["", *levels, *_PROBES]}.items():
        table[name] = table[name].cat.set_categories(order, ordered=True)
    return table


def groups(
    table: pd.DataFrame, by: Sequence[str]
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The groups of `table` that have a line, in order, each with what it is the group of."""
    for key, group in table.groupby(list(by), observed=True, sort=True):
        yield dict(zip(by, key, strict=True)), group


def _mean(group: pd.DataFrame, confidence: float) -> dict[str, object]:
    """Mean and interval of a group, what was left out of it, and of how many runs it is."""
    scored = group[group.score.notna()]
    scores = scored.score.tolist()
    low, high = interval(scores, scored.cluster.cat.codes.tolist(), confidence=confidence)
    mean = math.fsum(scores) / len(scores) if scores else math.nan
    n_excluded = len(group) - len(scores)
    return dict(
        zip(_MEAN, (len(scores), n_excluded, group.run.nunique(), mean, low, high), strict=True)
    )


def _at_checkpoints(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The final items, then at each T of a run's final items those measured at-edit up to it.

    A run without final items has its at-edit items at its last edit.
    """
    is_final = table.when == "final"
    yield table[is_final]
    checkpoints = table[is_final].groupby("run").t.unique()
    for run, at_edit in table[~is_final].groupby("run"):
        for t in sorted(checkpoints.get(run, [at_edit.t.max()])):
            yield at_edit[at_edit.t <= t].assign(t=t)


def cells(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """A line for each series, condition, T and measure: mean, interval, n and what was excluded.

    At-edit means are over the first T edits, as in `wise.measures.summary.summarize`.
    """
    by = [*SERIES, *CONDITION]
    table = scores_of(items)[[*by, "run", "cluster", "score"]]
    table = pd.concat(_at_checkpoints(table))
    lines = [key | _mean(group, confidence) for key, group in groups(table, by)]
    return pd.DataFrame(lines, columns=[*by, *_MEAN])


def retention(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """Reliability at the last T by age of the edit, beside that of the same edits at-edit.

    Ages are cut into up to ten bins of at least five ages; where they are fewer there is no line.
    """
    table = scores_of(items)
    table = table[table.metric == "reliability"]
    is_final = table.when == "final"
    last = table[is_final].groupby("run").t.max()
    final = table[is_final & (table.t == table.run.map(last))]
    item = ["run", "protocol", "edit_id", "prompt"]
    at_edit = table[~is_final].drop_duplicates(item, keep="last").drop(columns=["age", "t"])
    beside = at_edit.merge(final[[*item, "age", "t"]].drop_duplicates(item), on=item)
    table = pd.concat([final, beside])
    by, lines = [*SERIES, "protocol", "t"], []
    for series, group in groups(table, by):
        ages = np.sort(group.age.unique())
        n_bins = min(_MOST_BINS, len(ages) // _LEAST_PER_BIN)
        for bin_ages in np.array_split(ages, n_bins) if n_bins > 1 else []:
            bounds = {"age_low": bin_ages[0], "age_high": bin_ages[-1]}
            inside = group[group.age.between(*bounds.values())]
            for when, of_bin in groups(inside, ["when"]):
                lines.append(series | bounds | when | _mean(of_bin, confidence))
    return pd.DataFrame(lines, columns=[*by, "age_low", "age_high", "when", *_MEAN])


def corners(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """A line for each series, protocol, T and corner of the final model, with the items of a corner
    pooled, as a league counts them."""
    table = scores_of(items)
    table = table[table.when == "final"]
    named = [corner_of(*pair) or None for pair in zip(table.metric, table.kind, strict=True)]
    table = table.assign(corner=pd.Categorical(named, CORNERS, ordered=True))
    by = [*SERIES, "protocol", "t", "corner"]
    lines = [key | _mean(group, confidence) for key, group in groups(table, by)]
    return pd.DataFrame(lines, columns=[*by, *_MEAN])


def league(cell_table: pd.DataFrame, corner_table: pd.DataFrame) -> pd.DataFrame:
    """The final cells of each model, stream and protocol at the T that most editors have.

    Of several such T it is the last. `worst` is the lowest mean of the editor's corners, and
    `place` its place by it, one place for equal ones; corners of calibration have none and stand
    at the end.
    """
    final = cell_table[cell_table.when == "final"].assign(worst=math.nan, place=math.nan)
    parts = [final.iloc[:0]]
    scene = ["model", "stream", "protocol"]
    lowest = {
        key: of_t.groupby("editor", sort=False)["mean"].min()
        for key, of_t in corner_table.groupby([*scene, "t"], sort=False)
    }
    for key, group in final.groupby(scene, sort=False):
        n_editors = group.groupby("t").editor.nunique()
        at_t = group[group.t == n_editors[n_editors == n_editors.max()].index.max()]
        worst = lowest.get((*key, at_t.t.iloc[0]), pd.Series(dtype=float))
        ranked = worst[[not is_calibration(str(editor)) for editor in worst.index]]
        place = ranked.rank(ascending=False, method="min")
        ranks = {"worst": at_t.editor.map(worst), "place": at_t.editor.map(place)}
        parts.append(at_t.assign(**ranks).sort_values("place", kind="stable"))
    return pd.concat(parts, ignore_index=True)
