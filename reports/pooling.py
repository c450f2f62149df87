"""The streams of runs by name: one name for all seeds, but two for two streams of one seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from reports.csv_text import shorten
from reports.reading import Items, Notice

__all__ = ["apart", "stream_names"]

_MOST_DIGITS = 8  # of a digest in a name


class _Key(NamedTuple):
    """What runs of one seed have in common."""

    model: str
    stream: str
    seed: int


def _ts(items: Items) -> dict[int, set[int]]:
    """By run, the T of its cells: those of its final items, else its last edit."""
    final = items.table[items.table.when == "final"]
    found = {run: {own.max()} for run, own in items.table.groupby("run").t}
    return found | {run: set(own) for run, own in final.groupby("run").t}


def _others(items: Items) -> Iterator[tuple[_Key, pd.Series]]:
    """An editor's runs of a second stream with the same name and seed, at a T of both."""
    ts, first = _ts(items), dict[tuple[object, ...], list[tuple[str, set[int]]]]()
    for index, run in items.runs.iterrows():
        key = _Key(run.model, run.stream, run.seed)
        held = first.setdefault((*key, run.editor, run.version), [])
        own = ts.get(index, set())
        if any(sha != run.stream_sha256 and own & other for sha, other in held):
            yield key, run
        held.append((run.stream_sha256, own))


def stream_names(items: Items) -> list[str]:
    """Each run's stream, without the seed; with digits of its digest where an editor has two
    streams of that name and seed at one T, so that they are kept apart."""
    others = {(*key, run.stream_sha256) for key, run in _others(items)}
    names = []
    for run in items.runs.itertuples():
        name = run.stream.removesuffix(f"-{run.seed}")
        is_other = (run.model, run.stream, run.seed, run.stream_sha256) in others
        digits = run.stream_sha256[:_MOST_DIGITS]
        names.append(f"{name}, sha256 {digits}" if is_other else name)
    return names


def apart(items: Items) -> list[Notice]:
    """A notice for each run whose stream differs from an earlier one of that name and seed."""
    return [
        Notice(
            shorten(run.stream, 120),
            f"{shorten(run.editor, 120)} on {run.model}, seed {run.seed}, has two streams of this "
            f"name; the one of sha256 {run.stream_sha256[:_MOST_DIGITS]} is kept apart",
        )
        for _, run in _others(items)
    ]
