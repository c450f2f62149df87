"""Work spread over processes, of which none takes another's work down with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

__all__ = ["run_apart"]

_Task = TypeVar("_Task")


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
