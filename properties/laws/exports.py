"""What is taken away: a folder that answers as the editor did, without it."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from properties.bench import Bench
from properties.findings import Broken, needs, require
from properties.surroundings import Surroundings
from wise.editor import Editor, Exports
from wise.editors.exported import load_exported
from wise.lm.decoding import Unedited

__all__ = [
    "check_an_export_replaces_nothing",
    "check_an_export_without_edits_is_the_model",
    "check_exporting_changes_nothing",
]

_N = 4  # edits


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
    """An editor without edits exports the caller's model, to the bit and in its precision."""
    editor = bench.editor()
    assert isinstance(editor, Exports)
    own = {name: weight.dtype for name, weight in bench.loaded.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        editor.export(path)
        found = bench.logits(taken(bench, path), bench.prompts)
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
    """After an export the editor answers as before, and its model is as before."""
    model = bench.copy_model()
    editor = bench.editor(bench.edits(_N, least=1), model=model)
    assert isinstance(editor, Exports)
    expected = bench.logits(editor, bench.prompts)
    before = Surroundings.of(model, bench.loaded.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        editor.export(Path(folder) / "exported")
        left = sorted(path.name for path in Path(folder).iterdir())
    change = before.change_to(Surroundings.of(model, bench.loaded.tokenizer))
    require(not change, f"an export changes what it was given: {change}")
    require(left == ["exported"], f"an export to 'exported' leaves {', '.join(left)} there")
    bench.same(bench.logits(editor, bench.prompts), expected, "after an export")


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
