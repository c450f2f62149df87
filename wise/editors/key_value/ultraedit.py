"""UltraEdit: a turn is one closed form of hidden states and gradients, normalised over the stream.

Gu et al. 2025, arXiv 2505.14679. No value is optimised and no covariance is taken: a turn costs one
forward and backward of its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from wise.editors.base import ErasableBase, added, edits_of, factory, floats, live
from wise.editors.key_value.memit import balanced
from wise.editors.options import Checked, Fraction, Units
from wise.edits import Edit
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.tail import Tail
from wise.lm.tokens import Batch, encode

__all__ = [
    "PRESETS", "Features", "Statistics", "UltraEdit", "UltraEditConfig", "UltraState", "features",
    "make", "wanted",
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
class UltraState:
    """The state after the turns so far: replaced as a whole, its tensors never written to."""

    edits: tuple[Edit, ...] = ()
    turns: tuple[tuple[Edit, ...], ...] = ()
    statistics: Statistics | None = None  # None before the first turn
    changes: Mapping[int, Float[Tensor, "M D"]] = field(default_factory=dict)  # of W_v, by layer


@dataclass(frozen=True, slots=True)
class Features:
    """W_v of one block at n predicted tokens, in float64."""

    h: Float[Tensor, "n M"]  # its input
    v: Float[Tensor, "n D"]  # d(-log p of the targets) / d(its output)

    @property
    def both(self) -> Float[Tensor, "n M+D"]:
        return torch.cat([self.h, self.v], -1)


def features(lm: LanguageModel, layers: Sequence[int], batch: Batch) -> list[Features]:
    """h and v of some blocks, lowest first, at the labelled positions of `batch`.

    The loss is the sum over all labels, so that the v of an edit does not depend on the others.
    """
    tail = Tail.capture(lm, layers[0], batch)
    at = tail.rows, tail.columns
    shifts = [torch.zeros_like(tail.value).requires_grad_() for _ in layers]
    inputs = {layers[0]: tail.inputs}

    def shifted(layer: int, shift: Tensor, seen: Tensor, value: Tensor) -> Tensor:
        inputs[layer] = seen.detach().view(*shift.shape[:2], -1)  # B T M
        return value + shift.view(value.shape)

    with torch.enable_grad(), ExitStack() as stack:
        for layer, shift in zip(layers[1:], shifts[1:], strict=True):
            part = lm.part(layer, "value")
            stack.enter_context(hooks.replace(part, partial(shifted, layer, shift)))
        logits = tail.logits(tail.value + shifts[0]).float()
        loss = nn.functional.cross_entropy(logits, tail.labels, reduction="sum")
    gradients = torch.autograd.grad(loss, shifts)
    return [
        Features(inputs[layer][at].double(), v[at].double())
        for layer, v in zip(layers, gradients, strict=True)
    ]


def wanted(normalised: Float[Tensor, "n M+D"], n_inner: int, *, lr: float) -> Float[Tensor, "n D"]:
    """V' = -eta |h^|^2 v^ by row: what the output of W_v is to move by there.

    `normalised` is [h^; v^], h^ its first M = `n_inner` features. Source: UltraEdit, as released.
    """
    h, v = normalised[:, :n_inner], normalised[:, n_inner:]
    return -lr * h.square().sum(-1, keepdim=True) * v


class UltraEdit(ErasableBase[UltraEditConfig, UltraState]):
    """Each turn adds Delta = (H^T H + lambda I)^-1 H^T V', with its own H, not normalised.

    The statistics of [h; v] take the turn in before it is normalised, and serve all edited blocks,
    in whose W_v they are of one shape (as released). They are all that a turn knows of earlier
    ones. Edits are removed by making the other turns again, one pass each.
    """

    empty = UltraState()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        config = self.config
        centre = round(config.depth * (self.lm.n_layers - 1))
        layer = centre if config.layer is None else config.layer
        self.layers = self.lm.around(layer, config.n_layers)

    def _after(self, state: UltraState, edits: tuple[Edit, ...]) -> UltraState:
        config, M = self.config, self._shape[0]
        batch = self._encoded([e.prompt for e in edits], [e.target for e in edits])
        with added(self.lm, state.changes):
            found = features(self.lm, self.layers, batch)
        statistics = state.statistics or Statistics.start(sum(self._shape), self.lm.device)
        for rows in found:
            statistics = statistics.joined(rows.both)
        changes = dict(state.changes)
        for layer, rows in zip(self.layers, found, strict=True):
            lr, ridge = config.lr, config.ridge
            if config.units == "model":
                square = float(rows.h.square().sum(-1).mean())
                entries = float(self.lm.value_weight(layer).detach().float().square().mean())
                lr *= (entries * square) ** 0.5 / M
                ridge *= square
            V = wanted(statistics.normalised(rows.both), M, lr=lr)
            change = balanced(rows.h.T, rows.h, V, weight=ridge)
            if not bool(change.isfinite().all()):
                raise ValueError(f"the change of W_v at layer={layer} is not finite")
            earlier = changes.get(layer, torch.zeros(())).double()
            changes[layer] = (earlier + change).float()
        return UltraState(live(state.edits, edits), (*state.turns, edits), statistics, changes)

    def _without(self, state: UltraState, prompts: frozenset[str]) -> UltraState:
        turns = (tuple(e for e in turn if e.prompt not in prompts) for turn in state.turns)
        return reduce(self._after, filter(None, turns), self.empty)

    def _encoded(self, prompts: Sequence[str], targets: Sequence[str]) -> Batch:
        return encode(
            self.tokenizer, prompts, targets, append_eos=self.config.append_eos,
            max_length=self.lm.context_length,
        ).to(self.lm.device)  # fmt: skip

    @property
    def _shape(self) -> tuple[int, int]:
        """M D."""
        inner, hidden = self.lm.value_weight(self.layers[0]).shape
        return inner, hidden

    def _weights(self, state: UltraState) -> Mapping[int, Float[Tensor, "M D"]]:
        return state.changes

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        return added(self.lm, self._weights(self._state))

    def _record(self, state: UltraState) -> dict[str, Any]:
        n = 0 if state.statistics is None else state.statistics.n
        turns = [[asdict(edit) for edit in turn] for turn in state.turns]
        return {"turns": turns, "n_rows": n}

    def _tensors(self, state: UltraState) -> dict[str, Tensor]:
        if state.statistics is None:
            return {}
        changes = {f"change.{layer}": change for layer, change in state.changes.items()}
        return {"mean": state.statistics.mean, "variance": state.statistics.variance, **changes}

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> UltraState:
        turns = tuple(edits_of({"edits": turn}) for turn in record["turns"])
        if not turns:
            return UltraState()
        mean, variance = (floats(tensors, name, sum(self._shape)) for name in ("mean", "variance"))
        changes = {layer: floats(tensors, f"change.{layer}", *self._shape) for layer in self.layers}
        statistics = Statistics(int(record["n_rows"]), mean, variance)
        return UltraState(reduce(live, turns, ()), turns, statistics, changes)


make = factory(UltraEdit, UltraEditConfig, PRESETS)
