"""Rates of the final model: verdicts with error control, or a paired test against a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from reprlib import Repr

from fixtures.world import LEVELS
from properties.bench import Bench
from properties.findings import Unasked, Undecided, for_metrics, require
from properties.reach import within_reach
from wise.measures.estimates import Measure
from wise.measures.paired import mcnemar
from wise.measures.rows import Row
from wise.measures.text import quoted
from wise.measures.verdicts import RELATIVE, Verdict, judge_in_looks

__all__ = ["ALLOWED_DROP", "final_rows", "first_run", "judged_rows", "require_pass", "where"]

_short = Repr()  # of a text, its beginning and its end
_short.maxstring = 160
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


def judged_rows(bench: Bench, rows: Sequence[Row], metric: str) -> list[Row]:
    """Those of `final_rows` that the metric's threshold is about.

    Levels 3 to 5 and portability are relative to the model: they are about the questions within its
    reach, on edits that the editor answers directly.
    """
    asked = final_rows(rows, metric, bench.protocol)
    if metric not in RELATIVE:
        return asked
    stream = bench.stream_of(rows)
    reached = within_reach(bench, stream) if stream else set()
    answered = _answered(bench, rows)
    return [
        row for row in asked if row.edit_id in answered and (row.edit_id, row.prompt) in reached
    ]


def _answered(bench: Bench, rows: Sequence[Row]) -> set[str]:
    """The ids of the edits that the final model answers directly."""
    asked = final_rows(rows, "reliability", bench.protocol)
    return {row.edit_id for row in asked if row.score == 1}


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
    """The final model reaches the metric's threshold, or is not worse than the baseline.

    The harder metrics are judged relative to what the unedited model can do (`judged_rows`): an
    editor whose share of that is at the threshold fails by chance at a rate of 1 - confidence.
    """
    first = first_run(bench)
    asked = final_rows(first, metric, bench.protocol)
    if not asked:
        raise Unasked("the stream has no question for it")
    if bench.baseline:
        return _not_worse(bench, metric, asked)
    if metric not in bench.thresholds:
        raise Unasked(_unset(bench, first, metric))

    def draws() -> Iterator[tuple[list[float], list[str]]]:
        for rows in bench.runs:
            chosen = judged_rows(bench, rows, metric)
            scores = [row.score for row in chosen if row.score is not None]
            yield scores, [row.cluster for row in chosen]

    found = judge_in_looks(
        draws(), bench.thresholds[metric], confidence=bench.confidence, max_looks=bench.max_looks
    )
    text = found.describe(metric)
    if metric in RELATIVE:
        if not found.n:
            raise Undecided(f"{metric} is not judged: {_why_none(bench, first, asked, metric)}")
        text += ", of what the unedited model answers about edits that hold"
    missed = [row for row in judged_rows(bench, first, metric) if row.score == 0]
    if found.outcome == "fail" and missed:
        row = missed[0]
        prompt, answer, expected = (
            quoted(text, _short.repr) for text in (row.prompt, row.answer, row.expected)
        )
        expected += " or an alias" * bool(row.aliases)
        text += f"; {prompt} is answered {answer}, needed: {expected}"
    return require_pass(bench, found, text)


_NO_TRUTHS = "the stream does not say what the answers were before the edits (ground_truth)"


def _has_truths(bench: Bench, rows: Sequence[Row], metric: str) -> bool:
    """Whether the stream says what its questions of a metric were answered before the edits."""
    stream = bench.stream_of(rows)
    if stream is None or not any(edit.ground_truth for edit in stream.edits):
        return False
    return metric != "portability" or any(
        probe.ground_truth for probe in stream.probes if probe.kind == metric
    )


def _unset(bench: Bench, rows: Sequence[Row], metric: str) -> str:
    """What is told of a metric without a threshold: to set one, if it could be judged."""
    told = f"no threshold is set for {metric}"
    if metric in RELATIVE and not _has_truths(bench, rows, metric):
        return f"{told}, and none could be judged: {_NO_TRUTHS}"
    return f"{told}; set one with --threshold={metric}=VALUE"


def _why_none(bench: Bench, rows: Sequence[Row], asked: Sequence[Row], metric: str) -> str:
    """Why none of the rows `asked` is judged relative to the unedited model."""
    stream = bench.stream_of(rows)
    if not _answered(bench, rows):
        return "the editor answers none of its edits directly"
    if stream is None or not _has_truths(bench, rows, metric):
        return _NO_TRUTHS
    n_within = sum((row.edit_id, row.prompt) in within_reach(bench, stream) for row in asked)
    return (
        f"the unedited model answers {n_within} of its {len(asked)} questions about the facts as "
        "they were, and none of them is about an edit that the editor answers directly"
        if n_within
        else "for none of its questions is the answer before the edit known, to the stream and to "
        "the unedited model"
    )


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
