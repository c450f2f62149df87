"""Laws of resuming a lifelong run: killed at any moment, it gives the rows of one that was not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from properties.internals.watched import (
    KINDS,
    RUN,
    STREAM,
    KilledError,
    Saving,
    T,
    Watched,
    go,
    put,
)
from wise.edits import Background
from wise.evaluation import lifelong

pytestmark = pytest.mark.internals

ROOT = Path(__file__).resolve().parents[2]
SAVE_EVERY = 2
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifelong, "_SAVE_EVERY", SAVE_EVERY)


@cache
def uninterrupted(kind: str = "without") -> tuple[bytes, int]:
    """The rows file of a run that nothing stopped, and how often it called its editor."""
    editor = KINDS[kind]()
    with TemporaryDirectory() as folder:
        go(Path(folder) / "rows.jsonl", editor)
        return (Path(folder) / "rows.jsonl").read_bytes(), editor.n_calls


@cache
def killed_and_resumed(kind: str) -> list[tuple[int, int, int, bytes]]:
    """By the call at which it was killed: edits in its newest state, edits made anew, the rows."""
    found = []
    for kill_at in range(1, uninterrupted(kind)[1] + 1):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            with pytest.raises(KilledError):
                go(path, KINDS[kind](kill_at=kill_at))
            states = [int(f.name) for f in path.parent.glob("*.states/*") if f.name.isdigit()]
            resumed = KINDS[kind]()
            go(path, resumed, resume=True)
            found.append((kill_at, max(states, default=0), resumed.n_edits, path.read_bytes()))
    return found


@every_kind
def test_killed_at_any_call_of_its_editor_a_run_is_resumed_to_the_same_bytes(kind: str) -> None:
    for kill_at, _, _, content in killed_and_resumed(kind):
        assert content == uninterrupted()[0], kill_at


def test_a_resumed_run_edits_again_only_what_no_saved_state_holds() -> None:
    found = killed_and_resumed("with saved states")
    assert {n_saved for _, n_saved, _, _ in found} == {0, 2, 4, 6}
    for kill_at, n_saved, n_edits, _ in found:
        assert n_edits == T - n_saved, kill_at


def offsets(content: bytes) -> Iterator[int]:
    """Nothing, a part of a line, line ends, and a coarse grid."""
    first = content.index(b"\n")
    yield from (0, 1, first, first + 1, len(content) - 1, len(content))
    yield from range(0, len(content), len(content) // 7)


@every_kind
def test_a_rows_file_cut_at_any_byte_is_resumed_to_the_same_bytes(
    kind: str, tmp_path: Path
) -> None:
    content, _ = uninterrupted()
    for offset in offsets(content):
        path = tmp_path / f"{offset}.jsonl"
        put(path, content[:offset])
        go(path, KINDS[kind](), resume=True)
        assert path.read_bytes() == content, offset


@every_kind
def test_a_run_killed_twice_is_resumed_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for kill_at in (9, 4):
        with pytest.raises(KilledError):
            go(path, KINDS[kind](kill_at=kill_at), resume=True)
    go(path, KINDS[kind](), resume=True)
    assert path.read_bytes() == uninterrupted()[0]


def test_a_state_newer_than_the_rows_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content, n_calls = uninterrupted("with saved states")
    with pytest.raises(KilledError):
        go(path, Saving(kill_at=n_calls))
    assert path.with_name("rows.jsonl.states").joinpath(str(T)).is_dir()
    path.write_bytes(content[: content.index(b'"edit 3"')])
    resumed = Saving()
    go(path, resumed, resume=True)
    assert resumed.n_edits == T
    assert path.read_bytes() == content


def test_killed_before_its_states_were_deleted_a_run_deletes_them_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"

    def be_killed_at_the_end(folder: Path, **options: Any) -> None:
        if folder.name.endswith(".states"):
            raise KilledError

    monkeypatch.setattr(shutil, "rmtree", be_killed_at_the_end)
    with pytest.raises(KilledError):
        go(path, Saving())
    monkeypatch.undo()
    assert path.with_name("rows.jsonl.states").is_dir()
    go(path, Saving(), resume=True)
    assert not path.with_name("rows.jsonl.states").exists()


def test_a_state_half_deleted_by_a_kill_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"

    def be_killed_while_deleting(folder: Path, **options: Any) -> None:
        if folder.is_dir():
            next(folder.iterdir()).unlink()
            raise KilledError

    monkeypatch.setattr(shutil, "rmtree", be_killed_while_deleting)
    with pytest.raises(KilledError):
        go(path, Saving())
    monkeypatch.undo()
    monkeypatch.setattr(lifelong, "_SAVE_EVERY", SAVE_EVERY)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b'"edit 4"')])  # the newer state is of no use
    go(path, Saving(), resume=True)
    assert path.read_bytes() == uninterrupted()[0]


def test_states_of_a_run_whose_rows_were_deleted_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    expected, _ = uninterrupted()
    monkeypatch.setattr(lifelong, "_SAVE_EVERY", 1)
    other = replace(RUN, stream=replace(STREAM, edits=STREAM.edits[::-1]))
    with pytest.raises(KilledError):
        go(path, Saving(kill_at=6), other)
    path.unlink()
    go(path, Saving())
    assert path.read_bytes() == expected


def be_killed(kind: str, path: str, kill_at: int) -> None:
    """What a process below runs until it is no more."""
    lifelong._SAVE_EVERY = SAVE_EVERY
    kill = lambda: signal.raise_signal(signal.SIGKILL)  # noqa: E731
    go(Path(path), KINDS[kind](kill_at=kill_at, kill=kill))


def test_after_kill_9_of_its_process_a_run_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    paths = {kind: tmp_path / f"{kind}.jsonl" for kind in KINDS}
    code = "from properties.internals import test_resume as t; t.be_killed({!r}, {!r}, 10)"
    children = [
        subprocess.Popen([sys.executable, "-c", code.format(kind, str(path))], cwd=ROOT)
        for kind, path in paths.items()
    ]
    assert [child.wait(timeout=240) for child in children] == [-signal.SIGKILL] * len(paths)
    for kind, path in paths.items():
        assert 0 < path.stat().st_size < len(uninterrupted()[0])
        go(path, KINDS[kind](), resume=True)
        assert path.read_bytes() == uninterrupted()[0]


def test_a_whole_run_is_resumed_without_a_call_of_its_editor(tmp_path: Path) -> None:
    path, editor = tmp_path / "rows.jsonl", Watched()
    put(path, uninterrupted()[0])
    rows = go(path, editor, resume=True)
    assert (path.read_bytes(), editor.n_calls) == (uninterrupted()[0], 0)
    assert len(rows) == uninterrupted()[0].count(b"\n")


def test_an_existing_file_is_an_error_unless_it_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(uninterrupted()[0][:500])
    editor = Watched()
    with pytest.raises(FileExistsError, match=r"rows.jsonl holds rows already; resume it or name"):
        go(path, editor)
    assert (path.read_bytes(), editor.n_calls) == (uninterrupted()[0][:500], 0)


NAMED = tuple(replace(edit, aliases=("another name",)) for edit in STREAM.edits)
OTHERS = {
    "editor": replace(RUN, editor="rome"),
    "model": replace(RUN, model="gpt2"),
    "seed": replace(RUN, seed=1),
    "stream_sha256": replace(RUN, stream=replace(STREAM, edits=NAMED)),
    "edits": replace(RUN, stream=STREAM.prefix(5), checkpoints=(2,)),
    "checkpoints": replace(RUN, checkpoints=(3, 6)),
    "protocols": replace(RUN, protocols=("free",)),
    "edits_per_turn": replace(RUN, edits_per_turn=2),
    "options": replace(RUN, options={"lr": 0.5}),
    "background_sha256": replace(RUN, background=Background(("A text.",))),
    "tells_knowledge": replace(RUN, tells_knowledge=True),
    "wise/editors/corners.py": replace(RUN, spec="none"),
}


@pytest.mark.parametrize("differs", OTHERS)
@pytest.mark.parametrize("n_lines", [1, None])
def test_rows_of_another_run_are_refused_by_what_differs_and_left_alone(
    differs: str, n_lines: int | None, tmp_path: Path
) -> None:
    path, held = tmp_path / "rows.jsonl", uninterrupted()[0]
    held = b"".join(held.splitlines(keepends=True)[:n_lines])
    put(path, held)
    editor = Watched()
    with pytest.raises(ValueError, match=rf"rows\.jsonl is of another run: .*\b{differs} was "):
        go(path, editor, OTHERS[differs], resume=True)
    assert (path.read_bytes(), editor.n_calls) == (held, 0)


def test_a_run_on_other_weights_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "rows.jsonl", Watched()
    put(path, uninterrupted()[0])
    next(other.wise.lm.model.parameters()).data[0, 0] += 1
    with pytest.raises(ValueError, match="of another run: model_sha256 was "):
        go(path, other, resume=True)


def test_rows_without_a_word_of_what_was_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(uninterrupted()[0])
    with pytest.raises(ValueError, match=r"resumed: there is no rows\.jsonl\.run\.json beside it"):
        go(path, Watched(), resume=True)
