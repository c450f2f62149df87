"""Files beside a league's rows: costs, the kill matrix, and editors by their options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from reports import study_tables as study
from reports import tables
from reports.csv_text import counted, listed
from reports.figures import grids
from reports.figures import study_figures as figures
from reports.figures.style import label
from reports.published import MASK_RATIO_BY_SHARDS, MASK_RATIOS
from reports.reading import Items
from reports.sections.section import Section, panel, panels_of, rows_height
from wise.measures.estimates import PROTOCOL_WORDS
from wise.measures.statistics import format_share

__all__ = ["of_costs", "of_kills", "of_options"]

_COSTS = {
    "seconds_per_edit": "Time per edit",
    "bytes": "Bytes added",
    "inference_ratio": "Inference",
}
_MOST_CHECKS = 40  # in the picture of the kill matrix
_SCENE = ["model", "stream", "protocol", "others"]


def of_costs(path: Path) -> Iterator[Section]:
    """Time, memory and overhead along T."""
    table = study.costs(path)
    panels = panels_of(
        figures.draw_costs,
        ((f"{_COSTS[cost]}, {label(str(model))}", own)
         for (model, cost), own in table.groupby(["model", "cost"], sort=False)),
        name="costs", caption=lambda title, _: f"{title}, along T.",
    )  # fmt: skip
    time = table[table.cost == "seconds_per_edit"]
    caption = "No time was measured."
    if len(time):
        slowest = time.loc[time["mean"].idxmax()]
        time = f"{slowest['mean']:.3g} s per edit at T={slowest.t:,}"
        caption = f"Slowest is {label(slowest.editor)}, {time}."
    note = "Bars reach from the least to the most of the seeds."
    yield Section("costs", "What it costs", caption, table, panels, note)


def of_kills(path: Path) -> Iterator[Section]:
    """The kill matrix of the suite."""
    table, title = study.kills(path), "Which check catches which planted fault"
    n_checks = table.groupby("fault", sort=False).trips.sum()  # that catch a fault
    n_faults = table.groupby("check", sort=False).trips.sum()  # that a check catches
    most = n_faults.sort_values(ascending=False, kind="stable").index[:_MOST_CHECKS]
    caption = (
        f"{counted(len(n_checks), 'planted fault')} against {counted(len(n_faults), 'check')}: "
    )
    missed = n_checks.index[n_checks == 0].tolist()
    caption += f"nothing catches {listed(missed)}" if missed else "each is caught"
    caption += f", {n_checks.eq(1).sum():,} by one check alone."
    if len(most) < len(n_faults):
        caption += f" Shown are the {len(most)} checks that catch most."
    grid = panel(
        grids.draw_kills, table, list(most), name="kills-1", title=title, caption=caption,
        heading="", width=7.2, height=rows_height(len(most)),
    )  # fmt: skip
    yield Section("kills", title, caption, table, (grid,))


def of_options(items: Items, *, confidence: float = 0.95) -> Iterator[Section]:
    """Mask ratio against shards, and merge methods, where editors differ by them."""
    cells = tables.cells(items, confidence=confidence)
    ratios = study.option_means(cells, ["mask_ratio", "n_shards"])
    for name in ("mask_ratio", "n_shards"):
        ratios[name] = pd.to_numeric(ratios[name], errors="coerce")
    ratios = ratios.dropna(subset=["mask_ratio", "n_shards"])
    if len(ratios):
        yield _ratios(ratios)
    merges = study.option_means(cells, ["merge"])
    if len(merges):
        yield _merges(merges, confidence)


def _beside(table: pd.DataFrame) -> str:
    """The options that the editors of each figure share."""
    common = [others for others in table.others.unique() if others]
    return f" Options beside: {'; '.join(common)}." if common else ""


def _best(names: list[str], mean: float) -> str:
    """The best by the mean of reliability, generalization and locality, with ties."""
    verb = "is" if len(names) == 1 else "are"
    return f"By the mean of the three corners {listed(names)} {verb} best, {format_share(mean)}."


def _ratios(table: pd.DataFrame) -> Section:
    by = [*_SCENE, "t", "mask_ratio", "n_shards"]
    means = table.groupby(by, sort=False)[["mean", "low", "high"]].mean().reset_index()
    bounds = zip(means["mean"], means.low, means.high, strict=True)
    means["text"] = [
        f"{format_share(m)}\n{format_share(l)}–{format_share(h)}" for m, l, h in bounds
    ]
    paper = [
        {"mask_ratio": ratio, "n_shards": k, "mean": mean, "text": format_share(mean)}
        for k, of_k in MASK_RATIO_BY_SHARDS.items()
        for ratio, mean in zip(MASK_RATIOS, of_k, strict=True)
    ]
    grids_of = [
        (f"{label(model)}, {PROTOCOL_WORDS[protocol]}, T={t:,}", own)
        for (model, _, protocol, _, t), own in means.groupby([*_SCENE, "t"], sort=False)
    ]
    best = means[means["mean"] == means["mean"].max()]
    named = [f"mask ratio {ratio:g} with {counted(int(k), 'shard')}"
             for ratio, k in zip(best.mask_ratio, best.n_shards, strict=True)]  # fmt: skip
    caption = _best(named, means["mean"].max())
    grids_of.append(("WISE paper, LLaMA-2-7B*", pd.DataFrame(paper)))
    panels = tuple(
        panel(
            grids.draw_options, own, name=f"ratios-{index}", title=name, caption=caption,
            width=max(1.0 + 0.62 * own.mask_ratio.nunique(), 3),
            height=1.1 + 0.4 * own.n_shards.nunique(), x="mask_ratio", y="n_shards",
        )
        for index, (name, own) in enumerate(grids_of, start=1)
    )  # fmt: skip
    note = "* Wang et al. 2024, Figure 5: ZsRE by another protocol, for orientation."
    note += _beside(table)
    title = "Mask ratio and shards"
    return Section("ratios", title, caption, means.drop(columns="text"), panels, note)


def _merges(table: pd.DataFrame, confidence: float) -> Section:
    panels = panels_of(
        figures.draw_merges,
        ((f"{label(model)}, {PROTOCOL_WORDS[protocol]}, T={own.t.max():,}", own)
         for (model, _, protocol, _), own in table.groupby(_SCENE, sort=False)),
        name="merges", caption=lambda name, _: f"The triangle by merge method, {name}.",
        height=lambda own: 1.4 + 0.42 * own["merge"].nunique(), confidence=confidence,
    )  # fmt: skip
    mean = table.groupby("merge", sort=False)["mean"].mean()
    caption = _best(list(mean.index[mean == mean.max()]), mean.max())
    note = "* Grey: WISE on LLaMA-2-7B, T=100, Wang et al. 2024, Table 11; another protocol."
    note += _beside(table)
    return Section("merges", "Merge methods", caption, table, panels, note)
