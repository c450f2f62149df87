"""The suite's rules as functions: importable, without pytest."""

from __future__ import annotations

from collections.abc import Sequence

from wise.rows import Row
from wise.statistics import Verdict, verdict

__all__ = ["judge", "metric_name"]


def metric_name(row: Row) -> str:
    """The name that a threshold has for this row's metric."""
    if row.metric == "locality":
        return row.kind
    if row.metric == "generalization" and row.kind:
        return f"generalization-{row.kind}"
    return row.metric


def judge(
    rows: Sequence[Row], metric: str, t: int, threshold: float, *, protocol: str, confidence: float
) -> Verdict:
    """Whether the final model after `t` edits reaches `threshold`; items cluster by subject."""
    chosen = [
        row
        for row in rows
        if row.when == "final" and row.t == t and row.protocol == protocol
        and metric_name(row) == metric and row.score is not None
    ]  # fmt: skip
    scores = [row.score for row in chosen if row.score is not None]
    clusters = [row.cluster for row in chosen]
    return verdict(scores, threshold, clusters=clusters, confidence=confidence)
