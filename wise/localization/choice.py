"""Which layer to edit: tracing's choice against a fixed layer, a random one and the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from wise.localization.analysis import Regression
from wise.measures.statistics import Interval

__all__ = ["Choice", "LayerChoice", "choose_layers", "describe", "tells_which_layer"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The mean score of one way to choose, and the advantage of tracing's choice over it."""

    score: float
    advantage: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """Scores by the way in which each fact's layer was chosen.

    `tracing`: at the layer of its largest effect. `fixed`: at the layer that is best on average for
    the other facts. `rule`: at one given layer. `random`: at any layer, all with the same tuning.
    `oracle`: at the fact's own best layer; tracing's regret is minus its advantage over it.
    """

    tracing: float
    fixed: Choice
    random: Choice
    oracle: Choice
    rule: Choice | None


def choose_layers(
    table: pd.DataFrame,
    outcome: str = "rewrite",
    *,
    rule: int | None = None,
    confidence: float = 0.95,
) -> LayerChoice:
    """The scores of each way to choose. `rule` is a layer of the table.

    Intervals are Student's, over facts. Ties go to the lowest layer. Raises ValueError for a rule
    outside the table's layers. Source: Hase et al. 2023, section 4.1, which states the comparison
    in words.
    """
    scores = table.pivot(index="fact", columns="layer", values=outcome)
    effects = table.pivot(index="fact", columns="layer", values="tracing").to_numpy(float)
    layers, y = [int(layer) for layer in scores.columns], scores.to_numpy(float)
    if rule is not None and rule not in layers:
        raise ValueError(f"rule={rule!r} is none of the layers {', '.join(map(str, layers))}")
    facts = np.arange(len(y))
    tracing = y[facts, effects.argmax(1)]
    others = (y.sum(0) - y).argmax(1)  # best for all facts but the row's

    def against(chosen: np.ndarray) -> Choice:
        difference = tracing - chosen
        mean = float(difference.mean())
        if np.ptp(difference) == 0:
            return Choice(float(chosen.mean()), mean, Interval(mean, mean))
        low, high = stats.ttest_1samp(difference, 0.0).confidence_interval(confidence)
        return Choice(float(chosen.mean()), mean, Interval(float(low), float(high)))

    return LayerChoice(
        float(tracing.mean()),
        fixed=against(y[facts, others]),
        random=against(y.mean(1)),
        oracle=against(y.max(1)),
        rule=None if rule is None else against(y[:, layers.index(rule)]),
    )


def tells_which_layer(
    regression: Regression, choice: LayerChoice, *, least: float = 0.05
) -> Literal["yes", "no", "inconclusive"]:
    """Whether tracing tells which layer to edit, by intervals alone.

    Yes: its choice scores above the best fixed layer, and it explains at least the share `least` of
    what the layer leaves. No: its choice does not score above, and it explains less. Otherwise
    inconclusive.
    """
    explains, gains = regression.partial_r2_interval, choice.fixed.interval
    if gains.low > 0 and explains.low >= least:
        return "yes"
    if gains.high <= 0 and explains.high < least:
        return "no"
    return "inconclusive"


_ANSWERS = {
    "yes": "Here tracing does tell which layer to edit.",
    "no": "Here tracing does not tell which layer to edit.",
    "inconclusive": "Whether tracing tells which layer to edit stays open here.",
}


def describe(
    regression: Regression, choice: LayerChoice, *, outcome: str = "rewrite", least: float = 0.05
) -> str:
    """One paragraph of words; every claim follows from an interval."""
    share = f"{regression.confidence:.0%}"
    explains = regression.partial_r2_interval
    if explains.high < least:
        size = f"less than {least:.0%}"
    elif explains.low >= least:
        size = f"at least {explains.low:.0%}"
    else:
        size = f"an undecided share, {_said(explains)}, {share} interval,"
    unseen = regression.held_out_interval
    predicts = (
        "It predicts facts not seen before" if unseen.low > 0
        else "It predicts facts not seen before no better than the layer alone" if unseen.high <= 0
        else "Whether it helps to predict facts not seen before is undecided"
    )  # fmt: skip
    gains = choice.fixed.interval
    where = (
        "scores above" if gains.low > 0 else "scores below" if gains.high < 0
        else "is not told apart from"
    )  # fmt: skip
    return (
        f"Over {regression.n_facts} facts and {regression.n_layers} layers, the tracing effect "
        f"explains {size} of the variation of {outcome} that the layer leaves. {predicts}. Editing "
        f"each fact where tracing points {where} editing all at the best fixed layer "
        f"(difference {_said(gains)}, {share} interval). "
        f"{_ANSWERS[tells_which_layer(regression, choice, least=least)]}"
    )


def _said(interval: Interval) -> str:
    return f"{interval.low:+.2f} to {interval.high:+.2f}"
