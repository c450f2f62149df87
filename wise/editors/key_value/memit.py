"""MEMIT: many facts written at once, their values spread over several W_v.

Meng et al., ICLR 2023, arXiv 2210.07229. One edit per turn is the sequential use of the method, all
edits in one turn its mass use. PRUNE and RECT are MEMIT with its changes restrained, and AnyEdit is
MEMIT with a value for each chunk of a long target (Jiang et al., ICML 2025, arXiv 2502.05628).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from wise.editors.base import factory
from wise.editors.key_value.associative import SpreadConfig, SpreadingEditor

__all__ = [
    "ANYEDIT", "MEMIT", "PRESETS", "RESTRAINED", "MEMITConfig", "balanced", "make", "make_anyedit",
    "make_prune", "make_rect",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MEMITConfig(SpreadConfig):
    """SpreadConfig and MEMIT's own.

    covariance_weight: lambda, the weight of C against the new keys, in inner widths M: the mean of
        k^T C^-1 k over the background is M in any model (released: 15,000 where M is 16,384).
    """

    covariance_weight: PositiveFloat = 0.92


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The embedded models look a fact up at the last prompt token, see ROME.
    "embedded": dict(
        fact_token="last", depth=0.55, n_layers=1, covariance_weight=0.005, n_prefixes=0
    ),
    "released": {},
}
# MEMIT restrained. PRUNE's paper tunes its base, and released code has e; in the embedded models a
# single fact takes ten times the largest singular value of W_v. RECT's share is chosen by hand.
RESTRAINED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "prune": {
        "embedded": dict(PRESETS["embedded"], restraint=1.006),
        "released": dict(PRESETS["released"], restraint=math.e),
    },
    "rect": {name: dict(preset, kept_share=0.4) for name, preset in PRESETS.items()},
}
# A value for each chunk, and the outputs at all other tokens of an edit's text preserved. In the
# embedded models a value brings about the next token alone.
ANYEDIT: Mapping[str, Mapping[str, Any]] = {
    "embedded": dict(PRESETS["embedded"], chunk=1, protects=True),
    "released": dict(
        PRESETS["released"], chunk=40, protects=True, fact_token="last", early_stop=0.01
    ),
}


def balanced(
    solved: Float[Tensor, "M N"],
    keys: Float[Tensor, "N M"],
    residual: Float[Tensor, "N D"],
    *,
    weight: float,
) -> Float[Tensor, "M D"]:
    """argmin over X of |K X - R|^2 + weight tr(X^T C X), where `solved` is C^-1 K^T.

    Source: MEMIT eq. 14, by the push-through identity: N x N instead of M x M.
    """
    gram = keys @ solved  # N N
    gram.diagonal().add_(weight)
    return solved @ torch.linalg.solve(gram, residual)


class MEMIT(SpreadingEditor[MEMITConfig]):
    """Each turn is solved as a whole, on top of earlier ones but without their keys (as released).

    A prompt edited again gets its new target: the residual is measured on the edited model.
    """

    def _change(
        self, layer: int, keys: Tensor, residual: Tensor, earlier: Tensor | None
    ) -> Float[Tensor, "M D"]:
        weight = self.config.covariance_weight * keys.shape[1]
        solved = self.covariance.solve(layer, keys.T)
        return balanced(solved, keys, residual, weight=weight)


_factory = partial(factory, MEMIT, MEMITConfig, own=("corruption",))
make = _factory(PRESETS)
make_anyedit = _factory(ANYEDIT)
make_prune = _factory(RESTRAINED["prune"])
make_rect = _factory(RESTRAINED["rect"])
