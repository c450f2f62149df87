"""A study as text: the answer in words, and its tables as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from wise.localization.choice import LayerChoice, describe, tells_which_layer
from wise.localization.layer_findings import Finding
from wise.localization.published_r2 import TABLE_3
from wise.measures.statistics import format_p
from wise.measures.text import markdown, markdown_grid

__all__ = ["ModelStudy", "answer", "document", "verdict"]

_LEAST = 0.05  # share of what the layer leaves, below which tracing is of no use


def verdict(findings: Sequence[Finding], *, model: str) -> str:
    """One paragraph on all editors and problems, by the intervals of the rewrite score alone."""
    told = [
        (each, tells_which_layer(each.regression, each.choice, least=_LEAST),
         each.choice.fixed.interval)
        for each in findings
        if each.outcome == "rewrite" and each.regression is not None and each.choice is not None
    ]  # fmt: skip
    if not told:
        return (
            f"On {model} no editor and problem has what an answer needs: 10 facts at two layers, "
            "and scores that differ."
        )
    counts = Counter[str](judged for _, judged, _ in told)
    below, above = sum(gain.high < 0 for *_, gain in told), sum(gain.low > 0 for *_, gain in told)
    n, n_asked = len(told), len({(each.editor, each.problem) for each in findings})
    without = f" ({n_asked - n} more lack what an answer needs)" if n < n_asked else ""
    where = [f"{each.editor} on {each.problem}" for each, judged, _ in told if judged == "yes"]
    return (
        f"On {model}, does causal tracing tell which layer to edit? Of {n} pairs of editor and "
        f"problem{without}, the intervals say yes for {counts['yes']}"
        f"{' (' + ', '.join(where) + ')' if where else ''}, no for {counts['no']}, and leave it "
        f"open for {counts['inconclusive']}. Yes means: editing each fact where tracing points "
        f"scores above the best fixed layer, and tracing explains at least {_LEAST:.0%} of what "
        f"the layer leaves. No means: it does not score above, and explains less. {answer(counts)} "
        f"By however little, the choice of tracing scores below the best fixed layer for {below} "
        f"of them, above it for {above}."
    )


def answer(counts: Mapping[str, int]) -> str:
    """The answer in words, by how many pairs say yes, no or inconclusive."""
    yes, no, unknown = (counts.get(name, 0) for name in ("yes", "no", "inconclusive"))
    if not yes and not no:
        return "So nothing is decided here; more facts would be needed."
    if unknown > yes + no:
        return "So most of it stays open here; more facts would be needed."
    if yes and no:
        return "So it depends on the editor and the problem."
    rest = ", as far as it is decided" if unknown else ""
    return f"So tracing does {'' if yes else 'not '}tell which layer to edit here{rest}."


@dataclass(frozen=True)
class ModelStudy:
    """The findings of a study of one model, and its settings."""

    model: str
    findings: Sequence[Finding]
    cells: pd.DataFrame
    excluded: pd.DataFrame
    settings: Mapping[str, object]
    sweep: pd.DataFrame | None = None

    @property
    def verdict(self) -> str:
        return verdict(self.findings, model=self.model)


def document(studies: Sequence[ModelStudy], *, command: str) -> str:
    """The studies as a Markdown page, answers first; every claim follows from an interval."""
    parts = [
        "# Does causal tracing tell which layer to edit?",
        f"Made by\n\n```\n{command}\n```\n\nand not edited by hand.",
        "## The answer", *(study.verdict for study in studies),
        "## How it was asked",
        "R² are those of regressions of the rewrite score on the layer, on the tracing effect, and "
        "on both interacted. Partial R² is the share that tracing explains of what the layer "
        "leaves, adjusted, with its 95 % interval over facts: for all layers, and for the inner "
        "ones, without those that fail or are at the ceiling. p is that of the F-test (as "
        "published), with errors clustered by fact, and by permutation of facts. The columns of "
        "GPT-J are the paper's own: another model, 652 facts of CounterFact (489 to erase) at 9 of "
        "its 28 layers (Hase et al., NeurIPS 2023, Table 3), to be read beside the others, not "
        "against them.",
        *(part for study in studies for part in _sections(study)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _sections(study: ModelStudy) -> list[str]:
    """The findings on one model."""
    findings = study.findings
    rewrites = [each for each in findings if each.outcome == "rewrite"]
    parts = [
        f"## {markdown(study.model)}",
        "### What explains the rewrite score",
        _table(["editor", "problem", "facts", "layer", "tracing", "both", "partial R²",
               "inner layers", "F", "clustered", "permuted",
               "GPT-J: layer", "GPT-J: tracing", "GPT-J: both"],
              [[*_r2_line(each), *_published(each)] for each in rewrites]),
        "### Which layer to edit",
        "Mean rewrite score by how the layer was chosen for each fact: where tracing is strongest, "
        "the layer that is best for the other facts, any layer, the fact's own best; and by how "
        "much tracing's choice is above the best fixed layer.",
        _table(["editor", "problem", "tracing", "fixed", "random", "oracle", "over fixed"],
              [_choice_line(each, each.choice) for each in rewrites if each.choice]),
        "### By editor and problem", *map(_described, rewrites),
        "### Other scores",
        "Partial R² of tracing beside the layer.",
        _table(["editor", "problem", "outcome", "facts", "partial R²", "held out"],
              [_other_line(each) for each in findings if each.outcome != "rewrite"]),
        "### Mean scores over all layers", _means(study.cells),
    ]  # fmt: skip
    if study.sweep is not None:
        parts += ["### The editor's own curve over layers", _curve(study.sweep)]
    lines = [[key, str(value)] for key, value in study.settings.items()]
    parts += ["### What was left out", _left_out(study.excluded), *_above_one(study.cells)]
    return [*parts, "### Settings", _table(["setting", "value"], lines)]


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown_grid(header, lines) if lines else "There are none."


def _bounded(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _r2_line(each: Finding) -> list[str]:
    found, inner = each.regression, each.inner
    if found is None:
        return [each.editor, each.problem, str(each.n_facts), each.lacking, *["-"] * 7]
    shares = (found.r2_layer, found.r2_tracing, found.r2_both)
    return [
        each.editor, each.problem, str(each.n_facts), *(f"{value:.3f}" for value in shares),
        _bounded(found.partial_r2, *found.partial_r2_interval),
        "-" if inner is None else
        f"{_bounded(inner.partial_r2, *inner.partial_r2_interval)} at {inner.n_layers}",
        *(format_p(p) if math.isfinite(p) else "-"
          for p in (found.p_f, found.p_clustered, found.p_permutation)),
    ]  # fmt: skip


def _published(each: Finding) -> list[str]:
    """R² of the same pair in the paper: layer, tracing, both."""
    found = TABLE_3.get(each.problem, {}).get(each.editor)
    return ["-"] * 3 if found is None else [f"{value:.3f}" for value in found]


def _choice_line(each: Finding, choice: LayerChoice) -> list[str]:
    scores = (choice.tracing, choice.fixed.score, choice.random.score, choice.oracle.score)
    gains = _bounded(choice.fixed.advantage, *choice.fixed.interval)
    return [each.editor, each.problem, *(f"{score:.3f}" for score in scores), gains]


def _described(each: Finding) -> str:
    head = f"**{markdown(f'{each.editor}, {each.problem}')}.** "
    if each.regression is None or each.choice is None:
        return f"{head}No answer: {markdown(each.lacking)}."
    told = describe(each.regression, each.choice, outcome="the rewrite score", least=_LEAST)
    p = each.within[["pearson_p", "spearman_p"]].min(axis=1)
    found = each.within.layer[p < 0.05]
    named = f"at layers {_listed(found)}" if len(found) else "at no layer"
    gap = f" No fact has a score at layers {_listed(each.missing)}." if each.missing else ""
    return (
        f"{head}{told}{gap} Within a layer, the two correlate {named} (Pearson or Spearman, "
        "p < .05 after Benjamini-Hochberg over layers)."
    )


def _listed(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers))


def _other_line(each: Finding) -> list[str]:
    found = each.regression
    numbers = ["-", each.lacking] if found is None else [
        _bounded(found.partial_r2, *found.partial_r2_interval),
        _bounded(found.held_out, *found.held_out_interval),
    ]  # fmt: skip
    return [each.editor, each.problem, each.outcome, str(each.n_facts), *numbers]


def _means(cells: pd.DataFrame) -> str:
    names = ["before", "after", "rewrite", "paraphrase", "neighborhood", "overall", "essence"]
    means = cells.groupby(["editor", "problem"], sort=False)[names].mean()
    told = (
        "`before` and `after` are the target's probability at the prompt; rewrite is the share of "
        "what was left to gain, or to lose in fact erasure.\n\n"
    )
    shown = means.map(lambda mean: "-" if math.isnan(mean) else f"{mean:.3f}")
    return told + _indexed(shown)


def _curve(sweep: pd.DataFrame) -> str:
    told = (
        "Free-run, the final model: at T=1 over as many streams of one edit as items say, at the "
        "larger T over one stream; means with 95 % intervals, subjects being clusters.\n\n"
    )
    scored = sweep.dropna(subset=["mean"])
    scored = scored.assign(shown=[
        f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in scored.itertuples()
    ])  # fmt: skip
    wide = scored.pivot(index=["editor", "t", "layer"], columns="metric", values="shown")
    return told + _indexed(wide.fillna("-").rename_axis(index={"t": "T"}))


def _indexed(table: pd.DataFrame) -> str:
    """A table of texts behind what its lines are indexed by."""
    lines = [[*map(str, key), *row] for key, row in zip(table.index, table.to_numpy(), strict=True)]
    return _table([*table.index.names, *table.columns], lines)


def _above_one(cells: pd.DataFrame) -> list[str]:
    """How many tracing effects are more than the whole effect, if any are."""
    each = cells[["fact", "layer", "tracing"]].drop_duplicates()
    above = each[each.tracing > 1]
    told = (
        f"{len(above)} of {len(each)} tracing effects, of {above.fact.nunique()} facts, are above "
        "1: noise on the subject takes little from the truth's probability, or adds to it. They "
        "count as they are, as in the paper's released code."
    )
    return [told] if len(above) else []


def _left_out(excluded: pd.DataFrame) -> str:
    """Why cells have no score, and how many."""
    reasons = Counter(
        (str(row.editor), str(row.problem), str(row.kind), str(row.reason).split(": ")[0])
        for row in excluded.itertuples()
    )  # fmt: skip
    lines = [[*key, str(n)] for key, n in reasons.items()]
    return _table(["editor", "problem", "kind", "why", "cells"], lines)
