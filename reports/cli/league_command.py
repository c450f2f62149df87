"""`python -m reports league`: editors on the same streams, ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reports.calibration import CALIBRATION
from reports.cli.command_options import (
    FILE,
    FOLDER,
    called,
    confidence_option,
    executor_of,
    jobs_option,
    option,
    skip_option,
    write_option,
)  # fmt: skip
from reports.cli.fact_files import N_EDITS, file_to_run

if TYPE_CHECKING:
    from wise.evaluation.entries import Which

__all__ = ["league"]

_SEARCH = Path(__file__).parents[2] / "benchmarks" / "results" / "search.csv"


def _which(
    context: click.Context, option: click.Parameter, given: Sequence[str]
) -> Mapping[str, str]:
    """By editor, which of its entries; of all others at ""."""
    found = {}
    for text in given:
        name, _, which = text.rpartition("=")
        found[name] = click.Choice(["both", "released", "tuned"]).convert(which, option, context)
    return found


@click.command()
@option("--editors", default="all",
         help="all, none, perfect, random, names or MODULE:FACTORY; with commas")  # fmt: skip
@option("--models", default="llama",
         help="embedded families, smollm2, folders or GGUF files, with commas")  # fmt: skip
@option("--dataset", metavar="[FORMAT:]FILE", help="facts of a file, not of the models' worlds")
@skip_option
@option("--edits", type=click.IntRange(1), help="number of edits  [default: 100, or all of file]")
@option("--seeds", default=3, type=click.IntRange(1), help="number of seeds")
@jobs_option
@option("--out", default="league", type=FOLDER,
         help="folder of rows, tables and all that a resumed call needs")  # fmt: skip
@option("--options", default=["both"], multiple=True, callback=_which,
         metavar="[NAME=]both|released|tuned",
         help="entries of the built-in editors; of one alone, such as wise=tuned")  # fmt: skip
@option("--search", type=FILE,
         help="results of benchmarks.search  [default: those of the checkout]")  # fmt: skip
@write_option(help="Markdown file to write the page to, beside the one in --out")
@option("--notes", type=FILE, help="Markdown file with which the page ends")
@confidence_option
def league(
    editors: str,
    models: str,
    dataset: str | None,
    skip_bad_records: bool,
    edits: int | None,
    seeds: int,
    jobs: int | None,
    out: Path,
    options: Mapping[str, Which],
    search: Path | None,
    write: Path | None,
    notes: Path | None,
    confidence: float,
) -> None:
    """Run editors on the same streams and rank them.

    Repeat the call to resume it.
    """
    from fixtures.models import model_folder, no_world, title_of, world_of
    from fixtures.scenes import of_dataset, world_scene
    from wise.editor import load_editor
    from wise.evaluation import league_table, league_text
    from wise.evaluation.entries import best_options, entries_named
    from wise.evaluation.league import League, results_of, run_league, write_costs

    entries, left_out, n_edits = {}, tuple[str, ...](), edits or N_EDITS
    try:
        if dataset is not None:
            n_edits, left_out = file_to_run(
                dataset, models.split(","), edits, seeds, skip_bad_records
            )
        for model in models.split(","):
            world = world_of(model_folder(model))
            if dataset is None:
                if world is None:
                    raise no_world(model)
                world.stream(0, n_edits)
            best = best_options(search or _SEARCH, model=title_of(model))
            entries[model] = entries_named(
                editors.split(","), best=best, options=options.get("", "both"),
                options_of={name: each for name, each in options.items() if name},
                corners=CALIBRATION,
            )  # fmt: skip
        for entry in {entry for of_model in entries.values() for entry in of_model}:
            load_editor(entry.spec)
        scene_of = (
            world_scene
            if dataset is None
            else of_dataset(dataset, skip_bad_records=skip_bad_records)
        )
        asked = League(entries, tuple(range(seeds)), n_edits, scene_of)
        outcomes = run_league(asked, out, executor=executor_of(jobs))
    except (OSError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    results = results_of(outcomes, out)
    found = league_table.standings(results, confidence=confidence)
    write_costs(outcomes, out / "costs.csv")
    league_text.write_scores(found, out / "scores.csv")
    page = league_text.document(
        found, outcomes, league_table.retained(results), confidence=confidence,
        command=called(), left_out=left_out,
        notes=notes.read_text(encoding="utf-8") if notes else "",
    )  # fmt: skip
    for path in filter(None, (out / "league.md", write)):
        path.write_text(page, encoding="utf-8")
    click.echo(league_text.tables(found, outcomes, last_only=True))
    if all(outcome.state == "error" for outcome in outcomes.values()):
        raise click.ClickException("no cell was finished; the tables say why")
