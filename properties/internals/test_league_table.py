"""Laws of a league's standings, on made-up rows whose answers are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wise.editor import BUILT_IN
from wise.evaluation.entries import (
    GROUPS,
    Entry,
    best_options,
    entries_named,
    entries_of,
    every_name,
)
from wise.evaluation.league_table import (
    Contestant,
    Standing,
    counted,
    measures_of,
    retained,
    standings,
)
from wise.evaluation.league_text import SCORE_COLUMNS, tables, write_scores
from wise.measures.estimates import CORNERS, Measure
from wise.measures.rows import Row
from wise.measures.statistics import interval

pytestmark = pytest.mark.internals

N = 40
QUESTIONS = (
    ("reliability", ""), ("generalization", "1"), ("generalization", "2"), ("locality", "far"),
    ("locality", "near-subject"), ("locality", "near-relation"),
)  # fmt: skip
RIGHT = dict.fromkeys(CORNERS, N)


def row(
    index: int, metric: str, kind: str, score: float | None, *, t: int = N, seed: int = 0
) -> Row:
    return Row(
        editor="e", model="m", stream="s", stream_sha256="0" * 64, seed=seed, protocol="free",
        when="final", t=t, metric=metric, kind=kind, edit_id=f"e{index}", cluster=f"s{index}",
        age=0, prompt=f"{metric} {kind} {index}", expected="", answer="", score=score, block="b",
        excluded="" if score is not None else "no answer",
    )  # fmt: skip


def rows(n_right: Mapping[str, int], *, t: int = N, n: int = N) -> list[Row]:
    """`n` edits, of which the first n_right[corner] are right at that corner."""
    return [
        row(index, metric, kind, float(index < n_right[Measure(metric, kind).corner]), t=t)
        for metric, kind in QUESTIONS
        for index in range(n)
    ]


def contestant(name: str, group: str = "online") -> Contestant:
    return Contestant("m", group, name, name)


def test_a_corner_stands_beside_the_most_that_any_editor_can_reach() -> None:
    """Half of each level asks one question for two answers, in each of two seeds."""
    clashing = [
        replace(each, seed=seed, **{"prompt": "Who?", "expected": each.edit_id} if is_half else {})
        for seed in (0, 1) for each in rows(RIGHT, n=4)
        for is_half in [each.metric == "generalization" and each.edit_id in ("e0", "e1")]
    ]  # fmt: skip
    (found,) = standings({contestant("a"): {N: clashing}})
    assert {name: str(each) for name, each in found.at_most.items()} == {"generalization": ".75"}
    assert found.at_most["generalization"].n == 16
    text = tables([found], {})
    assert text.count(" max .75") == 1


def ranked(*found: tuple[str, Mapping[str, int]], group: str = "online") -> list[Standing]:
    return standings({contestant(name, group): {N: rows(n)} for name, n in found})


def test_corners_are_means_of_their_items_and_the_worst_is_the_lowest() -> None:
    [found] = ranked(("a", {"reliability": 30, "generalization": 20, "far": 40, "near": 10}))
    means = {name: found.measures[name].mean for name in CORNERS}
    assert means == {"reliability": 0.75, "generalization": 0.5, "far": 1.0, "near": 0.25}
    assert found.worst == "near"
    assert [found.measures[name].n for name in CORNERS] == [N, 2 * N, N, 2 * N]


def test_generalization_counts_its_levels_alike_with_each_beside_it() -> None:
    scores = [("1", 1.0), ("2", 0.0), ("3", 0.5)]
    found = measures_of([row(0, "generalization", kind, score) for kind, score in scores])
    assert found["generalization"].mean == 0.5
    assert [found[f"level {kind}"].mean for kind, _ in scores] == [1.0, 0.0, 0.5]


def test_the_average_is_of_three_thirds_edit_by_edit() -> None:
    scores = [*[1.0, 0.5, 0.0, 1.0, 0.0, 0.5], *[0.0] * 6]
    items = [row(index // 6, *QUESTIONS[index % 6], score) for index, score in enumerate(scores)]
    expected = (1.0 + 0.25 + 0.5) / 3
    found = measures_of([*items, row(2, "reliability", "", 1.0)])["average"]
    assert (found.n, found.n_excluded) == (2, 1)
    assert found.mean == pytest.approx(expected / 2)


def test_a_subject_of_two_seeds_is_one_cluster() -> None:
    items = [row(index, "reliability", "", float(index < 30), seed=seed)
             for seed in (0, 1) for index in range(N)]  # fmt: skip
    found = measures_of(items)["reliability"]
    scores = [item.score or 0.0 for item in items]
    assert (found.low, found.high) == interval(scores, [item.cluster for item in items])
    assert found.high - found.low > 1.3 * (interval(scores).high - interval(scores).low)


def test_excluded_items_are_counted_and_have_no_score() -> None:
    items = [row(0, "reliability", "", 1.0), row(1, "reliability", "", None)]
    found = measures_of(items)["reliability"]
    assert (found.n, found.n_excluded, found.mean) == (1, 1, 1.0)


@pytest.mark.parametrize("change", [dict(protocol="forced"), dict(when="at-edit"), dict(t=N + 1)])
def test_only_final_free_run_rows_of_the_same_t_count(change: dict[str, Any]) -> None:
    others = [replace(each, score=0.0, **change) for each in rows(RIGHT)]
    found = measures_of(counted([*rows(RIGHT), *others], N))
    assert {corner: found[corner].mean for corner in CORNERS} == dict.fromkeys(CORNERS, 1.0)


def test_contestants_stand_by_their_worst_corner_and_errors_at_the_end() -> None:
    results = {contestant(name): {N: rows({**RIGHT, "far": n})} for name, n in
               [("low", 10), ("high", 35), ("middle", 20)]}  # fmt: skip
    found = standings({contestant("broken"): {N: "1 of 1 seeds: ValueError"}, **results})
    names = [(each.contestant.title, each.place) for each in found]
    assert names == [("high", 1), ("middle", 2), ("low", 3), ("broken", None)]
    assert (found[-1].measures, found[-1].is_tied, found[-1].worst) == ({}, False, "")


def test_equal_contestants_share_a_place() -> None:
    low = {**RIGHT, "far": 10}
    found = ranked(("first", RIGHT), ("second", RIGHT), ("low", low))
    assert [(each.contestant.title, each.place) for each in found] == [
        ("first", 1), ("second", 1), ("low", 3),
    ]  # fmt: skip


def test_groups_and_models_are_ranked_by_themselves_and_corners_not_at_all() -> None:
    results = {contestant(group, group): {N: rows({**RIGHT, "far": n})}
               for n, group in enumerate(reversed(GROUPS), start=10)}  # fmt: skip
    other = Contestant("other", "online", "online", "online")
    found = standings({**results, other: {N: rows(RIGHT)}})
    assert [each.contestant.group for each in found] == [*GROUPS, "online"]
    ranked = [1] * (len(GROUPS) - 1)
    assert [each.place for each in found] == [*ranked, None, 1]
    assert [each.is_tied for each in found] == [*map(bool, ranked), False, True]


@pytest.mark.parametrize("corner", CORNERS)
def test_what_one_corner_tells_from_the_best_is_not_tied(corner: str) -> None:
    found = ranked(("best", RIGHT), ("worse", {**RIGHT, corner: N - 12}))
    assert [each.is_tied for each in found] == [True, False]


def test_what_the_tests_cannot_tell_from_the_best_is_tied() -> None:
    found = ranked(("best", RIGHT), ("close", {**RIGHT, "far": N - 3}))
    assert [each.is_tied for each in found] == [True, True]


def test_the_tied_set_is_corrected_for_the_number_of_contestants() -> None:
    # 8 of 8 changes one way: p = 2 / 2^8 = .0078; times 4 corners .031, times 16 tests .125.
    loser = ("loser", {**RIGHT, "far": N - 8})
    same = [(f"same {number}", RIGHT) for number in range(3)]
    assert [each.is_tied for each in ranked(("best", RIGHT), loser)] == [True, False]
    assert all(each.is_tied for each in ranked(("best", RIGHT), loser, *same))


def test_better_than_the_best_at_a_corner_is_tied_with_it() -> None:
    found = ranked(("best", {**RIGHT, "far": 25, "near": 25}),
                   ("other", {**RIGHT, "far": N, "near": 23}))  # fmt: skip
    assert [each.is_tied for each in found] == [True, True]


def test_ties_are_told_at_the_last_t_alone() -> None:
    found = standings({contestant("a"): {1: rows(RIGHT, t=1, n=1), N: rows(RIGHT)}})
    assert [(each.t, each.is_tied) for each in found] == [(N, True), (1, False)]


def test_what_fades_is_told_on_the_same_items() -> None:
    fading = {10: rows(RIGHT, t=10, n=10), N: rows({**RIGHT, "reliability": 2})}
    results = {contestant("a"): fading, contestant("b"): {N: rows(RIGHT)},
               contestant("c", "corner"): fading}  # fmt: skip
    found = retained(results)
    assert [each.contestant.title for each in found] == ["a", "a"]
    assert [(each.metric, each.before, each.after) for each in found] == [
        ("reliability", 1.0, 0.2), ("locality", 1.0, 1.0),
    ]  # fmt: skip
    assert found[0].p_value == pytest.approx(0.5**8)


def test_the_scores_file_has_a_line_for_each_measure_and_errors_without_numbers(
    tmp_path: Path,
) -> None:
    failed = {contestant(name): {N: "failed, badly"} for name in ("b", "=1+1")}
    found = standings({contestant("a"): {N: rows(RIGHT)}, **failed})
    write_scores(found, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == SCORE_COLUMNS
    assert {(line["metric"], line["kind"]) for line in lines if line["title"] == "a"} == {
        ("reliability", ""), ("generalization", ""), ("generalization", "1"),
        ("generalization", "2"), ("locality", "far"), ("locality", "near"), ("average", ""),
    }  # fmt: skip
    [broken] = [line for line in lines if line["title"] == "b"]
    assert [line["title"] for line in lines][-1] == "'=1+1"
    assert (broken["error"], broken["mean"], broken["worst"]) == ("failed, badly", "", "")


def test_tables_show_an_error_as_an_error_and_mark_the_tied() -> None:
    found = standings(
        {contestant("a"): {N: rows(RIGHT)}, contestant("b"): {N: "it\nfailed | so <b>"}}
    )
    lines = tables(found, {}).splitlines()
    assert lines[0] == f"### m, T={N}: Online editors, one edit at a time"
    grid = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    assert len({len(line) for line in grid}) == 1
    assert [line[1:4] for line in grid[2:]] == [
        ["1*", "a", "1.00 [.91, 1.00] reliability"], ["", "b", "error"],
    ]  # fmt: skip
    assert lines[-1] == r"- b: it failed \| so \<b>"


def test_a_built_in_editor_stands_twice_and_any_other_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "wise.evaluation.entries.BUILT_IN", {**BUILT_IN, "memit": "m:f", "locft-bf": "m:g"}
    )
    wise = entries_of("wise", best={"wise": {"lr": 0.2}})
    assert [each.title for each in wise] == ["wise, released", "wise, searched"]
    assert wise[1].editor == "wise(preset=embedded, lr=0.2)"
    assert [each.label for each in entries_of("wise")] == ["released", "default"]
    assert entries_of("wise")[1].editor == "wise"  # its preset is chosen for the model
    assert entries_of("wise", options="released") == entries_of("wise")[:1]
    assert entries_of("wise", options="tuned") == entries_of("wise")[1:]
    assert entries_of("my.py:make") == [Entry("my.py:make", "my.py:make")]
    assert {"wise", "memit", "memit-mass", "locft-bf-mass"} <= set(every_name())
    assert {"none", "locft-bf"}.isdisjoint(every_name())
    groups = {name: {(e.spec, e.group) for e in entries_of(name)} for name in every_name()}
    assert groups["memit"] == {("memit", "online")}
    assert groups["serac"] == {("serac", "trained")}
    assert groups["ike"] == {("ike", "context")}
    assert groups["memit-mass"] == {("memit", "mass")}
    assert groups["locft-bf-mass"] == {("locft-bf", "mass")}


def test_one_editor_may_stand_with_other_entries_than_the_rest() -> None:
    found = entries_named(["rome", "wise"], options="released", options_of={"wise": "both"})
    assert [each.title for each in found] == ["rome, released", "wise, released", "wise, default"]
    with pytest.raises(ValueError, match=r"options of 'wse', which is none of .*wise"):
        entries_named(["wise"], options_of={"wse": "tuned"})


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="group='offline' is none of online, trained"):
        Entry("a", "a", group="offline")


def test_the_best_options_are_those_of_the_highest_worst_corner_on_the_model(
    tmp_path: Path,
) -> None:
    path = tmp_path / "search.csv"
    assert best_options(path, model="llama") == {}
    trials = [("wise", "llama", 0.5, 1), ("wise", "llama", 0.9, 2), ("wise", "llama", 0.9, 3),
              ("wise", "gptj", 1.0, 4), ("rome", "llama", 0.0, 5)]  # fmt: skip
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["editor", "model", "worst", "options"])
        writer.writerows([*trial[:3], json.dumps({"lr": trial[3]})] for trial in trials)
    assert best_options(path, model="llama") == {"wise": {"lr": 2}, "rome": {"lr": 5}}


def test_every_group_has_an_editor() -> None:
    names = [*every_name(), "none"]
    assert {entry.group for name in names for entry in entries_of(name)} == set(GROUPS)
