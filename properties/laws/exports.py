"""What is taken away: a folder that answers as the editor did, without it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from properties.bench import Bench
from properties.findings import Broken, close, needs, require
from properties.snapshots import require_close, snapshot
from properties.surroundings import Surroundings, full_disk
from wise.editor import Editor, Exports
from wise.editors.exported import load_exported
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
    is a text here, and a Path in the other laws.
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
        for file in sorted(path.rglob("*.safetensors")):
            for name, weight in load_file(file).items():
                needed = own.get(name, weight.dtype)
                require(
                    weight.dtype == needed,
                    f"an export holds {name} in {weight.dtype}; the model has it in {needed}",
                )
    bench.same(found, bench.base_logits, "exported without an edit")


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
