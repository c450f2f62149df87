"""Two runs on the same items: which became better and which worse, item by item."""

from __future__ import annotations

import math

import pandas as pd
from statsmodels.stats.multitest import multipletests

from reports.csv_text import counted
from reports.reading import Items
from reports.tables import groups, scores_of
from wise.measures.paired import mcnemar
from wise.measures.statistics import interval

__all__ = ["differences", "pairs"]

_RUN = ["model", "stream", "stream_sha256", "seed"]
_ITEM = ["protocol", "when", "t", "metric", "kind", "edit_id", "prompt"]
_BY = ["model", "stream", "protocol", "t", "metric", "kind"]
_COLUMNS = [*_BY, "n", "before", "after", "difference", "low", "high"]
_COLUMNS += ["n_better", "n_worse", "p_value"]


def _final(items: Items) -> pd.DataFrame:
    """The final items; repeated questions are numbered."""
    table = scores_of(items).drop(columns=["model", "stream", "editor"])
    table = table[table.when == "final"].join(items.runs[["editor", *_RUN]], on="run")
    again = table.groupby(["run", *_ITEM], observed=True).cumcount()
    return table.assign(again=again)


def pairs(before: Items, after: Items) -> tuple[pd.DataFrame, str]:
    """The items that both measured on the same stream at the same T, and a text on all others.

    Where both hold one editor, these two are compared whatever their names; else editors by name.
    """
    old, new = _final(before), _final(after)
    by_name = max(old.editor.nunique(), new.editor.nunique()) > 1
    keys = [*_RUN, *_ITEM, "again", *(["editor"] if by_name else [])]
    for table in (old, new):
        for name in ("metric", "kind", "protocol", "when", "edit_id", "prompt", "cluster"):
            table[name] = table[name].astype(object)
    both = old.merge(new, on=keys, suffixes=("_before", "_after"))
    scored = both[both.score_before.notna() & both.score_after.notna()]
    lost = [
        f"{counted(len(table) - len(scored), 'item')} of the {name}"
        for name, table in (("first", old), ("second", new))
        if len(table) > len(scored)
    ]
    text = f"{' and '.join(lost)} without a scored partner are not compared" if lost else ""
    return scored, text


def differences(pair_table: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """By measure at the last common T: the mean difference, second less first, and its interval.

    The interval combines those of gains and of losses, each at half the error, so its error is at
    most the stated one. The p-values are of the sign test over subjects (McNemar), two-sided,
    corrected for all lines together (Holm).
    """
    if pair_table.empty:
        return pd.DataFrame(columns=_COLUMNS)
    last = pair_table.groupby([*_RUN, "protocol"]).t.transform("max")
    table = pair_table[pair_table.t == last].rename(columns={"cluster_before": "cluster"})
    order = {name: list(dict.fromkeys(table[name])) for name in ("metric", "kind", "protocol")}
    for name, values in order.items():
        table[name] = pd.Categorical(table[name], values, ordered=True)
    lines = []
    for key, group in groups(table, _BY):
        old, new = group.score_before.tolist(), group.score_after.tolist()
        clusters = group.cluster.tolist()
        gains = [max(b - a, 0.0) for a, b in zip(old, new, strict=True)]
        losses = [max(a - b, 0.0) for a, b in zip(old, new, strict=True)]
        half = {"confidence": (1 + confidence) / 2}
        gain, loss = interval(gains, clusters, **half), interval(losses, clusters, **half)
        found = mcnemar(old, new, clusters, alternative="two-sided")
        lines.append(
            key
            | {"n": found.n, "before": found.before, "after": found.after}
            | {"difference": math.fsum(new) / len(new) - math.fsum(old) / len(old)}
            | {"low": gain.low - loss.high, "high": gain.high - loss.low}
            | {"n_better": found.n_better, "n_worse": found.n_worse, "p_value": found.p_value}
        )
    found = pd.DataFrame(lines, columns=_COLUMNS)
    return found.assign(p_value=multipletests(found.p_value, method="holm")[1])
