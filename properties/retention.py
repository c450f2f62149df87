"""How edits last along the stream: old ones against new ones, and each against its own start."""

from __future__ import annotations

from collections.abc import Sequence

from properties.bench import Bench
from properties.findings import Undecided, require
from properties.rates import ALLOWED_DROP, final_rows, first_run, where
from wise.measures.paired import Trend, mcnemar, retention_trend
from wise.measures.rows import Row

__all__ = ["retention_of"]


def retention_of(rows: Sequence[Row], protocol: str, *, confidence: float = 0.95) -> Trend:
    """Reliability of the final model by the age of the edit, in quarters of the stream."""
    aged = [
        (row.age, row.score)
        for row in final_rows(rows, "reliability", protocol)
        if row.score is not None
    ]
    return retention_trend(aged, allowed_drop=ALLOWED_DROP, confidence=confidence)


def check_retention(bench: Bench) -> str:
    """Old edits are at most an allowed drop below new ones (Page's trend test)."""
    found = retention_of(first_run(bench), bench.protocol, confidence=bench.confidence)
    text = found.describe("retention")
    require(found.outcome != "fail", f"{text} {where(bench)}")
    if found.outcome == "inconclusive":
        raise Undecided(text)
    return text


def check_at_edit_is_not_below_final(bench: Bench) -> str:
    """An edit is answered right after its own turn, not only after later ones."""
    rows = first_run(bench)
    final = {row.edit_id: row for row in final_rows(rows, "reliability", "free")}
    at_edit = [
        row
        for row in rows
        if row.when == "at-edit" and row.score is not None and row.edit_id in final
    ]
    if not at_edit:
        raise Undecided("no edit was measured free-run both at-edit and in the final model")
    found = mcnemar(
        [row.score or 0.0 for row in at_edit],
        [final[row.edit_id].score or 0.0 for row in at_edit],
        [row.cluster for row in at_edit],
        alternative="rise",
    )
    text = found.describe("reliability from at-edit to final")
    rises = found.p_value < 1 - bench.confidence and found.mean_difference > ALLOWED_DROP
    require(not rises, f"edits take effect only after later ones: {text} {where(bench)}")
    return text
