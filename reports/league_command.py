"""The command `python -m reports league`: editors by T, models and seeds, to a table."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reports.calibration import CALIBRATION

if TYPE_CHECKING:
    from wise.evaluation.cell import Scene
    from wise.evaluation.entries import Entry

__all__ = ["in_a_folder", "league", "world_scene"]

_SEARCH = Path(__file__).parents[1] / "benchmarks" / "results" / "search.csv"


def world_scene(model: str, seed: int, n_edits: int) -> Scene:
    """An embedded model, a stream of its world's evaluation facts, and its background."""
    from transformers.utils import logging

    from fixtures.models import load_model
    from wise.evaluation.cell import Scene

    logging.disable_progress_bar()  # the league's own is the only one
    loaded = load_model(model)
    if loaded.world is None:
        raise ValueError(f"model {model!r} has no world to take edits from")
    stream = loaded.world.stream(seed, n_edits)
    return Scene(loaded.model, loaded.tokenizer, stream, loaded.world.background())


def _entries(names: list[str], model: str, search: Path, options: str) -> tuple[Entry, ...]:
    from wise.evaluation.entries import Entry, best_options, entries_of, every_name

    best = best_options(search, model=model)
    if "all" in names:
        others = [name for name in names if name not in ("all", *CALIBRATION)]
        names = [*every_name(), *others, *CALIBRATION]
    found: list[Entry] = []
    for name in dict.fromkeys(names):
        spec = CALIBRATION.get(name)
        found += entries_of(name, best=best, options=options) if spec is None else [
            Entry(name, spec, group="corner")
        ]  # fmt: skip
    return tuple(dict.fromkeys(found))


def _check_models(models: list[str]) -> None:
    """Raise ValueError for the first that is no model with a world, before any cell runs."""
    from fixtures.models import model_folder, world_of

    for model in models:
        if world_of(model_folder(model)) is None:
            raise ValueError(f"model {model!r} has no world to take edits from")


def in_a_folder(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file to write, whose folder must exist before the work begins."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"{path} is not a file in a folder that exists")
    return path


@click.command()
@click.option("--editors", default="all", show_default=True,
              help="all, none, perfect, random, names or MODULE:FACTORY, by commas")  # fmt: skip
@click.option("--models", default="llama", show_default=True, help="families, parted by commas")
@click.option("--edits", default=100, show_default=True, type=click.IntRange(1), help="T")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="how many")
@click.option("--jobs", type=click.IntRange(1), help="processes  [default: one for each core]")
@click.option("--out", default="league", show_default=True,
              type=click.Path(file_okay=False, path_type=Path),
              help="folder of rows, tables and what is needed to go on")  # fmt: skip
@click.option("--options", default="both", show_default=True,
              type=click.Choice(["both", "released", "tuned"]),
              help="which of a built-in editor's two entries")  # fmt: skip
@click.option("--search", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="results of benchmarks.search  [default: those of the checkout]")  # fmt: skip
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), callback=in_a_folder,
              help="Markdown page")  # fmt: skip
@click.option("--notes", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Markdown to end the page with")  # fmt: skip
@click.option("--confidence", default=0.95, show_default=True,
              type=click.FloatRange(0.5, 1, max_open=True))  # fmt: skip
def league(
    editors, models, edits, seeds, jobs, out, options, search, write, notes, confidence
) -> None:
    """Run editors on the same streams, and rank them; a call that was stopped goes on."""
    from wise.editor import load_editor
    from wise.evaluation import league_table, league_text
    from wise.evaluation.league import League, results_of, run_league, write_costs
    from wise.jobs.grid import run_apart

    try:
        _check_models(models.split(","))
        entries = {
            model: _entries(editors.split(","), model, search or _SEARCH, options)
            for model in models.split(",")
        }
        for entry in {entry for of_model in entries.values() for entry in of_model}:
            load_editor(entry.spec)
        asked = League(entries, tuple(range(seeds)), edits, world_scene)
        executor = partial(run_apart, n_processes=jobs or os.cpu_count() or 1)
        outcomes = run_league(asked, out, executor=executor)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    results = results_of(outcomes, out)
    found = league_table.standings(results, confidence=confidence)
    write_costs(outcomes, out / "costs.csv")
    league_text.write_scores(found, out / "scores.csv")
    page = league_text.document(
        found, outcomes, league_table.retained(results), confidence=confidence,
        command=shlex.join(["python", "-m", "reports", *sys.argv[1:]]),
        notes=notes.read_text(encoding="utf-8") if notes else "",
    )  # fmt: skip
    for path in filter(None, (out / "league.md", write)):
        path.write_text(page, encoding="utf-8")
    click.echo(league_text.tables(found, outcomes, last_only=True))
    if all(outcome.state == "error" for outcome in outcomes.values()):
        raise click.ClickException("no cell came to its end; the tables say why")
