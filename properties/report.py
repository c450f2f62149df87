"""What the suite says in the terminal: the header and the table of each editor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from properties.checks import judge
from properties.settings import Settings
from wise.rows import Row
from wise.summary import summarize, table

__all__ = ["editor_lines", "header_lines"]


def header_lines(settings: Settings) -> Iterator[str]:
    options = "".join(f", {key}={value}" for key, value in settings.editor_options.items())
    yield f"editors: {', '.join(settings.editors)}{options}"
    source = settings.dataset or "its own world"
    n_edits = "default" if settings.n_edits is None else settings.n_edits
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
    yield f"Verdicts at T={last}, {protocol}:"
    for metric, threshold in settings.thresholds.items():
        verdict = judge(
            rows, metric, last, threshold, protocol=protocol, confidence=settings.confidence
        )
        if verdict.n:
            yield f"  {verdict.describe(metric)}"
    first = rows[0]
    yield f"Stream {first.stream}, sha256 {first.stream_sha256[:16]}, seed {first.seed}"
