"""The findings of a localization study: layers, regressions, tracing effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from reports import study_tables as study
from reports.csv_text import listed
from reports.figures import grids
from reports.figures import study_figures as figures
from reports.figures.style import label
from reports.sections.section import Panel, Section, panel, panels_of, rows_height
from wise.measures.statistics import format_share

__all__ = ["EFFECTS", "of_effects", "of_r2", "of_study"]

EFFECTS = ["fact", "token_index", "token", "role", "layer", "site", "effect"]


def of_study(path: Path, *, confidence: float = 0.95) -> Iterator[Section]:
    """Edit success by layer beside the tracing effect by layer, and one against the other."""
    table, notes = study.read_columns(path, study.STUDY), []
    panels, told = list[Panel](), []
    unit = f"{100 * confidence:g} % interval"
    by_layer = partial(study.by_layer, confidence=confidence)

    def add(title: str, caption: str, plot: Callable[..., Axes], *of: object) -> None:
        name = f"layers-{len(panels) + 1}"
        panels.append(panel(plot, *of, name=name, title=title, caption=caption))

    for model, whole in table.groupby("model", sort=False):
        of_model, n_cropped, n_effects = study.cropped(whole)
        note = ""
        if n_cropped:
            note = (f" {n_cropped} of {n_effects} tracing effects are above 1, shares of a small "
                    "total effect, and drawn at 1.")  # fmt: skip
            notes.append(f"On {model},{note}")
        traced = by_layer(of_model, "tracing", by=["model"])  # the same for every editor
        strongest = f"tracing is strongest at {traced.loc[traced['mean'].idxmax()].layer}"
        draw = partial(figures.draw_layers, unit=f"share restored, {unit}")
        add(f"{label(str(model))}: tracing", f"On {model}, by the means, {strongest}.{note}", draw,
            {"tracing effect": traced})  # fmt: skip
        for (editor, problem), own in of_model.groupby(["editor", "problem"], sort=False):
            name = f"{label(str(editor))}, {label(str(problem))}"
            means = {score: by_layer(own, score) for score in study.SCORES[:3]
                     if own[score].notna().any()}  # fmt: skip
            best = means["rewrite"].loc[means["rewrite"]["mean"].idxmax()].layer
            text = f"by the means, editing works best at layer {best}, {strongest}"
            told.append(f"for {name}, {text}")
            caption = f"On {model}: {text}.{note}"
            add(name, caption, partial(figures.draw_layers, unit=f"score, {unit}"), means)
            lines = study.regressions(own, "rewrite")
            add(name, caption, partial(figures.draw_scatter, score="rewrite"), own, lines)
    scores = [
        by_layer(study.cropped(table)[0], score).assign(score=score)
        for score in (*study.SCORES, "tracing")
    ]
    caption = listed(told, 3)
    caption = f"{caption[:1].upper()}{caption[1:]}."
    yield Section(
        "layers", "Layers: edit success and tracing", caption, pd.concat(scores), tuple(panels),
        note=" ".join(notes),
    )  # fmt: skip


def of_r2(path: Path) -> Iterator[Section]:
    """How much the layer explains, and how much tracing adds."""
    table = study.read_columns(path, ["editor", "problem", "r2_layer", "r2_both", "partial_r2"])
    panels = panels_of(
        figures.draw_r2, table.groupby("editor", sort=False), name="r2",
        caption=lambda editor, _: f"R² by problem for {editor}.",
        height=lambda own: 1.3 + 0.42 * len(own),
    )  # fmt: skip
    most = max(0.0, (table.r2_both - table.r2_layer).max())
    caption = f"By the estimates, tracing adds at most {format_share(most)} of R² beside the layer."
    yield Section("r2", "What explains edit success", caption, table, panels)


def of_effects(path: Path) -> Iterator[Section]:
    """Tracing effects: one fact, the mean by token role, the strongest layer of each fact."""
    table = study.read_columns(path, EFFECTS)
    strongest, roles = study.strongest_layers(table), study.role_means(table)
    panels, told = list[Panel](), []
    for site, own in table.groupby("site", sort=False):
        count, mean = strongest[strongest.site == site], roles[roles.site == site]
        top = count.loc[count.n_facts.idxmax()]
        n_facts = f"{top.n_facts} of {count.n_facts.sum()} facts"
        told.append(f"at {site}, {n_facts} are strongest at layer {top.layer}")
        fact = own.fact.iloc[0]
        one = own[own.fact == fact].sort_values("token_index", kind="stable")
        places = zip(one.token_index, one.token, strict=True)
        one = one.assign(place=[f"{index} {token}" for index, token in places])
        by_place, by_role = (partial(grids.draw_effects, row=row) for row in ("place", "role"))
        for plot, of, name, n_rows in (
            (by_place, one, f"{site}: fact {fact}", one.place.nunique()),
            (by_role, mean, f"{site}: mean over facts", mean.role.nunique()),
            (figures.draw_strongest, count, f"{site}: strongest layer", 7),
        ):
            panels.append(panel(
                plot, of, name=f"effects-{len(panels) + 1}", title=name, caption=f"{told[-1]}.",
                height=rows_height(n_rows + 2),
            ))  # fmt: skip
    caption = listed(told)
    caption = f"{caption[:1].upper()}{caption[1:]}."
    yield Section("effects", "Where tracing finds the facts", caption, roles, tuple(panels))
