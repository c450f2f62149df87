"""Laws of `wise.editors.saved`, and of WISE's checkpoint: what was comes back, or is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wise.editors.saved
from fixtures.tiny import tiny_model
from properties.internals.tiny_wise import BACKGROUND, EDITS, is_same, make_wise, prompts_of
from wise.editors.wise.memory import WISEState
from wise.editors.wise.wise import WISE
from wise.edits import Background, Edit
from wise.jobs.ledger import write_whole

pytestmark = pytest.mark.internals

MERGE: dict[str, Any] = dict(memory="merge", n_shards=2, edits_per_shard=2)
KINDS: dict[str, dict[str, Any]] = {
    "merge": MERGE,
    "merge with masks": dict(MERGE, mask_ratio=0.3),
    "merge every turn": dict(memory="merge", n_shards=2, edits_per_shard=1, mask_ratio=0.2),
    "retrieve": dict(memory="retrieve", edits_per_shard=2),
    "retrieve with replay": dict(memory="retrieve", edits_per_shard=2, replay=2, rehearsal=2),
    "mean over tokens": dict(routing_tokens="mean", edits_per_shard=3),
    "running threshold": dict(MERGE, threshold="running", merge="dare-ties", mask_ratio=0.3),
    "without background": dict(background=Background(), n_prefixes=2, prefix_length=3),
    "no bound": dict(norm_constraint=float("inf"), units="absolute"),
}


def last_file(folder: Path) -> Path:
    (path,) = folder.glob("state-*.safetensors")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint with one memory and one shard."""
    folder = tmp_path / "checkpoint"
    make_wise(edits=EDITS[:3]).save(folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Change the manifest and, with `sign`, its own digest too."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sign:
        manifest.pop("manifest sha256", None)
        text = json.dumps(manifest, sort_keys=True)
        manifest["manifest sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def assert_refused(editor: WISE, folder: Path, named: str) -> None:
    """`folder` is refused with an error that names it and the reason, and nothing of it is kept."""
    before = editor._state
    with pytest.raises(ValueError, match=f"checkpoint {re.escape(str(folder))}: .*{named}"):
        editor.load(folder)
    assert editor._state is before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_before", [0, 1, 3, 4])
def test_saving_loading_and_going_on_is_bitwise_the_stream_without_the_stop(
    kind: str, n_before: int, tmp_path: Path
) -> None:
    options = KINDS[kind]
    first = make_wise(edits=EDITS[:n_before], **options)
    first.save(tmp_path)
    second = make_wise(**options)
    second.load(tmp_path)
    assert is_same(second._state, first._state)
    for edit in EDITS[n_before:]:
        second.edit([edit])
    whole = make_wise(edits=EDITS, **options)
    assert is_same(second._state, whole._state)
    batch = prompts_of([edit.prompt for edit in EDITS])
    arguments = batch.input_ids, batch.attention_mask
    assert second.logits(*arguments).equal(whole.logits(*arguments))


@pytest.mark.parametrize("kind", ["merge with masks", "retrieve"])
def test_edits_can_be_removed_after_loading(kind: str, tmp_path: Path) -> None:
    options = KINDS[kind]
    whole = make_wise(edits=EDITS[:5], **options)
    whole.save(tmp_path)
    again = make_wise(**options)
    again.load(tmp_path)
    for editor in (whole, again):
        editor.remove(EDITS[1:2])
    assert is_same(again._state, whole._state)


def test_every_field_of_an_edit_comes_back(tmp_path: Path) -> None:
    edit = Edit("Où est Adá?", "Oslo ✓", "Adá", ("wo?", "donde"), "Rome", "id 1", (1, 2))
    editor = make_wise(edits=[edit])
    editor.save(tmp_path)
    editor.reset()
    editor.load(tmp_path)
    assert editor.edits == (edit,)


def test_a_state_is_saved_over_an_earlier_one_and_leaves_one_file(tmp_path: Path) -> None:
    editor = make_wise(edits=EDITS[:1])
    editor.save(tmp_path)
    editor.edit(EDITS[1:2])
    editor.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json", last_file(tmp_path).name,
    ]  # fmt: skip
    again = make_wise()
    again.load(tmp_path)
    assert is_same(again._state, editor._state)


def test_saving_changes_no_state_and_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    editor = make_wise(edits=EDITS[:3])
    state = editor._state
    for name in ("one", "other"):
        editor.save(tmp_path / name)
    assert editor._state is state
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(bytes(content))


def manifest_of(folder: Path) -> Path:
    return folder / "manifest.json"


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no manifest.json"),
    "no manifest": (lambda f: manifest_of(f).unlink(), "there is no manifest.json"),
    "no tensors": (lambda f: last_file(f).unlink(), "its file 'state-.*' is missing"),
    "truncated tensors": (lambda f: truncate(last_file(f)), "state-.* is not what was saved"),
    "empty tensors": (lambda f: last_file(f).write_bytes(b""), "state-.* is not what was"),
    "tampered tensors": (lambda f: flip(last_file(f)), "state-.* is not what was saved"),
    "truncated manifest": (lambda f: truncate(manifest_of(f)), "manifest.json is not JSON"),
    "binary manifest": (lambda f: manifest_of(f).write_bytes(b"\xff\0"), "is not JSON"),
    "manifest of nothing": (lambda f: manifest_of(f).write_text("[]"), "format None"),
    "tampered manifest": (
        lambda f: rewrite(f, lambda m: m.update(n_turns=7), sign=False),
        "manifest.json was changed after it was saved",
    ),
    "other version": (lambda f: rewrite(f, lambda m: m.update(format=2)), "format 2; this reads 1"),
    "other folder's file": (
        lambda f: rewrite(f, lambda m: m.update(tensors="../checkpoint/x")),
        "its file '../checkpoint/x' is missing",
    ),
    "swapped tensors": (
        lambda f: rewrite(f, lambda m: m["memories"].append(m["memories"][0])),
        "does not hold its state",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("n_before", [0, 1])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_loaded(
    damage: str, n_before: int, saved: Path
) -> None:
    spoil, named = DAMAGE[damage]
    spoil(saved)
    assert_refused(make_wise(edits=EDITS[3 : 3 + n_before]), saved, named)


FOREIGN: dict[str, tuple[Callable[[], WISE], str]] = {
    "type": (lambda: make_wise("mistral"), "model_type='llama'; this editor has 'mistral'"),
    "weights": (lambda: make_wise(tiny_model("llama", seed=1)), "model has sha256='"),
    "depth": (lambda: make_wise(tiny_model("llama", n_layers=4)), "n_layers=3; this editor has 4"),
    "layer": (lambda: make_wise(layer=2), "layer=1; this editor has 2"),
    "config": (lambda: make_wise(gamma=1.5), "config has gamma=1.0; this editor has 1.5"),
    "seed": (lambda: make_wise(seed=3), "seed is 0; this editor has 3"),
    "background": (
        lambda: make_wise(background=Background(BACKGROUND.texts)),
        "background sha256 is",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_checkpoint_of_another_editor_is_refused_by_what_differs(
    kind: str, saved: Path
) -> None:
    make, named = FOREIGN[kind]
    assert_refused(make(), saved, named)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_crash_between_the_files_leaves_the_old_checkpoint(
    fails_at: int, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[Path] = []
    own = write_whole

    def crash(path: Path, content: bytes) -> None:
        replaced.append(path)
        if len(replaced) == fails_at:
            path.with_name(f"{path.name}.partial").write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt
        own(path, content)

    monkeypatch.setattr(wise.editors.saved, "write_whole", crash)
    with pytest.raises(KeyboardInterrupt):
        make_wise(edits=EDITS[:5]).save(saved)
    monkeypatch.undo()
    editor = make_wise()
    editor.load(saved)
    assert is_same(editor._state, make_wise(edits=EDITS[:3])._state)
    make_wise(edits=EDITS[:4]).save(saved)  # and the next save is as any other
    editor.load(saved)
    assert editor.edits == EDITS[:4]


def test_an_empty_state_comes_back_empty(tmp_path: Path) -> None:
    make_wise().save(tmp_path)
    editor = make_wise(edits=EDITS[:1])
    editor.load(tmp_path)
    assert is_same(editor._state, WISEState())
