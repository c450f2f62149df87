"""The command line: `python -m reports page ROWS... --out DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reports.league_command import league
from reports.study_command import study

__all__ = ["main"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Reports on model editors: from rows to figures, tables and one page."""


@main.command()
@click.argument("rows", nargs=-1, type=_FILE)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="folder of the page",
)
@click.option("--compare", nargs=2, type=_FILE, metavar="A B", help="two rows files, item by item")
@click.option(
    "--threshold",
    multiple=True,
    metavar="METRIC=VALUE",
    help="what a metric must reach; repeatable",
)
@click.option(
    "--confidence", default=0.95, show_default=True, type=click.FloatRange(0.5, 1, max_open=True)
)
@click.option("--checks", type=_FILE, multiple=True, help="outcomes of checks, as JSON lines")
@click.option("--sweep", "sweeps", type=_FILE, multiple=True, help="rows to show by option alone")
@click.option("--costs", type=_FILE, help="a league's costs, as CSV")
@click.option("--kill-matrix", type=_FILE, help="faults and the checks that they trip, as TOML")
@click.option("--study", type=_FILE, help="a localization study, as CSV")
@click.option("--r2", type=_FILE, help="its regressions, as CSV")
@click.option("--effects", type=_FILE, help="tracing effects by token and layer, as CSV")
def page(rows: tuple[Path, ...], out: Path, threshold: tuple[str, ...], **options: Any) -> None:
    """Make one page of ROWS, files of JSON lines: index.html in the folder --out."""
    from reports.build import build_page

    if not rows and not options["compare"]:
        raise click.UsageError("name a file of rows, or two to --compare")
    try:
        click.echo(build_page(rows, out, thresholds=threshold, **options))
    except ValueError as error:
        raise click.ClickException(str(error)) from error


main.add_command(league)
main.add_command(study)


if __name__ == "__main__":
    main()
