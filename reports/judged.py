"""Which property holds up to which T; what fails, is inconclusive, or was excluded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from reports.reading import Items
from reports.tables import SERIES, in_series, scores_of, with_ceilings
from wise.measures.estimates import CONDITION, PROTOCOL_WORDS, Measure, estimates
from wise.measures.rows import Run
from wise.measures.verdicts import MAX_LOOKS, THRESHOLDS, Ruling, Verdict, judge_mean

__all__ = [
    "counting",
    "exclusions",
    "failures",
    "holds",
    "verdicts",
]

_VERDICT = ["outcome", "mean", "low", "high", "n", "threshold", "confidence", "n_needed",
            "words"]  # fmt: skip
_TOLD = ["t", *_VERDICT, "at_most"]
_PROPERTY = [*SERIES, "protocol", "metric", "kind"]


def verdicts(
    items: Items,
    *,
    thresholds: Mapping[str, float] = THRESHOLDS,
    confidence: float = 0.95,
    max_looks: int = MAX_LOOKS,
    rulings: Iterable[Ruling] = (),
    reached: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The verdict on the final model, for each series, protocol, T and measure with a threshold.

    It stands beside its ceiling in `reached`, as `tables.attainable` gives them.

    A verdict in `rulings` is shown as it is; without one, the mean is judged with the error of one
    look of `max_looks`, as in the suite's checks.
    """
    told = _by_line(items, rulings)
    table = scores_of(items)
    table = table[(table.when == "final") & table.score.notna()]
    by, lines = [*SERIES, *CONDITION], []
    for line in estimates(table, by, confidence=confidence).to_dict("records"):
        name = Measure(line["metric"], line["kind"]).name
        found = told.get((*(line[each] for each in [*SERIES, "protocol", "t"]), name))
        if found is None and name in thresholds:
            found = judge_mean(
                line["mean"], line["effective_n"], thresholds[name], n=line["n"],
                confidence=confidence, max_looks=max_looks,
            )  # fmt: skip
        if found is None:
            continue
        words = found.describe().partition(": ")[2]
        lines.append({name: line[name] for name in by}
                     | {name: getattr(found, name, words) for name in _VERDICT})  # fmt: skip
    found = pd.DataFrame(lines, columns=[*by, *_VERDICT]).astype({"n_needed": float})
    return with_ceilings(found, reached)


def _by_line(items: Items, rulings: Iterable[Ruling]) -> dict[tuple[object, ...], Verdict]:
    """Each ruling's verdict, by the series, protocol, T and name of its measure."""
    first = items.runs[items.runs.version == 1]
    series = in_series(items, pd.DataFrame({"run": first.index}))[SERIES]
    of_runs = zip(first[list(Run._fields)].to_numpy().tolist(), series.to_numpy(), strict=True)
    names = {tuple(run): tuple(line) for run, line in of_runs}
    return {
        (*names[ruling.run], ruling.protocol, ruling.t, ruling.check): ruling.verdict
        for ruling in rulings if ruling.run in names
    }  # fmt: skip


def holds(verdict_table: pd.DataFrame) -> pd.DataFrame:
    """Up to which T each property holds, in words, with the deciding verdict and its ceiling.

    A property fails where it fails at any T, and holds up to the last T where it passes before;
    it is undecided where it neither fails nor passes at the last T.
    """
    lines = []
    for key, group in verdict_table.groupby(_PROPERTY, sort=False):
        failed = group[group.outcome == "fail"]
        before = group if failed.empty else group[group.t < failed.t.iloc[0]]
        passed = before[before.outcome == "pass"]
        up_to = [f"holds up to T={passed.t.iloc[-1]:,}"] if len(passed) else []
        told = failed.iloc[0] if len(failed) else group.iloc[-1]
        end = {"fail": "fails", "inconclusive": "undecided"}.get(told.outcome)
        text = ", ".join([*up_to, f"{end} at T={told.t:,}"] if end else up_to)
        lines.append(
            dict(zip(_PROPERTY, key, strict=True)) | {"text": text} | told[_TOLD].to_dict()
        )
    return pd.DataFrame(lines, columns=[*_PROPERTY, "text", *_TOLD])


def counting(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of each editor's main protocol: free-run wherever it was measured."""
    place = table.protocol.astype(str).map([*PROTOCOL_WORDS].index)
    return table[place == place.groupby([table[name] for name in SERIES]).transform("min")]


def exclusions(items: Items) -> pd.DataFrame:
    """How many items were left out, and why: by series, condition, measure and reason.

    The unedited model is asked what the edited one is, and its items are not counted again.
    """
    table = in_series(items, items.table)
    table = table[(table.excluded != "") & (table.when != "unedited")]
    by = [*SERIES, *CONDITION, "excluded"]
    return table.groupby(by, observed=True).size().reset_index(name="n")


def failures(items: Items, *, most: int = 3) -> pd.DataFrame:
    """Wrong answers of the final model after the last T: up to `most` of each measure.

    A likelihood below 1 is no wrong answer.
    """
    table = scores_of(items)
    is_wrong = (table.score < 1) & (table.protocol != "likelihood")
    table = table[(table.when == "final") & is_wrong]
    last = items.table.groupby("run").t.max()
    table = table[table.t == table.run.map(last)]
    by = [*SERIES, "protocol", "t", "metric", "kind"]
    shown = table.sort_values([*by, "score"], kind="stable").groupby(by, observed=True).head(most)
    return shown[[*by, "prompt", "expected", "answer", "score"]].reset_index(drop=True)
