"""One editor at every layer, run as in the league: with a single edit, and with many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from wise.evaluation.cell import SceneMaker
from wise.evaluation.entries import Entry
from wise.evaluation.league import League, results_of, run_league
from wise.evaluation.league_table import counted, measures_of
from wise.jobs.grid import Executor
from wise.measures.estimates import CORNERS

__all__ = ["sweep_layers"]

_ESTIMATED = ("n", "n_excluded", "mean", "low", "high")


def sweep_layers(
    entry: Entry,
    model: str,
    layers: Sequence[int],
    scene_of: SceneMaker,
    folder: Path,
    *,
    n_edits: int = 50,
    n_alone: int = 20,
    executor: Executor | None = None,
    confidence: float = 0.95,
    progress: bool = True,
) -> pd.DataFrame:
    """Reliability, generalization and locality by layer, at T=1 over `n_alone` streams of one edit
    and at T=`n_edits` over one stream; a row for each layer, T and measure, with its interval.

    The final model, free-run. A layer whose run had an error has a row with the error and no mean.
    It resumes as `run_league` does. Raises ValueError for `n_edits` < 2. Source: WISE, figure 4.
    """
    if n_edits < 2:
        raise ValueError(f"n_edits={n_edits} must be >= 2: T=1 is measured separately")
    at = {f"{entry.name} at {layer}": layer for layer in layers}  # a layer's results by name
    entries = tuple(
        replace(entry, name=name, label="", options=(*entry.options, ("layer", layer)))
        for name, layer in at.items()
    )
    rows: list[dict[str, object]] = []
    for t, seeds in ((1, tuple(range(n_alone))), (n_edits, (0,))):
        league, place = League({model: entries}, seeds, t, scene_of), folder / f"T-{t}"
        outcomes = run_league(league, place, executor=executor, progress=progress)
        for contestant, by_t in results_of(outcomes, place).items():
            named = dict(editor=entry.name, model=model, layer=at[contestant.title], t=t)
            found = by_t[t]
            if isinstance(found, str):
                rows.append({**named, "metric": "", "error": found})
                continue
            measures = measures_of(counted(found, t), confidence=confidence)
            rows += [
                {**named, "metric": name, "error": "",
                 **{field: getattr(measures[name], field) for field in _ESTIMATED}}
                for name in CORNERS if name in measures
            ]  # fmt: skip
    columns = ["editor", "model", "layer", "t", "metric", *_ESTIMATED, "error"]
    return pd.DataFrame(rows, columns=columns).sort_values(["t", "metric", "layer"])
