"""`python -m reports league` and `study`: what cannot be run is refused at once, by its value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures import models
from reports.__main__ import main

pytestmark = pytest.mark.internals


@pytest.mark.parametrize(
    ("command", "option", "code", "message"),
    [
        ("league", "--models=lama", 1, "model='lama' is neither an embedded family (llama, "),
        ("league", "--models=llama,", 1, "model='' is neither an embedded family"),
        ("league", "--edits=99999", 1, "n_edits=99999 is outside the evaluation split's 1.."),
        ("league", "--search=no.csv", 2, "File 'no.csv' does not exist"),
        ("league", "--write=no/page.md", 2, "no/page.md is not a file in a folder that exists"),
        (
            "study",
            "--layers=a",
            1,
            "--layers=a are not layers of the model, 0..11, comma-separated",
        ),
        ("study", "--layers=0,12", 1, "--layers=0,12 are not layers of the model, 0..11"),
        ("study", "--facts-file=no.json", 1, "dataset='no.json': there is no file 'no.json' in "),
        ("study", "--facts-file=zsre:no.json", 1, "dataset='zsre:no.json': there is no file "),
        ("study", "--write=no/page.md", 2, "no/page.md is not a file in a folder that exists"),
    ],
)
def test_a_bad_option_is_named_before_anything_runs(
    command: str, option: str, code: int, message: str, tmp_path: Path
) -> None:
    arguments = [command, option, f"--out={tmp_path / 'out'}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_study_names_an_unknown_editor_before_it_loads_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(name: str) -> None:
        raise AssertionError(f"{name} is loaded")

    monkeypatch.setattr(models, "load_model", load)
    result = CliRunner().invoke(main, ["study", "--editor=nosuch", f"--out={tmp_path / 'out'}"])
    assert result.exit_code == 1
    assert "editor='nosuch' is not a built-in editor" in result.output


KNOWN: dict[str, object] = {
    "prompt": "Ada is at",
    "target": "CERN",
    "subject": "Ada",
    "ground_truth": "MIT",
}
FACTS_FILES: dict[str, tuple[list[dict[str, object]], str]] = {
    "empty": ([], "line 1: the file is empty; it must hold a record"),
    "no edit": ([{"probes": []}], "jsonl:facts.jsonl has no edits; at least one is needed"),
    "bad": ([KNOWN, KNOWN | {"prompt": 7}], "line 2, record 1: prompt=7 is not a non-blank text"),
    "no subject": (
        [KNOWN | {"subject": ""}],
        "line 1, record 0: the edit has no subject, and of 1 none can be traced; a fact needs a "
        "subject in its prompt and a ground_truth, the answer before the edit",
    ),
    "no truth": ([KNOWN | {"ground_truth": ""}], "record 0: the edit has no ground_truth, and of"),
    "blank": (
        [KNOWN | {"ground_truth": " ", "subject": " "}],
        "line 1, record 0: the edit has no subject and ground_truth, and of 1 none can be traced",
    ),
    "long": (
        [KNOWN, KNOWN | {"prompt": "Ada is at " * 900}],
        "llama: a run stops at FILE, line 2, record 1: edit 'jsonl-1': prompt 'Ada is at Ada",
    ),
    "long truth": (
        [KNOWN | {"ground_truth": "MIT " * 900}],
        "llama: a run stops at FILE, line 1, record 0: edit 'jsonl-0': ground_truth 'MIT MIT",
    ),
    "special": (
        [KNOWN, KNOWN | {"ground_truth": "MIT<|endoftext|>"}],
        "line 2, record 1: edit 'jsonl-1': ground_truth 'MIT<|endoftext|>' holds the special token",
    ),
}


@pytest.mark.parametrize("what", FACTS_FILES)
def test_a_study_checks_its_file_before_it_loads_a_model(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(name: str) -> None:
        raise AssertionError(f"{name} is loaded")

    monkeypatch.setattr(models, "load_model", load)
    records, said = FACTS_FILES[what]
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    words = ["study", "--model=llama", f"--facts-file={file}", f"--out={tmp_path / 'out'}"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert str(file) in line
    assert said.replace("FILE", str(file)) in line
    assert not (tmp_path / "out").exists()


def test_a_study_leaves_out_what_no_model_is_asked_on_demand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(name: str) -> None:
        raise ValueError(f"{name} is loaded")

    monkeypatch.setattr(models, "load_model", load)
    file = tmp_path / "facts.jsonl"
    long = KNOWN | {"ground_truth": "MIT " * 900}
    words = ["study", "--model=llama", f"--facts-file={file}", "--skip-bad-records",
             f"--out={tmp_path / 'out'}"]  # fmt: skip
    for records, ended in (
        ([KNOWN, long, KNOWN | {"subject": ""}], "llama is loaded"),
        ([long], "no fact is left to trace"),
    ):
        file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1
        assert f"{ended}\n" in result.output
        assert "1 edit with a text that is too long for llama" in result.output
        told = "1 of 3 edits are not traced, as a fact needs a subject in its prompt and a"
        assert (told in result.output) == (len(records) == 3)


def test_a_league_without_a_cell_that_ended_fails(tmp_path: Path) -> None:
    arguments = ["--models=gptj", "--edits=3", "--seeds=1", "--jobs=1", f"--out={tmp_path}"]
    failing = "--editors=properties.internals.small_league:make_failing"
    result = CliRunner().invoke(main, ["league", failing, *arguments])
    assert result.exit_code == 1
    assert "three edits" in result.output
    assert "no cell was finished; the tables say why" in result.output


def test_a_league_on_a_short_file_takes_all_of_its_edits(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    edits = [{"prompt": f"{name} works for", "target": name[::-1], "paraphrases": ["She works for"]}
             for name in ("Ada", "Bo", "Cleo")]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, edits)), encoding="utf-8")
    arguments = ["--models=gptj", f"--dataset={file}", "--seeds=1", "--jobs=1", f"--out={tmp_path}"]
    failing = "--editors=properties.internals.small_league:make_failing"
    result = CliRunner().invoke(main, ["league", failing, *arguments])
    assert "T=3, seed 0: 3 of 3 paraphrases" in result.output
    assert "three edits" in result.output
