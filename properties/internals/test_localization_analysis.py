"""Laws of the analysis: known truths are recovered, and a useless effect is found useless."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from wise.localization.analysis import (
    Regression,
    _least_squares,
    regress,
    within_layers,
    without_extreme_layers,
)
from wise.localization.choice import choose_layers, describe, tells_which_layer
from wise.measures.statistics import Interval

pytestmark = pytest.mark.internals


def study(
    seed: int, *, partial: float, n_facts: int = 60, n_layers: int = 6, shared: float = 0.5
) -> pd.DataFrame:
    """A score of which the layer explains much and tracing the share `partial` of the rest.

    A fact's rows have a part of their tracing effect, and of their error, in common.
    """
    rng = np.random.default_rng(seed)

    def drawn() -> np.ndarray:
        own, common = rng.normal(size=(n_facts, n_layers)), rng.normal(size=(n_facts, 1))
        return shared**0.5 * common + (1 - shared) ** 0.5 * own

    tracing, error = drawn(), drawn()
    layer = np.linspace(-1, 1, n_layers)
    score = layer + 0.3 * (partial**0.5 * tracing + (1 - partial) ** 0.5 * error)
    facts, layers = np.indices(score.shape)
    columns = dict(fact=facts, layer=layers, tracing=tracing, rewrite=score)
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


@cache
def found(seed: int, partial: float) -> Regression:
    return regress(study(seed, partial=partial), n_resamples=199, seed=seed)


def at_most(rate: float, n: int) -> int:
    """As many of n as a rate of at most `rate` exceeds in one of 1000 such tests."""
    return int(binom.ppf(0.999, n, rate))


@pytest.mark.parametrize("partial", [0.0, 0.1, 0.4])
def test_a_known_partial_r2_is_in_its_interval(partial: float) -> None:
    n = 60
    intervals = [found(seed, partial).partial_r2_interval for seed in range(n)]
    missed = sum(not low <= partial <= high for low, high in intervals)
    assert missed <= at_most(0.1, n)  # as stated: the interval is a little narrow
    mean = np.mean([found(seed, partial).partial_r2 for seed in range(n)])
    assert mean == pytest.approx(partial, abs=0.03)


def test_a_useless_effect_is_found_useless_at_the_stated_rate() -> None:
    n = 60
    rejected = sum(found(seed, 0.0).p_permutation <= 0.05 for seed in range(n))
    assert rejected <= at_most(0.05, n)
    assert sum(found(seed, 0.1).p_permutation <= 0.05 for seed in range(n)) > n // 2


def test_a_shuffled_effect_is_found_useless_where_the_true_one_is_not() -> None:
    table = study(0, partial=0.4)
    profiles = table.pivot(index="fact", columns="layer", values="tracing").to_numpy()
    shuffled = table.assign(tracing=np.random.default_rng(1).permutation(profiles).ravel())
    one, other = (regress(t, n_resamples=199) for t in (table, shuffled))
    assert one.p_permutation < 0.01
    assert one.partial_r2_interval.low > 0.1
    assert one.held_out_interval.low > 0
    assert other.p_permutation > 0.05
    assert other.partial_r2_interval.low < 0.05
    assert other.held_out < 0.05


def test_dependent_rows_fool_the_published_f_test_and_not_the_permutation() -> None:
    n = 60
    results = [
        regress(study(seed, partial=0.0, shared=0.95), n_resamples=99, seed=seed)
        for seed in range(n)
    ]
    assert sum(result.p_f <= 0.05 for result in results) > at_most(0.05, n)
    assert sum(result.p_permutation <= 0.05 for result in results) <= at_most(0.05, n)


def test_the_regressions_are_those_of_plain_least_squares() -> None:
    table = study(3, partial=0.2)
    y, te = table["rewrite"].to_numpy(), table["tracing"].to_numpy()
    dummies = (table["layer"].to_numpy()[:, None] == np.arange(6)).astype(float)

    def rss(design: np.ndarray) -> float:
        coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
        return float(((y - design @ coefficients) ** 2).sum())

    total = float(((y - y.mean()) ** 2).sum())
    layer, both = rss(dummies), rss(np.hstack([dummies, dummies * te[:, None]]))
    tracing = rss(np.column_stack([np.ones_like(te), te]))
    regression = found(3, 0.2)
    expected = [1 - r / total for r in (layer, tracing, both)]
    assert [regression.r2_layer, regression.r2_tracing, regression.r2_both] == pytest.approx(
        expected
    )
    adjusted = 1 - (both / (360 - 12)) / (layer / (360 - 6))
    assert regression.partial_r2 == pytest.approx(adjusted)


def test_a_constant_effect_or_score_explains_nothing() -> None:
    table = study(0, partial=0.4)
    flat = table.assign(tracing=table["tracing"].where(table["layer"] != 2, 0.3))
    assert 0.1 < regress(flat, n_resamples=99).partial_r2 < found(0, 0.4).partial_r2
    assert np.isnan(within_layers(flat).pearson[2])
    assert not np.isnan(within_layers(flat).pearson_p[3])


def test_correlations_within_a_layer_are_adjusted_over_layers() -> None:
    table = study(5, partial=0.1)
    layers = within_layers(table)
    plain = [rows[["tracing", "rewrite"]].corr().iloc[0, 1] for _, rows in table.groupby("layer")]
    assert layers.pearson.tolist() == pytest.approx(plain)
    assert layers.layer.tolist() == list(range(6))
    assert (layers.n_facts == 60).all()
    assert layers.spearman_p.between(0, 1).all()


def test_layers_at_the_floor_or_ceiling_are_left_out() -> None:
    means = {0: 0.0, 1: 0.5, 2: 0.99, 3: 0.2}
    table = pd.DataFrame([(f, l, m) for l, m in means.items() for f in range(3)],
                         columns=["fact", "layer", "rewrite"])  # fmt: skip
    assert sorted(without_extreme_layers(table)["layer"].unique()) == [1, 3]


def test_a_table_with_a_hole_or_few_facts_is_refused() -> None:
    table = study(0, partial=0.0)
    with pytest.raises(ValueError, match="lacks a number for some fact"):
        regress(table.iloc[1:])
    with pytest.raises(ValueError, match="9 facts are too few"):
        regress(study(0, partial=0.0, n_facts=9))


def chosen(tracing: list[list[float]], scores: list[list[float]]) -> pd.DataFrame:
    return pd.DataFrame([
        dict(fact=f, layer=10 * l, tracing=t, rewrite=s)
        for f, rows in enumerate(zip(tracing, scores, strict=True))
        for l, (t, s) in enumerate(zip(*rows, strict=True))
    ])  # fmt: skip


def test_layers_are_chosen_as_said() -> None:
    scores = [[0.0, 0.6, 1.0], [0.1, 0.8, 0.2], [0.2, 0.7, 0.0]]
    tracing = [[0.1, 0.2, 0.9], [0.5, 0.4, 0.1], [0.3, 0.9, 0.1]]
    choice = choose_layers(chosen(tracing, scores), rule=20)
    assert choice.tracing == pytest.approx((1.0 + 0.1 + 0.7) / 3)
    assert choice.fixed.score == pytest.approx((0.6 + 0.8 + 0.7) / 3)
    assert choice.random.score == pytest.approx(np.mean(scores))
    assert choice.oracle.score == pytest.approx((1.0 + 0.8 + 0.7) / 3)
    assert choice.rule is not None
    assert choice.rule.score == pytest.approx((1.0 + 0.2 + 0.0) / 3)
    assert choice.oracle.advantage == pytest.approx(choice.tracing - choice.oracle.score)
    with pytest.raises(ValueError, match="rule=5 is none of the layers 0, 10, 20"):
        choose_layers(chosen(tracing, scores), rule=5)


def test_the_best_fixed_layer_of_a_fact_is_chosen_without_it() -> None:
    scores = [[0.0, 1.0], [0.6, 0.0], [0.5, 0.0]]  # layer 10 is best only by the first fact
    choice = choose_layers(chosen(scores, scores))
    assert choice.fixed.score == pytest.approx((0.0 + 0.0 + 0.0) / 3)


@pytest.mark.parametrize(
    ("partial", "seed", "expected"), [(0.9, 0, "yes"), (0.0, 0, "no"), (0.07, 1, "inconclusive")]
)
def test_the_verdict_is_that_of_the_intervals(partial: float, seed: int, expected: str) -> None:
    n_facts = 60 if expected == "inconclusive" else 300
    table = study(seed, partial=partial, n_facts=n_facts)
    if expected == "yes":  # no layer is better than another: only the fact matters
        table["rewrite"] -= table.groupby("layer")["rewrite"].transform("mean")
    regression, choice = regress(table, n_resamples=199), choose_layers(table)
    words = describe(regression, choice)
    assert tells_which_layer(regression, choice) == expected
    answers = {"yes": "does tell which", "no": "does not tell which", "inconclusive": "stays open"}
    assert [name for name, answer in answers.items() if answer in words] == [expected]
    assert isinstance(choice.fixed.interval, Interval)
    assert f"{choice.fixed.interval.low:+.2f} to {choice.fixed.interval.high:+.2f}" in words


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("n_facts", "n_layers", "n_constant"), [(30, 12, 0), (60, 6, 0), (30, 12, 5)]
)
def test_the_clustered_test_rejects_a_useless_effect_at_its_rate(
    n_facts: int, n_layers: int, n_constant: int
) -> None:
    n, generator = 120, np.random.default_rng(0)
    rejected = 0
    for _ in range(n):
        y, x = generator.normal(size=(2, n_facts, n_layers))
        y[:, :n_constant] *= 1e-12  # every fact has one score there
        rejected += _least_squares(y, x)[-1] <= 0.05
    assert rejected <= at_most(0.08, n)  # Hotelling's covariance is the sandwich's: nearly exact


def test_no_slope_is_tested_where_there_is_none_or_more_than_facts() -> None:
    y, x = np.random.default_rng(0).normal(size=(2, 12, 12))
    assert np.isnan(_least_squares(y, x)[-1])
    assert np.isnan(_least_squares(y, np.ones_like(x))[-2:]).all()
