"""Laws of work over processes: who dies, dies alone, and nobody outlives the one that started."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from properties.internals.working import note_down
from wise.jobs.grid import claimed, run_apart

pytestmark = pytest.mark.internals

ROOT = Path(__file__).resolve().parents[2]


def test_each_task_is_done_once_in_one_process_or_several(tmp_path: Path) -> None:
    for n_processes in (1, 2):
        folder = tmp_path / str(n_processes)
        folder.mkdir()
        ended = run_apart(partial(note_down, folder=folder), ["a", "b", "c"],
                          n_processes=n_processes)  # fmt: skip
        assert sorted(ended) == [("a", True), ("b", True), ("c", True)]
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict(
            a=".", b=".", c="."
        )


def test_a_task_that_kills_its_process_costs_no_other(tmp_path: Path) -> None:
    tasks = ["a", "die", "b", "c", "die too", "d"]
    ended = run_apart(partial(note_down, folder=tmp_path), tasks, n_processes=2)
    assert sorted(ended) == [(task, not task.startswith("die")) for task in sorted(tasks)]
    assert {path.name for path in tmp_path.iterdir()} == set(tasks)


def test_what_the_work_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task='raise'"):
        list(run_apart(partial(note_down, folder=tmp_path), ["raise", "a"], n_processes=2))


def test_processes_end_with_the_one_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom functools import partial\nfrom pathlib import Path\n"
        "from properties.internals.working import note_down\n"
        "from wise.jobs.grid import run_apart\n"
        "if __name__ == '__main__':\n"
        "    work = partial(note_down, folder=Path(sys.argv[1]))\n"
        "    list(run_apart(work, ['go on', 'go on too'], n_processes=2))\n"
    )
    (tmp_path / "main.py").write_text(code)
    folder = tmp_path / "notes"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(folder)],
                              env={"PYTHONPATH": str(ROOT)})  # fmt: skip
    notes = [folder / "go on", folder / "go on too"]
    deadline = time.monotonic() + 60
    while not all(map(Path.exists, notes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(1)
    sizes = [note.stat().st_size for note in notes]
    time.sleep(1)
    assert [note.stat().st_size for note in notes] == sizes


def test_no_process_is_not_allowed() -> None:
    with pytest.raises(ValueError, match="n_processes=0 must be >= 1"):
        list(run_apart(print, [], n_processes=0))


@pytest.mark.parametrize(
    ("edits", "message"), [(1, "stopped"), (2, "edits=1 belongs to another league; this one has 2")]
)
def test_a_folder_is_free_again_however_the_job_in_it_ended(
    edits: int, message: str, tmp_path: Path
) -> None:
    with claimed(tmp_path, "league", {"edits": 1}):
        pass
    with (
        pytest.raises(ValueError, match=message) as _,
        claimed(tmp_path, "league", {"edits": edits}),
    ):
        raise ValueError("stopped")
    with claimed(tmp_path, "league", {"edits": 1}):
        pass
