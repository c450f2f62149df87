"""Items to tidy tables: every score that a figure shows, with its interval.

Runs of one editor on one model and stream that differ only in their seed are pooled; items of one
subject count as dependent, also across seeds. Protocols, models, streams and versions are never
pooled; nor are streams of one name whose digests differ at one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from reports.calibration import is_calibration
from reports.pooling import stream_names
from reports.reading import Items
from wise.measures.ceilings import TextReading, ceilings_of_rows, pooled
from wise.measures.estimates import (
    CONDITION,
    at_checkpoints,
    estimates,
    in_order,
    places,
    with_corners,
)
from wise.measures.rows import ASIDE

__all__ = [
    "SERIES",
    "attainable",
    "cells",
    "corners",
    "groups",
    "in_series",
    "league",
    "retention",
    "scores_of",
    "with_ceilings",
]

SERIES = ["model", "stream", "editor"]
_LEAST_PER_BIN = 5  # edits
_MOST_BINS = 10
_ESTIMATED = ["run", "cluster", "score", "excluded"]
_CEILING = [*SERIES, *CONDITION, "at_most"]


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
    return in_order(in_series(items, items.table[~items.table.metric.isin(ASIDE)]))


def groups(
    table: pd.DataFrame, by: Sequence[str]
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The non-empty groups of `table`, in order, each with its key."""
    for key, group in table.groupby(list(by), observed=True, sort=True):
        yield dict(zip(by, key, strict=True)), group


def cells(
    items: Items, reached: pd.DataFrame | None = None, *, confidence: float = 0.95
) -> pd.DataFrame:
    """An estimate for each series, condition, T and measure; at-edit over the first T edits.

    It stands beside its ceiling in `reached`, as `attainable` gives them.
    """
    by = [*SERIES, *CONDITION]
    table = at_checkpoints(scores_of(items)[[*by, *_ESTIMATED]])
    return with_ceilings(estimates(table, by, confidence=confidence), reached)


def attainable(
    items: Items, reading: Callable[[], TextReading | None] = lambda: None
) -> pd.DataFrame:
    """The ceilings below 1 of final scores: `at_most` for each series, protocol, T and measure, and
    `why`. Runs of one series are pooled by their questions; `reading` as in `ceilings_of_rows`."""
    table, lines = scores_of(items), []
    # What the unedited model answers can always be answered.
    table = table[(table.when == "final") & (table.metric != "locality")]
    for key, own in groups(table, [*SERIES, "protocol", "when", "t"]):
        place = key["protocol"], key["t"]
        of_runs = [ceilings_of_rows(run.itertuples(), reading) for _, run in own.groupby("run")]
        known = [found[place] for found in of_runs if place in found]
        if len(known) == len(of_runs):
            for measure in dict.fromkeys(each for found in known for each in found):
                ceiling = pooled(known, measure)
                if ceiling is not None and ceiling.share < 1:
                    told = {"at_most": float(ceiling.share), "why": ceiling.reason}
                    lines.append(key | measure._asdict() | told)
    return pd.DataFrame(lines, columns=[*_CEILING, "why"]).astype({"at_most": float})


def with_ceilings(table: pd.DataFrame, reached: pd.DataFrame | None) -> pd.DataFrame:
    """Lines of a series and condition each, with `at_most` of `attainable`; NaN where it is 1."""
    if reached is None or reached.empty:
        return table.assign(at_most=math.nan)
    return table.merge(reached[_CEILING], on=_CEILING[:-1], how="left")


def retention(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """Reliability at the last T by age of the edit, beside that of the same edits at-edit.

    Ages are cut into up to ten bins of at least five ages; with fewer ages there is no line.
    """
    table = scores_of(items)
    table = table[table.metric == "reliability"]
    final = table[table.when == "final"]
    final = final[final.t == final.groupby("run").t.transform("max")]
    item = ["run", "protocol", "edit_id", "prompt"]
    at_edit = table[table.when == "at-edit"].drop_duplicates(item, keep="last")
    at_edit = at_edit.drop(columns=["age", "t"])
    beside = at_edit.merge(final[[*item, "age", "t"]].drop_duplicates(item), on=item)
    table = pd.concat([final, beside])
    by, parts = [*SERIES, "protocol", "t"], [table.iloc[:0].assign(age_low=0, age_high=0)]
    for _, group in groups(table, by):
        ages = np.sort(group.age.unique())
        n_bins = min(_MOST_BINS, len(ages) // _LEAST_PER_BIN)
        for bin_ages in np.array_split(ages, n_bins) if n_bins > 1 else []:
            bounds = {"age_low": bin_ages[0], "age_high": bin_ages[-1]}
            parts.append(group[group.age.between(*bounds.values())].assign(**bounds))
    by += ["age_low", "age_high", "when"]
    return estimates(pd.concat(parts), by, confidence=confidence)


def corners(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """A line for each series, protocol, T and corner of the final model, with the items of a corner
    pooled, as a league counts them."""
    by = [*SERIES, "protocol", "t", "corner"]
    return estimates(with_corners(scores_of(items)), by, confidence=confidence)


def league(cell_table: pd.DataFrame, corner_table: pd.DataFrame) -> pd.DataFrame:
    """The final cells of each model, stream and protocol at the T that most editors have.

    Of several such T it is the last. `worst` is the lowest mean of the editor's corners, and
    `place` the rank by it, shared by equal ones; calibration corners have no rank and come last.
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
        ranked = worst[[not is_calibration(str(editor)) for editor in worst.index]].dropna()
        place = pd.Series(places(ranked.tolist()), ranked.index, dtype=float)
        ranks = {"worst": at_t.editor.map(worst), "place": at_t.editor.map(place)}
        parts.append(at_t.assign(**ranks).sort_values("place", kind="stable"))
    return pd.concat(parts, ignore_index=True)
