"""Two rows files item by item."""

from __future__ import annotations

from reports import captions, comparison
from reports.figures import triangle_figures as triangle
from reports.reading import Items
from reports.sections.section import Section, panels_of, rows_height
from wise.measures.estimates import PROTOCOL_WORDS

__all__ = ["of_pair"]


def of_pair(
    before: Items, after: Items, *, names: tuple[str, str], confidence: float = 0.95
) -> Section:
    """The second file against the first; `names` are the files' names."""
    pair_table, unpaired = comparison.pairs(before, after)
    table = comparison.differences(pair_table, confidence=confidence)
    title = "Compared item by item"
    if table.empty:
        text = "The files share no scored item of one stream, protocol and T: nothing is compared."
        return Section("compared", title, text, table, ())
    by = ["model", "stream", "protocol", "t"]
    panels = panels_of(
        triangle.draw_differences,
        ((f"T={t:,}, {PROTOCOL_WORDS[protocol]}", own)
         for (_, _, protocol, t), own in table.groupby(by, sort=False, observed=True)),
        name="compared", caption=lambda _, own: captions.differences(own, confidence=confidence),
        height=lambda own: rows_height(len(own) + 2), confidence=confidence,
    )  # fmt: skip
    note = f"First: {names[0]}. Second: {names[1]}. Right of 0 the second is better."
    caption = captions.differences(table, unpaired, confidence=confidence)
    return Section("compared", title, caption, table, panels, note)
