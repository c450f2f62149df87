"""The suite's text in the terminal: the header, and each editor's numbers and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from fixtures.models import load_reading
from properties.attainable import fault_lines, unlearnt_targets
from properties.known_failures import stale
from properties.settings import DEFAULT_EDITS, Settings
from wise.measures.ceilings import TextReading, ceilings_of_rows
from wise.measures.estimates import estimates_of_runs
from wise.measures.quantities import told_of
from wise.measures.rows import Row, read_rows
from wise.measures.statistics import format_share
from wise.measures.summary import perplexity_text, table_text
from wise.measures.text import by_number
from wise.measures.verdicts import Ruling, Verdict

__all__ = ["PRESUMED", "check_records", "editor_lines", "facts_lines", "header_lines", "in_order",
           "reading_of_facts", "rulings_of"]  # fmt: skip

_LEAST_AGED = 8  # edits below which quarters would say nothing
_PASSES = "[XPASS(strict)] "  # pytest's word for a strict xfail that passes
_OUTCOMES = {"passed": "pass", "failed": "fail", "skipped": "inconclusive"}
# Laws that other laws take for granted, the most general first: an editor that breaks one of them
# breaks others too, whose messages tell what follows and not why.
PRESUMED = (
    "answers-have-the-promised-form",
    "making-an-editor-changes-nothing",
    "without-edits-it-is-the-base-model",
    "reset-restores-the-base-model",
    "every-call-leaves-the-world-as-it-was",
    "same-seed-gives-the-same-editor",
    "two-editors-do-not-influence-each-other",
    "padding-does-not-matter",
    "batch-mates-do-not-matter",
)


def header_lines(settings: Settings) -> Iterator[str]:
    options = "".join(f", {key}={value}" for key, value in settings.editor_options.items())
    yield f"editors: {', '.join(settings.editors)}{options}"
    source = settings.dataset or "its own world"
    n_edits = f"{DEFAULT_EDITS} or all" if settings.n_edits is None else settings.n_edits
    yield (
        f"model: {settings.model}; stream: {source}, T={n_edits}, seed {settings.seed}; "
        f"protocol: {' and '.join(settings.protocols)}, one edit a turn"
    )
    for spec, known in settings.known_failures.items():
        if known:
            yield f"known failures of {spec}: {', '.join(known)}"
        if stale(known):
            yield f"known failures of {spec} that are no longer checks: {', '.join(stale(known))}"


def facts_lines(settings: Settings) -> Iterator[str]:
    """What --dataset holds, what its loader changed or left out, and what is wrong with the stream.

    Nothing without one.
    """
    stream, notes = settings.facts
    if settings.dataset:
        n_edits, n_probes = len(stream.edits), len(stream.probes)
        held = f"{by_number(n_edits, 'edit|edits')} and {by_number(n_probes, 'probe|probes')}"
        if stream.n_aliases:
            held += f", with {by_number(stream.n_aliases, 'alias|aliases')} of right answers"
        yield f"dataset: {stream.name}, {held}"
        yield from (f"  {line}" for line in (*notes, *fault_lines(settings)))


def editor_lines(
    settings: Settings, path: Path, spec: str, reports: Iterable[object]
) -> Iterator[tuple[str, list[str]]]:
    """(title, lines): the table of one editor's rows, and what its checks found."""
    if path.is_file():
        rows = read_rows(path, truncated="drop")
        if rows:
            yield f"{spec}: the triangle after T edits", list(_row_lines(settings, rows))
    lines = list(_check_lines(settings.editor_name(spec), reports))
    if lines:
        yield f"{spec}: the checks", lines


def _row_lines(settings: Settings, rows: Sequence[Row]) -> Iterator[str]:
    found = estimates_of_runs(rows, confidence=settings.confidence)
    at_most = ceilings_of_rows(rows, reading_of_facts(settings))
    yield from table_text(found, at_most).splitlines()
    yield _interval_line(settings)
    shares = {each.share for of_t in at_most.values() for each in of_t.values() if each.n}
    if settings.dataset and shares == {1}:
        yield "The most that any editor can reach in this run: 1.00 of every score."
    if unlearnt := unlearnt_targets(settings):
        yield f"The model's own limit: {unlearnt}, and it can hardly say them."
    yield ""
    yield from _retention_lines(rows, settings.protocols[0])
    yield from _perplexity_lines(rows)
    for told in told_of(rows):
        yield from told.lines
    first = rows[0]
    yield f"Stream {first.stream}, sha256 {first.stream_sha256[:16]}, seed {first.seed}"


def reading_of_facts(settings: Settings) -> Callable[[], TextReading | None]:
    """How the model's tokenizer reads a dataset; facts of a world do not contradict each other."""
    return partial(load_reading, settings.model) if settings.dataset else lambda: None


def _interval_line(settings: Settings) -> str:
    """At which confidence the table's intervals stand, and at which a check judges."""
    confidence, n_looks = settings.confidence, settings.max_looks
    text = f"Intervals at {100 * confidence:.4g} %"
    if n_looks > 1:
        of_look = 1 - (1 - confidence) / n_looks
        text += (
            f"; a check's own, and the page's, at {100 * of_look:.3g} %, as up to {n_looks} looks "
            "share the error"
        )
    return f"{text}."


def rulings_of(
    settings: Settings, path: Path, spec: str, reports: Iterable[object]
) -> Iterator[Ruling]:
    """The verdicts of one editor's checks, on the run whose rows are in `path`."""
    rows = read_rows(path, truncated="drop") if path.is_file() else []
    last = max((row.t for row in rows if row.when == "final"), default=0)
    called = (each for each in reports if isinstance(each, pytest.TestReport))
    told: list[dict[str, Any]]
    told = [dict(report.user_properties) for report in called if report.when == "call"]
    for found in sorted((each for each in told if "threshold" in each), key=itemgetter("check")):
        if rows and found["editor"] == settings.editor_name(spec):
            verdict = Verdict(**{field.name: found[field.name] for field in fields(Verdict)})
            yield Ruling(rows[0].run, settings.protocols[0], last, found["check"], verdict)


def check_records(reports: Iterable[object]) -> Iterator[dict[str, str]]:
    """The outcome of each check: name, editor, outcome, detail, and its stream and replay."""
    for report in reports:
        if not isinstance(report, pytest.TestReport):
            continue
        found = {name: str(value) for name, value in report.user_properties}
        if "check" not in found or report.when != "call":
            continue
        outcome, reason = _OUTCOMES[report.outcome], ""
        detail = found.get("message", "")
        if hasattr(report, "wasxfail") and report.skipped:
            outcome, reason = "xfail", str(report.wasxfail)
        elif report.failed and report.longreprtext.startswith(_PASSES):
            listed = report.longreprtext.removeprefix(_PASSES)
            detail = f"passes, though it is listed as a known failure: {listed}"
        elif report.skipped and not detail:
            outcome, detail = "excluded", found.get("unasked", "")
        elif report.failed and not detail:
            outcome, detail = "error", str(report.longreprtext).strip().splitlines()[-1]
        yield {
            "name": found["check"], "editor": found["editor"], "outcome": outcome,
            "detail": detail, "reason": reason, "stream": found.get("stream", ""),
            "replay": found.get("replay", ""),
        }  # fmt: skip


def in_order(
    records: Iterable[Mapping[str, str]], editors: Sequence[str]
) -> list[Mapping[str, str]]:
    """By editor in the order given, then by outcome, what others presume, and name.

    So it is in any order of the processes.
    """
    asked = list(editors)
    return sorted(records, key=lambda each: (
        asked.index(each["editor"]), each["outcome"], _rank(each["name"]), each["name"]
    ))  # fmt: skip


def _rank(check: str) -> int:
    """The place of a check among those that others presume; behind them all for another."""
    return PRESUMED.index(check) if check in PRESUMED else len(PRESUMED)


def _check_lines(editor: str, reports: Iterable[object]) -> Iterator[str]:
    """A line for each check with a message and for what the stream cannot ask; then counts."""
    quiet: Counter[str] = Counter()
    unasked: dict[str, list[str]] = {}
    is_presumed = False
    for record in in_order((r for r in check_records(reports) if r["editor"] == editor), [editor]):
        detail, name = record["detail"], record["name"]
        if not detail:
            quiet["are not asked of it" if record["outcome"] == "excluded" else "hold"] += 1
            continue
        if record["outcome"] == "excluded":
            unasked.setdefault(detail, []).append(name)
            continue
        detail = detail.removeprefix("pass: ").removeprefix("fail: ").removeprefix("inconclusive: ")
        told = detail if detail.startswith(f"{name} ") else f"{name}: {detail}"
        known = f" (known: {record['reason']})" if record["reason"] else ""
        was_presumed, is_presumed = is_presumed, record["outcome"] == "fail" and name in PRESUMED
        if was_presumed and record["outcome"] == "fail" and not is_presumed:
            yield "These may be consequences of the above:"
        yield f"{record['outcome']:<12} {told}{known}"
    for reason, names in unasked.items():
        yield f"{'not asked':<12} {', '.join(names)}: {reason}"
    if quiet:
        yield ", ".join(
            f"{n} more checks {what}" for what, n in sorted(quiet.items(), reverse=True)
        )


def _retention_lines(rows: Sequence[Row], protocol: str) -> Iterator[str]:
    """Reliability of the final model by the age of the edit, in the quarters of the check."""
    from properties.retention import retention_of  # which needs torch

    trend = retention_of(rows, protocol)
    if trend.n < _LEAST_AGED:
        return
    t = max(row.t for row in rows if row.when == "final")
    means = ", ".join(map(format_share, reversed(trend.quarters)))
    yield f"Retention at T={t}, {protocol}: reliability by age, oldest quarter first: {means}"


def _perplexity_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Of the final model, on each edit's target."""
    from properties.rates import final_rows  # which needs torch

    found = final_rows(rows, "reliability", "likelihood")
    if found:
        yield perplexity_text([row.score for row in found if row.score is not None], found[0].t)
