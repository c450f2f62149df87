"""Laws of `wise.measures.estimates` and `summary`: plain means of their rows; a table shows all."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.internals import measured
from properties.internals.measured import ROW
from wise.measures.ceilings import ceilings
from wise.measures.estimates import Measure, estimates_of_runs
from wise.measures.rows import Row, Run
from wise.measures.statistics import interval
from wise.measures.summary import estimate_text, table_text

pytestmark = pytest.mark.internals

RUN = measured.RUN._replace(stream="world", seed=7)
RIGHT = replace(ROW, metric="reliability", kind="", edit_id="", age=0, answer="CERN", score=1.0)
MEASURES = [
    Measure("reliability", ""),
    *(Measure("generalization", level) for level in ("", "1", "2", "3", "4", "5")),
    *(Measure("locality", kind) for kind in ("far", "near-subject", "near-relation")),
    Measure("portability", "portability"),
]
CONDITIONS = [(when, protocol) for when in ("final", "at-edit") for protocol in ("free", "forced")]
FINAL, FORCED, AT_EDIT, FORCED_AT_EDIT = CONDITIONS


def rows_of(
    condition: tuple[str, str], t: int, measure: Measure, scores: list[float | None], run: Run = RUN
) -> list[Row]:
    """A row for each score, two by two of one subject; None is excluded as too long."""
    when, protocol = condition
    return [
        replace(
            RIGHT,
            **run._asdict(),
            **measure._asdict(),
            when=when,
            protocol=protocol,
            t=t,
            cluster=f"subject {index // 2}",
            score=score,
            excluded="too long" if score is None else "",
        )
        for index, score in enumerate(scores)
    ]


def random_rows(seed: int, n: int = 300) -> list[Row]:
    draw = random.Random(seed)
    return [
        row
        for _ in range(n)
        for row in rows_of(
            draw.choice(CONDITIONS),
            draw.choice([1, 3, 10]),
            draw.choice(MEASURES),
            [draw.choice([0.0, 0.5, 1.0, 1.0, None])],
            RUN._replace(seed=draw.choice([1, 2])),
        )
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_final_cell_is_the_mean_and_interval_of_its_own_rows(seed: int) -> None:
    rows = random_rows(seed)
    found = estimates_of_runs(rows)
    cells = list(found[found.when == "final"].itertuples())
    for cell in cells:
        own = [
            row
            for row in rows
            if (row.run, row.protocol, row.when, row.t, row.metric, row.kind)
            == (
                RUN._replace(seed=cell.seed),
                cell.protocol,
                "final",
                cell.t,
                cell.metric,
                cell.kind,
            )
        ]
        scored = [row for row in own if not row.excluded]
        scores = [row.score for row in scored]
        assert (cell.n, cell.n_excluded) == (len(scored), len(own) - len(scored))
        assert (cell.low, cell.high) == interval(scores, [row.cluster for row in scored])
        exact = float(sum(map(Fraction, scores)) / Fraction(len(scores))) if scores else None
        assert cell.mean == exact or (exact is None and math.isnan(cell.mean))
        assert cell.reasons == ((("too long", cell.n_excluded),) if cell.n_excluded else ())
    assert sum(c.n + c.n_excluded for c in cells) == sum(row.when == "final" for row in rows)


def test_an_at_edit_cell_holds_the_edits_up_to_its_checkpoint() -> None:
    rows = [row for t in range(1, 11) for row in rows_of(AT_EDIT, t, MEASURES[0], [float(t > 3)])]
    final = [row for t in (3, 10) for row in rows_of(FINAL, t, MEASURES[0], [1.0])]
    found = estimates_of_runs(rows + final)
    numbers = found[found.when == "at-edit"][["t", "n", "mean"]].to_numpy().tolist()
    assert numbers == [[3, 3, 0.0], [10, 10, 0.7]]
    assert estimates_of_runs(rows)[["t", "n"]].to_numpy().tolist() == [[10, 10]]


@pytest.mark.parametrize("seed", range(3))
def test_no_condition_and_no_run_moves_the_numbers_of_another(seed: int) -> None:
    rows = random_rows(seed)
    moved = [
        replace(row, score=0.25) if row.protocol == "forced" or row.seed == 2 else row
        for row in rows
        if not row.excluded
    ]
    before, after = (
        estimates_of_runs(each).query("protocol == 'free' and seed == 1")
        for each in ([row for row in rows if not row.excluded], moved)
    )
    assert before.equals(after)


def test_the_order_of_the_rows_of_a_run_does_not_matter() -> None:
    rows = [replace(row, seed=7) for row in random_rows(0)]
    assert estimates_of_runs(random.Random(0).sample(rows, len(rows))).equals(
        estimates_of_runs(rows)
    )


@settings(deadline=None, max_examples=60)
@given(
    measures=st.lists(st.sampled_from(MEASURES), min_size=1, unique=True),
    conditions=st.lists(st.sampled_from(CONDITIONS), min_size=1, unique=True),
    checkpoints=st.lists(st.integers(0, 99_999), min_size=1, max_size=4, unique=True),
    scores=st.lists(st.none() | st.sampled_from([0, 0.5, 1]), min_size=1, max_size=300),
    name=st.text("ab-/ ", min_size=1, max_size=200).filter(str.strip),
    width=st.integers(60, 130),
)
def test_a_table_fits_its_width_and_shows_every_number(
    measures: list[Measure],
    conditions: list[tuple[str, str]],
    checkpoints: list[int],
    scores: list[float | None],
    name: str,
    width: int,
) -> None:
    run = RUN._replace(editor=name, stream=name)
    rows = [
        row
        for condition in conditions
        for t in checkpoints
        for measure in measures
        for row in rows_of(condition, t, measure, scores, run)
    ]
    cells = estimates_of_runs(rows)
    text = table_text(cells, width=width)
    assert max(map(len, text.splitlines())) <= width
    main = min(conditions, key=CONDITIONS.index)
    shown = [cell for cell in cells.itertuples()
             if (cell.when, cell.protocol) == main or cell.t == max(checkpoints)]  # fmt: skip
    for number in set(map(estimate_text, shown)):
        assert number in text
    assert ("excluded" in text) == (None in scores)
    assert ("side by side" in text) == (len(conditions) > 1)


@pytest.mark.parametrize("left_out", [["generalization "], ["generalization ", "locality far"]])
def test_a_long_run_fits_a_terminal_with_the_harder_levels_below(left_out: list[str]) -> None:
    measures = [each for each in MEASURES if " ".join(each) not in left_out]
    rows = [row for t in (1, 99_999) for m in measures for row in rows_of(FINAL, t, m, [1, 0] * 99)]
    lines = table_text(estimates_of_runs(rows)).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("99999") for line in lines) == 2
    assert [line.split()[1:3] for line in lines if line.startswith("    T")] == [
        ["level", "1"],
        ["level", "3"],
    ]


EXPECTED = """\
wise on llama, stream world (0f0f0f0f0f0f), seed 7

final, free-run: mean [95 % interval] after T edits

     reliability        locality  generalization
  T                     far       level 3
  2  0.75 [.06, >.999]  -         -
100  .997 [.97, >.999]  -         0.50 [.03, .97]

side by side at T=100

                               final              at-edit
                        items  free-run           free-run
reliability             2-300  .997 [.97, >.999]  1.00 [.03, 1.00]
locality far            0      -                  -
generalization level 3  4      0.50 [.03, .97]    -

excluded, final, free-run, T=100: 2 of 2 locality far, 1 of 5 generalization level 3
  3: too long
excluded, at-edit, free-run, T=100: 1 of 3 reliability
  1: too long"""


def test_the_table_reads_well() -> None:
    rows = [
        *rows_of(FINAL, 2, MEASURES[0], [1, 1, 1, 0]),
        *rows_of(FINAL, 100, MEASURES[0], [1] * 299 + [0]),
        *rows_of(FINAL, 100, Measure("generalization", "3"), [1, 0, None, 1, 0]),
        *rows_of(FINAL, 100, Measure("locality", "far"), [None, None]),
        *rows_of(AT_EDIT, 90, MEASURES[0], [1, 1, None]),
    ]
    assert table_text(estimates_of_runs(rows)) == EXPECTED


def test_the_final_model_comes_first_whatever_the_protocol() -> None:
    rows = [*rows_of(AT_EDIT, 9, MEASURES[0], [1]), *rows_of(FORCED, 9, MEASURES[0], [0])]
    text = table_text(estimates_of_runs(rows))
    assert "final, teacher-forced: mean [95 % interval] after T edits" in text


def test_the_unedited_model_stands_beside_the_final_one() -> None:
    final = rows_of(("final", "compared"), 9, MEASURES[0], [1])
    before = [replace(row, when="unedited", t=0, score=0.0) for row in final]
    others = [*rows_of(AT_EDIT, 9, MEASURES[0], [1]), *rows_of(FINAL, 9, MEASURES[0], [1])]
    text = table_text(estimates_of_runs([*before, *others, *final]))
    *_, above, below, rates = text.splitlines()
    assert above.split() == ["final", "final", "unedited", "at-edit"]
    assert below.split() == [
        "items", "free-run", *["by", "comparison"] * 2, "free-run",
    ]  # fmt: skip
    assert [cell for cell in rates.split() if cell.endswith("0")] == [
        "1.00",
        "1.00",
        "0.00",
        "1.00",
    ]


def test_of_many_reasons_the_first_are_told() -> None:
    rows = [
        replace(row, excluded=f"edit {number}")
        for number in range(9)
        for row in rows_of(FINAL, 2, Measure("locality", "far"), [None])
    ]
    text = table_text(estimates_of_runs([*rows_of(FINAL, 2, MEASURES[0], [1]), *rows]))
    *_, first, one, two, three, rest = text.splitlines()
    assert first.endswith(": 9 of 9 locality far")
    assert [one, two, three, rest] == [
        "  1: edit 0", "  1: edit 1", "  1: edit 2", "  6: 6 more reasons",
    ]  # fmt: skip


def test_a_ceiling_below_1_stands_beside_its_score_at_every_t_with_the_last_reason() -> None:
    rows = [
        *rows_of(FINAL, 2, MEASURES[0], [1, 1, 1, 0]),
        *rows_of(FINAL, 100, MEASURES[0], [1] * 299 + [0]),
        *rows_of(FINAL, 2, Measure("generalization", "3"), [0, 0]),
        *rows_of(FINAL, 100, Measure("generalization", "3"), [1, 0, 1, 0]),
        *rows_of(FORCED, 100, Measure("generalization", "3"), [1, 0, 1, 0]),
    ]
    clash = [replace(rows[-1], prompt="Who?", expected=name) for name in ("Ann", "Bo")]
    at_2, at_100 = (ceilings([*(row for row in rows if row.t == t), *clash]) for t in (2, 100))
    lines = table_text(
        estimates_of_runs(rows), {("free", 2): at_2, ("free", 100): at_100}
    ).splitlines()
    of_t = [line for line in lines if line.lstrip().startswith(("2  ", "100  "))]
    assert [line.partition(" max ")[2] for line in of_t] == [".75", ".90"]
    (beside,) = (line for line in lines if line.startswith("generalization level 3"))
    assert [" max .90" in cell for cell in beside.split("]")[1:]] == [True, False]
    (reason,) = (line for line in lines if line.startswith("the most that any editor can reach"))
    assert "final, free-run, T=100: generalization level 3 .90, as 2 of 10 questions" in reason


def test_runs_are_tables_of_their_own_in_the_order_of_their_rows() -> None:
    runs = [RUN._replace(editor=editor) for editor in ("wise", "rome", "memit")]
    rows = [row for run in runs for row in rows_of(FINAL, 10, MEASURES[0], [1.0], run)]
    heads = [line for line in table_text(estimates_of_runs(rows)).splitlines() if " on " in line]
    assert [line.split()[0] for line in heads] == ["wise", "rome", "memit"]


def test_no_rows_are_no_cells() -> None:
    cells = estimates_of_runs([])
    assert cells.empty
    assert table_text(cells) == "no rows"


def test_a_width_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(ValueError, match="width=59 is too narrow; allowed is 60 or more"):
        table_text(estimates_of_runs([]), width=59)
