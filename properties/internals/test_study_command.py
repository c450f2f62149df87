"""Laws of `python -m reports study`: its folders, its documents, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.models import model_folder
from properties.internals.small_study import scene
from reports.cli.study_command import study as study_command
from reports.study_tables import STUDY, read_columns
from wise.evaluation.datasets import load_stream

pytestmark = pytest.mark.internals


def test_the_command_works_with_a_folder_and_a_file_of_known_facts(tmp_path: Path) -> None:
    known = [dict(prompt=e.prompt, subject=e.subject, attribute=e.ground_truth, known_id=f"={n}")
             for n, e in enumerate(scene("", 0, 6).stream.edits)]  # fmt: skip
    source = tmp_path / "known.json"
    source.write_text(json.dumps(known))
    assert len(load_stream(str(source)).edits) == 6
    arguments = [
        "--model", str(model_folder("mistral")), "--facts", "2", "--facts-file", str(source),
        "--editor", "ft-1", "--problem", "fact-amplification", "--layers", "3,4", "--jobs", "1",
        "--out", str(tmp_path / "study"), "--write", str(tmp_path / "doc.md"),
    ]  # fmt: skip
    for _ in range(2):
        result = CliRunner().invoke(study_command, arguments)
        assert result.exit_code == 0, result.output
        assert "2 facts, traced and edited at 2 layers (3, 4) by 1 pairs" in result.output
        assert "4 cells, at least some 1 minutes" in result.output
    cells = read_columns(tmp_path / "study" / "study.csv", STUDY)
    assert sorted(cells.fact) == ["'=0", "'=0", "'=1", "'=1"]  # what a spreadsheet would run
    assert (tmp_path / "study" / "page" / "index.html").exists()
    document = (tmp_path / "doc.md").read_text()
    assert "10 facts at two layers" in document
    assert "nan" not in document  # facts of this file have no paraphrases
    moved = source.rename(tmp_path / "other.json")
    arguments[arguments.index(str(source))] = str(moved)
    refused = CliRunner().invoke(study_command, arguments)
    assert "scene options=" in refused.output
    too_many = CliRunner().invoke(study_command, [*arguments, "--facts", "3"])
    assert too_many.exit_code == 1
    assert "facts=2 belongs to another study; this one has 3" in too_many.output
    more = [*arguments, "--facts", "9", "--out", str(tmp_path / "more")]
    unknown = CliRunner().invoke(study_command, more)
    assert "knows 6 of the facts; 9 were asked for" in unknown.output


def test_the_command_studies_several_models_and_answers_for_each(tmp_path: Path) -> None:
    models = ["--model", "gptj", "--model", str(model_folder("mistral"))]
    arguments = [
        *models, "--facts", "2", "--editor", "ft-1", "--problem", "error-injection",
        "--layers", "3,4", "--jobs", "1", "--out", str(tmp_path),
    ]  # fmt: skip
    result = CliRunner().invoke(study_command, arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "study.md").read_text()
    answers, gptj, mistral = (text.index(f"\n## {name}") for name in ("The", "gptj", "/"))
    assert answers < gptj < mistral
    assert text[answers:gptj].count("10 facts at two layers") == 2
    for name in ("gptj", "mistral"):
        assert set(read_columns(tmp_path / name / "study.csv", STUDY).layer) == {3, 4}
    rule = CliRunner().invoke(study_command, [*arguments, "--rule", "2"])
    assert "--rule=2 is none of the study's layers 3, 4" in rule.output
    layerless = CliRunner().invoke(study_command, [*models, "--editor", "none"])
    assert "editor='none' takes no layer=; a study edits at every layer" in layerless.output
    same = CliRunner().invoke(study_command, ["--model", "mistral", *models])
    assert same.exit_code == 1
    assert "must differ in their last names" in same.output
