"""Laws of the study: its cells are independent and resumed, and its words are its intervals'."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from properties.internals.small_study import (
    CARELESS,
    FAILING,
    QUICK,
    STORED,
    UNEDITED,
    UNPREPARED,
    StoppedError,
    killed,
    loaded,
    make_quick,
    scene,
    study_of,
)
from wise.edits import Background, EditStream
from wise.evaluation.cell import Scene
from wise.jobs.grid import run_apart, run_submitted
from wise.lm.decoding import Reader, Unedited
from wise.localization.known_facts import fact_of
from wise.localization.study import Study, StudyTables, run_study
from wise.localization.tracing import causal_trace

pytestmark = pytest.mark.internals


def run(study: Study, folder: Path, **options: Any) -> StudyTables:
    return run_study(study, folder, progress=False, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cells").iterdir()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    run(study_of(QUICK), folder)
    return folder


def test_a_cells_scores_are_those_of_the_edit_made_by_hand(tmp_path: Path) -> None:
    cells = run(study_of(QUICK), tmp_path).cells
    assert list(cells.groupby("layer").fact.nunique()) == [3, 3]
    model, tokenizer, stream = loaded().model, loaded().tokenizer, scene("", 0, 3).stream
    edit = stream.edits[1]
    [neighbour] = [probe.prompt for probe in stream.probes
                   if (probe.edit_id, probe.kind) == (edit.id, "near-relation")]  # fmt: skip
    editor = make_quick(model, tokenizer, Background(), seed=0, layer=3)
    editor.edit([edit])
    asked = [edit.prompt, *edit.paraphrases, neighbour]
    before, after = (
        [math.exp(a.log_probability) for a in
         Reader(tokenizer).forced(each, asked, [edit.target] * len(asked))]
        for each in (Unedited(model, tokenizer), editor)
    )  # fmt: skip
    gained = [max(0.0, (q - p) / (1 - p)) for p, q in zip(before, after, strict=True)][:-1]
    kept = 1 - abs(after[-1] - before[-1]) / (0.5 + abs(before[-1] - 0.5))
    three = gained[0], statistics.mean(gained[1:]), kept
    [row] = cells[(cells.fact == edit.id) & (cells.layer == 3)].itertuples()
    found = row.rewrite, row.paraphrase, row.neighborhood
    assert found == pytest.approx(three, abs=1e-4)
    assert row.overall == pytest.approx(statistics.mean(three), abs=1e-4)
    assert (row.before, row.after) == pytest.approx((before[0], after[0]), abs=1e-4)
    assert 0.0 <= row.essence <= 1.0


def test_a_cells_tracing_effect_is_that_of_its_fact_and_layer(serial: Path) -> None:
    tables = run(study_of(QUICK), serial)
    facts = [fact_of(edit) for edit in scene("", 0, 3).stream.edits]
    trace = causal_trace(loaded().model, loaded().tokenizer, facts, n_noise=2)
    wanted = {fact.fact: fact.tracing_effect() for fact in trace.traced}
    assert len(tables.cells) == 6
    assert all(row.tracing == pytest.approx(wanted[row.fact][row.layer])
               for row in tables.cells.itertuples())  # fmt: skip


def test_processes_give_the_bytes_of_one(serial: Path, tmp_path: Path) -> None:
    run(study_of(QUICK), tmp_path, executor=partial(run_apart, n_processes=2))
    assert content(tmp_path) == content(serial)


def test_a_cluster_gives_the_bytes_of_one_process(serial: Path, tmp_path: Path) -> None:
    jobs = partial(
        run_submitted, folder=tmp_path / "jobs", cluster="local", poll_seconds=0.2, timeout_min=2
    )
    run(study_of(QUICK), tmp_path, executor=jobs)
    assert content(tmp_path) == content(serial)


def test_killed_inside_a_cell_a_study_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    study = study_of(QUICK, killed("soft", tmp_path / "was-killed"))
    with pytest.raises(StoppedError):
        run(study, tmp_path / "one")
    cut = max((tmp_path / "one" / "cells").glob("killed*"))
    assert cut.read_bytes().count(b"\n") == 3
    with cut.open("ab") as file:
        file.write(b'{"fact": "cut o')
    run(study, tmp_path / "one")
    run(study, tmp_path / "two")  # the kill has been: nothing stops it
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert sum(part.count(b"\n") for part in content(tmp_path / "one").values()) == 12


def test_facts_prepared_side_by_side_are_so_again_when_a_study_is_resumed(tmp_path: Path) -> None:
    study = study_of(STORED, n_facts=2)
    run(study, tmp_path)
    [(name, whole)] = content(tmp_path).items()
    lines = whole.splitlines(keepends=True)
    for n_kept in range(len(lines)):
        (tmp_path / "cells" / name).write_bytes(b"".join(lines[:n_kept]))
        run(study, tmp_path)
        assert content(tmp_path) == {name: whole}


def test_what_goes_wrong_when_an_editor_prepares_is_the_error_of_its_cells(tmp_path: Path) -> None:
    tables = run(study_of(UNPREPARED), tmp_path)
    assert tables.cells.empty
    assert set(tables.excluded.kind) == {"error"}
    assert tables.excluded.reason.str.fullmatch("RuntimeError: . edits are too many").all()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [(FAILING, "ValueError: it | broke\noff"), (CARELESS, "after reset the editor has left")],
)
def test_a_cells_error_is_recorded_and_costs_no_other(
    entry: object, reason: str, serial: Path, tmp_path: Path
) -> None:
    tables = run(study_of(QUICK, entry), tmp_path)
    [error] = tables.excluded.itertuples()
    assert (error.layer, error.kind) == (3, "error")
    assert reason in error.reason
    scores = {name: own.set_index(["fact", "layer"]).rewrite
              for name, own in tables.cells.groupby("editor")}  # fmt: skip
    other = scores[entry.name]  # type: ignore[attr-defined]
    assert (len(scores["quick"]), len(other)) == (6, 5)
    assert other.equals(scores["quick"][other.index])


def test_only_cells_with_an_error_are_tried_again(tmp_path: Path) -> None:
    study = study_of(FAILING)
    run(study, tmp_path)
    before = content(tmp_path)
    run(study, tmp_path)
    assert content(tmp_path) == before  # the error comes again, at the same place
    [failed] = [name for name, lines in before.items() if b"error" in lines]
    path = tmp_path / "cells" / failed
    lines = path.read_text().splitlines()
    path.write_text("".join(line.replace("it | broke", "once") + "\n" for line in lines))
    run(study, tmp_path)
    assert content(tmp_path) == before


def test_a_cell_that_kills_its_process_is_its_own_loss(tmp_path: Path) -> None:
    study = study_of(killed("hard", tmp_path / "was-killed"), facts_per_part=3)
    tables = run(study, tmp_path, executor=partial(run_apart, n_processes=2))
    [error] = tables.excluded.itertuples()
    assert error.layer == 3
    assert error.reason == "its process was ended from outside"
    assert len(tables.cells) == 5


def test_what_an_editor_cannot_do_is_excluded_with_the_reason(tmp_path: Path) -> None:
    problems = ("error-injection", "fact-erasure", "fact-forcing")
    tables = run(study_of(UNEDITED, problems=problems), tmp_path)
    assert Counter(tables.cells.problem) == {"error-injection": 6}
    assert (tables.cells.rewrite == 0).all()
    assert (tables.cells.neighborhood == 1).all()
    assert Counter(tables.excluded.problem) == {"fact-erasure": 6, "fact-forcing": 6}
    assert tables.excluded.reason.str.contains("needs an editor that takes").all()


def test_a_fact_of_hardly_any_probability_has_no_tracing_effect(tmp_path: Path) -> None:
    tables = run(study_of(QUICK, min_probability=1.01), tmp_path)
    assert tables.cells.empty
    assert len(tables.excluded) == 6
    assert tables.excluded.reason.str.endswith("is below min_probability=1.01").all()


def test_the_study_leaves_the_callers_model_as_it_was(tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in loaded().model.state_dict().items()}
    run(study_of(CARELESS), tmp_path)
    assert all(weight.equal(before[name]) for name, weight in loaded().model.state_dict().items())


def twice(model: str, seed: int, n_edits: int) -> Scene:
    """The first fact again at the end, by another id."""
    made = scene(model, seed, n_edits)
    first, *rest = made.stream.edits
    edits = (first, *rest, replace(first, id="again"))
    return replace(made, stream=EditStream(edits, made.stream.probes, "twice"))


def test_a_fact_that_is_there_twice_has_its_tracing_effect_twice(tmp_path: Path) -> None:
    study = replace(study_of(UNEDITED, n_facts=4, n_candidates=3), scene_of=twice)
    table = run(study, tmp_path).cells
    by_fact = {fact: cells.tracing.tolist() for fact, cells in table.groupby("fact")}
    assert by_fact["again"] == by_fact[twice("", 0, 3).stream.edits[0].id]
    assert len(by_fact) == 4


def alike(model: str, seed: int, n_edits: int) -> Scene:
    """The last fact by the id of the first."""
    made = scene(model, seed, n_edits)
    *edits, last = made.stream.edits
    return replace(made, stream=EditStream((*edits, replace(last, id=edits[0].id))))


def test_facts_of_one_id_are_refused_by_it(tmp_path: Path) -> None:
    study = replace(study_of(UNEDITED), scene_of=alike)
    first = scene("", 0, 3).stream.edits[0].id
    with pytest.raises(ValueError, match=f"several facts have the id '{first}'"):
        run(study, tmp_path)


def test_a_part_that_ended_after_its_last_cell_lost_nothing(serial: Path) -> None:
    study = study_of(QUICK)
    [part, *_] = study.parts([edit.id for edit in scene("", 0, 3).stream.edits])
    before = part.path(serial).read_bytes()
    part.lose(serial, "its process was ended")
    assert part.path(serial).read_bytes() == before


def test_a_folder_of_another_study_or_in_use_is_refused(serial: Path) -> None:
    with pytest.raises(
        ValueError, match=r"study.json: facts=3 belongs to another study; this one has 2"
    ):
        run(study_of(QUICK, n_facts=2), serial)
    with FileLock(serial / "study.lock"), pytest.raises(RuntimeError, match="is at work"):
        run(study_of(QUICK), serial)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(problems=("x",)), "problem='x' is none of error-injection"),
        (dict(problems=()), r"problems=\(\) must name at least one"),
        (dict(seeds=(1, 1)), "each once"),
        (dict(n_facts=0), "n_facts=0 must be >= 1"),
    ],
)
def test_what_cannot_be_a_study_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_of(QUICK, **options)
