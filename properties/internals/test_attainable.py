"""Laws of `properties.attainable`: what is said of a dataset, and thresholds out of reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from properties.attainable import check_thresholds, fault_lines
from properties.internals.known_world import world
from properties.internals.measured import run_rows, write_rows
from properties.meta.called import run_pytest
from properties.meta.test_options import settings_of
from properties.report import editor_lines, facts_lines
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.datasets import write_jsonl
from wise.measures.ceilings import AS_WRITTEN

pytestmark = pytest.mark.internals


def edit(name: str, *paraphrases: str) -> Edit:
    return Edit(f"{name} lives in", f"{name}ville", name, paraphrases, id=name)


CLASH = EditStream((edit("Ada", "Where?", "Who?"), edit("Bo", "Where?", "Whose?")))  # .75
CLEAR = EditStream((edit("Ada", "a", "b"), edit("Bo", "c", "d")))


def check(threshold: float, *streams: EditStream, metric: str = "generalization") -> None:
    check_thresholds({metric: threshold}, streams, protocol="free", reading=AS_WRITTEN)


def test_a_threshold_above_the_ceiling_is_refused_with_the_reason() -> None:
    check(0.75, CLASH)
    with pytest.raises(ValueError, match=r"above 0\.75") as caught:
        check(0.76, CLASH)
    assert str(caught.value) == (
        "--threshold=generalization=0.76 is above 0.75, the most that any editor can reach on "
        "stream after 2 edits: 2 of 4 questions share a prompt with one that has another answer, "
        "such as 'Where?' -> 'Boville' (Bo) and 'Adaville' (Ada); "
        "--threshold=generalization=VALUE lowers it"
    )


def test_a_threshold_that_a_later_look_can_reach_is_not_refused() -> None:
    check(0.87, CLASH, CLEAR)
    check(0.99, CLEAR, CLASH)
    with pytest.raises(ValueError, match=r"above 0\.875"):
        check(0.88, CLASH, CLEAR)


def test_a_threshold_that_is_relative_to_the_model_is_not_held_against_all_questions() -> None:
    graded = tuple(
        Edit(e.prompt, e.target, e.subject, e.paraphrases, id=e.id, levels=(3, 3))
        for e in CLASH.edits
    )
    check(0.99, EditStream(graded), metric="generalization-3")


@pytest.fixture
def clashing(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    write_jsonl(CLASH, path)
    return path


def test_the_header_tells_the_faults_of_a_dataset(clashing: Path) -> None:
    faults, unlearnt = fault_lines(settings_of(f"--dataset=jsonl:{clashing}"))
    assert (
        faults == "of T=2: 2 of 4 paraphrases are a paraphrase of an edit with another target too"
    )
    assert unlearnt.startswith(
        "2 of 2 targets are no answer in the world that llama was trained on"
    )
    assert list(fault_lines(settings_of())) == []


def test_the_header_counts_the_aliases_that_are_right(tmp_path: Path) -> None:
    named = replace(CLEAR.edits[0], aliases=("Adatown", "A."))
    probes = [Probe("p", kind, "x", "Ada", aliases=("y",)) for kind in ("portability", "far")]
    path = tmp_path / "facts.jsonl"
    for stream, said in [
        (CLEAR, "2 edits and 0 probes"),
        (EditStream((named, CLEAR.edits[1]), tuple(probes)),
         "2 edits and 2 probes, with 3 aliases of right answers"),
    ]:  # fmt: skip
        write_jsonl(stream, path)
        first, *_ = facts_lines(settings_of(f"--dataset=jsonl:{path}"))
        assert first == f"dataset: jsonl:facts.jsonl, {said}"


def test_a_run_ends_before_its_first_test_where_a_threshold_is_out_of_reach(clashing: Path) -> None:
    result = run_pytest("-m", "triangle", "-p", "no:xdist", "--editor=none", "--model=gpt2",
                        f"--dataset=jsonl:{clashing}", "--threshold=generalization=.9")  # fmt: skip
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "  of T=2: 2 of 4 paraphrases are a paraphrase of an edit" in result.stdout
    assert "none: --threshold=generalization=0.9 is above 0.75" in result.stdout + result.stderr
    assert "passed" not in result.stdout
    assert "failed" not in result.stdout


def test_a_bad_record_is_told_with_the_command_that_tells_all(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "Ada lives in", "target": [7]}\n')
    with pytest.raises(pytest.UsageError) as caught:
        _ = settings_of(f"--dataset={path}").facts
    assert str(caught.value) == (
        f"--dataset={path}: {path}, line 1, record 0: target=[7] is not a non-blank text or a "
        f"number; lines count from 1, records from 0; `python -m reports lint {path}` tells all "
        "that is wrong, and --skip-bad-records leaves bad records out"
    )


def test_the_header_tells_what_only_a_tokenizer_shows(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    marked = replace(CLEAR.edits[0], paraphrases=("Where?<|endoftext|>",))
    write_jsonl(EditStream((marked, CLEAR.edits[1])), path)
    told, _ = fault_lines(settings_of(f"--dataset={path}", "--model=gpt2"))
    assert told == (
        "of T=2: 1 of 5 prompts, paraphrases and probes holds a special token of the tokenizer"
    )


def test_a_run_on_a_file_says_where_all_can_be_reached(clashing: Path, tmp_path: Path) -> None:
    def lines(*words: str) -> list[str]:
        [(_, told)] = editor_lines(settings_of("--model=gpt2", *words), path, "none", [])
        return [line for line in told if "most that any editor can reach" in line]

    path = write_rows(tmp_path / "rows.jsonl", run_rows())
    said = "The most that any editor can reach in this run: 1.00 of every score."
    assert lines(f"--dataset=jsonl:{clashing}") == [said]
    assert lines() == []
    alike = [replace(row, prompt="Q", expected=f"answer {n}") if row.metric == "generalization"
             else row for n, row in enumerate(run_rows())]  # fmt: skip
    write_rows(path, alike)
    assert said not in lines(f"--dataset=jsonl:{clashing}")


def test_what_an_embedded_model_never_learnt_is_told_beside_the_scores(
    clashing: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", run_rows())
    limit = (
        "The model's own limit: 2 of 2 targets are no answer in the world that gpt2 was trained "
        "on, and it can hardly say them."
    )
    for words, is_told in (([f"--dataset=jsonl:{clashing}"], True), ([], False)):
        [(_, told)] = editor_lines(settings_of("--model=gpt2", *words), path, "none", [])
        assert (limit in told) == is_told
        assert sum("limit" in line for line in told) == is_told


def test_what_an_embedded_model_never_learnt_is_told_of_other_facts_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "own.jsonl"
    write_jsonl(world().stream(0, 5), path)
    told = ["of T=5: no contradictions, and no probes within a scope"]
    assert list(fault_lines(settings_of(f"--dataset={path}"))) == told
