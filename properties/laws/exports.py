"""What is taken away: a folder that answers as the editor did, without it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from properties.bench import Bench
from properties.findings import Broken, close, needs, require, take_back
from properties.surroundings import Surroundings
from wise.editor import Editor, Erasable, Exports, Persistent
from wise.editors.exported import load_exported
from wise.edits import Edit
from wise.lm.decoding import Unedited

__all__ = [
    "check_an_export_replaces_nothing",
    "check_an_export_without_edits_is_the_model",
    "check_export_answers_as_the_editor_did",
    "check_exporting_changes_nothing",
]

_N = 4  # edits


def _taken(bench: Bench, folder: Path) -> Editor:
    """What a user makes of an exported folder: a model of transformers, or else an editor."""
    if not (folder / "config.json").is_file():
        return load_exported(folder, factory=bench.factory)
    options = dict(local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return Unedited(model.eval().to(bench.loaded.model.device), tokenizer)


def _require_exported(
    bench: Bench, editor: Editor, path: Path, when: str, made: Sequence[Sequence[Edit]]
) -> None:
    """Require that `editor`, exported to `path`, is taken away as it answers now.

    Where the two disagree, one that was only taught the turns `made` tells which of them is wrong.
    """
    assert isinstance(editor, Exports)
    expected, own = bench.logits(editor, bench.prompts), bench.ask(editor, bench.prompts)
    editor.export(path)
    taken = _taken(bench, path)
    found = bench.logits(taken, bench.prompts)
    if close(found, expected):
        return
    theirs = bench.ask(taken, bench.prompts)
    twin = bench.editor()
    for turn in made:
        twin.edit(turn)
    needed = bench.ask(twin, bench.prompts)
    for prompt, was, is_now, should in zip(bench.prompts, own, theirs, needed, strict=True):
        require(
            was.text == is_now.text or is_now.text != should.text,
            f"{when}, the editor itself answers {prompt!r} by {was.text!r}; needed: "
            f"{should.text!r}, as its export and an editor that was taught the same and not asked",
        )
        require(
            was.text == is_now.text,
            f"{when}, the exported model answers {prompt!r} by {is_now.text!r}; needed: "
            f"{was.text!r}, as the editor that exported it",
        )
    gap = float((found - expected).abs().max())
    raise Broken(
        f"{when}, the logits of the exported model differ by up to {gap:.1e} from the editor's"
    )


@needs(Exports)
def check_export_answers_as_the_editor_did(bench: Bench) -> None:
    """An exported folder, loaded by itself, gives the logits of the editor that wrote it.

    In scope and out of it, up to the order of additions, as an edit may become part of a weight.
    Each export is of its own moment: after edits, more of them and one anew, a removal, a reset,
    and a load.
    """
    edits, editor = bench.edits(_N, least=2), bench.editor()
    first, last = edits[0], edits[-1]
    turns = [*([edit] for edit in edits), [replace(first, target=last.target)]]
    with tempfile.TemporaryDirectory() as folder:

        def export(when: str, made: Sequence[Sequence[Edit]]) -> None:
            _require_exported(bench, editor, Path(folder) / when, f"after {when}", made)

        editor.edit(turns[0])
        export("an edit", turns[:1])
        for turn in turns[1:]:
            editor.edit(turn)
        export("more edits, and the first anew", turns)
        if isinstance(editor, Persistent):
            editor.save(Path(folder) / "state")
        if isinstance(editor, Erasable):
            take_back(editor, [last])
            export("a removal", [turn for turn in turns if turn != [last]])
        editor.reset()
        export("a reset", [])
        if isinstance(editor, Persistent):
            editor.load(Path(folder) / "state")
            export("a load", turns)


@needs(Exports)
def check_an_export_without_edits_is_the_model(bench: Bench) -> None:
    """An editor without edits exports the caller's model, to the bit and in its precision."""
    editor = bench.editor()
    assert isinstance(editor, Exports)
    own = {name: weight.dtype for name, weight in bench.loaded.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        editor.export(path)
        found = bench.logits(_taken(bench, path), bench.prompts)
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
