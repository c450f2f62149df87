"""Laws of exported folders: plain where edits are weights, whole or not at all."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fixtures.tiny import tiny_model
from properties.internals.tiny_editors import EDITS, KINDS, bits, logits_of, make
from properties.internals.tiny_wise import make_wise
from wise import load_exported
from wise.editor import Editor, Exports
from wise.editors.exported import new_folder
from wise.lm.decoding import Unedited

pytestmark = pytest.mark.internals

WITH_STATE = (
    "grace", "grace everywhere", "horen", "memoir", "defer", "ike", "retrieval", "serac",
    "spalm-lite", "memllm-lite", "memoria-lite", "memoryllm-lite", "melo", "elder",
)  # fmt: skip
PLAIN = [kind for kind in KINDS if kind not in WITH_STATE]


def plain(folder: Path) -> Editor:
    """What transformers alone makes of a folder, in evaluation mode."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    return Unedited(model.eval(), None)


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("kind", PLAIN)
def test_edits_that_are_weights_are_answered_without_this_project(
    kind: str, model_type: str, tmp_path: Path
) -> None:
    model = tiny_model(model_type)
    before = bits(model)
    editor = make(kind, model, edits=EDITS[:2])
    editor.export(tmp_path / "out")
    torch.testing.assert_close(logits_of(plain(tmp_path / "out")), logits_of(editor))
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
               for a, b in zip(before.values(), bits(model).values(), strict=True))  # fmt: skip


@pytest.mark.parametrize("kind", WITH_STATE)
def test_an_editor_whose_edits_are_no_weights_is_loaded_with_its_state(
    kind: str, tmp_path: Path
) -> None:
    editor = make(kind, edits=EDITS[:2])
    editor.export(tmp_path / "out")
    loaded = load_exported(tmp_path / "out")
    assert type(loaded) is type(editor)
    assert torch.equal(logits_of(loaded), logits_of(editor))
    for each in (editor, loaded):
        each.edit([EDITS[2]])
    assert torch.equal(logits_of(loaded), logits_of(editor))


def test_wise_is_exported_whatever_its_options(tmp_path: Path) -> None:
    for memory in ("merge", "retrieve"):
        editor = make_wise("gpt2", edits=EDITS[:3], memory=memory)
        assert isinstance(editor, Exports)
        editor.export(tmp_path / memory)
        assert torch.equal(logits_of(load_exported(tmp_path / memory)), logits_of(editor))


def test_what_transformers_would_load_unedited_it_does_not_load(tmp_path: Path) -> None:
    make_wise("gpt2", edits=EDITS[:1]).export(tmp_path / "out")
    with pytest.raises((OSError, ValueError)):
        plain(tmp_path / "out")
    assert "load_exported" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_that_is_not_empty_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(FileExistsError, match=f"{path} exists and is not an empty folder"):
            make("ft-m").export(path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = make("grace", edits=EDITS[:1])
    monkeypatch.setattr(editor, "save", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        editor.export(tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("text")
    empty = tmp_path / "empty"
    empty.mkdir()
    make("ft-m").export(empty)
    assert (empty / "model.safetensors").is_file()


def test_two_exports_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as one:
        with suppress(KeyboardInterrupt), new_folder(tmp_path / "out") as other:
            assert one != other
            raise KeyboardInterrupt
        (one / "file").write_text("text")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_a_folder_that_is_no_editors_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a folder that an editor exported"):
        load_exported(tmp_path)
    make("ft-m").export(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain Hugging Face folder; load it with AutoModelForC"):
        load_exported(tmp_path / "plain")
    make("grace").export(tmp_path / "out")
    file = tmp_path / "out" / "editor.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"editor": "os:system"}))
    with pytest.raises(ValueError, match="not of a built-in editor; give the factory"):
        load_exported(tmp_path / "out")
