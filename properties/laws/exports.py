"""What is taken away: a folder that answers as the editor did, without it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from properties.bench import Bench
from properties.findings import Broken, close, needs, remade, require
from properties.snapshots import require_close, snapshot
from properties.surroundings import Surroundings, full_disk
from wise.editor import Editor, Exports
from wise.editors.exported import load_exported
from wise.edits import Edit
from wise.lm.decoding import Unedited
from wise.lm.loading_bars import bars_on_a_terminal

_N = 4  # edits


@bars_on_a_terminal()
def taken(bench: Bench, folder: Path) -> Editor:
    """What a user makes of an exported folder: a model of transformers, or else an editor."""
    if not (folder / "config.json").is_file():
        return load_exported(folder, factory=bench.factory)
    options = dict(local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return Unedited(model.eval().to(bench.loaded.model.device), tokenizer)


@needs(Exports)
def check_an_export_without_edits_is_the_model(bench: Bench) -> None:
    """An editor without edits exports the caller's model, to the bit and in its precision.

    It has another seed and layer than its factory chooses, of which it can be made again. The path
    is a text here, and a Path in the other laws. With the model go its tokenizer, which reads and
    pads as the caller's does, and its generation configuration.
    """
    options: dict[str, Any] = {"seed": bench.seed + 1}
    if (layer := bench.another_layer) is not None:
        options["layer"] = layer
    editor = bench.editor(**options)
    assert isinstance(editor, Exports)
    own = {name: weight.dtype for name, weight in bench.loaded.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        editor.export(str(path))
        try:
            other = taken(bench, path)
        except Exception as error:
            made = " and ".join(f"{name}={value}" for name, value in options.items())
            reason = f"{type(error).__name__}: {error}"
            raise Broken(f"what an editor of {made} exports cannot be taken: {reason}") from error
        found = bench.logits(other, bench.prompts)
        of_the_rest = _beside_the_weights(bench, path)
        _require_dtypes(path, own)
    bench.same(found, bench.base_logits, "exported without an edit")
    for name, (is_now, needed) in of_the_rest.items():
        require(
            is_now == needed, f"exported, the {name} is {is_now!r:.200}; needed: {needed!r:.200}"
        )


def _beside_the_weights(bench: Bench, folder: Path) -> dict[str, tuple[object, object]]:
    """By name, what else decides on answers, as it was exported and as the caller has it."""
    if not (folder / "config.json").is_file():
        folder = folder / "model"
    own, options = bench.loaded.tokenizer, dict(local_files_only=True, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    texts = [text for edit in bench.edits() for text in (edit.prompt, edit.target)]
    both = {f"reading of {text!r}": (tokenizer(text).input_ids, own(text).input_ids)
            for text in texts}  # fmt: skip
    for name in ("special_tokens_map", "padding_side", "chat_template"):
        both[f"tokenizer's {name}"] = getattr(tokenizer, name), getattr(own, name)
    if (settings := bench.loaded.model.generation_config) is not None:
        written = GenerationConfig.from_pretrained(folder, local_files_only=True)
        found, needed = written.to_diff_dict(), settings.to_diff_dict()
        for name in sorted({*found, *needed} - {"transformers_version"}):
            both[f"generation config's {name}"] = found.get(name), needed.get(name)
    return both


@needs(Exports)
def check_exporting_changes_nothing(bench: Bench) -> None:
    """After an export the editor answers as before, and its model is as before.

    So it is after one that fails, in its largest file or interrupted between two. It leaves no
    folder, and the next export is whole.
    """
    model = bench.copy_model()
    editor = bench.editor(bench.edits(_N, least=1), model=model)
    assert isinstance(editor, Exports)
    expected = bench.logits(editor, bench.prompts)
    before = Surroundings.of(model, bench.loaded.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        for what, obstacle in _exports(path):
            needed = [path.name]
            try:
                with obstacle:
                    editor.export(path)
            except (Exception, KeyboardInterrupt):
                if isinstance(obstacle, nullcontext):
                    raise
                needed = []
            change = before.change_to(Surroundings.of(model, bench.loaded.tokenizer))
            require(not change, f"{what} changes what it was given: {change}")
            left = sorted(each.name for each in Path(folder).iterdir())
            require(left == needed, f"{what} to 'exported' leaves {', '.join(left)} there")
            bench.same(bench.logits(editor, bench.prompts), expected, f"after {what}")
        other = taken(bench, path)
        if not close(bench.logits(other, bench.prompts), expected):
            when = "exported after exports that failed, and taken"
            require_close(snapshot(bench, other), snapshot(bench, editor), when)


def _exports(path: Path) -> Iterator[tuple[str, AbstractContextManager[object]]]:
    """Exports to `path`, each by what it is and what may be in its way; the last is whole."""
    yield "an export", nullcontext()
    largest = max(file.stat().st_size for file in path.rglob("*"))
    interrupted = patch.object(
        PreTrainedTokenizerBase, "save_pretrained", side_effect=KeyboardInterrupt
    )
    for what, obstacle in (
        ("an export that cannot end its largest file", full_disk(largest - 1)),
        ("an export that is interrupted where it saves the tokenizer", interrupted),
        ("an export after others that failed", nullcontext()),
    ):
        shutil.rmtree(path, ignore_errors=True)
        yield what, obstacle


@needs(Exports)
def check_an_export_in_half_precision_answers_as_its_editor(bench: Bench) -> None:
    """What an editor of a model in half precision answers by its edits, its export does.

    Whose weights have the model's precision, and may round a small change away.
    """
    half = bench.in_half_precision
    needed = {name: weight.dtype for name, weight in half.loaded.model.state_dict().items()}
    editor = half.editor()
    assert isinstance(editor, Exports)

    def find(edits: Sequence[Edit]) -> list[str]:
        turns = [[edit] for edit in edits]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "exported"
            remade(editor, turns).export(path)
            _require_dtypes(path, needed)
            is_right = half.says(taken(half, path), edits)
        return [
            f"{edit.prompt!r}, edited to {edit.target!r} on a model in {half.loaded.model.dtype}, "
            "is answered rightly by the editor, and not by its export"
            for edit, was, is_now in zip(edits, half.held(turns, edits), is_right, strict=True)
            if was and not is_now
        ]

    bench.repeatedly(find)


def _require_dtypes(folder: Path, needed: Mapping[str, torch.dtype]) -> None:
    """Require that the weights in a folder are in the model's precision."""
    for file in sorted(folder.rglob("*.safetensors")):
        for name, weight in load_file(file).items():
            own = needed.get(name, weight.dtype)
            require(
                weight.dtype == own,
                f"an export holds {name} in {weight.dtype}; the model has it in {own}",
            )


@needs(Exports)
def check_an_export_replaces_nothing(bench: Bench) -> None:
    """An export into a folder that holds a file is refused with an OSError, and leaves the file."""
    editor = bench.editor()
    assert isinstance(editor, Exports)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        path.mkdir()
        (path / "config.json").write_text("{}")
        with suppress(OSError):
            editor.export(path)
            raise Broken("it exports over a file that was there; needed: an OSError that names it")
        found = {each.name: each.read_text() for each in path.iterdir() if each.is_file()}
        require(
            found == {"config.json": "{}"},
            f"a refused export leaves {', '.join(sorted(found))} where config.json alone was",
        )
