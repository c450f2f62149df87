"""Grids: independent cells of work in a claimed folder, run here, on processes or on a cluster."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from wise.jobs.ledger import check_claim, write_whole

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
        """Record `message` as the error of what its process was at when it ended."""


_Job = TypeVar("_Job", bound=Job)

# Work on tasks, anywhere: each task as it ends, and whether its process lived to its end.
Executor = Callable[[Callable[[Any], None], Sequence[Any]], Iterator[tuple[Any, bool]]]


@contextmanager
def claimed(folder: Path, what: str, identity: Mapping[str, Any]) -> Iterator[None]:
    """`folder`, made where it is not there, as that of one league or study (`what`) at work in it.

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
    unit: str = "cell",
    progress: bool = True,
) -> None:
    """Run the open ones of `cells`, in this process or by `executor`.

    The end of a cell's process costs no other cell anything: it is recorded with the cell, which
    runs again where more of it is open.
    """
    execute = executor or partial(run_apart, n_processes=1)
    todo = [cell for cell in cells if cell.is_open(folder)]
    with tqdm(total=len(cells), initial=len(cells) - len(todo), unit=unit, desc=name,
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
    """Each task as it ends, and whether its process lived to its end; one process is this one.

    A process that dies takes its whole pool along, so the tasks that were running then are done
    again, each in a pool of its own: one that dies there has not lived. Processes are spawned, and
    end with this one however it ends. What `work` raises is raised here. Raises ValueError.
    """
    if n_processes < 1:
        raise ValueError(f"n_processes={n_processes} must be >= 1")
    if n_processes == 1:
        for task in tasks:
            work(task)
            yield task, True
        return
    left = list(tasks)
    while left:
        left = yield from _pooled(work, left, n_processes)
        running, left = left[:n_processes], left[n_processes:]  # tasks are handed out in order
        for task in running:
            if (yield from _pooled(work, [task], 1)):
                yield task, False


def _pooled(
    work: Callable[[_Task], None], tasks: Sequence[_Task], n_processes: int
) -> Generator[tuple[_Task, bool], None, list[_Task]]:
    """Each task that ended; returns those that the end of a process has left."""
    pool = ProcessPoolExecutor(
        min(n_processes, max(1, len(tasks))), get_context("spawn"), _end_with_parent
    )
    left = []
    try:
        futures = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                future.result()
            except BrokenProcessPool:
                left.append(futures[future])
            else:
                yield futures[future], True
    finally:
        pool.shutdown(cancel_futures=True)
    return [task for task in tasks if task in left]


def _end_with_parent() -> None:
    """Leave no process behind that still writes when its parent was killed."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def run_submitted(
    work: Callable[[_Task], None],
    tasks: Sequence[_Task],
    *,
    folder: Path,
    cluster: str = "slurm",
    poll_seconds: float = 10.0,
    **parameters: Any,
) -> Iterator[tuple[_Task, bool]]:
    """Each task as its job on a cluster ends, and whether the job lived to its end.

    `folder`, which all nodes see, gets submitit's files; `parameters` are its own (`timeout_min`,
    `slurm_partition`, `slurm_array_parallelism`). What `work` raises is raised here, as submitit
    tells it. Raises ModuleNotFoundError without submitit.
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
    """A name for a task's file: what can be read of `words`, and a digest of its fields."""
    digest = hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode()).hexdigest()
    readable = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in words)
    return f"{readable[-80:]}-{digest[:12]}"


def write_json(record: object, path: Path) -> None:
    """Write `path` whole or not at all."""
    write_whole(path, json.dumps(record, indent=1).encode() + b"\n")
