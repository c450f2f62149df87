"""The findings of a study: regressions and the choice of a layer, by editor and problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial

import pandas as pd

from wise.localization.analysis import (
    Regression,
    regress,
    within_layers,
    without_extreme_layers,
)  # fmt: skip
from wise.localization.choice import LayerChoice, choose_layers

__all__ = ["OUTCOMES", "Finding", "findings_of", "r2_table", "within_table"]

OUTCOMES = ("rewrite", "paraphrase", "neighborhood", "overall")


@dataclass(frozen=True)
class Finding:
    """One editor, problem and outcome; `lacking` says why there is no regression.

    `inner` is the regression without failing layers and those at the ceiling, None where fewer than
    two are left; `missing` are the layers where only other editors have scores.
    """

    editor: str
    problem: str
    outcome: str
    n_facts: int
    regression: Regression | None = None
    inner: Regression | None = None
    choice: LayerChoice | None = None
    within: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: tuple[int, ...] = ()
    lacking: str = ""


def findings_of(
    cells: pd.DataFrame, *, rule: int | None = None, confidence: float = 0.95, seed: int = 0
) -> list[Finding]:
    """For each editor, problem and outcome of OUTCOMES, over facts with a score at every layer.

    Scores are means over seeds. `rule` is the layer that the field's rule of thumb would edit; an
    editor without a score there is not compared with it.
    """
    found, layers = [], {*cells.layer}
    for (editor, problem), own in cells.groupby(["editor", "problem"], sort=False):
        missing = tuple(sorted(layers - {*own.layer}))
        for outcome in OUTCOMES:
            table = _complete(own, outcome)
            n_facts, n_layers = table.fact.nunique(), table.layer.nunique()
            named = Finding(str(editor), str(problem), outcome, n_facts, missing=missing)
            lacking = ""
            if n_facts < 10 or n_layers < 2:
                lacking = f"{n_facts} facts at {n_layers} layers; a regression needs 10 at 2"
            elif table[outcome].nunique() == 1:
                lacking = f"the score is {table[outcome].iloc[0]:g} for every fact and layer"
            if lacking:
                found.append(replace(named, lacking=lacking))
                continue
            fit = partial(regress, outcome=outcome, confidence=confidence, seed=seed)
            inner = without_extreme_layers(table, outcome)
            own_rule = rule if rule in {*table.layer} else None
            found.append(replace(
                named,
                regression=fit(table),
                inner=fit(inner) if inner.layer.nunique() > 1 else None,
                choice=choose_layers(table, outcome, rule=own_rule, confidence=confidence),
                within=within_layers(table, outcome),
            ))  # fmt: skip
    return found


def _complete(own: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """A row for each fact and layer, for the facts with a score at all layers."""
    means = own.groupby(["fact", "layer"], sort=False)[["tracing", outcome]].mean().dropna()
    counts = means.groupby("fact")[outcome].transform("count")
    return means[counts == own.layer.nunique()].reset_index()


def r2_table(findings: list[Finding], *, model: str) -> pd.DataFrame:
    """A row for each finding: R2 by layer, tracing and both, what tracing adds, and the choice.

    `low` and `high` bound `partial_r2`; those of a choice bound tracing's advantage over it.
    """
    rows = []
    for finding in findings:
        row: dict[str, object] = dict(
            model=model, editor=finding.editor, problem=finding.problem, outcome=finding.outcome,
            n_facts=finding.n_facts, lacking=finding.lacking,
        )  # fmt: skip
        regression, choice = finding.regression, finding.choice
        if regression is not None:
            row |= {name: value for name, value in asdict(regression).items()
                    if name not in ("partial_r2_interval", "held_out_interval")}  # fmt: skip
            row["low"], row["high"] = regression.partial_r2_interval
            row["held_out_low"], row["held_out_high"] = regression.held_out_interval
        if finding.inner is not None:
            row["inner_layers"] = finding.inner.n_layers
            row["inner_partial_r2"] = finding.inner.partial_r2
            row["inner_low"], row["inner_high"] = finding.inner.partial_r2_interval
        if choice is not None:
            row["score_tracing"] = choice.tracing
            for name in ("fixed", "random", "oracle", "rule"):
                other = getattr(choice, name)
                if other is not None:
                    row[f"score_{name}"], row[f"over_{name}"] = other.score, other.advantage
                    row[f"over_{name}_low"], row[f"over_{name}_high"] = other.interval
        rows.append(row)
    return pd.DataFrame(rows)


def within_table(findings: list[Finding]) -> pd.DataFrame:
    """Correlations of tracing and each outcome within each layer, p adjusted over layers."""
    return pd.DataFrame([
        dict(editor=f.editor, problem=f.problem, outcome=f.outcome, **each)
        for f in findings for each in f.within.to_dict("records")
    ])  # fmt: skip
