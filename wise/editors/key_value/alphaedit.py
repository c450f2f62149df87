"""AlphaEdit: MEMIT's update, projected onto the null space of the background's keys.

Fang et al., ICLR 2025, arXiv 2410.02355.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from wise.editors.base import added, factory, live
from wise.editors.key_value.associative import KeyValueState, SpreadConfig, SpreadingEditor
from wise.editors.key_value.keyvalue import read
from wise.editors.options import Units
from wise.edits import Edit

__all__ = ["PRESETS", "AlphaEdit", "AlphaEditConfig", "make", "null_basis", "preserving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaEditConfig(SpreadConfig):
    """SpreadConfig and AlphaEdit's own; defaults are the released ones.

    null_threshold: directions of C up to this eigenvalue are free to change (released: .02).
    l2: weight of the norm of the change against the keys (released: 10).
    units: both "absolute" (released), or in units of the "model": the threshold in mean eigenvalues
        of C, l2 in mean squared norms of a key. One preset then fits models of any scale.
    """

    n_steps: PositiveInt = 25
    lr: PositiveFloat = 0.1
    null_threshold: PositiveFloat = 0.02
    l2: PositiveFloat = 10.0
    units: Units = "absolute"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The trained models look a fact up where they answer, see ROME.
    "embedded": dict(
        fact_token="last",
        depth=0.6,
        n_layers=1,
        lr=0.5,
        n_prefixes=0,
        units="model",
        null_threshold=0.1,
        l2=0.001,
    ),
    "released": {},
}


def null_basis(
    eigenvalues: Float[Tensor, " M"], vectors: Float[Tensor, "M M"], threshold: float
) -> Float[Tensor, "M r"]:
    """Q with Q Q^T = P: the eigenvectors of C whose eigenvalues do not exceed `threshold`.

    Raises ValueError where there is none. Source: AlphaEdit section 3.1, released threshold.
    """
    free = eigenvalues <= threshold
    if not bool(free.any()):
        least = float(eigenvalues.min())
        raise ValueError(f"null_threshold={threshold} is below C's least eigenvalue {least}")
    return vectors[:, free]


def preserving(
    basis: Float[Tensor, "M r"],
    keys: Float[Tensor, "N M"],
    residual: Float[Tensor, "N D"],
    earlier: Float[Tensor, "n M"],
    *,
    l2: float,
) -> Float[Tensor, "M D"]:
    """argmin over X of |K P X - R|^2 + |K_p P X|^2 + l2 |P X|^2, as P X; P = Q Q^T.

    Source: AlphaEdit eq. 13, by the push-through identity.
    """
    free = torch.cat([earlier, keys]) @ basis  # n+N r
    gram = free @ free.T
    gram.diagonal().add_(l2)
    wanted = torch.cat([residual.new_zeros(len(earlier), residual.shape[1]), residual])
    return basis @ (free.T @ torch.linalg.solve(gram, wanted))


class AlphaEdit(SpreadingEditor[AlphaEditConfig]):
    """Each turn also preserves the keys K_p of the earlier ones, as they were after their turn.

    The keys of an edit leave K_p when its prompt is edited again; in the released code they stay,
    and hold back the new target.
    """

    keeps_keys = True

    def _edited(self, state: KeyValueState, edits: tuple[Edit, ...]) -> KeyValueState:
        changes = self._spread(state, edits)
        kept = self._kept(state, edits)
        preserved: dict[int, Tensor] = {}
        with added(self.lm, changes):
            found = read(self.facts, self.layers, edits)
        for layer, stood in zip(self.layers, found, strict=True):
            earlier = [state.keys[layer][kept]] if layer in state.keys else []
            preserved[layer] = torch.cat([*earlier, stood.key.float()])
        return KeyValueState(live(state.edits, edits), changes, preserved)

    def _change(
        self, layer: int, keys: Tensor, residual: Tensor, earlier: Tensor | None
    ) -> Float[Tensor, "M D"]:
        basis, unit = self._basis(layer)
        earlier = keys[:0] if earlier is None else earlier
        return preserving(basis, keys, residual, earlier, l2=self.config.l2 * unit)

    def _basis(self, layer: int) -> tuple[Float[Tensor, "M r"], float]:
        """Q and the unit of l2."""
        if layer not in self._bases:
            values, vectors = self.covariance.spectrum(layer)
            total = float(values.sum()) if self.config.units == "model" else 1.0
            mean = total / len(values) if self.config.units == "model" else 1.0
            threshold = self.config.null_threshold * mean
            self._bases[layer] = null_basis(values, vectors, threshold), total
        return self._bases[layer]

    @cached_property
    def _bases(self) -> dict[int, tuple[Tensor, float]]:
        return {}


make = factory(AlphaEdit, AlphaEditConfig, PRESETS, own=("corruption",))
