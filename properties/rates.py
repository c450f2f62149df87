"""Rates of the final model: verdicts with error control, or a paired test against a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from fixtures.world import LEVELS
from properties.bench import Bench
from properties.findings import Unasked, Undecided, for_metrics, require
from wise.measures.estimates import Measure
from wise.measures.paired import mcnemar
from wise.measures.rows import Row
from wise.measures.verdicts import Verdict, judge_in_looks

__all__ = [
    "ALLOWED_DROP",
    "check_rate",
    "final_rows",
    "first_run",
    "require_pass",
    "where",
]

ALLOWED_DROP = 0.15  # of a rate with age or T; smaller drops do not matter


def final_rows(rows: Sequence[Row], metric: str, protocol: str) -> list[Row]:
    """The scored rows of one metric of the final model, after the last edit."""
    last = max((row.t for row in rows if row.when == "final"), default=0)
    return [
        row
        for row in rows
        if (row.when, row.t, row.protocol) == ("final", last, protocol)
        and Measure(row.metric, row.kind).name == metric and row.score is not None
    ]  # fmt: skip


def require_pass(bench: Bench, verdict: Verdict, text: str) -> str:
    """Return `text` where the verdict is a pass; else raise Broken or Undecided with it."""
    for name, value in asdict(verdict).items():
        bench.record(name, value)
    require(verdict.outcome != "fail", f"{text} {where(bench)}")
    if verdict.outcome == "inconclusive":
        raise Undecided(text)
    return text


def where(bench: Bench) -> str:
    """The editor, model, stream, seed and protocol of the numbers."""
    return (
        f"({bench.name} on {bench.loaded.name}, stream {bench.stream.name}, seed {bench.seed}, "
        f"{bench.protocol})"
    )


def first_run(bench: Bench) -> Sequence[Row]:
    """The rows of the first run."""
    rows = next(iter(bench.runs), ())
    if not rows:
        raise Undecided("no run was made")
    return rows


@for_metrics(
    "reliability", "generalization", *(f"generalization-{level}" for level in LEVELS), "far",
    "near-subject", "near-relation", "portability",
)  # fmt: skip
def check_rate(bench: Bench, metric: str) -> str:
    """The final model reaches the metric's threshold, or is not worse than the baseline."""
    first = first_run(bench)
    asked = final_rows(first, metric, bench.protocol)
    if not asked:
        raise Unasked(f"the stream asks nothing for {metric}")
    if bench.baseline:
        return _not_worse(bench, metric, asked)
    if metric not in bench.thresholds:
        raise Unasked(f"no threshold is set for {metric}; set one with --threshold {metric}=VALUE")

    def draws() -> Iterator[tuple[list[float], list[str]]]:
        for rows in bench.runs:
            chosen = final_rows(rows, metric, bench.protocol)
            scores = [row.score for row in chosen if row.score is not None]
            yield scores, [row.cluster for row in chosen]

    found = judge_in_looks(
        draws(), bench.thresholds[metric], confidence=bench.confidence, max_looks=bench.max_looks
    )
    return require_pass(bench, found, found.describe(metric))


def _not_worse(bench: Bench, metric: str, rows: Sequence[Row]) -> str:
    """No significant drop from the baseline on the items that both have."""

    def items(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
        return {(row.edit_id, row.kind, row.prompt): row for row in rows}

    old, new = bench.baseline[0], rows[0]
    if (old.model, old.stream_sha256) != (new.model, new.stream_sha256):
        raise Undecided(
            f"the baseline is of {old.model}, stream {old.stream}; this run is of {new.model}, "
            f"stream {new.stream}"
        )
    before = items(final_rows(bench.baseline, metric, bench.protocol))
    after = items(rows)
    shared = [key for key in after if key in before and before[key].t == after[key].t]
    if not shared:
        raise Undecided(f"the baseline has no item of {metric} at this T in common with this run")
    found = mcnemar(
        [before[key].score or 0.0 for key in shared],
        [after[key].score or 0.0 for key in shared],
        [after[key].cluster for key in shared],
        alternative="drop",
    )
    text = f"{found.describe(metric)}, against the baseline"
    require(found.p_value >= 1 - bench.confidence, f"{text} {where(bench)}")
    return text
