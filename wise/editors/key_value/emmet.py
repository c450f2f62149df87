"""EMMET: the facts of a turn, each written exactly, by the least change of what else is stored.

Gupta et al. 2024, arXiv 2403.14236.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from wise.editors.base import factory
from wise.editors.key_value.associative import SpreadConfig, SpreadingEditor
from wise.editors.key_value.rome import least_change

__all__ = ["EMMET", "PRESETS", "make"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "embedded": dict(fact_token="last", depth=0.55, n_layers=1, n_prefixes=0),
    "released": {},
}


class EMMET(SpreadingEditor[SpreadConfig]):
    """MEMIT with its least squares in place of a constraint: each new key meets its value."""

    def _change(
        self,
        layer: int,
        keys: Float[Tensor, "N M"],
        residual: Float[Tensor, "N D"],
        earlier: Float[Tensor, "n M"] | None,
    ) -> Float[Tensor, "M D"]:
        return least_change(self.covariance.solve(layer, keys.T), keys, residual)


make = factory(EMMET, SpreadConfig, PRESETS, own=("corruption",))
