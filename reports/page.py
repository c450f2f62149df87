"""Sections to one self-contained page: verdict, figures, failures, and how to run it again."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from reports.checks import OUTCOMES, Check
from reports.commands import commands
from reports.figures import style, svg
from reports.reading import Items
from reports.sections.section import PROTOCOLS, Section
from reports.tables import SERIES
from reports.text import counted, listed, safe_for_csv, shorten, visible
from reports.verdicts import THRESHOLDS, exclusions, failures, holds, verdicts
from wise.statistics import format_share
from wise.summary import Measure

__all__ = ["write_page"]

_MOST_SHOWN = 2000  # characters of any text
_MOST_IN_LIST = 240
_MOST_LINES = 40  # of a list
_MOST_CARDS = 3  # editors; the verdicts of more stand in one table
_EACH = [*SERIES, "protocol", "metric", "kind"]


class _Line(NamedTuple):
    """One property: up to which T it holds, the number that says so, and that in words."""

    outcome: str
    measure: str
    text: str
    number: str
    words: str


class _Card(NamedTuple):
    """What is judged of one editor."""

    editor: str
    place: str
    headline: str
    lines: tuple[_Line, ...]

    @property
    def by_measure(self) -> dict[str, _Line]:
        """The lines by their measures."""
        return {line.measure: line for line in self.lines}


class _List(NamedTuple):
    """A table that stands on the page as such."""

    name: str
    heading: str
    caption: str
    columns: list[str]
    lines: list[list[object]]


def _counting(table: pd.DataFrame) -> pd.DataFrame:
    """Of each editor the lines of the protocol that counts: free-run wherever it was measured."""
    has_free = table.protocol.eq("free").groupby([table[name] for name in SERIES]).transform("any")
    return table[~has_free.astype(bool) | (table.protocol == "free")]


def _property(row: Any) -> str:
    return f"{Measure(row.metric, row.kind)} ≥ {format_share(row.threshold)}"


def _number(row: Any) -> str:
    number = f"{format_share(row.mean)} [{format_share(row.low)}, {format_share(row.high)}]"
    can_tell = row.outcome == "inconclusive" and not math.isnan(row.n_needed)
    return f"{number}, n={row.n_needed:.0f} would tell" if can_tell else number


def _cards(held: pd.DataFrame) -> list[_Card]:
    cards = []
    for (model, stream, editor, protocol), own in held.groupby([*SERIES, "protocol"], sort=False):
        told = []
        for (outcome, text), same in own.groupby(["outcome", "text"], sort=False):
            names = [str(Measure(*p)) for p in zip(same.metric, same.kind, strict=True)]
            told.append((-list(OUTCOMES).index(outcome), f"{text}: {listed(names, 12)}"))
        lines = tuple(
            _Line(row.outcome, _property(row), row.text, _number(row), row.words)
            for row in own.itertuples()
        )
        place = f"{model}, {stream}, {PROTOCOLS[protocol]}"
        headline = "; ".join(text for _, text in sorted(told))
        cards.append(_Card(shorten(editor, 100), place, headline, lines))
    return cards


def _overall(cards: Sequence[_Card]) -> str:
    """How many editors hold everything, and how many fail something."""
    outcomes = [{line.outcome for line in card.lines} for card in cards]
    n_hold, n_fail = outcomes.count({"pass"}), sum("fail" in each for each in outcomes)
    n_open = len(cards) - n_hold - n_fail
    text = f"Of the {len(cards)} below, {n_hold} hold every property up to the last T, "
    return f"{text}{n_fail} fail one or more, and of {n_open} it cannot be told yet."


def _lists(wrong: pd.DataFrame, left_out: pd.DataFrame) -> Iterable[_List]:
    most = 1 if wrong.editor.nunique() > _MOST_CARDS else 3
    for name, heading, table in (
        ("failures", "What went wrong", _counting(wrong.groupby(_EACH, sort=False).head(most))),
        ("excluded", "What was excluded", left_out),
    ):
        if table.empty:
            continue
        measure = [str(Measure(*pair)) for pair in zip(table.metric, table.kind, strict=True)]
        same = [each for each in (*SERIES[:2], "protocol", "t") if table[each].nunique() == 1]
        shown = table.assign(metric=measure).rename(columns={"metric": "measure"})
        shown = shown.drop(columns=["kind", *same]).head(_MOST_LINES).map(_brief)
        where = ", ".join(f"{each} {table[each].iloc[0]}" for each in same)
        rest = f"{len(shown):,} of {counted(len(table), 'line')}" if len(shown) < len(table) else ""
        caption = "; ".join(filter(None, [where, rest, f"all in {name}.csv"]))
        lines = shown.astype(object).to_numpy().tolist()
        yield _List(name, heading, caption, list(shown.columns), lines)


def _brief(value: object) -> object:
    return shorten(value, _MOST_IN_LIST) if isinstance(value, str) else value


def _settings(items: Items, more: Mapping[str, str], confidence: float) -> list[tuple[str, str]]:
    settings = [("confidence", f"{100 * confidence:g} %"), *more.items()]
    for source in items.sources:
        text = f"{counted(source.n_rows, 'row')}, {source.n_bytes:,} bytes, sha256 {source.sha256}"
        settings.append((source.name, text))
    packages = ("matplotlib", "pandas", "scipy", "seaborn")
    settings += [(name, importlib.metadata.version(name)) for name in packages]
    return [*settings, ("python", platform.python_version())]


def _environment() -> jinja2.Environment:
    def finalize(value: object) -> object:
        """All that the template prints passes here, before it is escaped; SVG alone is Markup."""
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return visible(shorten(value, _MOST_SHOWN))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["inline"] = lambda text: Markup(svg.inline(text))
    return environment


def write_page(
    out: Path | str,
    items: Items,
    sections: Iterable[Section],
    *,
    thresholds: Mapping[str, float] = THRESHOLDS,
    confidence: float = 0.95,
    checks: Sequence[Check] = (),
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Write index.html, a CSV for each section and an SVG for each figure into `out`.

    The same items, sections and settings give the same bytes. Returns the page's path.
    """
    out, sections = Path(out), list(sections)
    out.mkdir(parents=True, exist_ok=True)
    judged = verdicts(items, thresholds=thresholds, confidence=confidence)
    wrong, left_out = failures(items), exclusions(items)
    tables = {"verdicts": judged, "failures": wrong, "excluded": left_out}
    tables |= {section.name: section.table for section in sections}
    for name, table in tables.items():
        safe_for_csv(table).to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
    for panel in (panel for section in sections for panel in section.panels):
        (out / f"{panel.name}.svg").write_text(panel.svg, encoding="utf-8", newline="\n")
    cards = _cards(holds(_counting(judged)))
    editors = [style.label(editor) for editor in dict.fromkeys(items.runs.editor)]
    n_items, n_runs = counted(len(items.table), "item"), counted(len(items.runs), "run")
    template = _environment().get_template("page.html")
    text = template.render(
        title=f"Model editors: {listed(editors, 4) or 'no rows'}",
        subtitle=f"{n_items} of {n_runs}, judged at {100 * confidence:g} % confidence",
        cards=cards,
        overall=_overall(cards) if len(cards) > _MOST_CARDS else "",
        properties=list(dict.fromkeys(line.measure for card in cards for line in card.lines)),
        notices=items.notices,
        sections=sections,
        checks=sorted(checks, key=lambda check: list(OUTCOMES).index(check.outcome)),
        lists=list(_lists(wrong, left_out)),
        commands=commands(items),
        settings=_settings(items, settings or {}, confidence),
        symbols=OUTCOMES,
        theme=list(style.THEME.items()),
        ink=style.INK[1:],
        grid=style.GRID[1:],
        axis=style.AXIS[1:],
        muted=style.MUTED[1:],
        paper=style.PAPER[1:],
    )
    path = out / "index.html"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
