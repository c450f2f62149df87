"""Laws of `reports.study_tables` and its figures: layers, regressions, effects, costs, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from properties.internals.measured import RATES, RUN, run_rows, write_rows
from properties.internals.test_figures import labels, plotted
from reports import study_tables as study
from reports import tables
from reports.figures import grids
from reports.figures import study_figures as figures
from reports.figures.style import new_axes, styled
from reports.published import MERGES
from reports.reading import read_items
from reports.sections.league_section import of_options
from reports.sections.study_section import of_study
from wise.editors.wise import merge as wise_merge
from wise.measures.estimates import TRIANGLE

pytestmark = pytest.mark.internals


def study_table() -> pd.DataFrame:
    """Rewrite is .9 - .1 layer, and within layer 1 rises by half the tracing effect."""
    lines = [
        {"fact": f"fact {fact}", "subject": "s", "model": "gpt2", "layer": layer, "editor": "rome",
         "problem": "error injection", "tracing": fact / 10,
         "rewrite": 0.9 - 0.1 * layer + (fact / 20 if layer == 1 else 0),
         "paraphrase": 0.5, "neighborhood": 1.0, "overall": 0.7, "essence": 0.1}
        for layer in (0, 1, 2)
        for fact in range(5)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def effect_table() -> pd.DataFrame:
    """Three facts peak at layer 1, one at layer 3, at the last subject token."""
    lines = [
        {"fact": f"fact {fact}", "token_index": token, "token": "The Ada is".split()[token],
         "role": ["further", "last subject", "last"][token], "layer": layer, "site": "mlp",
         "effect": 0.1 + 0.8 * (token == 1 and layer == (3 if fact == 3 else 1))}
        for fact in range(4)
        for token in range(3)
        for layer in range(5)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_means_by_layer_are_drawn_over_layers() -> None:
    means = study.by_layer(study_table(), "rewrite")
    ax = figures.draw_layers(new_axes(), {"rewrite": means}, unit="score")
    found = plotted(ax, "rewrite")
    assert [x for x, *_ in found] == [0, 1, 2]
    assert [y for _, y, *_ in found] == pytest.approx([0.9, 0.9, 0.7])
    assert found[1][2] < 0.9 < found[1][3]


def test_the_scatter_has_every_point_and_the_line_of_each_layer() -> None:
    table = study_table()
    lines = study.regressions(table, "rewrite")
    assert lines.slope.tolist() == pytest.approx([0, 0.5, 0], abs=1e-12)
    ax = figures.draw_scatter(new_axes(), table, lines, score="rewrite")
    assert len(ax.collections[0].get_offsets()) == len(table)
    assert ax.lines[1].get_xydata() == pytest.approx(np.array([[0, 0.8], [0.4, 1.0]]))


def test_tracing_effects_above_one_are_drawn_at_one_and_counted(tmp_path: Path) -> None:
    table = study_table()
    both = pd.concat([table, table.assign(editor="memit")])  # the tracing effects are the same
    table_path = tmp_path / "study.csv"
    both.assign(tracing=both.tracing * 4).to_csv(table_path, index=False)
    (section,) = of_study(table_path)
    told = "6 of 15 tracing effects are above 1, shares of a small total effect, and drawn at 1."
    assert told in section.note
    assert all(told in panel.svg for panel in section.panels)
    assert section.table.set_index("score").loc["tracing", "mean"].max() == pytest.approx(0.64)


def test_a_score_that_no_fact_has_is_not_in_the_legend(tmp_path: Path) -> None:
    study_table().assign(paraphrase="").to_csv(tmp_path / "study.csv", index=False)
    (section,) = of_study(tmp_path / "study.csv")
    scores = next(panel.svg for panel in section.panels if "neighborhood" in panel.svg)
    assert "rewrite" in scores
    assert "paraphrase" not in scores


def test_tracing_is_drawn_once_for_a_model(tmp_path: Path) -> None:
    table, path = study_table(), tmp_path / "study.csv"
    table.to_csv(path, index=False)
    (alone,) = of_study(path)
    pd.concat([table, table.assign(editor="memit")]).to_csv(path, index=False)
    (section,) = of_study(path)
    assert section.panels[0].svg == alone.panels[0].svg
    titles = [panel.title for panel in section.panels]
    assert titles == ["gpt2: tracing", *["rome, error injection"] * 2,
                      *["memit, error injection"] * 2]  # fmt: skip


def test_a_layer_of_one_tracing_effect_has_no_line() -> None:
    assert study.regressions(study_table().assign(tracing=0.3), "rewrite").empty


def test_r2_bars_are_as_long_as_the_table_says() -> None:
    table = pd.DataFrame(
        {"problem": ["a", "b"], "r2_layer": [0.9, 0.4], "r2_both": [0.92, 0.5],
         "r2_layer_low": [0.8, 0.3], "r2_layer_high": [0.95, 0.5]}
    )  # fmt: skip
    ax = figures.draw_r2(new_axes(), table)
    bars = [each for each in ax.patches if isinstance(each, Rectangle)]
    assert [bar.get_width() for bar in bars] == [0.9, 0.4, 0.92, 0.5]
    lines = [each for each in ax.collections if isinstance(each, LineCollection)]
    (errors,) = (each for each in lines if len(each.get_segments()) == 2)
    assert [[p[0] for p in segment] for segment in errors.get_segments()] == [
        pytest.approx([0.8, 0.95]), pytest.approx([0.3, 0.5]),
    ]  # fmt: skip


def test_strongest_layers_are_counted_over_all_layers() -> None:
    strongest = study.strongest_layers(effect_table())
    assert strongest.n_facts.tolist() == [0, 3, 0, 1, 0]
    ax = figures.draw_strongest(new_axes(), strongest)
    bars = [each for each in ax.patches if isinstance(each, Rectangle)]
    assert [bar.get_height() for bar in bars] == [0, 3, 0, 1, 0]


def test_roles_of_causal_tracing_stand_in_the_order_of_a_prompt() -> None:
    names = {"last": "first-subject", "last subject": "last", "further": "after"}
    table = effect_table()
    roles = study.role_means(table.assign(role=table.role.map(names))).role.unique()
    assert list(roles) == ["first-subject", "after", "last"]


def test_effects_are_averaged_by_role_and_drawn_in_their_order() -> None:
    roles = study.role_means(effect_table())
    with styled():
        ax = grids.draw_effects(new_axes(), roles, row="role")
    assert labels(ax) == ["further", "last subject", "last"]
    numbers = ax.collections[0].get_array()
    assert np.allclose(numbers[1], [0.1, 0.7, 0.1, 0.3, 0.1])
    assert np.allclose(numbers[0], 0.1)


def test_costs_are_means_between_the_least_and_the_most(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(
        "editor,model,seed,t,seconds_per_edit,bytes,inference_ratio\n"
        "wise,llama,0,1,1.0,100,1.02\nwise,llama,1,1,3.0,100,1.04\nwise,llama,0,10,4.0,,1.0\n"
    )
    table = study.costs(path)
    own = table[table.cost == "seconds_per_edit"]
    ax = figures.draw_costs(new_axes(), own)
    assert plotted(ax, "wise") == [(1, 2, 1, 3), (10, 4, 4, 4)]
    assert len(table[table.cost == "bytes"]) == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [("editor,t\nwise,1\n", "lacks model, seed"), ("", "is not a CSV"), ('a\n"', "is not a CSV")],
)
def test_a_table_that_cannot_be_used_is_named(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=word):
        study.costs(path)


def test_a_cost_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text(
        "editor,model,seed,t,seconds_per_edit,bytes,inference_ratio\n"
        "wise,llama,0,1,1.0,,1.02\nwise,llama,1,1,fast,100,1.04\n"
    )
    with pytest.raises(ValueError, match=r"line 3: seconds_per_edit='fast' is not a number"):
        study.costs(path)


def test_names_stay_the_texts_that_they_are(tmp_path: Path) -> None:
    path = tmp_path / "effects.csv"
    tokens = ["None", "null", "NA", "nan", "007", ""]
    lines = [f"0{n},{token},{n},,{n}.5" for n, token in enumerate(tokens)]
    path.write_text("fact,token,layer,effect,more\n" + "\n".join(lines) + "\n")
    table = study.read_columns(path, ["fact", "token", "layer", "effect"])
    assert table.fact.tolist() == ["00", "01", "02", "03", "04", "05"]
    assert table.token.tolist() == tokens
    assert table.layer.tolist() == list(range(6))
    assert table.effect.isna().all()
    assert table.more.sum() == 18


@pytest.mark.parametrize("entry", ["3", '"a"', '["a", 1]'])
def test_a_kill_matrix_of_another_shape_is_named(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "kill.toml"
    path.write_text(f"[faults]\nforgets = {entry}\n")
    with pytest.raises(ValueError, match=r"forgets = .+ is not a list of the names of checks"):
        study.kills(path)


def test_the_kill_matrix_is_every_fault_by_every_check(tmp_path: Path) -> None:
    path = tmp_path / "kill.toml"
    path.write_text('[faults]\nforgets = ["a"]\n"first write wins" = ["b", "a"]\n')
    table = study.kills(path)
    assert table.to_numpy().tolist() == [
        ["forgets", "a", True],
        ["forgets", "b", False],
        ["first write wins", "a", True],
        ["first write wins", "b", True],
    ]


@pytest.mark.parametrize(
    ("editor", "options"),
    [
        ("wise", {}),
        ("wise(memory=merge, n_shards=2)", {"memory": "merge", "n_shards": "2"}),
        ("file.py:make(layer=3), version 2", {"layer": "3"}),
        ("wise(match_weights=(0.1, 0.5), lr=1)", {"match_weights": "(0.1, 0.5)", "lr": "1"}),
        ("memit(prefix_starts=['a', 'b'])", {"prefix_starts": "['a', 'b']"}),
        ("odd(", {}),
        ("odd(a)", {}),
    ],
)
def test_options_are_read_from_an_editors_name(editor: str, options: dict[str, Any]) -> None:
    assert study.options_of(editor) == options


def test_options_become_a_grid_of_the_mean_of_corners(tmp_path: Path) -> None:
    rows = []
    for ratio in (0.1, 0.2):
        for shards in (2, 4):
            run = RUN._replace(editor=f"wise(mask_ratio={ratio}, n_shards={shards})")
            rate = dict.fromkeys(RATES, round(ratio * shards, 1))
            rows += run_rows(run, ts=(10,), rates=rate, protocols=("free",))
    cells = tables.cells(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))
    means = study.option_means(cells, ["mask_ratio", "n_shards"])
    means = means.groupby(["mask_ratio", "n_shards"])["mean"].mean().reset_index()
    grid = means.astype({"mask_ratio": float, "n_shards": float}).assign(text="")
    ax = grids.draw_options(new_axes(), grid, x="mask_ratio", y="n_shards")
    assert np.allclose(ax.collections[0].get_array(), [[0.2, 0.4], [0.4, 0.8]])
    assert labels(ax) == ["2", "4"]


def test_only_editors_that_have_their_other_options_in_common_are_compared(tmp_path: Path) -> None:
    named = ["mask_ratio=0.1", "mask_ratio=0.2", "mask_ratio=0.2, merge=ties", "merge=slerp"]
    rows = []
    for options in named:
        run = RUN._replace(editor=f"wise(memory=merge, {options})")
        rows += run_rows(run, ts=(10,), protocols=("free",))
    cells = tables.cells(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))
    ratios = study.option_means(cells, ["mask_ratio"])
    assert set(ratios.editor) == {f"wise(memory=merge, {each})" for each in named[:2]}
    assert set(ratios.others) == {"memory=merge"}
    assert study.option_means(cells, ["merge"]).empty


def test_options_are_compared_after_as_many_edits(tmp_path: Path) -> None:
    rows = []
    for merge, rate, ts in (("ties", 0.5, (1, 10)), ("slerp", 0.4, (1, 10)), ("linear", 0.9, (1,))):
        run = RUN._replace(editor=f"wise(merge={merge})")
        rows += run_rows(run, ts=ts, rates=dict.fromkeys(RATES, rate), protocols=("free",))
    [section] = of_options(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))
    assert section.caption == "By the mean of the three corners ties is best, .50."
    assert set(section.table.t) == {10}


def test_published_merges_have_the_names_that_wise_has() -> None:
    assert MERGES.keys() <= wise_merge.MERGES.keys()


def test_equally_good_merges_are_both_named_best(tmp_path: Path) -> None:
    rows = []
    for merge, rate in (("ties", 0.8), ("slerp", 0.8), ("linear", 0.5)):
        run = RUN._replace(editor=f"wise(merge={merge})")
        rows += run_rows(run, ts=(10,), rates=dict.fromkeys(RATES, rate), protocols=("free",))
    [section] = of_options(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))
    assert section.caption == "By the mean of the three corners ties and slerp are best, .80."


def test_merges_stand_beside_the_papers(tmp_path: Path) -> None:
    rows = []
    for merge, rate in (("ties", 0.8), ("mine", 0.5)):
        run = RUN._replace(editor=f"wise(merge={merge})")
        rows += run_rows(run, ts=(10,), rates=dict.fromkeys(RATES, rate), protocols=("free",))
    cells = tables.cells(read_items([write_rows(tmp_path / "rows.jsonl", rows)]))
    table = study.option_means(cells, ["merge"])
    ax = figures.draw_merges(new_axes(), table, confidence=0.95)
    for corner in TRIANGLE:
        assert [x for x, *_ in plotted(ax, corner)] == pytest.approx([0.8, 0.5])
    papers = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "|"]
    assert papers == list(MERGES["ties"])
