"""One sentence under each figure that says what it shows, made from the same table."""

from __future__ import annotations

import pandas as pd

from reports.csv_text import counted, listed
from reports.figures.style import label
from reports.published import TRIANGLES
from reports.reading import Items
from reports.tables import SERIES, groups, in_series, scores_of
from wise.measures.estimates import PROTOCOL_WORDS, Measure, bounded
from wise.measures.quantities import told_of
from wise.measures.statistics import format_p, format_share
from wise.measures.summary import perplexity_text

__all__ = [
    "attainable",
    "curves",
    "differences",
    "excluded",
    "footnote",
    "league",
    "perplexities",
    "protocols",
    "quantities",
    "retention",
    "router",
    "triangle",
]

_NOTHING = "Nothing was scored."


def _number(row: pd.Series) -> str:
    return bounded(row["mean"], row.low, row.high)


def _measure(row: pd.Series) -> str:
    return str(Measure(row.metric, row.kind))


def excluded(table: pd.DataFrame) -> str:
    """How many items the table's numbers leave out; empty where none."""
    n = int(table.n_excluded.sum())
    return f" Excluded from scoring: {counted(n, 'item')}." if n else ""


def attainable(table: pd.DataFrame) -> str:
    """The ceilings below 1 at the last T; empty where there are none."""
    last = table[(table.t == table.t.max()) & table.at_most.notna()]
    rows = (row for _, row in last.iterrows())
    told = list(dict.fromkeys(f"{_measure(row)} {format_share(row.at_most)}" for row in rows))
    return f" The most that any editor can reach: {listed(told)}." if told else ""


def _worst(corners: pd.DataFrame) -> tuple[str, pd.Series]:
    """The names of all lowest corners, and the row of the one with the most items."""
    lowest = corners[corners["mean"] == corners["mean"].min()]
    return listed([str(each) for each in lowest.corner]), lowest.loc[lowest["n"].idxmax()]


def triangle(table: pd.DataFrame, corners: pd.DataFrame) -> str:
    """The worst corner of each editor of `table` at its last T."""
    told = []
    for editor in dict.fromkeys(table.editor):
        own = corners[(corners.editor == editor) & corners["mean"].notna()]
        if len(own):
            name, lowest = _worst(own[own.t == own.t.max()])
            place = f"{name} for {label(str(editor))}"
            told.append(f"{place}, {_number(lowest)} after T={lowest.t:,}")
    text = f"The worst corner is {listed(told, 3)}." if told else _NOTHING
    return text + excluded(table) + attainable(table)


def curves(table: pd.DataFrame) -> str:
    """The change of one measure from the first T to the last."""
    own, told = table[table["mean"].notna()], []
    for editor, rows in own.groupby("editor", sort=False):
        first, last = rows.loc[rows.t.idxmin()], rows.loc[rows.t.idxmax()]
        ends = f"from {format_share(first['mean'])} to {_number(last)}"
        told.append(f"{ends} for {label(str(editor))}")
    if not told:
        return _NOTHING + excluded(table)
    between = f"Between T={table.t.min():,} and T={table.t.max():,}"
    return f"{between} {_measure(own.iloc[0])} goes {listed(told, 3)}.{excluded(table)}"


def retention(table: pd.DataFrame) -> str:
    """The oldest edits against the newest, in the final model."""
    told = []
    for editor, rows in table[table.when == "final"].groupby("editor", sort=False):
        newest, oldest = rows.iloc[0], rows.iloc[-1]
        both = f"{_number(oldest)} of the oldest edits and {_number(newest)} of the newest"
        told.append(f"for {label(str(editor))} {both}")
    return f"The final model still answers, {listed(told, 3)}." if told else _NOTHING


def protocols(table: pd.DataFrame) -> str:
    """Where the first of the protocols is furthest from another, and what held before any edit."""
    return f"{_widest_gap(table[table.when == 'final'])}{_before(table)}"


def _before(table: pd.DataFrame) -> str:
    """What the unedited model finds likelier, of all editors the same; empty where not asked."""
    own = table[(table.when == "unedited") & table["mean"].notna()]
    own = own.drop_duplicates(["metric", "kind"])
    told = [f"{_measure(row)} {_number(row)}" for _, row in own.iterrows()]
    return f" Before any edit, {PROTOCOL_WORDS['compared']}: {listed(told, 12)}." if told else ""


def _widest_gap(table: pd.DataFrame) -> str:
    by = ["editor", "metric", "kind"]
    wide = table.pivot_table(index=by, columns="protocol", values="mean", sort=False, observed=True)
    first, *others = (protocol for protocol in PROTOCOL_WORDS if protocol in wide)
    gaps = wide[others].sub(wide[first], axis=0).abs().stack().dropna()
    if gaps.empty:
        return f"No measure has more than one protocol.{excluded(table)}"
    if gaps.max() == 0:
        return f"All protocols have the same means.{excluded(table)}"
    editor, metric, kind, other = gaps.idxmax()
    of_cell = wide.loc[editor, metric, kind]
    one, two = (f"{format_share(of_cell[each])} {PROTOCOL_WORDS[each]}" for each in (other, first))
    name = f"{label(editor)} at {Measure(metric, kind)}"
    return f"The widest gap is {name}: {one}, {two}.{excluded(table)}"


def league(table: pd.DataFrame, corners: pd.DataFrame) -> str:
    """The leaders and their worst corner; calibration editors are not ranked."""
    ranked = table[table.place.notna()]
    if ranked.empty:
        return f"Only corners of calibration: no editor is ranked.{excluded(table)}"
    leaders = list(dict.fromkeys(ranked.editor[ranked.place == 1]))
    first = ranked.iloc[0]
    own = corners[(corners.editor == first.editor) & (corners.t == first.t)]
    name, lowest = _worst(own)
    text = f"{label(str(leaders[0]))} has the best worst corner, {name} at {_number(lowest)}"
    if len(leaders) > 1:
        names = listed([label(str(editor)) for editor in leaders])
        text = f"{names} are tied for the best worst corner, {format_share(first.worst)}"
    among = f"among {counted(ranked.editor.nunique(), 'editor')}"
    left = "corners of calibration and portability are" if len(ranked) < len(table) else (
        "portability is")  # fmt: skip
    return f"After T={first.t:,} {text}, {among}; {left} not ranked.{excluded(table)}"


def router(openings: pd.DataFrame, separations: pd.DataFrame) -> str:
    """The kind of prompt that each router separates worst at its last T."""
    told = []
    for editor, own in separations.groupby("editor", sort=False):
        last = own[own.t == own.t.max()]
        worst = last.loc[last.auroc.idxmin()]
        auroc = bounded(worst.auroc, worst.low, worst.high)
        told.append(f"{worst.kind} for {label(str(editor))}, AUROC {auroc} after T={worst.t:,}")
    if not told:
        return f"{counted(int(openings.n.sum()), 'activation')}; no two kinds to separate."
    return f"Hardest to separate from prompts in scope: {listed(told, 3)}."


def differences(table: pd.DataFrame, unpaired: str = "", *, confidence: float = 0.95) -> str:
    """The measures that changed, by p-values corrected for all of them together."""
    sure = table[table.p_value <= 1 - confidence]
    told = [
        f"{_measure(row)} by {row.difference:+.2f} ({format_p(row.p_value)})"
        for _, row in sure.iterrows()
    ]
    text = (
        f"Changed beyond chance: {listed(told, 3)}." if told else "Nothing changed beyond chance."
    )
    return f"{text} {unpaired}".strip()


def perplexities(items: Items) -> list[str]:
    """Of the final model of each series, on the targets, where likelihoods were asked for."""
    table = scores_of(items)
    is_asked = (table.protocol == "likelihood") & (table.metric == "reliability")
    table = table[(table.when == "final") & is_asked & table.score.notna()]
    table = table[table.t == table.groupby("run").t.transform("max")]
    told = []
    for key, own in groups(table, [*SERIES, "t"]):
        text = perplexity_text(own.score.tolist(), int(own.t.iloc[0]))
        told.append(
            f"{label(str(key['editor']))} on {key['model']}, stream {key['stream']}: {text}"
        )
    return told


def quantities(items: Items) -> list[str]:
    """What is told of each series beside its scores, as in the terminal."""
    table = items.table[~items.table.metric.isin(("locality", "routing", "knowledge"))]
    return [
        f"{label(str(key['editor']))} on {key['model']}, stream {key['stream']}: {told}"
        for key, own in groups(in_series(items, table), SERIES)
        for told in told_of(own.itertuples(index=False))
    ]


def footnote() -> str:
    """The source of the grey marks."""
    papers = {each.name: each for each in TRIANGLES}
    told = [f"{name} on {each.model} ({each.source})" for name, each in papers.items()]
    return (
        f"* Grey, at T=1,000 unless along T: {listed(told)}; ZsRE, teacher-forced share of right "
        "tokens. Models of 7–8B by another protocol: for orientation, never thresholds."
    )
