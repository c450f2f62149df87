"""ROME: a fact written into one W_v, with the least change to what else it stores; and R-ROME.

Meng et al., NeurIPS 2022, arXiv 2202.05262. R-ROME: Gupta et al., EMNLP 2024, arXiv 2403.07175.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wise.editors.base import added, factory, live
from wise.editors.key_value.associative import AssociativeEditor, KeyValueState
from wise.editors.key_value.keyvalue import KeyValueConfig, read
from wise.edits import Edit

__all__ = ["PRESETS", "ROME", "R_ROME", "ROMEConfig", "least_change", "make", "make_r_rome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ROMEConfig(KeyValueConfig):
    """KeyValueConfig and ROME's own.

    one_key: where the value is met: at the key's mean over prefixes k_e, to which C^-1 is applied
        in any case (R-ROME; ROME eq. 2), or at the bare prompt's key k_o (False: ROME's released
        code). Without prefixes both are one.
    """

    one_key: bool = False


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The embedded models look a fact up at the last prompt token; in some of them a change at the
    # subject's last token cannot bring about a new answer.
    "embedded": dict(fact_token="last", depth=0.6, clamp=20.0, n_steps=40, n_prefixes=0),
    "released": {},
}
R_ROME: Mapping[str, Mapping[str, Any]] = {
    "embedded": {**PRESETS["embedded"], "n_prefixes": 5, "one_key": True},
    "released": {**PRESETS["released"], "one_key": True},
}


_RTOL = 1e-6  # keys that differ by less, the error of float32, are one key


def least_change(
    directions: Float[Tensor, "M N"], at: Float[Tensor, "N M"], residual: Float[Tensor, "N D"]
) -> Float[Tensor, "M D"]:
    """The change in the span of `directions` that moves the outputs at the keys by `residual`.

    With directions C^-1 k at their keys it is the least change of the stored outputs, in the norm
    of C. Contradictory requests are met in the least-squares sense. Source: ROME eq. 2; several
    facts at once: Gupta et al. 2024, arXiv 2403.14236, eq. 11.
    """
    inverse = torch.linalg.pinv(at @ directions, rtol=_RTOL)
    return directions @ (inverse @ residual)


class ROME(AssociativeEditor[ROMEConfig]):
    """Each turn is one closed-form update; the last write of a key wins, exactly.

    It adds (v* - W k) (C^-1 k_e)^T / (k_e^T C^-1 k), where k is k_o or, with `one_key`, k_e. A turn
    of several edits is solved as one.
    """

    site = "value"

    def _edited(self, state: KeyValueState, edits: tuple[Edit, ...]) -> KeyValueState:
        (layer,) = self.layers
        values = self._values(state, edits)
        with added(self.lm, state.changes):
            (stood,) = read(self.facts, [layer], edits)
        directions = self.covariance.solve(layer, stood.key.T)
        one_key = self.config.one_key
        key, value = (stood.key, stood.mean_value) if one_key else (stood.inputs, stood.value)
        change = least_change(directions, key, values - value)
        return KeyValueState(
            live(state.edits, edits), {layer: self._weight_of(change, layer, state)}
        )


make = factory(ROME, ROMEConfig, PRESETS, own=("corruption",))
make_r_rome = factory(ROME, ROMEConfig, R_ROME, own=("corruption",))
