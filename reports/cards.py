"""The top of a page: which properties of each editor hold up to which T, and which fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from reports.check_table import OUTCOMES, Tally
from reports.csv_text import counted, listed, shorten
from reports.tables import SERIES
from wise.measures.estimates import PROTOCOL_WORDS, Measure, bounded
from wise.measures.statistics import format_share
from wise.measures.verdicts import format_threshold

__all__ = ["MOST_CARDS", "Card", "Line", "Told", "cards_of", "overall"]

MOST_CARDS = 3  # editors; the verdicts of more are in one table
_MOST_NAMED = 8  # checks in one sentence
_MOST_NAME = 100  # characters of an editor's name


class Line(NamedTuple):
    """One property: up to which T it holds, the rate that shows it, and both in words."""

    outcome: str
    measure: str
    text: str
    number: str
    words: str


class Told(NamedTuple):
    """One statement, with the numbers of the checks that it is about, and how many more."""

    outcome: str
    text: str
    checks: tuple[tuple[int, str], ...] = ()
    n_more: int = 0


@dataclass(frozen=True)
class Card:
    """The verdicts on one editor; `outcome` is the worst of its properties and its checks."""

    editor: str
    place: str
    lines: tuple[Line, ...]
    told: tuple[Told, ...]
    tally: Tally

    @property
    def outcome(self) -> str:
        found = {line.outcome for line in self.lines} | {self.tally.outcome} - {""}
        return min(found, key=list(OUTCOMES).index)

    @property
    def of_checks(self) -> tuple[Told, ...]:
        return tuple(_of_checks(self.tally))

    @property
    def by_measure(self) -> dict[str, Line]:
        """The lines by measure."""
        return {line.measure: line for line in self.lines}


def cards_of(held: pd.DataFrame, of_checks: Mapping[str, Tally]) -> list[Card]:
    """A card for each series and protocol; editors that have only checks come last."""
    cards = []
    for (model, stream, editor, protocol), own in held.groupby([*SERIES, "protocol"], sort=False):
        lines = tuple(
            Line(row.outcome, _property(row), row.text, _number(row), row.words + _ceiling(row))
            for row in own.itertuples()
        )
        tally = of_checks.get(editor, Tally(editor, ()))
        told = (*_of_checks(tally), *_of_properties(own))
        place = f"{model}, {stream}, {PROTOCOL_WORDS[protocol]}"
        cards.append(Card(shorten(editor, _MOST_NAME), place, lines, told, tally))
    for editor, tally in of_checks.items():
        if tally.outcome and editor not in set(held.editor):
            told = (*_of_checks(tally), Told("excluded", "no rate is judged"))
            cards.append(Card(shorten(editor, _MOST_NAME), "checks alone", (), told, tally))
    return cards


def overall(cards: Sequence[Card]) -> str:
    """Which editors fail something, and how many hold everything."""
    outcomes = [card.outcome for card in cards]
    failing = list(dict.fromkeys(c.editor for c in cards if c.outcome == "fail"))
    who = f" ({listed(failing, 8)})" if failing else ""
    told = [f"{outcomes.count('pass')} hold all properties up to the last T"]
    if n_known := outcomes.count("xfail"):
        told.append(f"{n_known} hold all but known failures")
    told.append(f"{outcomes.count('fail')} fail a property or a check{who}")
    n_open = outcomes.count("inconclusive")
    return f"Of the {len(cards)} below, {', '.join(told)}, and {n_open} are undecided."


def _property(row: Any) -> str:
    return f"{Measure(row.metric, row.kind)} ≥ {format_threshold(row.threshold)}"


def _number(row: Any) -> str:
    number = bounded(row.mean, row.low, row.high) + _ceiling(row)
    can_tell = row.outcome == "inconclusive" and not math.isnan(row.n_needed)
    return f"{number}, n={row.n_needed:,.0f} would tell" if can_tell else number


def _ceiling(row: Any) -> str:
    return "" if math.isnan(row.at_most) else f", at most {format_share(row.at_most)} by any editor"


def _of_properties(own: pd.DataFrame) -> Iterable[Told]:
    """Properties that hold up to the same T are named together, the best first."""
    told = []
    for (outcome, text), same in own.groupby(["outcome", "text"], sort=False):
        names = [str(Measure(*pair)) for pair in zip(same.metric, same.kind, strict=True)]
        told.append((-list(OUTCOMES).index(outcome), Told(outcome, f"{text}: {listed(names, 12)}")))
    return [each for _, each in sorted(told)]


def _of_checks(tally: Tally) -> Iterable[Told]:
    """What failed, by name; then how many hold."""
    if not tally.checks:
        return
    of = f"of {counted(tally.n_asked, 'check')}"
    for outcome, text in (
        ("error", f"ends in an error in {{}} {of}"),
        ("fail", f"fails {{}} {of}"),
        ("xfail", f"is known to fail {{}} {of}"),
    ):
        if found := tally.of(outcome):
            named = tuple((number, check.name) for number, check in found[:_MOST_NAMED])
            yield Told(outcome, text.format(len(found)), named, len(found) - len(named))
    n_hold, n_open = len(tally.of("pass")), len(tally.of("inconclusive"))
    is_clean = not tally.of("error", "fail", "xfail")
    counts = [f"{n_hold} {of} hold" if is_clean else f"{n_hold} hold"] * bool(n_hold)
    counts += [f"{n_open} undecided"] * bool(n_open)
    if counts:
        yield Told("pass" if tally.outcome == "pass" else "excluded", ", ".join(counts))
