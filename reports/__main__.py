"""The command line, `python -m reports page|league|study|lint`."""

from __future__ import annotations

import click

from reports.cli.league_command import league
from reports.cli.lint_command import lint
from reports.cli.page_command import page
from reports.cli.study_command import study

__all__ = ["main"]


@click.group()
def main() -> None:
    """Reports on model editors: from rows to figures, tables and one page."""


for _command in (page, league, study, lint):
    main.add_command(_command)


if __name__ == "__main__":
    main()
