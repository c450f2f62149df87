"""UltraEdit: a turn is one closed form of hidden states and gradients, normalised over the stream.

Gu et al. 2025, arXiv 2505.14679. No value is optimised and no covariance is taken: a turn costs one
forward and backward of its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from wise.editors.base import factory, floats, summed
from wise.editors.key_value.memit import balanced
from wise.editors.options import Checked, Fraction, Units
from wise.editors.stepped import SteppedEditor, SteppedState
from wise.edits import Edit

__all__ = [
    "PRESETS", "Statistics", "UltraEdit", "UltraEditConfig", "UltraState", "make", "wanted",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class UltraEditConfig(Checked):
    """How a turn is solved. Raises ValueError naming the field, its value and what is allowed.

    layer, depth, n_layers: the blocks whose W_v is edited, `layer` (None: at `depth`, a share of
        the way from the first block to the last) at their centre, cut off at the model's ends
        (released: down_proj of blocks 29-30 of Mistral's 32, fc_out of 18-26 of GPT-J's 28).
    lr: eta, how far an output of W_v is moved against its gradient (released: 1e-6).
    ridge: lambda of H^T H + lambda I (released: 1).
    units: both "absolute" (released), or in units of the "model": lambda in the mean square norm of
        h, and eta in the root mean square of W_v's entries times that norm, over M, which is the
        mean of |h^|^2. One preset then fits models of any scale.
    append_eos: a target ends with EOS, so that free-run answers stop.
    """

    layer: int | None = None
    depth: Fraction = 0.97
    n_layers: PositiveInt = 2
    lr: NonNegativeFloat = 1e-6
    ridge: PositiveFloat = 1.0
    units: Units = "absolute"
    append_eos: bool = True


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "embedded": dict(depth=1.0, n_layers=1, lr=2.0, ridge=0.1, units="model"),
    "released": {},
}


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of each of F features over the n rows so far: lifelong normalisation.

    The first row is of zeros, and the variance that of the population, so that a first turn of one
    token has a scale: with neither, as released, it is not finite, and stays so.
    Source: UltraEdit's lifelong normalization.
    """

    n: int
    mean: Float[Tensor, " F"]
    variance: Float[Tensor, " F"]

    @classmethod
    def start(cls, n_features: int, device: torch.device) -> Statistics:
        zeros = torch.zeros(n_features, device=device)
        return cls(1, zeros, zeros)

    def joined(self, rows: Float[Tensor, "n F"]) -> Statistics:
        """Those of all rows, the new ones among them. Source: Chan et al. 1979."""
        n, share = self.n + len(rows), len(rows) / (self.n + len(rows))
        new, mean, variance = rows.double(), self.mean.double(), self.variance.double()
        off = new.mean(0) - mean
        variance = torch.lerp(variance, new.var(0, correction=0), share)
        variance = variance + share * (1 - share) * off.square()
        return Statistics(n, (mean + share * off).float(), variance.float())

    def normalised(self, rows: Float[Tensor, "n F"]) -> Float[Tensor, "n F"]:
        """(x - mu) / (sigma + 1e-7), in float64."""
        return (rows - self.mean.double()) / (self.variance.double().sqrt() + 1e-7)


@dataclass(frozen=True)
class UltraState(SteppedState):
    """The state after the turns so far, with the statistics of all their rows."""

    statistics: Statistics | None = None  # None before the first turn


def wanted(normalised: Float[Tensor, "n M+D"], n_inner: int, *, lr: float) -> Float[Tensor, "n D"]:
    """V' = -eta |h^|^2 v^ by row: what the output of W_v is to move by there.

    `normalised` is [h^; v^], h^ its first M = `n_inner` features. Source: UltraEdit, as released.
    """
    h, v = normalised[:, :n_inner], normalised[:, n_inner:]
    return -lr * h.square().sum(-1, keepdim=True) * v


class UltraEdit(SteppedEditor[UltraEditConfig, UltraState]):
    """Each turn adds Delta = (H^T H + lambda I)^-1 H^T V', with its own H, not normalised.

    H and V are of the predicted tokens. The statistics of [h; v] take the turn in before it is
    normalised, and serve all edited blocks, in whose W_v they are of one shape (as released). They
    are all that a turn knows of earlier ones.
    """

    empty = UltraState()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        config = self.config
        centre = round(config.depth * (self.lm.n_layers - 1))
        layer = centre if config.layer is None else config.layer
        self.layers = self.lm.around(layer, config.n_layers)

    def _after(self, state: UltraState, edits: tuple[Edit, ...]) -> UltraState:
        tail, found = self._gradients(state, edits)
        at = tail.rows, tail.columns
        rows = [(h[at].double(), v[at].double()) for h, v in found]
        statistics = state.statistics or Statistics.start(sum(self._shape), self.lm.device)
        for each in rows:
            statistics = statistics.joined(torch.cat(each, -1))
        changes = dict(state.changes)
        for layer, each in zip(self.layers, rows, strict=True):
            changes[layer] = summed(changes, layer, self._change(layer, *each, statistics))
        return UltraState((*state.turns, edits), changes, statistics)

    def _change(
        self, layer: int, h: Float[Tensor, "n M"], v: Float[Tensor, "n D"], statistics: Statistics
    ) -> Float[Tensor, "M D"]:
        """Delta of one block."""
        M, lr, ridge = self._shape[0], self.config.lr, self.config.ridge
        if self.config.units == "model":
            square = float(h.square().sum(-1).mean())
            entries = float(self.lm.value_weight(layer).detach().float().square().mean())
            lr *= (entries * square) ** 0.5 / M
            ridge *= square
        V = wanted(statistics.normalised(torch.cat([h, v], -1)), M, lr=lr)
        return balanced(h.T, h, V, weight=ridge)

    def _record(self, state: UltraState) -> dict[str, Any]:
        n = 0 if state.statistics is None else state.statistics.n
        return {**super()._record(state), "n_rows": n}

    def _tensors(self, state: UltraState) -> dict[str, Tensor]:
        if state.statistics is None:
            return {}
        found = {"mean": state.statistics.mean, "variance": state.statistics.variance}
        return {**found, **super()._tensors(state)}

    def _restored_with(
        self, state: SteppedState, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> UltraState:
        mean, variance = (floats(tensors, name, sum(self._shape)) for name in ("mean", "variance"))
        statistics = Statistics(int(record["n_rows"]), mean, variance)
        return UltraState(state.turns, state.changes, statistics)


make = factory(UltraEdit, UltraEditConfig, PRESETS)
