"""Sections to one self-contained page: verdict, figures, failures, and how to run it again."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from reports import captions
from reports.cards import MOST_CARDS, cards_of, overall
from reports.check_table import OUTCOMES, WORDS, CheckRecord, tallies, write_checks
from reports.commands import commands
from reports.csv_text import counted, listed, safe_for_csv, shorten
from reports.figures import style, svg
from reports.judged import counting, exclusions, failures, holds, verdicts
from reports.pooling import apart
from reports.reading import Items
from reports.sections.section import Section
from reports.tables import SERIES
from wise.measures.estimates import Measure
from wise.measures.text import visible
from wise.measures.verdicts import MAX_LOOKS, THRESHOLDS, Ruling

__all__ = ["write_page"]

_MOST_NAME = 60  # characters of an editor's name in the heading
_MOST_SHOWN = 2000  # characters of any text
_MOST_IN_LIST = 240
_MOST_LINES = 40  # lines of a list
# Columns of estimates that verdicts need and readers do not.
_INNER = ["n_clusters", "effective_n", "confidence", "reasons"]
_EACH = [*SERIES, "protocol", "metric", "kind"]


class _List(NamedTuple):
    """A table that the page shows as it is."""

    name: str
    heading: str
    caption: str
    columns: list[str]
    lines: list[list[object]]


def _lists(
    wrong: pd.DataFrame, left_out: pd.DataFrame, reached: pd.DataFrame | None
) -> Iterable[_List]:
    most = 1 if wrong.editor.nunique() > MOST_CARDS else 3
    for name, heading, table in (
        ("failures", "What went wrong", counting(wrong.groupby(_EACH, sort=False).head(most))),
        ("excluded", "What was excluded", left_out),
        ("ceilings", "What no editor can reach", reached),
    ):
        if table is None or table.empty:
            continue
        measure = [str(Measure(*pair)) for pair in zip(table.metric, table.kind, strict=True)]
        places = [each for each in (*SERIES[:2], "protocol", "when", "t") if each in table]
        same = [each for each in places if table[each].nunique() == 1]
        shown = table.assign(metric=measure).rename(columns={"metric": "measure"})
        shown = shown.drop(columns=["kind", *same]).head(_MOST_LINES).map(_brief)
        where = ", ".join(f"{each} {table[each].iloc[0]}" for each in same)
        rest = f"{len(shown):,} of {counted(len(table), 'line')}" if len(shown) < len(table) else ""
        caption = "; ".join(filter(None, [where, rest, f"all in {name}.csv"]))
        lines = shown.astype(object).to_numpy().tolist()
        yield _List(name, heading, caption, list(shown.columns), lines)


def _brief(value: object) -> object:
    return shorten(value, _MOST_IN_LIST) if isinstance(value, str) else value


def _files(parts: Sequence[Items]) -> list[tuple[str, str]]:
    return [
        (source.name, f"{counted(source.n_rows, 'row')}, {source.n_bytes:,} bytes, "
                      f"sha256 {source.sha256}")
        for items in parts for source in items.sources
    ]  # fmt: skip


def _settings(more: Mapping[str, str], confidence: float) -> list[tuple[str, str]]:
    settings = [("confidence", f"{100 * confidence:g} %"), *more.items()]
    packages = ("matplotlib", "pandas", "scipy", "seaborn")
    settings += [(name, importlib.metadata.version(name)) for name in packages]
    return [*settings, ("python", platform.python_version())]


def _environment() -> jinja2.Environment:
    def finalize(value: object) -> object:
        """All that the template prints passes here before it is escaped; only SVG is Markup."""
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
    environment.filters["brief"] = _brief
    environment.filters["wrapped"] = lambda text: _wrapped(str(finalize(text)))
    environment.filters["inline"] = lambda text: Markup(svg.inline(text))
    return environment


def _wrapped(name: str) -> Markup:
    """A name with line breaks allowed after each part, as after the dots of a module."""
    return Markup("<wbr>").join(re.findall(r"[^.:/_(,]+[.:/_(,]*|[.:/_(,]+", name))


def write_page(
    out: Path | str,
    items: Items,
    sections: Iterable[Section],
    *,
    reached: pd.DataFrame | None = None,
    more: Sequence[Items] = (),
    thresholds: Mapping[str, float] = THRESHOLDS,
    confidence: float = 0.95,
    max_looks: int = MAX_LOOKS,
    rulings: Sequence[Ruling] = (),
    checks: Sequence[CheckRecord] = (),
    settings: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Write index.html, a CSV for each section and an SVG for each figure into `out`.

    The same items, sections and settings give the same bytes. `reached` are the ceilings of the
    items' scores, as `tables.attainable` gives them. `more` are items that sections show and that
    are not judged; `notes` are shown beside the verdicts. `command` is the call that made the rows,
    where it is known; else each run's is told from its rows. Returns the page's path.
    """
    out, sections, parts = Path(out), list(sections), [items, *more]
    out.mkdir(parents=True, exist_ok=True)
    judged = verdicts(
        items, thresholds=thresholds, confidence=confidence, max_looks=max_looks,
        rulings=rulings, reached=reached,
    )  # fmt: skip
    wrong, left_out = failures(items), exclusions(items)
    tables = {"verdicts": judged, "failures": wrong, "excluded": left_out}
    lists = list(_lists(wrong, left_out, reached))
    if reached is not None and len(reached):
        tables["ceilings"] = reached
    for section in sections:
        tables[section.name] = section.table.drop(columns=_INNER, errors="ignore")
    for name, table in tables.items():
        safe_for_csv(table).to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
    for panel in (panel for section in sections for panel in section.panels):
        (out / f"{panel.name}.svg").write_text(panel.svg, encoding="utf-8", newline="\n")
    of_checks = tallies(checks)
    if checks:
        write_checks(out / "checks.jsonl", checks)
    cards = cards_of(holds(counting(judged)), of_checks)
    editors = [style.label(editor, _MOST_NAME) for editor in dict.fromkeys(items.runs.editor)]
    n_items, n_runs = counted(len(items.table), "item"), counted(len(items.runs), "run")
    template = _environment().get_template("page.html")
    text = template.render(
        title=f"Model editors: {listed(editors, 4) or 'no rows'}",
        subtitle=f"{n_items} of {n_runs}, judged at {100 * confidence:g} % confidence",
        cards=cards,
        notes=[*notes, *captions.perplexities(items), *captions.quantities(items)],
        overall=overall(cards) if len(cards) > MOST_CARDS else "",
        properties=list(dict.fromkeys(line.measure for card in cards for line in card.lines)),
        notices=[notice for each in parts for notice in (*each.notices, *apart(each))],
        sections=sections,
        tallies=list(of_checks.values()),
        lists=lists,
        commands=[line for each in parts for line in commands(each, command)],
        files=_files(parts),
        settings=_settings(settings or {}, confidence),
        symbols=OUTCOMES,
        words=WORDS,
        theme=list(style.THEME.items()),
        style=style,
    )
    path = out / "index.html"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
