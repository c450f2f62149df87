"""Laws of `reports.comparison`: two runs differ by the items that both measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from properties.internals.measured import RUN, rows_of, run_rows
from properties.internals.test_figures import plotted
from reports import captions
from reports.comparison import differences, pairs
from reports.figures.style import new_axes
from reports.figures.triangle_figures import draw_differences
from reports.reading import Items
from wise.measures.paired import mcnemar

pytestmark = pytest.mark.internals

OTHER = RUN._replace(editor="other")


def test_a_run_does_not_differ_from_itself(items_of: Callable[..., Items]) -> None:
    items = items_of(run_rows())
    table = differences(pairs(items, items)[0])
    assert table.difference.eq(0).all()
    assert (table.low < 0).all()
    assert (table.high > 0).all()
    assert table.p_value.eq(1).all()


def test_a_difference_is_that_of_the_means_with_its_signs(items_of: Callable[..., Items]) -> None:
    old = [0.0] * 12 + [1.0] * 8
    new = [1.0] * 11 + [0.0] + [1.0] * 8
    before, after = rows_of("reliability", "", old), rows_of("reliability", "", new, run=OTHER)
    found, unpaired = pairs(items_of(before, "a"), items_of(after, "b"))
    line = differences(found).iloc[0]
    assert (line["n"], line.n_better, line.n_worse) == (20, 11, 0)
    assert line.difference == pytest.approx(11 / 20)
    assert 0 < line.low < line.difference < line.high < 1
    assert line.p_value == mcnemar(old, new, alternative="two-sided").p_value
    assert unpaired == ""


def test_what_changed_is_told_by_the_corrected_p_values(items_of: Callable[..., Items]) -> None:
    """Six of six that fall, of one measure: p = .031; of two measures alike, corrected .062."""
    old, new = [1.0] * 6 + [0.0] * 4, [0.0] * 10
    one = pairs(items_of(rows_of("reliability", "", old), "a"),
                items_of(rows_of("reliability", "", new, run=OTHER), "b"))  # fmt: skip
    two = pairs(
        items_of(rows_of("reliability", "", old) + rows_of("locality", "far", old), "a"),
        items_of(rows_of("reliability", "", new, run=OTHER)
                 + rows_of("locality", "far", new, run=OTHER), "b"),
    )  # fmt: skip
    told = [captions.differences(differences(found)) for found, _ in (one, two)]
    assert told == [
        "Changed beyond chance: reliability by -0.60 (p=.031).", "Nothing changed beyond chance."
    ]  # fmt: skip


def test_items_without_a_partner_are_counted_and_left_out(items_of: Callable[..., Items]) -> None:
    before = rows_of("reliability", "", [1.0, 0.0, None, 1.0])
    after = rows_of("reliability", "", [1.0, 0.0, 1.0], run=OTHER)
    found, unpaired = pairs(items_of(before, "a"), items_of(after, "b"))
    assert len(found) == 2
    assert "2 items of the first and 1 item of the second" in unpaired


@pytest.mark.parametrize(
    "change", [{"stream_sha256": "1f" * 32}, {"seed": 1}, {"model": "gpt2"}], ids=str
)
def test_other_streams_seeds_and_models_are_not_compared(
    change: dict[str, Any], items_of: Callable[..., Items]
) -> None:
    rows = rows_of("reliability", "", [1.0])
    other = rows_of("reliability", "", [1.0], run=RUN._replace(**change))
    found, _ = pairs(items_of(rows, "a"), items_of(other, "b"))
    assert differences(found).empty


def test_protocols_are_compared_each_with_itself(items_of: Callable[..., Items]) -> None:
    before = rows_of("reliability", "", [0.0]) + rows_of(
        "reliability", "", [1.0], protocol="forced"
    )
    after = rows_of("reliability", "", [1.0]) + rows_of("reliability", "", [1.0], protocol="forced")
    table = differences(pairs(items_of(before, "a"), items_of(after, "b"))[0])
    assert dict(zip(table.protocol, table.difference, strict=True)) == {"free": 1.0, "forced": 0.0}


def test_the_same_question_asked_twice_is_two_pairs(items_of: Callable[..., Items]) -> None:
    row = rows_of("locality", "far", [1.0])
    items = items_of(row * 2)
    found, _ = pairs(items, items)
    assert len(found) == 2


def test_the_figure_shows_each_difference_with_its_interval(items_of: Callable[..., Items]) -> None:
    before = rows_of("reliability", "", [0.0] * 20) + rows_of("locality", "far", [1.0] * 20)
    after = rows_of("reliability", "", [1.0] * 20) + rows_of("locality", "far", [1.0] * 20)
    table = differences(pairs(items_of(before, "a"), items_of(after, "b"))[0])
    ax = draw_differences(new_axes(), table, confidence=0.95)
    (container,) = ax.containers
    found = plotted(ax, container.get_label())
    assert [(x, low, high) for x, _, low, high in found] == [
        pytest.approx((line.difference, line.low, line.high)) for line in table.itertuples()
    ]
    left, right = ax.get_xlim()
    assert left == -right
