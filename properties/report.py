"""What the suite says in the terminal: the header and the table of each editor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from properties.checks import judge
from properties.settings import DEFAULT_EDITS, Settings
from wise.rows import Row
from wise.statistics import format_share
from wise.summary import summarize, table

__all__ = ["editor_lines", "header_lines"]

_LEAST_AGED = 8  # edits, below which quarters would say nothing


def header_lines(settings: Settings) -> Iterator[str]:
    options = "".join(f", {key}={value}" for key, value in settings.editor_options.items())
    yield f"editors: {', '.join(settings.editors)}{options}"
    source = settings.dataset or "its own world"
    n_edits = f"{DEFAULT_EDITS} or all" if settings.n_edits is None else settings.n_edits
    yield (
        f"model: {settings.model}; stream: {source}, T={n_edits}, seed {settings.seed}; "
        f"protocol: {' and '.join(settings.protocols)}, one edit a turn"
    )


def editor_lines(settings: Settings, rows: Sequence[Row]) -> Iterator[str]:
    """The table of one editor's rows, its verdicts, and where the rows are."""
    yield from table(summarize(rows, confidence=settings.confidence)).splitlines()
    yield ""
    last = max(row.t for row in rows)
    protocol = settings.protocols[0]
    yield from _retention_lines(rows, last, protocol)
    yield f"Verdicts at T={last}, {protocol}:"
    for metric, threshold in settings.thresholds.items():
        verdict = judge(
            rows, metric, last, threshold, protocol=protocol, confidence=settings.confidence
        )
        if verdict.n:
            yield f"  {verdict.describe(metric)}"
    first = rows[0]
    yield f"Stream {first.stream}, sha256 {first.stream_sha256[:16]}, seed {first.seed}"


def _retention_lines(rows: Sequence[Row], t: int, protocol: str) -> Iterator[str]:
    """Reliability of the final model by the age of the edit, in quarters of the stream."""
    aged = [
        (row.age, row.score)
        for row in rows
        if (row.metric, row.when, row.protocol, row.t) == ("reliability", "final", protocol, t)
        and row.score is not None
    ]  # fmt: skip
    if len(aged) < _LEAST_AGED:
        return
    scores = [score for _, score in sorted(aged, reverse=True)]
    bounds = [len(scores) * quarter // 4 for quarter in range(5)]
    quarters = [scores[begin:end] for begin, end in pairwise(bounds)]
    means = ", ".join(format_share(sum(quarter) / len(quarter)) for quarter in quarters)
    yield f"Retention at T={t}, {protocol}: reliability by age, oldest quarter first: {means}"
