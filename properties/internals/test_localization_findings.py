"""Laws of a study's findings: over whole facts, and in words that are their intervals'."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.study_tables import read_columns
from wise.evaluation.formats.known import KnownFact, stream_of
from wise.localization.layer_findings import findings_of, r2_table, within_table
from wise.localization.study_text import ModelStudy, answer, document, verdict

pytestmark = pytest.mark.internals


def test_known_facts_get_another_answer_and_neighbours_of_their_kind(tmp_path: Path) -> None:
    facts = [KnownFact(f"{name} lives in", name, place, id=str(n)) for n, (name, place) in
             enumerate([("Al", "Bonn"), ("Bo", "Rome"), ("Cy", "Bonn")])]  # fmt: skip
    odd = KnownFact("The dog of Di is", "Di", "Rex", id="0")
    stream = stream_of([*facts, odd], name="four")
    answers = {edit.id: edit.target for edit in stream.edits}
    assert (answers["0"], answers["1"], answers["2"]) == ("Rome", "Bonn", "Rome")
    assert answers["0-3"] in ("Bonn", "Rome")
    neighbours = {e.id: {p.prompt for p in stream.probes if p.edit_id == e.id}
                  for e in stream.edits}  # fmt: skip
    assert neighbours["0"] == {"Bo lives in", "Cy lives in"}
    assert neighbours["0-3"] == set()
    assert stream == stream_of([*facts, odd], name="four")
    with pytest.raises(ValueError, match="all facts answer 'Rex'"):
        stream_of([odd], name="one")


def test_a_fact_without_its_like_takes_the_answer_of_its_relation() -> None:
    facts = [KnownFact("Ann plays the", "Ann", "oboe", relation="P1303"),
             KnownFact("What Bo plays is the", "Bo", "harp", relation="P1303"),
             *(KnownFact(f"{n} is", n, n, relation="P131") for n in "abcdefghi")]  # fmt: skip
    edits = stream_of(facts, name="ten").edits
    assert [edit.target for edit in edits[:2]] == ["harp", "oboe"]
    assert replace(facts[0], relation="").sha256 == facts[0].sha256


def simulated(partial_r2: float, *, n_facts: int = 80, choose: float = 0.0) -> pd.DataFrame:
    """Cells of two editors; `choose` lifts the score where a fact's tracing is largest."""
    rng = np.random.default_rng(0)
    tracing = rng.random((n_facts, 4))
    score = 0.2 + 0.1 * np.arange(4) + partial_r2**0.5 * (tracing - 0.5)
    score = score + (1 - partial_r2) ** 0.5 * rng.normal(0, 0.29, tracing.shape)
    score += choose * (tracing == tracing.max(1, keepdims=True))
    facts, layers = (x.ravel() for x in np.indices(score.shape))
    cells = pd.DataFrame(dict(fact=facts, layer=layers, tracing=tracing.ravel(), seed=0))
    cells = cells.assign(problem="error-injection", model="m", essence=1.0, before=0.0, after=1.0)
    for outcome in ("rewrite", "paraphrase", "neighborhood", "overall"):
        cells[outcome] = score.ravel()
    return pd.concat([cells.assign(editor="rome"), cells.assign(editor="memit")])


def test_the_verdict_is_the_intervals() -> None:
    useless = verdict(findings_of(simulated(0.0)), model="m")
    assert "yes for 0, no for 2, and leave it open for 0" in useless
    assert "So tracing does not tell which layer to edit here." in useless
    assert useless.endswith("for 2 of them, above it for 0.")
    useful = verdict(findings_of(simulated(0.3, choose=1.0)), model="m")
    assert "yes for 2 (rome on error-injection, memit on error-injection), no for 0" in useful
    assert useful.endswith("for 0 of them, above it for 2.")
    few = verdict(findings_of(simulated(0.0, n_facts=9)), model="m")
    assert few.startswith("On m no editor and problem has what an answer needs: 10 facts at two")


def test_a_finding_is_over_facts_with_a_score_at_every_layer_and_means_over_seeds() -> None:
    cells = simulated(0.2)
    lacking = cells[~((cells.fact == 0) & (cells.layer == 2))]
    twice = pd.concat([
        lacking.assign(rewrite=lacking.rewrite + shift, seed=seed)
        for seed, shift in ((0, -0.1), (1, 0.1))
    ])  # fmt: skip
    whole = findings_of(cells[cells.fact != 0])[0]
    found = findings_of(twice)[0]
    assert (found.editor, found.outcome, found.n_facts) == ("rome", "rewrite", 79)
    assert found.regression is not None
    assert whole.regression is not None
    assert found.regression.r2_both == pytest.approx(whole.regression.r2_both)


@pytest.mark.parametrize(
    ("yes", "no", "unknown", "words"),
    [
        (0, 1, 19, "most of it stays open"),
        (1, 0, 19, "most of it stays open"),
        (0, 0, 3, "nothing is decided"),
        (0, 11, 9, "does not tell which layer to edit here, as far as it is decided"),
        (5, 0, 0, "does tell which layer to edit here."),
        (2, 3, 0, "it depends on the editor and the problem"),
    ],
)
def test_the_plain_answer_is_no_more_than_what_most_pairs_say(
    yes: int, no: int, unknown: int, words: str
) -> None:
    assert words in answer({"yes": yes, "no": no, "inconclusive": unknown})


def test_a_layer_without_any_score_is_named() -> None:
    cells = simulated(0.2)
    cells = cells[(cells.editor == "rome") | (cells.layer != 2)]
    rome, memit = (found for found in findings_of(cells) if found.outcome == "rewrite")
    assert (rome.missing, memit.missing) == ((), (2,))
    told = document([ModelStudy("m", [rome, memit], cells, pd.DataFrame(), {})], command="make it")
    assert told.count("No fact has a score at layers 2.") == 1


def test_an_editor_without_a_score_at_the_rules_layer_is_not_compared_with_the_rule() -> None:
    cells = simulated(0.2)
    cells = cells[(cells.editor == "rome") | (cells.layer != 2)]
    table = r2_table(findings_of(cells, rule=2), model="m").set_index("editor")
    assert table.over_rule["rome"].notna().all()
    assert table.over_rule["memit"].isna().all()
    assert table.over_fixed.notna().all()


def test_tracing_effects_above_one_are_counted_once_for_all_editors() -> None:
    cells = simulated(0.2)
    fact, layer = cells.fact.iloc[0], cells.layer.iloc[0]
    for n_above, tracing in ((0, 1.0), (1, 1.01)):
        cells.loc[(cells.fact == fact) & (cells.layer == layer), "tracing"] = tracing
        told = document([ModelStudy("m", [], cells, pd.DataFrame(), {})], command="make it")
        n_effects = len(cells[["fact", "layer"]].drop_duplicates())
        counted = f"{n_above} of {n_effects} tracing effects, of {n_above} facts, are above 1"
        assert (counted in told) == (n_above > 0)


def test_pairs_without_an_answer_are_counted_too() -> None:
    cells = simulated(0.2)
    cells.loc[cells.editor == "memit", "rewrite"] = 1.0
    assert "Of 1 pairs of editor and problem (1 more lack what an answer needs)" in verdict(
        findings_of(cells), model="m"
    )


def test_a_score_that_never_differs_is_no_answer() -> None:
    same = findings_of(simulated(0.0).assign(rewrite=1.0))
    assert [each.lacking for each in same if each.outcome == "rewrite"] == [
        "the score is 1 for every fact and layer"
    ] * 2
    assert verdict(same, model="m").startswith("On m no editor and problem has what")


def test_the_tables_hold_each_finding_and_the_page_reads_them(tmp_path: Path) -> None:
    findings = findings_of(simulated(0.2), rule=1)
    table = r2_table(findings, model="m")
    assert len(table) == 8
    first, row = findings[0], table.iloc[0]
    assert first.regression is not None
    assert (row.partial_r2, row.low, row.high) == (
        first.regression.partial_r2, *first.regression.partial_r2_interval
    )  # fmt: skip
    assert row.score_oracle >= row.score_tracing
    assert row.over_rule == pytest.approx(row.score_tracing - row.score_rule)
    assert len(within_table(findings)) == 32
    table.to_csv(tmp_path / "r2.csv")
    read_columns(tmp_path / "r2.csv", ["editor", "problem", "r2_layer", "r2_both", "partial_r2"])


def test_the_document_sets_the_papers_table_beside_as_another_models() -> None:
    cells = simulated(0.0)
    excluded = pd.DataFrame([dict(fact="f", layer=0, editor="wise", problem="fact-erasure", seed=0,
                                  kind="excluded", reason="it | cannot: more")] * 3)  # fmt: skip
    settings = {"model": "m | <b>\\"}
    studies = [ModelStudy(name, findings_of(cells), cells, excluded, settings) for name in "mn"]
    text = document(studies, command="make it")
    text = re.sub(" +", " ", text)  # the columns are aligned
    answers, first, second = (text.index(f"\n## {name}\n") for name in ("The answer", "m", "n"))
    assert answers < text.index("On m, does") < text.index("On n, does") < first < second
    beside = [line for line in text.splitlines() if line.startswith("| rome | error-injection")
              and line.endswith("| 0.947 | 0.016 | 0.948 |")]  # fmt: skip
    assert len(beside) == 2
    assert "| GPT-J: layer |" in text
    assert "another model" in text
    assert text.count("| wise | fact-erasure | excluded |") == 2
    assert r"| model | m \| \<b>\\ |" in text
    assert "make it" in text
