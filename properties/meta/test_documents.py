"""What the documents show to be typed does what they say, and their links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.faulty import FAULTS
from fixtures.models import PRETRAINED
from properties.checks import CONTRACT, check_editor
from properties.internals.tiny_editors import BACKGROUND, EDITS, log_p, logits_of, tiny
from properties.meta.called import ROOT
from properties.meta.test_options import settings_of
from reports.__main__ import main
from wise.editor import load_editor
from wise.lm.architectures import ARCHITECTURES

pytestmark = pytest.mark.meta


def example(document: str, name: str, folder: Path) -> str:
    """The Python block of `document` that holds `name`, as a file: its factory's spec."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text("utf-8"), re.DOTALL)
    [found] = [block for block in blocks if name in block]
    (folder / "editor.py").write_text(found, encoding="utf-8")
    return f"{folder / 'editor.py'}:make"


def test_the_worked_example_of_an_editor_is_the_editor_of_its_name(tmp_path: Path) -> None:
    example("CONTRIBUTING.md", "class EMMET", tmp_path)
    whole = ROOT / "wise/editors/key_value/emmet.py"
    assert (tmp_path / "editor.py").read_text("utf-8") == whole.read_text("utf-8")


def test_the_frame_of_an_own_editor_is_judged(tmp_path: Path) -> None:
    """It does not edit yet, and the suite says so; what it does, it does by the contract."""
    factory = load_editor(example("README.md", "class MyEditor", tmp_path))
    names = ["an-editor-is-what-its-turns-made-it", "the-last-write-wins"]
    found = check_editor(factory, model="gptj", n_edits=5, checks=names, on_fail=None)
    assert [each.outcome for each in found] == ["pass", "fail"]


def test_the_complete_editor_resets_and_without_its_clone_does_not(tmp_path: Path) -> None:
    """What the README shows to fail is this editor with one call taken out."""
    spec = example("docs/own-editor.md", "optimizer", tmp_path)
    whole = (tmp_path / "editor.py").read_text(encoding="utf-8")
    (tmp_path / "careless.py").write_text(whole.replace("p.clone()", "p"), encoding="utf-8")
    for each, restores in ((spec, True), (f"{tmp_path / 'careless.py'}:make", False)):
        editor = tiny(load_editor(each), "gpt2", background=BACKGROUND)
        bare, before = logits_of(editor), log_p(editor, EDITS[:1])
        editor.edit(EDITS[:1])
        assert log_p(editor, EDITS[:1]) > before
        editor.reset()
        assert bool((logits_of(editor) == bare).all()) == restores


def test_the_example_of_drawn_streams_passes(tmp_path: Path) -> None:
    example("docs/own-editor.md", "edit_streams", tmp_path)
    runpy.run_path(str(tmp_path / "editor.py"))["test_the_last_write_wins"]()


def test_the_numbers_of_laws_and_faults_and_the_model_types_are_the_present_ones() -> None:
    *others, last = ARCHITECTURES
    for document, told in (
        ("README.md", f"{len(CONTRACT)} exact laws"),
        (OWN_DATA, f"The type is one of {', '.join(others)} or {last}"),
        ("docs/checks.md", f"{len(FAULTS)} planted faults"),
    ):
        assert told in " ".join((ROOT / document).read_text("utf-8").split())


OWN_DATA = "docs/own-data.md"


def blocks(language: str) -> list[str]:
    text = (ROOT / OWN_DATA).read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def test_the_files_for_own_data_are_read_and_linted_as_shown(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    for block in blocks("json"):
        is_one = '",\n' in block  # on several lines
        path.write_text(block.replace("\n", " ") if is_one else block, encoding="utf-8")
        found = CliRunner().invoke(main, ["lint", str(path)])
        assert found.exit_code == 0, found.output
    assert found.output == blocks("text")[0]


def test_the_commands_for_own_data_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").symlink_to(PRETRAINED / "gptj")
    for name in ("facts.json", "facts.jsonl", "wiki_recent_train.json"):
        (tmp_path / name).write_text(blocks("json")[0])
    lines = [line for block in blocks("") for line in block.splitlines()]
    for line in lines:
        command, *words = shlex.split(line.replace("smollm2", "gpt2"), comments=True)
        if command == "pytest":
            assert settings_of(*words, taken=["-m"]).facts[0].edits
        else:
            name, *options = words[2:]
            main.commands[name].make_context(name, options)
    assert len(lines) == 7


DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_documents_links_lead_to_files_and_headings(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text("utf-8")):
        name, _, heading = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M) if heading else []
        anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert not heading or heading in anchors, link


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/checks.md"])
def test_the_files_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8").replace("NAME.", "*.")
    named = re.findall(r"`((?:wise|fixtures|properties|reports|benchmarks)/[\w/*.]*)`", text)
    assert named
    assert [name for name in named if not list(ROOT.glob(name))] == []
