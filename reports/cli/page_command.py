"""`python -m reports page`: one page of files of rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from reports.cli.command_options import FILE, FOLDER, option
from wise.measures.verdicts import MAX_LOOKS

__all__ = ["page"]


@click.command()
@click.argument("rows", nargs=-1, type=FILE)
@option("--out", type=FOLDER, required=True, help="folder of the page")
@option("--compare", nargs=2, type=FILE, metavar="A B", help="two files of rows, item by item")
@option("--threshold", multiple=True, metavar="METRIC=VALUE",
         help="what a metric must reach; repeatable")  # fmt: skip
@option("--confidence", type=click.FloatRange(0.5, 1, max_open=True),
         help="of intervals and verdicts  [default: the run's, or 0.95]")  # fmt: skip
@option("--looks", "max_looks", type=click.IntRange(1),
         help="number of looks (interim analyses) that share the error  [default: the run's, or "
         f"{MAX_LOOKS}]")  # fmt: skip
@option("--verdicts", type=FILE, multiple=True,
         help="verdicts of the suite, as JSON lines  [default: those beside the rows]")  # fmt: skip
@option("--checks", type=FILE, multiple=True, help="outcomes of checks, as JSON lines")
@option("--sweep", "sweeps", type=FILE, multiple=True,
         help="rows of one editor, shown by its options and not judged; repeatable")  # fmt: skip
@option("--costs", type=FILE, help="a league's costs, as CSV")
@option("--kill-matrix", type=FILE, help="faults and the checks that they trip, as TOML")
@option("--study", type=FILE, help="a localization study, as CSV")
@option("--r2", type=FILE, help="its regressions, as CSV")
@option("--effects", type=FILE, help="tracing effects by token and layer, as CSV")
@option("--model", help="read texts with the tokenizer of this model, for forced ceilings too")
def page(
    rows: tuple[Path, ...], out: Path, threshold: tuple[str, ...], model: str | None, **options: Any
) -> None:
    """Make one page of files of rows.

    ROWS are files of JSON lines, as --rows of pytest writes them; the page is index.html in the
    folder --out.
    """
    from reports.build import build_page
    from reports.reading import check_has_rows

    if not rows and not options["compare"]:
        raise click.UsageError("name a file of rows, or two to --compare")
    try:
        for path in (*rows, *(options["compare"] or ()), *options["sweeps"]):
            check_has_rows(path)
        if model is not None:
            from fixtures.models import load_reading

            options["reading"] = partial(load_reading, model)
        click.echo(build_page(rows, out, thresholds=threshold, **options))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
