"""Laws of `wise.editor`: an editor is found by name, module or file, or told what exists."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.editor import (
    BUILT_IN,
    Editor,
    Erasable,
    Generates,
    Persistent,
    Routed,
    factory_options,
    load_editor,
    with_cache,
)
from wise.edits import Background

pytestmark = pytest.mark.internals

EDITOR = """
from neighbour_of_the_editor import NAME

class Plain:
    def __init__(self, model, name): self.model, self.name = model, name
    def edit(self, edits): pass
    def logits(self, input_ids, attention_mask): return self.model(input_ids).logits
    def reset(self): pass

def make(model, tokenizer, background, *, seed, **options):
    return Plain(model, NAME)

def _hidden(): pass
NUMBER = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """An editor in a file of its own folder, with a module beside it."""
    (tmp_path / "neighbour_of_the_editor.py").write_text("NAME = 'neighbour'")
    (tmp_path / "json.py").write_text("raise AssertionError('shadows the standard library')")
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "my_editor.py").write_text(EDITOR)
    yield tmp_path / "my_editor.py"
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("_editor_", "neighbour_of")):
            del sys.modules[name]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_name_makes_an_editor(name: str) -> None:
    editor = load_editor(name)(tiny_model("llama"), tiny_tokenizer(), Background(), seed=0)
    assert isinstance(editor, Editor)


def test_a_module_and_its_factory_are_loaded() -> None:
    from wise.editors.wise.wise import make

    assert load_editor("wise.editors.wise.wise:make") is make is load_editor("wise")


def test_a_file_and_its_factory_are_loaded_with_the_modules_beside_it(file: Path) -> None:
    make = load_editor(f"{file}:make")
    editor = make(tiny_model("llama"), tiny_tokenizer(), Background(), seed=0)
    assert isinstance(editor, Editor)
    assert vars(editor)["name"] == "neighbour"
    assert not any(isinstance(editor, c) for c in (Generates, Routed, Persistent, Erasable))


def test_a_file_is_found_from_its_own_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_editor("my_editor.py:make").__name__ == "make"


def test_a_file_is_loaded_once_and_files_of_one_name_are_kept_apart(file: Path) -> None:
    other = file.parent / "deeper" / file.name
    other.parent.mkdir()
    other.write_text("def make(): return 'other'")
    first = load_editor(f"{file}:make")
    second: Any = load_editor(f"{other}:make")
    assert second() == "other"
    assert load_editor(f"{file}:make") is first


def test_a_file_beside_the_editor_shadows_nothing(file: Path) -> None:
    load_editor(f"{file}:make")
    assert sys.path.index(str(file.parent)) == len(sys.path) - 1


@pytest.mark.parametrize(
    "spec",
    ["", "rom", "wise.editors.wise.wise", ":make", "wise.editors.wise.wise:", "my_editor.py"],
)
def test_a_spec_of_no_known_form_lists_the_built_in_names_and_the_forms(spec: str) -> None:
    with pytest.raises(ValueError, match=f"editor={spec!r} is not a built-in editor") as error:
        load_editor(spec)
    for known in (*BUILT_IN, "module:factory", "file.py:factory"):
        assert known in str(error.value)


@pytest.mark.parametrize("spec", ["nowhere:make", "wise.nowhere:make", "wise.edits.deeper:make"])
def test_a_module_that_does_not_exist_is_named(spec: str) -> None:
    with pytest.raises(ValueError, match=f"editor='{spec}': there is no module '{spec[:-5]}'"):
        load_editor(spec)


def test_a_file_that_does_not_exist_is_named_with_the_folder_that_was_searched() -> None:
    with pytest.raises(ValueError, match=r"no file 'none.py' in .*" + Path.cwd().name):
        load_editor("none.py:make")


def test_a_factory_that_does_not_exist_is_told_what_the_file_has(file: Path) -> None:
    with pytest.raises(ValueError, match=r"has no factory 'mak'; it has Plain, make$"):
        load_editor(f"{file}:mak")
    with pytest.raises(ValueError, match="has no factory 'NUMBER'"):
        load_editor(f"{file}:NUMBER")


@pytest.mark.parametrize(
    ("text", "error"),
    [("1 / 0", ZeroDivisionError), ("import nowhere", ModuleNotFoundError), ("1 +", SyntaxError)],
)
def test_an_error_inside_the_file_comes_through_and_the_file_can_be_mended(
    text: str, error: type[Exception], file: Path
) -> None:
    good = file.read_text()
    file.write_text(text)
    with pytest.raises(error):
        load_editor(f"{file}:make")
    file.write_text(good + "\n# mended, and longer than before\n")
    assert load_editor(f"{file}:make").__name__ == "make"


def test_only_a_factory_that_takes_a_cache_is_given_one(tmp_path: Path) -> None:
    taken = []

    def caching(*_model: object, seed: int, cache: Path | None = None) -> None:
        taken.append(cache)

    def plain(*_model: object, seed: int, **options: Any) -> None: ...

    assert with_cache(plain, tmp_path) is plain
    with_cache(caching, tmp_path)(None, None, None, seed=0)
    with_cache(caching, tmp_path)(None, None, None, seed=0, cache=None)
    assert taken == [tmp_path, None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2", -2),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("inf", math.inf),
        ("True", True),
        ("false", False),
        ("none", None),
        ("[1, 2]", [1, 2]),
        ("[]", []),
        ("'2'", "2"),
        ("retrieve", "retrieve"),
        ("ft-l", "ft-l"),
        ("/a/b.jsonl", "/a/b.jsonl"),
        ("x=y", "x=y"),
        ("[1, two]", "[1, two]"),
        ("{[]}", "{[]}"),
        ("", ""),
    ],
)
def test_an_option_is_a_literal_a_word_or_else_its_text(text: str, value: object) -> None:
    found = factory_options([f"key={text}"])
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize("pair", ["", "layer", "=3", "a-b=3", "1a=3", " a=1"])
def test_an_option_of_another_form_is_refused(pair: str) -> None:
    with pytest.raises(ValueError, match=f"editor option {pair!r} is not of the form KEY=VALUE"):
        factory_options([pair])


def test_an_option_that_wise_lacks_lists_those_it_has() -> None:
    with pytest.raises(ValueError, match=r"no option 'layr'; there are layer, depth, mask_ratio"):
        load_editor("wise")(tiny_model("llama"), tiny_tokenizer(), Background(), seed=0, layr=1)
