"""What the commands take alike, and how their cells run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wise.jobs.grid import Executor

__all__ = [
    "FILE", "FOLDER", "called", "confidence_option", "executor_of", "jobs_option", "option",
    "skip_option", "write_option",
]  # fmt: skip

option = partial(click.option, show_default=True)
_file = partial(click.Path, dir_okay=False, path_type=Path)
FILE = _file(exists=True)
FOLDER = click.Path(file_okay=False, path_type=Path)
jobs_option = option(
    "--jobs", type=click.IntRange(1), help="processes  [default: one for each core]"
)
confidence_option = option(
    "--confidence", default=0.95, type=click.FloatRange(0.5, 1, max_open=True),
    help="of intervals and verdicts",
)  # fmt: skip
skip_option = option(
    "--skip-bad-records", is_flag=True,
    help="leave out bad records of the file and say why, not stop at them",
)  # fmt: skip


def _in_a_folder(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file to write, whose folder must exist before the work begins."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"{path} is not a file in a folder that exists")
    return path


write_option = partial(option, "--write", type=_file(), callback=_in_a_folder)


def called() -> str:
    """The command as it was called."""
    return shlex.join(["python", "-m", "reports", *sys.argv[1:]])


def executor_of(
    jobs: int | None, cluster: str | None = None, options: Sequence[str] = (), out: Path = Path()
) -> Executor:
    """Where cells run: in so many processes, or on a cluster with submitit's options."""
    from wise.editor import factory_options
    from wise.jobs.grid import run_apart, run_submitted

    if not cluster:
        return partial(run_apart, n_processes=jobs or os.cpu_count() or 1)
    given = factory_options(options)
    return partial(run_submitted, folder=out / "jobs", cluster=cluster, **given)
