"""Does a layer's tracing effect tell how well an edit there does, beyond which layer it is?

Pure functions on a long table of one editor and problem: one row per `fact` and `layer`, with the
effect `tracing` and scores. A fact's rows are not independent: resampling and shuffling take whole
facts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from wise.measures.statistics import Interval

__all__ = ["Regression", "regress", "within_layers", "without_extreme_layers"]


@dataclass(frozen=True, slots=True)
class Regression:
    """Three regressions of a score: on the layer, on the tracing effect, on both interacted.

    `partial_r2` is the share that the tracing effect explains of what the layer leaves unexplained.
    It is adjusted for its parameters: a useless predictor has 0 in expectation, so it can be
    negative. `held_out` is the same for facts that the regressions have not seen. The intervals are
    bootstraps over facts; at 95 % that of `partial_r2` held the truth in 90 to 99 % of simulated
    studies of 30 to 200 facts, and in 98 % or more where the truth is 0. `p_f` is that of the
    F-test of both against the layer, as published; `p_clustered` of a Wald test with errors
    clustered by fact; `p_permutation` of shuffling tracing profiles across facts.
    """

    n_facts: int
    n_layers: int
    r2_layer: float
    r2_tracing: float
    r2_both: float
    partial_r2: float
    partial_r2_interval: Interval
    held_out: float
    held_out_interval: Interval
    p_f: float
    p_clustered: float
    p_permutation: float
    confidence: float


def regress(
    table: pd.DataFrame,
    outcome: str = "rewrite",
    *,
    confidence: float = 0.95,
    n_resamples: int = 999,
    n_folds: int = 10,
    seed: int = 0,
) -> Regression:
    """The regressions of `outcome`, with intervals over facts (bootstrap) and three p-values.

    Raises ValueError for a table that lacks a fact at a layer, and for fewer than 10 facts.
    Source: Hase et al. 2023, section 4 (layer, tracing, both, F-test); the rest is added because a
    fact's rows are dependent, and the layer leaves little to explain.
    """
    y, x = _grid(table, outcome), _grid(table, "tracing")
    rng = np.random.default_rng(seed)
    F, L = y.shape
    ones = np.ones((1, F))
    partial = float(_partial_r2(y, x, ones)[0])
    drawn = rng.multinomial(F, np.full(F, 1 / F), size=n_resamples).astype(float)
    resampled = _partial_r2(y, x, drawn)
    tail = (1 - confidence) / 2
    # Repeated facts make noise look like an effect, so centre on the estimate.
    low, high = np.quantile(resampled, [tail, 1 - tail]) - resampled.mean() + partial
    gains = _held_out(y, x, np.array_split(rng.permutation(F), n_folds))  # F 2: squared errors
    ratio = 1 - gains[:, 1].sum() / gains[:, 0].sum()
    errors = drawn @ gains
    held_low, held_high = np.quantile(1 - errors[:, 1] / errors[:, 0], [tail, 1 - tail])
    shuffled = [_partial_r2(y, x[rng.permutation(F)], ones)[0] for _ in range(n_resamples)]
    p_permutation = (1 + sum(s >= partial - 1e-12 for s in shuffled)) / (1 + n_resamples)
    layer, tracing, both, p_f, p_clustered = _least_squares(y, x)
    return Regression(
        F, L, layer, tracing, both, partial, Interval(float(low), float(high)),
        float(ratio), Interval(float(held_low), float(held_high)), p_f, p_clustered,
        float(p_permutation), confidence,
    )  # fmt: skip


def within_layers(table: pd.DataFrame, outcome: str = "rewrite") -> pd.DataFrame:
    """By layer, how tracing effect and `outcome` correlate over the facts edited there.

    p-values are adjusted over layers (Benjamini-Hochberg). NaN where one of the two is constant.
    Source: Hase et al. 4.1.
    """
    found = []
    for layer, rows in table.groupby("layer", sort=True):
        pair = rows["tracing"].to_numpy(float), rows[outcome].to_numpy(float)
        varies = min(np.ptp(values) for values in pair) > 0 and len(rows) > 2
        pearson = stats.pearsonr(*pair) if varies else (np.nan, np.nan)
        spearman = stats.spearmanr(*pair) if varies else (np.nan, np.nan)
        found.append((layer, len(rows), *pearson, *spearman))
    columns = ["layer", "n_facts", "pearson", "pearson_p", "spearman", "spearman_p"]
    within = pd.DataFrame(found, columns=columns)
    for name in ("pearson_p", "spearman_p"):
        known = within[name].notna()
        within.loc[known, name] = stats.false_discovery_control(within.loc[known, name])
    return within


def without_extreme_layers(
    table: pd.DataFrame, outcome: str = "rewrite", *, low: float = 0.05, high: float = 0.95
) -> pd.DataFrame:
    """The rows of layers whose mean `outcome` is in (`low`, `high`).

    One failing layer among perfect ones makes the layer explain nearly everything.
    """
    means = table.groupby("layer")[outcome].transform("mean")
    return table[(means > low) & (means < high)]


def _grid(table: pd.DataFrame, column: str) -> Float[ndarray, "F L"]:
    grid = table.pivot(index="fact", columns="layer", values=column).to_numpy(float)
    if not np.isfinite(grid).all():
        raise ValueError(f"column {column!r} lacks a number for some fact at some layer")
    if len(grid) < 10:
        raise ValueError(f"{len(grid)} facts are too few for a regression; it needs 10")
    return grid


def _lines(
    y: Float[ndarray, "F L"], x: Float[ndarray, "F L"], weights: Float[ndarray, "R F"]
) -> tuple[ndarray, ndarray, ndarray, ndarray, ndarray]:
    """By resample and layer: means of x and y, slope, and the sums of squares [R, L] of y about its
    mean and about the line. Both interacted gives one line for each layer."""
    n = weights.sum(1, keepdims=True)
    mean_x, mean_y = weights @ x / n, weights @ y / n
    xx = np.maximum(weights @ x**2 / n - mean_x**2, 0.0)
    xy = weights @ (x * y) / n - mean_x * mean_y
    yy = np.maximum(weights @ y**2 / n - mean_y**2, 0.0)
    slope = np.divide(xy, xx, out=np.zeros_like(xy), where=xx > 1e-12)
    about_line = np.maximum(yy - slope * xy, 0.0)
    return mean_x, mean_y, slope, n * yy, n * about_line


def _partial_r2(
    y: Float[ndarray, "F L"], x: Float[ndarray, "F L"], weights: Float[ndarray, "R F"]
) -> Float[ndarray, " R"]:
    *_, about_mean, about_line = _lines(y, x, weights)
    F = len(y)
    layer, both = about_mean.sum(1) / (F - 1), about_line.sum(1) / (F - 2)
    return 1 - np.divide(both, layer, out=np.ones_like(both), where=layer > 0)


def _held_out(
    y: Float[ndarray, "F L"], x: Float[ndarray, "F L"], folds: list[ndarray]
) -> Float[ndarray, "F 2"]:
    """Each fact's squared error by the layer alone and by both, fitted without its fold."""
    errors = np.empty((len(y), 2))
    for fold in folds:
        weights = np.ones((1, len(y)))
        weights[:, fold] = 0.0
        mean_x, mean_y, slope, _, _ = _lines(y, x, weights)
        line = mean_y + slope * (x[fold] - mean_x)
        errors[fold, 0] = ((y[fold] - mean_y) ** 2).sum(1)
        errors[fold, 1] = ((y[fold] - line) ** 2).sum(1)
    return errors


def _least_squares(
    y: Float[ndarray, "F L"], x: Float[ndarray, "F L"]
) -> tuple[float, float, float, float, float]:
    """R2 of layer, tracing and both; p of the F-test and of the Wald test clustered by fact.

    The latter is Hotelling's T2: the covariance is of F clusters, and with as many slopes as facts
    there is no test. Where all facts have the same score, the slope is certain and not tested.
    """
    F, L = y.shape
    layers = np.tile(np.eye(L), (F, 1))
    te, score = x.reshape(-1, 1), y.reshape(-1)
    has_slope = x.std(0) > 1e-9  # a layer whose effect is constant has none
    own = layers[:, has_slope] * te
    alone = np.hstack([np.ones_like(te), te[:, : int(te.std() > 1e-9)]])
    designs = layers, alone, np.hstack([layers, own])
    fits = [sm.OLS(score, design).fit() for design in designs]
    layer, _, both = fits
    total = ((score - score.mean()) ** 2).sum()
    r2 = [float(1 - fit.ssr / total) if total > 0 else np.nan for fit in fits]
    if not has_slope.any():
        return r2[0], r2[1], r2[2], np.nan, np.nan
    p_f = float(both.compare_f_test(layer)[1])
    is_open = y.std(0)[has_slope] > 1e-6 * y.std(0).max()
    n = int(is_open.sum())
    if not 0 < n < F:
        return r2[0], r2[1], r2[2], p_f, np.nan
    groups = np.repeat(np.arange(F), L)
    clustered = both.get_robustcov_results("cluster", groups=groups)
    slopes = np.eye(designs[2].shape[1])[L:][is_open]
    wald = float(clustered.wald_test(slopes, use_f=True, scalar=True).statistic)
    p_clustered = float(stats.f.sf(wald * (F - n) / (F - 1), n, F - n))
    return r2[0], r2[1], r2[2], p_f, p_clustered
