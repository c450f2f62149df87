"""Laws of `reports.routing_tables` and its figures: what the threshold lets through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from properties.internals.measured import RUN, routing_rows, write_rows
from properties.internals.test_figures import labels, plotted
from reports import routing_tables as routing
from reports.figures import router_figures as router
from reports.figures.style import new_axes
from reports.reading import Items, read_items
from wise.measures.rows import Run
from wise.measures.statistics import interval

pytestmark = pytest.mark.internals

VALUES: Mapping[str, Sequence[float]] = {
    "edit": [8.0, 12.0, 16.0, 20.0],
    "paraphrase-1": [3.0, 8.0, 12.0, 16.0],
    "far": [0.0, 1.0, 1.0, 2.0],
    "near-subject": [2.0, 3.0, 6.0, 8.0],
    "threshold": [4.0],
}


def items_of(path: Path, of_runs: Mapping[tuple[Run, int], Mapping[str, Sequence[float]]]) -> Items:
    rows = [row for (run, t), of in of_runs.items() for row in routing_rows(of, run=run, t=t)]
    return read_items([write_rows(path / "rows.jsonl", rows)])


def test_what_is_above_the_threshold_is_let_through(tmp_path: Path) -> None:
    opened = routing.openings(items_of(tmp_path, {(RUN, 10): VALUES}))
    shares = dict(zip(opened.kind, opened["mean"], strict=True))
    assert shares == {"edit": 1.0, "paraphrase-1": 0.75, "far": 0.0, "near-subject": 0.5}
    edit = opened.iloc[0]
    assert (edit.low, edit.high) == interval([1.0] * 4)
    assert edit["median"] == 14 / 4


def test_an_activation_at_the_threshold_is_not_let_through(tmp_path: Path) -> None:
    values = {"edit": [4.0, 5.0], "threshold": [4.0]}
    assert routing.openings(items_of(tmp_path, {(RUN, 1): values}))["mean"].tolist() == [0.5]


def test_paraphrases_of_any_level_are_shown_in_the_order_of_their_levels(tmp_path: Path) -> None:
    levels = {f"paraphrase-{level}": VALUES["paraphrase-1"] for level in (12, 2, 10)}
    items = items_of(tmp_path, {(RUN, 10): {"far": [1.0], **levels, "threshold": [4.0]}})
    kinds = ["paraphrase-2", "paraphrase-10", "paraphrase-12", "far"]
    assert routing.openings(items).kind.tolist() == kinds
    assert routing.separations(items).n_inside.tolist() == [12]
    drift = routing.drift(items).set_index("what")
    assert drift.n["paraphrase"] == 12


def test_the_auroc_counts_pairs_in_order(tmp_path: Path) -> None:
    separated = routing.separations(items_of(tmp_path, {(RUN, 10): VALUES}))
    inside = [*VALUES["edit"], *VALUES["paraphrase-1"]]
    for kind in ("far", "near-subject"):
        pairs = [(a > b) + (a == b) / 2 for a in inside for b in VALUES[kind]]
        found = separated[separated.kind == kind].auroc.item()
        assert found == pytest.approx(sum(pairs) / len(pairs))


def test_each_seed_is_measured_by_its_own_threshold(tmp_path: Path) -> None:
    other = RUN._replace(seed=1, stream="world-0/evaluation-1")
    doubled = {kind: [2 * value for value in values] for kind, values in VALUES.items()}
    one = routing.openings(items_of(tmp_path, {(RUN, 10): VALUES}))
    two = routing.openings(items_of(tmp_path, {(RUN, 10): VALUES, (other, 10): doubled}))
    assert two["mean"].tolist() == one["mean"].tolist()
    assert two["n"].tolist() == [8] * 4


def test_an_editor_without_a_router_has_no_lines(tmp_path: Path) -> None:
    items = items_of(tmp_path, {(RUN, 10): {"edit": [1.0]}})
    for table in (routing.openings(items), routing.separations(items), routing.drift(items)):
        assert table.empty


def test_the_figure_marks_medians_and_writes_the_shares(tmp_path: Path) -> None:
    opened = routing.openings(items_of(tmp_path, {(RUN, 10): VALUES}))
    ax = router.draw_activations(new_axes(), opened)
    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert marks["in scope"] == [[14 / 4, 0], [10 / 4, 1]]
    assert marks["outside"] == [[1 / 4, 2], [4.5 / 4, 3]]
    assert marks["threshold"][0][0] == 1
    assert labels(ax) == ["edit", "paraphrase-1", "far", "near-subject"]
    shares = [text.get_text().split()[0] for text in ax.texts if text.get_text()[0] in ".1"]
    assert shares == ["1.00", ".75", ".00", ".50"]


def test_drift_follows_medians_and_the_threshold_along_t(tmp_path: Path) -> None:
    later = {kind: [value + 2 for value in values] for kind, values in VALUES.items()}
    drifted = routing.drift(items_of(tmp_path, {(RUN, 1): VALUES, (RUN, 10): later}))
    ax = router.draw_drift(new_axes(), drifted)
    assert [(x, y) for x, y, _, _ in plotted(ax, "threshold")] == [(1, 4), (10, 6)]
    assert [(x, y) for x, y, _, _ in plotted(ax, "edit")] == [(1, 14), (10, 16)]
    assert plotted(ax, "edit")[0][2:] == (11, 17)  # the middle half
