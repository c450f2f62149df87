"""Grids: independent cells of work in a claimed folder, run here, on processes or on a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from wise.jobs.ledger import check_claim, json_digest, write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Executor",
    "Job",
    "claimed",
    "file_name",
    "run_apart",
    "run_grid",
    "run_submitted",
    "write_json",
]

_ENDED = "its process was ended from outside"
_Task = TypeVar("_Task")


class Job(Protocol):
    """A piece of work whose folder tells whether it is still to be done."""

    @property
    def title(self) -> str:
        """What the progress bar calls it."""

    def is_open(self, folder: Path) -> bool:
        """Whether it is to be run."""

    def lose(self, folder: Path, message: str) -> None:
        """Record `message` as the error of what was being done when its process ended."""


_Job = TypeVar("_Job", bound=Job)

# Runs tasks, anywhere: yields each task as it ends, and whether its process survived it.
Executor = Callable[[Callable[[Any], None], Sequence[Any]], Iterator[tuple[Any, bool]]]


@contextmanager
def claimed(folder: Path, what: str, identity: Mapping[str, Any]) -> Iterator[None]:
    """Claim `folder`, made if missing, for one running league or study (`what`).

    Raises ValueError naming what differs where the folder holds another, RuntimeError where another
    process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / f"{what}.json"
    try:
        held = FileLock(folder / f"{what}.lock").acquire(timeout=0)
    except Timeout as error:
        raise RuntimeError(f"another process is at work on the {what} in {folder}") from error
    with held:
        if manifest.exists():
            check_claim(json.loads(manifest.read_bytes()), identity, what=what, place=manifest)
        else:
            write_json(identity, manifest)
        yield


def run_grid(
    cells: Sequence[_Job],
    work: Callable[[_Job], None],
    folder: Path,
    *,
    executor: Executor | None = None,
    name: str = "grid",
    progress: bool = True,
) -> None:
    """Run the open ones of `cells`, in this process or by `executor`.

    Where the process of a cell dies, no other cell is affected: the death is recorded with the
    cell, which runs again while part of it is open.
    """
    execute = executor or partial(run_apart, n_processes=1)
    todo = [cell for cell in cells if cell.is_open(folder)]
    with tqdm(total=len(cells), initial=len(cells) - len(todo), unit="cell", desc=name,
              disable=not progress) as bar:  # fmt: skip
        while todo:
            again = []
            for cell, has_lived in execute(work, todo):
                if not has_lived:
                    cell.lose(folder, _ENDED)
                if cell.is_open(folder):
                    again.append(cell)
                else:
                    bar.update()
                bar.set_postfix_str(cell.title)
            todo = again


def run_apart(
    work: Callable[[_Task], None], tasks: Sequence[_Task], *, n_processes: int
) -> Iterator[tuple[_Task, bool]]:
    """Yield each task as it ends, and whether its process survived it; one process = this one.

    A process that dies loses only its current task. Processes are spawned, and end with this one
    however it ends. What `work` raises is raised here. Raises ValueError.
    """
    if n_processes < 1:
        raise ValueError(f"n_processes={n_processes} must be >= 1")
    if n_processes == 1:
        for task in tasks:
            work(task)
            yield task, True
        return
    left, running = iter(tasks), dict[Future[None], tuple[_Task, ProcessPoolExecutor]]()
    with ExitStack() as pools:  # of one process each, so that it is known who died

        def start(pool: ProcessPoolExecutor | None = None) -> None:
            for task in islice(left, 1):
                pool = pool or pools.enter_context(
                    ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent)
                )
                running[pool.submit(work, task)] = task, pool

        for _ in range(n_processes):
            start()
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, pool = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool:
                    pool.shutdown()  # until the process has let go of its files
                    yield task, False
                    start()
                else:
                    yield task, True
                    start(pool)


def _end_with_parent() -> None:
    """End this process when its parent is killed, so that nothing goes on writing."""

    def wait_for_it() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait_for_it, daemon=True).start()


def run_submitted(
    work: Callable[[_Task], None],
    tasks: Sequence[_Task],
    *,
    folder: Path,
    cluster: str = "slurm",
    poll_seconds: float = 10.0,
    **parameters: Any,
) -> Iterator[tuple[_Task, bool]]:
    """Yield each task as its job on a cluster ends, and whether the job survived it.

    `folder`, which all nodes see, gets submitit's files; `parameters` are its own (`timeout_min`,
    `slurm_partition`, `slurm_array_parallelism`). What `work` raises is raised here, as submitit
    reports it. Raises ModuleNotFoundError without submitit.
    """
    import submitit
    from submitit.core.utils import FailedJobError, UncompletedJobError

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**parameters)
    with executor.batch():
        jobs = [executor.submit(work, task) for task in tasks]
    of_job = {job.job_id: task for job, task in zip(jobs, tasks, strict=True)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=poll_seconds):
        try:
            job.result()
        except FailedJobError:  # the work's own error
            raise
        except UncompletedJobError:
            yield of_job[job.job_id], False
        else:
            yield of_job[job.job_id], True


def file_name(task: DataclassInstance, words: str) -> str:
    """A name for a task's file: the readable part of `words`, and a digest of its fields."""
    readable = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in words)
    return f"{readable[-80:]}-{json_digest(asdict(task))[:12]}"


def write_json(record: object, path: Path) -> None:
    """Write `path` whole or not at all."""
    write_whole(path, json.dumps(record, indent=1).encode() + b"\n")
