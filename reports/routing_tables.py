"""The router: activations by kind of prompt, shares above the threshold, AUROC, drift along T.

An activation is given as its ratio to the threshold of its own run and T, so that seeds can be
pooled; above 1 the router opens.
"""

from __future__ import annotations

import pandas as pd

from reports.reading import Items
from reports.tables import SERIES, groups, in_series
from wise.measures.separation import separate
from wise.measures.statistics import interval

__all__ = ["OUTSIDE", "drift", "openings", "separations"]

OUTSIDE = ["far", "near-subject", "near-relation"]
_LEVEL = "paraphrase-"
_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_BY = [*SERIES, "t"]


def _routing(items: Items) -> pd.DataFrame:
    """The activations that have a threshold above 0, with that threshold."""
    is_routing = (items.table.metric == "routing") & items.table.value.notna()
    table = in_series(items, items.table[is_routing])
    levels = [kind for kind in table.kind.unique() if kind.startswith(_LEVEL)]
    levels.sort(key=lambda kind: int(kind.removeprefix(_LEVEL)))
    kinds = ["edit", "paraphrase", *levels, *OUTSIDE, "threshold"]
    table["kind"] = table.kind.cat.set_categories(kinds, ordered=True)
    is_threshold = table.kind == "threshold"
    threshold = table[is_threshold].groupby(["run", "t"]).value.last().rename("threshold")
    table = table[~is_threshold].join(threshold, on=["run", "t"])
    return table[table.threshold > 0].assign(ratio=table.value / table.threshold)


def openings(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """By kind of prompt: quantiles of activation / threshold, and the share above 1."""
    lines = []
    for key, group in groups(_routing(items), [*_BY, "kind"]):
        opened = (group.ratio > 1).astype(float).tolist()
        bounds = interval(opened, group.cluster.cat.codes.tolist(), confidence=confidence)
        ratios = {name: group.ratio.quantile(q) for name, q in _QUANTILES.items()}
        share = {"n": len(opened), "mean": sum(opened) / len(opened)}
        lines.append(key | ratios | share | bounds._asdict())
    return pd.DataFrame(lines, columns=[*_BY, "kind", *_QUANTILES, "n", "mean", "low", "high"])


def separations(items: Items, *, confidence: float = 0.95) -> pd.DataFrame:
    """AUROC of edits and paraphrases against each kind of prompt outside the scope, at each T."""
    lines = []
    for key, group in groups(_routing(items), _BY):
        inside = group[~group.kind.isin(OUTSIDE)]
        for kind in OUTSIDE:
            outside = group[group.kind == kind]
            if len(inside) and len(outside):
                found = separate(
                    inside.ratio.to_numpy(), outside.ratio.to_numpy(), seed=0,
                    positive_clusters=inside.cluster.cat.codes.tolist(),
                    negative_clusters=outside.cluster.cat.codes.tolist(),
                    threshold=1, confidence=confidence, n_permutations=1,
                )  # fmt: skip
                seen = {"n_inside": len(inside), "n_outside": len(outside), "auroc": found.auroc}
                lines.append(key | {"kind": kind} | seen | found.interval._asdict())
    columns = [*_BY, "kind", "n_inside", "n_outside", "auroc", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


def drift(items: Items) -> pd.DataFrame:
    """Along T, in the router's own unit: the interquartile range by kind, the threshold's range."""
    table = _routing(items)
    is_paraphrase = ~table.kind.isin(["edit", *OUTSIDE])
    names = table.kind.astype(str).mask(is_paraphrase, "paraphrase")
    of_thresholds = table.drop_duplicates(["run", "t"]).assign(what="threshold")
    of_thresholds = of_thresholds.assign(value=of_thresholds.threshold)
    both = pd.concat([table.assign(what=names), of_thresholds])
    lines = []
    for key, group in groups(both, [*_BY, "what"]):
        low, middle, high = group.value.quantile([0.25, 0.5, 0.75])
        if key["what"] == "threshold":
            low, high = group.value.min(), group.value.max()
        lines.append(key | {"n": len(group), "median": middle, "low": low, "high": high})
    return pd.DataFrame(lines, columns=[*_BY, "what", "n", "median", "low", "high"])
