"""Work spread over the nodes of a cluster, by submitit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["run_submitted"]

_Task = TypeVar("_Task")


def run_submitted(
    work: Callable[[_Task], None],
    tasks: Sequence[_Task],
    *,
    folder: Path,
    cluster: str = "slurm",
    poll_seconds: float = 10.0,
    **parameters: Any,
) -> Iterator[tuple[_Task, bool]]:
    """Each task as its job ends, and whether the job lived to its end, as `run_apart` has it.

    `folder`, which all nodes see, gets the engine's files; `parameters` are the engine's own
    (`timeout_min`, `slurm_partition`, `slurm_array_parallelism`). What `work` raises is raised
    here, as submitit tells it. Raises ModuleNotFoundError without submitit.
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
