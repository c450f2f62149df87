"""The findings on an edit stream and the ceilings of its scores, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from wise.edits import PROBE_KINDS, EditStream
from wise.evaluation.lint import StreamFinding
from wise.measures.ceilings import Ceiling
from wise.measures.estimates import PROTOCOL_WORDS, Measure
from wise.measures.text import by_number, visible

__all__ = ["brief_lines", "lint_text", "notes_lines"]

_MOST_BRIEF = 2  # faults that are told beside a run


def brief_lines(findings: Sequence[StreamFinding], command: str) -> Iterator[str]:
    """At most three lines on the faults; `command` shows all. One line where there is none, which
    counts the notes."""
    faults = [finding for finding in findings if finding.is_fault]
    for finding in faults[:_MOST_BRIEF]:
        yield visible(str(finding).partition(";")[0])
    more = len(faults) - _MOST_BRIEF
    if more > 0:
        yield f"{more} more finding{'s' * (more > 1)}: {command}"
    if not faults and findings:
        yield f"no faults, and {by_number(len(findings), 'note|notes')}: {command}"
    if not findings:
        yield "no contradictions, and no probes within a scope"


def lint_text(
    stream: EditStream,
    findings: Sequence[StreamFinding],
    ceilings: Mapping[str, Mapping[Measure, Ceiling]],
    *,
    notes: Sequence[str] = (),
    width: int = 100,
) -> str:
    """What the stream holds, its faults and notes with an example each, and what can be reached.

    `ceilings` go by protocol, and `notes` are those of the file's reader.
    """
    lines = list(_wrapped(f"{stream.name}: {_contents(stream)}", width))
    if notes:
        lines += ["", *notes_lines(notes, width)]
    lines += ["", *_findings("faults", [each for each in findings if each.is_fault], width)]
    if rest := [each for each in findings if not each.is_fault]:
        lines += ["", *_findings("notes", rest, width)]
    if any(ceilings.values()):
        lines += ["", *_ceilings(len(stream.edits), ceilings, width)]
    return "\n".join(map(visible, lines))


def notes_lines(notes: Sequence[str], width: int = 100) -> list[str]:
    """What the reader of a file left out or changed."""
    told = (_wrapped(visible(note), width, "  ", "    ") for note in notes)
    return ["the whole file, as read:", *(line for lines in told for line in lines)]


def _contents(stream: EditStream) -> str:
    n_paraphrases = sum(len(edit.paraphrases) for edit in stream.edits)
    kinds = Counter(probe.kind for probe in stream.probes)
    counts = [(len(stream.edits), "edit|edits"), (n_paraphrases, "paraphrase|paraphrases")]
    counts += [(kinds[kind], f"{kind} probe|probes") for kind in PROBE_KINDS]
    counts += [(stream.n_aliases, "alias|aliases")]
    return ", ".join(by_number(n, what) for n, what in counts if n) or "no edits and no probes"


def _findings(title: str, findings: Sequence[StreamFinding], width: int) -> Iterator[str]:
    yield f"{title}: {len(findings) or 'none'}"
    room = max((len(f"{each.n:,}") for each in findings), default=0)
    for finding in findings:
        number, rest = f"  {finding.n:>{room},}", f" of {finding.n_of:,} {finding.claim}"
        indent = " " * (room + 3)
        yield from _wrapped(number + rest, width, "", indent)
        yield from _wrapped(f"e.g. {finding.example}", width, indent, f"{indent}  ")


def _ceilings(
    n_edits: int, ceilings: Mapping[str, Mapping[Measure, Ceiling]], width: int
) -> Iterator[str]:
    yield f"the most that any editor can reach after {by_number(n_edits, 'edit|edits')}:"
    table = [["", "asked", "not scored", *(PROTOCOL_WORDS[each] for each in ceilings)]]
    columns = list(ceilings.values())
    for measure, first in columns[0].items():
        counts = [f"{first.n + first.n_excluded:,}", f"{first.n_excluded:,}"]
        table.append([measure.name, *counts, *(str(each[measure]) for each in columns)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *numbers in table:
        cells = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
        yield "  ".join(["", name.ljust(widths[0]), *cells])
    for measure, first in columns[0].items():
        if first.reason:
            yield from _wrapped(f"{measure.name}: {first.reason}", width, "  ", "    ")


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """The lines of `text`, broken at spaces; the first begins with `first`, others with `rest`."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
