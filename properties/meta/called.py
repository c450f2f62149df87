"""pytest on this checkout as a user calls it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

__all__ = ["ROOT", "run_pytest"]

ROOT = Path(__file__).resolve().parents[2]
# What takes a call most of its time to import. Of this checkout nothing is imported beforehand.
_PRELOADED = ["torch", "transformers.models.auto.modeling_auto", "transformers.generation.utils",
              "scipy.stats", "pandas"]  # fmt: skip


def run_pytest(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run pytest, whatever the options of the run that this is a part of.

    In a process of its own, forked from one that has imported libraries and nothing else.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = ["pytest", "-p", "no:cacheprovider", *arguments]
    server = get_context("forkserver")
    server.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        written = [Path(folder) / name for name in ("stdout", "stderr")]
        process = server.Process(
            target=_pytest, args=(command, cwd, {**inherited, "OMP_NUM_THREADS": "1"}, written)
        )
        process.start()
        process.join()
        stdout, stderr = (path.read_text() for path in written)
    return subprocess.CompletedProcess(command, process.exitcode or 0, stdout, stderr)


def _pytest(
    command: Sequence[str], cwd: Path, environment: dict[str, str], written: Sequence[Path]
) -> None:
    """As `python -m pytest`, in this process, with what it writes in the files `written`."""
    for stream, path in zip((sys.stdout, sys.stderr), written, strict=True):
        stream.flush()
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv, sys.path[0] = [*command], str(cwd)
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)
