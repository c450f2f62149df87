"""The router's section, from rows of the metric "routing"."""

from __future__ import annotations

from collections.abc import Iterator

from reports import captions
from reports import routing_tables as routing
from reports.figures import router_figures as router
from reports.reading import Items
from reports.sections.section import Section, panel, shown

__all__ = ["of_router"]


def of_router(items: Items, *, confidence: float = 0.95) -> Iterator[Section]:
    """A section for each model and stream on which an editor with a router was measured."""
    opened = routing.openings(items, confidence=confidence)
    separated = routing.separations(items, confidence=confidence)
    drifted = routing.drift(items)
    scenes = opened.groupby(["model", "stream"], sort=False)
    for number, ((model, stream), own) in enumerate(scenes, start=1):
        here = {"model": model, "stream": stream}
        auroc, moved = (t[(t[list(here)] == here).all(axis=1)] for t in (separated, drifted))
        editors, word = shown(own)
        panels = []
        for index, editor in enumerate(editors, start=1):
            mine = own[own.editor == editor]
            last = mine[mine.t == mine.t.max()]
            caption = captions.router(last, auroc[auroc.editor == editor])
            panels.append(panel(
                router.draw_activations, last, name=f"router-{number}-{index}", title=editor,
                caption=caption, height=1.4 + 0.2 * len(last),
            ))  # fmt: skip
            path = moved[moved.editor == editor]
            if path.t.nunique() > 1:
                panels.append(panel(
                    router.draw_drift, path, name=f"drift-{number}-{index}", title=editor,
                    heading=f"{editor}, drift", caption=caption, height=2.9,
                ))  # fmt: skip
        table = own.merge(auroc.drop(columns=["low", "high"]), how="left")
        place = f"{model}, {stream}" if len(scenes) > 1 else ""
        caption = captions.router(own, auroc)
        yield Section(f"router-{number}", "The router", caption, table, tuple(panels), word, place)
