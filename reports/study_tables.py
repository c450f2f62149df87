"""Tables from files beside the rows: costs, the kill matrix, a localization study, options."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import linregress
from scipy.stats import t as student

from reports.csv_text import listed
from wise.measures.estimates import TRIANGLE

__all__ = [
    "SCORES",
    "STUDY",
    "by_layer",
    "costs",
    "cropped",
    "kills",
    "option_means",
    "options_of",
    "read_columns",
    "regressions",
    "role_means",
    "strongest_layers",
]

_COST = ["seconds_per_edit", "bytes", "inference_ratio"]
SCORES = ["rewrite", "paraphrase", "neighborhood", "overall"]
_ROLES = ["before", "first-subject", "middle-subject", "last-subject", "first-after", "after"]
_ROLES += ["last"]
_TEXTS = ["fact", "subject", "model", "editor", "problem", "token", "role", "site"]
STUDY = ["fact", "subject", "model", "layer", "editor", "problem", "tracing", *SCORES, "essence"]


def read_columns(path: Path | str, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file that has `columns`: numbers, which may be blank, and names, read as text.
    Raises ValueError naming a missing column, or a value that is not a number."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table: {error}") from error
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise ValueError(f"{path} lacks {listed(lacking)}; needed are {', '.join(columns)}")
    for name in table.columns.difference(_TEXTS, sort=False):
        numbers = pd.to_numeric(table[name].where(table[name] != ""), errors="coerce")
        wrong = table[name][(table[name] != "") & ~np.isfinite(numbers)]
        if wrong.empty:
            table[name] = numbers
        elif name in columns:
            line = wrong.index[0] + 2
            raise ValueError(f"{path}, line {line}: {name}={wrong.iloc[0]!r} is not a number")
    return table


def costs(path: Path | str) -> pd.DataFrame:
    """Each cost by model, editor and T: its mean over seeds, the least and the most."""
    table = read_columns(path, ["editor", "model", "seed", "t", *_COST])
    long = table.melt(["model", "editor", "t", "seed"], _COST, var_name="cost").dropna()
    spread = {"n": "count", "mean": "mean", "low": "min", "high": "max"}
    return (
        long.groupby(["model", "editor", "t", "cost"], sort=False).value.agg(**spread).reset_index()
    )


def kills(path: Path | str) -> pd.DataFrame:
    """The kill matrix, long: fault, check, trips. Raises ValueError where there is none."""
    try:
        faults = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("faults")
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    if not isinstance(faults, dict) or not faults:
        raise ValueError(f"{path} has no table [faults]")
    for fault, named in faults.items():
        if not isinstance(named, list) or not all(isinstance(check, str) for check in named):
            raise ValueError(f"{path}: {fault} = {named!r} is not a list of the names of checks")
    checks = list(dict.fromkeys(check for of_fault in faults.values() for check in of_fault))
    lines = [
        (fault, check, check in of_fault) for fault, of_fault in faults.items() for check in checks
    ]
    return pd.DataFrame(lines, columns=["fault", "check", "trips"])


def cropped(study: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """The study with tracing effects of at most 1, how many were above, and how many there are.

    An effect is a share of the total effect of its fact, which may be near 0. Source: Hase et al.
    2023, whose figures are cropped likewise.
    """
    above = study[study.tracing > 1]
    n_above, n = (len(some[["fact", "layer"]].drop_duplicates()) for some in (above, study))
    return study.assign(tracing=study.tracing.clip(upper=1)), n_above, n


def by_layer(
    study: pd.DataFrame,
    score: str,
    *,
    by: Sequence[str] = ("model", "editor", "problem"),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Mean of a column by `by` and layer, with Student's interval over facts."""
    means = study.groupby([*by, "layer", "fact"])[score].mean()
    found = means.groupby([*by, "layer"]).agg(["count", "mean", "std"])
    found = found.rename(columns={"count": "n"}).reset_index()
    half = (
        student.ppf((1 + confidence) / 2, (found.n - 1).clip(lower=1)) * found["std"] / found.n**0.5
    )
    return found.assign(low=found["mean"] - half, high=found["mean"] + half).drop(columns="std")


def regressions(study: pd.DataFrame, score: str) -> pd.DataFrame:
    """Within each layer, the regression line of `score` on the tracing effect, if that varies."""
    lines = []
    by = ["model", "editor", "problem", "layer"]
    for key, group in study.dropna(subset=["tracing", score]).groupby(by):
        if group.tracing.nunique() > 1:
            fit = linregress(group.tracing, group[score])
            ends = {"least": group.tracing.min(), "most": group.tracing.max()}
            found = {
                "n": len(group),
                "slope": fit.slope,
                "intercept": fit.intercept,
                "r": fit.rvalue,
            }
            lines.append(dict(zip(by, key, strict=True)) | found | ends)
    return pd.DataFrame(lines, columns=[*by, "n", "slope", "intercept", "r", "least", "most"])


def strongest_layers(effects: pd.DataFrame) -> pd.DataFrame:
    """For each site the number of facts whose largest effect is at each layer."""
    strongest = effects.loc[effects.groupby(["site", "fact"], sort=False).effect.idxmax()]
    counts = strongest.groupby(["site", "layer"]).size()
    every = pd.MultiIndex.from_product(
        [effects.site.unique(), sorted(effects.layer.unique())], names=["site", "layer"]
    )
    return counts.reindex(every, fill_value=0).rename("n_facts").reset_index()


def role_means(effects: pd.DataFrame) -> pd.DataFrame:
    """The mean effect by site, token role and layer: over the tokens of a fact, then facts.

    The roles of causal tracing are in the order of a prompt, others in that of the table.
    """
    of_fact = effects.groupby(["site", "role", "layer", "fact"], sort=False).effect.mean()
    means = of_fact.groupby(["site", "role", "layer"], sort=False).mean().reset_index()
    found = list(means.role.unique())
    order = _ROLES if set(found) <= set(_ROLES) else found
    return means.sort_values("role", key=lambda roles: roles.map(order.index), kind="stable")


def options_of(editor: str) -> dict[str, str]:
    """The options in an editor's name, as in `wise(mask_ratio=0.2, merge=ties)`."""
    match = re.fullmatch(r"[^(]*\((.*)\)(, version \d+)?", editor, re.DOTALL)
    parts = re.split(r", (?=\w+=)", match[1]) if match else ()
    pairs = (part.partition("=") for part in parts)
    return {name: value for name, equals, value in pairs if equals}


def option_means(cell_table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Corner by corner, the final cells of editors that name all of `names`, at one and the same T.

    A corner is the mean of its measures' means, and its bounds are the means of their bounds, which
    is wider than an interval of the mean would be. `others` are all further options: only editors
    that share them and differ in `names` are compared, at the last T of any of them, and the rest
    is left out.
    """
    final = cell_table[(cell_table.when == "final") & cell_table.metric.isin(TRIANGLE)]
    options = [options_of(str(editor)) for editor in final.editor]
    named = np.array([set(names) <= of_editor.keys() for of_editor in options], dtype=bool)
    final = final.assign(
        **{name: [of_editor.get(name) for of_editor in options] for name in names},
        others=[
            ", ".join(f"{name}={value}" for name, value in sorted(of_editor.items())
                      if name not in names)
            for of_editor in options
        ],
    )[named]  # fmt: skip
    alike = ["model", "stream", "protocol", "others"]
    last = final[final.t == final.groupby(alike).t.transform("max")] if len(final) else final
    by = [*alike, "t", "editor", *names, "metric"]
    found = last.groupby(by, sort=False)[["mean", "low", "high"]].mean().reset_index()
    return found[found.groupby(alike, sort=False).editor.transform("nunique") > 1]
