"""Editors by models by seeds: a grid of independent runs that is resumed cell by cell."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wise.evaluation.cell import LeagueCell, Outcome, SceneMaker, check_cell, run_cell
from wise.evaluation.entries import Entry
from wise.evaluation.league_table import Contestant, Results
from wise.jobs.grid import Executor, claimed, run_grid
from wise.measures.rows import Row, read_rows
from wise.measures.text import spreadsheet_safe

__all__ = ["COST_COLUMNS", "League", "checkpoints_of", "results_of", "run_league", "write_costs"]

_FORMAT = 2
COST_COLUMNS = ("editor", "model", "seed", "t", "seconds_per_edit", "bytes", "inference_ratio")


def checkpoints_of(n_edits: int) -> tuple[int, ...]:
    """The powers of ten below T, and T itself."""
    return (*(10**n for n in range(len(str(n_edits))) if 10**n < n_edits), n_edits)


@dataclass(frozen=True)
class League:
    """Entries by model, the seeds of their streams, and T = `n_edits`.

    `scene_of` makes what each editor is given. Raises ValueError without entries or seeds, for a
    repeated entry, and for T < 1.
    """

    entries: Mapping[str, tuple[Entry, ...]]
    seeds: tuple[int, ...]
    n_edits: int
    scene_of: SceneMaker
    protocols: tuple[str, ...] = ("free",)

    def __post_init__(self) -> None:
        if self.n_edits < 1:
            raise ValueError(f"n_edits={self.n_edits} must be >= 1")
        if not self.seeds or not any(self.entries.values()):
            raise ValueError("a league has at least one seed and one entry")
        for model, entries in self.entries.items():
            names = [entry.editor for entry in entries]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{min(twice)!r} is repeated among the entries on {model}")

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return checkpoints_of(self.n_edits)

    def cells(self) -> Iterator[LeagueCell]:
        """All cells. A mass edit has one for each checkpoint, as its one turn is never split."""
        for seed in self.seeds:
            for model, entries in self.entries.items():
                for entry in entries:
                    whole = LeagueCell(
                        entry, model, seed, self.n_edits, self.checkpoints, self.protocols
                    )
                    if entry.group != "mass":
                        yield whole
                        continue
                    for t in self.checkpoints:
                        yield replace(whole, checkpoints=(t,))

    def identity(self) -> dict[str, object]:
        """What cells must share to be compared; editors, models and seeds may be added later."""
        scene = f"{self.scene_of.__module__}:{self.scene_of.__qualname__}"
        options = getattr(self.scene_of, "keywords", {})
        return {
            "format": _FORMAT, "scene": scene, "edits": self.n_edits,
            "checkpoints": list(self.checkpoints), "protocols": list(self.protocols),
            **({"scene options": options} if options else {}),
        }  # fmt: skip


def run_league(
    league: League, folder: Path, *, executor: Executor | None = None, progress: bool = True
) -> dict[LeagueCell, Outcome]:
    """Run every unfinished cell below `folder`, in this process or by `executor`; returns the
    outcome of each cell.

    Cells that had an error are tried again. An error in a cell, or the death of its process,
    affects no other cell; after a kill, the same call goes on where it stopped. Raises ValueError
    where `folder` holds another league or rows of something else than would be run now, such as of
    an editor whose source has changed since; RuntimeError where another process works in it.
    """
    cells = list(league.cells())
    with claimed(folder, "league", league.identity()):
        _check_kept(league, cells, folder)
        for cell in cells:
            cell.forget_error(folder)
        work = partial(run_cell, scene_of=league.scene_of, folder=folder)
        run_grid(cells, work, folder, executor=executor, name="league", progress=progress)
    return {cell: Outcome.of(cell, folder) for cell in cells}


def _check_kept(league: League, cells: Iterable[LeagueCell], folder: Path) -> None:
    """Raise ValueError where rows are not of what would be run now.

    Those of a cell that had an error are deleted instead: its editor has been mended since.
    """
    kept = defaultdict[tuple[str, int], list[LeagueCell]](list)
    for cell in cells:
        if cell.rows_in(folder).exists():
            kept[cell.model, cell.seed].append(cell)
    for (model, seed), of_scene in kept.items():
        scene = league.scene_of(model, seed, league.n_edits)
        for cell in of_scene:
            try:
                check_cell(cell, scene, folder)
            except ValueError:
                if Outcome.of(cell, folder).state != "error":
                    raise
                cell.discard(folder)


def results_of(outcomes: Mapping[LeagueCell, Outcome], folder: Path) -> Results:
    """The rows of each contestant at each T, of all its seeds, or the reason why one is missing."""
    found: dict[Contestant, dict[int, list[Row] | str]] = {}
    lacking: dict[tuple[Contestant, int], list[str]] = defaultdict(list)
    n_seeds = len({cell.seed for cell in outcomes})
    for cell, outcome in outcomes.items():
        contestant = Contestant(cell.model, cell.entry.group, cell.entry.title, cell.entry.editor)
        by_t = found.setdefault(contestant, {})
        path = cell.rows_in(folder)
        held = read_rows(path, truncated="drop") if outcome.measured else []
        for t in cell.checkpoints:
            rows = by_t.setdefault(t, [])
            if t not in outcome.measured:
                lacking[contestant, t].append(outcome.message or "not run to its end yet")
            elif not isinstance(rows, str):
                rows += [row for row in held if row.t == t and row.when == "final"]
    for (contestant, t), reasons in lacking.items():
        found[contestant][t] = f"{len(reasons)} of {n_seeds} seeds: {reasons[0]}"
    return found


def write_costs(outcomes: Mapping[LeagueCell, Outcome], path: Path) -> None:
    """The costs of all cells as CSV; bytes are blank where an editor does not say."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COST_COLUMNS)
        for cell, outcome in outcomes.items():
            for cost in outcome.costs:
                writer.writerow([
                    spreadsheet_safe(cell.entry.editor), spreadsheet_safe(cell.model), cell.seed,
                    cost.t,
                    f"{cost.seconds_per_edit:.4g}", "" if cost.bytes is None else cost.bytes,
                    f"{cost.inference_ratio:.4g}",
                ])  # fmt: skip
