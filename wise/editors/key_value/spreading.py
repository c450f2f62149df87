"""Values spread over the W_v of several neighbouring blocks: what MEMIT and AlphaEdit share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from wise.editors.base import added
from wise.editors.key_value.associative import AssociativeEditor, KeyValueState
from wise.editors.key_value.keyvalue import KeyValueConfig, read
from wise.editors.options import require_whole
from wise.edits import Edit
from wise.lm.architectures import LanguageModel

__all__ = ["SpreadConfig", "SpreadingEditor", "through_norm"]

_RELEASED_SHARE = 5 / 32  # blocks 4-8 of 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadConfig(KeyValueConfig):
    """KeyValueConfig and over which blocks a value is spread; defaults are MEMIT's released ones.

    n_layers: how many neighbouring blocks share the change, the centre at `layer`, cut off at the
        model's ends (Hase et al.); None = five of 32, at least one.
    """

    depth: float = 0.19
    clamp: float = 0.75
    n_steps: int = 25
    n_layers: int | None = None

    def __post_init__(self) -> None:
        super(SpreadConfig, self).__post_init__()
        if self.n_layers is not None:
            require_whole(self, n_layers=1)


Config = TypeVar("Config", bound=SpreadConfig)


class SpreadingEditor(AssociativeEditor[Config]):
    """Meets the values optimised behind the highest edited block by steps in every edited block."""

    site = "stream"

    def _layers(self) -> tuple[int, ...]:
        config, depth = self.config, self.lm.n_layers
        centre = round(config.depth * (depth - 1)) if config.layer is None else config.layer
        n = config.n_layers or max(1, round(_RELEASED_SHARE * depth))
        return self.lm.around(centre, n)

    @abstractmethod
    def _change(
        self,
        layer: int,
        keys: Float[Tensor, "N M"],
        residual: Float[Tensor, "N D"],
        earlier: Float[Tensor, "n M"] | None,
    ) -> Float[Tensor, "M D"]:
        """What a block's W_v gets, so that its outputs at `keys` move by `residual`."""

    def _spread(self, state: KeyValueState, edits: tuple[Edit, ...]) -> dict[int, Tensor]:
        """The change of W_v at each block after a turn. Source: MEMIT algorithm 1."""
        top, changes, facts = self.layers[-1], dict(state.changes), self.facts
        kept = self._kept(state, edits)
        values = self._values(state, edits)
        for index, layer in enumerate(self.layers):
            with added(self.lm, changes):
                here, above = read(facts, (layer, top), edits)
            step = (values - above.stream) / (len(self.layers) - index)
            residual = through_norm(self.lm, layer, here.value, step)
            earlier = state.keys[layer][kept].double() if layer in state.keys else None
            change = self._change(layer, here.key, residual, earlier)
            changes[layer] = self._weight_of(change, layer, state)
        return changes


def through_norm(
    lm: LanguageModel, layer: int, value: Float[Tensor, "N D"], step: Float[Tensor, "N D"]
) -> Float[Tensor, "N D"]:
    """The change of W_v's output that moves the stream by `step`, or as far as a norm allows.

    A norm between W_v and the stream, g v / rms(v), fixes the length of what it lets through.
    """
    if not lm.architecture.value_norm:
        return step
    dtype = lm.value_weight(layer).dtype
    gain = lm.value_norm(layer, torch.ones_like(value, dtype=dtype)).double()
    aim = (lm.value_norm(layer, value.to(dtype)).double() + step) / gain
    length = value.norm(dim=-1, keepdim=True) / aim.norm(dim=-1, keepdim=True)
    return aim * length - value
