"""Laws of a league's grid: cells are independent, resumed, and never each other's."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from properties.internals.small_league import (
    FAILING,
    ROUTER,
    WISE,
    StoppedError,
    killed,
    league_of,
)
from wise.evaluation.cell import LeagueCell, Outcome
from wise.evaluation.entries import Entry
from wise.evaluation.league import (
    COST_COLUMNS,
    League,
    checkpoints_of,
    results_of,
    run_league,
    write_costs,
)
from wise.jobs.grid import run_apart
from wise.measures.rows import read_rows

pytestmark = pytest.mark.internals


def run(league: League, folder: Path, **options: Any) -> dict[LeagueCell, Outcome]:
    return run_league(league, folder, progress=False, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


@pytest.mark.parametrize(
    ("n_edits", "expected"), [(1, (1,)), (3, (1, 3)), (10, (1, 10)), (1000, (1, 10, 100, 1000))]
)
def test_checkpoints_are_the_powers_of_ten_below_t_and_t(
    n_edits: int, expected: tuple[int, ...]
) -> None:
    assert checkpoints_of(n_edits) == expected


def test_a_mass_edit_has_a_cell_for_each_checkpoint_each_one_turn() -> None:
    mass = replace(ROUTER, name="router-mass", group="mass")
    cells = list(league_of(ROUTER, mass, n_edits=6).cells())
    assert [(c.checkpoints, c.edits_per_turn) for c in cells] == [((1, 6), 1), ((1,), 1), ((6,), 6)]


def test_all_that_makes_cells_differ_is_in_their_file_names() -> None:
    [cell] = league_of(ROUTER, n_edits=1).cells()
    entries = [replace(ROUTER, options=(("a", 1),)), replace(ROUTER, options=(("a", "1"),)),
               replace(ROUTER, spec="m:f"), replace(ROUTER, label="x"), replace(ROUTER, name="R"),
               replace(ROUTER, group="mass")]  # fmt: skip
    others = [replace(cell, entry=entry) for entry in entries]
    others += [replace(cell, model="gptj"), replace(cell, seed=1), replace(cell, n_edits=2),
               replace(cell, protocols=("forced",)), replace(cell, checkpoints=(2,))]  # fmt: skip
    assert len({each.key.lower() for each in (cell, *others)}) == 1 + len(others)


def test_a_mass_edit_is_asked_what_the_others_are_asked(tmp_path: Path) -> None:
    mass = replace(ROUTER, name="router-mass", group="mass")
    outcomes = run(league_of(ROUTER, mass), tmp_path)
    online, at_once = results_of(outcomes, tmp_path).values()
    for t in (1, 6):
        asked = [[(r.metric, r.kind, r.prompt) for r in each[t] if r.protocol == "free"]
                 for each in (online, at_once)]  # fmt: skip
        assert asked[0] == asked[1]


def test_cells_that_ended_are_not_run_again(tmp_path: Path) -> None:
    league = league_of(ROUTER, WISE)
    before = run(league, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json*")}
    assert run(league, tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json*")} == times


def test_killed_inside_a_cell_a_league_is_resumed_to_the_same_rows(tmp_path: Path) -> None:
    entry = killed("soft", tmp_path / "was-killed")
    league = league_of(ROUTER, entry, WISE)
    with pytest.raises(StoppedError):
        run(league, tmp_path / "one")
    assert [outcome.state for outcome in _outcomes(league, tmp_path / "one")] == [
        "ended", "open", "open",
    ]  # fmt: skip
    outcomes = run(league, tmp_path / "one")
    run(league, tmp_path / "two")  # the kill has been: nothing stops it
    assert {outcome.state for outcome in outcomes.values()} == {"ended"}
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 3
    assert all([c.t for c in o.costs] == [1, 6] for o in outcomes.values())


def _outcomes(league: League, folder: Path) -> list[Outcome]:
    return [Outcome.of(cell, folder) for cell in league.cells()]


def test_an_error_is_recorded_keeps_what_was_measured_and_loses_no_other_cell(
    tmp_path: Path,
) -> None:
    outcomes = list(run(league_of(FAILING, ROUTER), tmp_path).values())
    assert [outcome.state for outcome in outcomes] == ["error", "ended"]
    assert outcomes[0].message == "ValueError: three edits | are\ntoo many"
    assert outcomes[0].measured == (1,)


def test_an_error_at_one_t_is_no_score_there_and_leaves_the_t_before(tmp_path: Path) -> None:
    outcomes = run(league_of(FAILING, seeds=(0, 1)), tmp_path)
    [by_t] = results_of(outcomes, tmp_path).values()
    assert {row.seed for row in by_t[1]} == {0, 1}
    assert by_t[6] == "2 of 2 seeds: ValueError: three edits | are\ntoo many"


def test_an_editor_that_cannot_be_made_is_an_error_of_its_cell(tmp_path: Path) -> None:
    outcomes = run(league_of(replace(ROUTER, options=(("speed", 1),)), ROUTER), tmp_path)
    first, second = outcomes.values()
    assert "unexpected keyword argument 'speed'" in first.message
    assert (first.state, first.measured, second.state) == ("error", (), "ended")


def test_a_cell_whose_process_is_killed_is_an_error_and_the_others_rows_are_the_same(
    tmp_path: Path,
) -> None:
    league = league_of(ROUTER, killed("always", tmp_path / "never"))
    outcomes = list(
        run(league, tmp_path / "two", executor=partial(run_apart, n_processes=2)).values()
    )
    assert [outcome.state for outcome in outcomes] == ["ended", "error"]
    assert outcomes[1].message == "its process was ended from outside"
    assert outcomes[1].measured == (1,)
    run(league_of(ROUTER), tmp_path / "one")
    several = content(tmp_path / "two")
    assert {name: several[name] for name in content(tmp_path / "one")} == content(tmp_path / "one")


@pytest.mark.parametrize(("ends_at", "expected"), [(6, (1,)), (3, (1,)), (1, ())])
def test_a_killed_cell_keeps_each_t_that_later_rows_follow(
    ends_at: int, expected: tuple[int, ...], tmp_path: Path
) -> None:
    outcomes = run(league_of(ROUTER), tmp_path)
    [cell] = outcomes
    path = cell.rows_in(tmp_path)
    n_kept = sum(row.t <= ends_at for row in read_rows(path))
    lines = path.read_bytes().splitlines(keepends=True)[:n_kept]
    path.write_bytes(b"".join(lines)[:-9])  # the kill cuts a line
    cell.lose(tmp_path, "killed")
    outcome = Outcome.of(cell, tmp_path)
    assert (outcome.measured, outcome.costs) == (expected, outcomes[cell].costs)
    [by_t] = results_of({cell: outcome}, tmp_path).values()
    assert by_t[6] == "1 of 1 seeds: killed"
    assert isinstance(by_t[1], list) == bool(expected)


def test_a_folder_of_another_league_is_refused(tmp_path: Path) -> None:
    run(league_of(ROUTER, n_edits=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"league.json: edits=1 belongs to another league; this one has 2"
    ):
        run(league_of(ROUTER, n_edits=2), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def an_editor(folder: Path, source: str) -> Entry:
    """An editor in a file of this source, by a new module each time."""
    file = folder / "my_editor.py"
    file.write_text(source)
    for name in [name for name in sys.modules if name.startswith("_editor_my_editor_")]:
        del sys.modules[name]
    return Entry("mine", f"{file}:make")


ROUTES = "from wise.editors.corners import make_random_router as make\n"


def test_rows_of_an_editor_whose_source_has_changed_are_refused(tmp_path: Path) -> None:
    run(league_of(an_editor(tmp_path, ROUTES), n_edits=1), tmp_path / "league")
    before = content(tmp_path / "league")
    changed = league_of(an_editor(tmp_path, f"{ROUTES}# another\n"), ROUTER, n_edits=1)
    with pytest.raises(ValueError, match=r"mine_gpt2.* is of another run: my_editor\.py was "):
        run(changed, tmp_path / "league")
    assert content(tmp_path / "league") == before


def test_a_cell_with_an_error_starts_anew_once_its_editor_is_mended(tmp_path: Path) -> None:
    fails = "from properties.internals.small_league import make_failing as make\n"
    out = tmp_path / "league"
    [failed] = run(league_of(an_editor(tmp_path, fails)), out).values()
    [mended] = run(league_of(an_editor(tmp_path, ROUTES)), out).values()
    assert (failed.state, mended.state, len(content(out))) == ("error", "ended", 1)
    run(league_of(an_editor(tmp_path, ROUTES)), tmp_path / "afresh")
    assert content(out) == content(tmp_path / "afresh")


def test_editors_and_seeds_may_join_a_league(tmp_path: Path) -> None:
    run(league_of(ROUTER, n_edits=1), tmp_path)
    joined = run(league_of(ROUTER, FAILING, seeds=(0, 1), n_edits=1), tmp_path)
    assert [outcome.state for outcome in joined.values()] == ["ended"] * 4


def test_two_processes_do_not_work_on_one_league(tmp_path: Path) -> None:
    with FileLock(tmp_path / "league.lock"), pytest.raises(RuntimeError, match="another process"):
        run(league_of(ROUTER, n_edits=1), tmp_path)


@pytest.mark.parametrize(
    ("entries", "more", "message"),
    [
        ((ROUTER, ROUTER), {}, "'router' is repeated among the entries on gpt2"),
        ((), {}, "at least one seed and one entry"),
        ((ROUTER,), {"seeds": ()}, "at least one seed and one entry"),
        ((ROUTER,), {"n_edits": 0}, "n_edits=0 must be >= 1"),
    ],
)
def test_a_league_that_cannot_be_is_refused(
    entries: tuple[Entry, ...], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        league_of(*entries, **more)


def test_costs_are_of_the_editor_and_never_in_rows(tmp_path: Path) -> None:
    outcomes = run(league_of(ROUTER, WISE), tmp_path)
    router, wise = outcomes.values()
    assert [cost.bytes for cost in router.costs] == [None, None]
    assert wise.costs[1].bytes > wise.costs[0].bytes > 0
    assert all(cost.seconds_per_edit > 0 and cost.inference_ratio > 0 for cost in wise.costs)
    write_costs(outcomes, tmp_path / "costs.csv")
    with (tmp_path / "costs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COST_COLUMNS
    assert [(line["editor"], line["t"]) for line in lines] == [
        ("router", "1"), ("router", "6"), ("wise", "1"), ("wise", "6"),
    ]  # fmt: skip
    assert not any(b"second" in rows for rows in content(tmp_path).values())
