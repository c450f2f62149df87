"""MEND: a network that was trained on the background turns an edit's gradient into its update.

Mitchell et al. 2022, arXiv 2110.11309. The gradient of W_v is a sum over tokens of u delta^T; the
network maps each (u, delta) to (u~, delta~), and an edit adds -alpha sum u~ delta~^T. The minus is
the paper's: the released code adds, so that its untrained network raises the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from wise.editors.base import factory
from wise.editors.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    HypernetworkEditor,
    Reading,
    Training,
)
from wise.editors.options import is_large
from wise.seeds import seeded

__all__ = ["MEND", "PRESETS", "MENDConfig", "MENDTraining", "Network", "make"]

_N_BLOCKS = 2  # of the network


@dataclass(frozen=True, slots=True, kw_only=True)
class MENDConfig(HypernetworkConfig):
    """How the network is made and trained. Raises as HypernetworkConfig, whose options it has
    (released: three blocks, and both matrices of their MLPs; 10 turns and one other text a step,
    until the validation loss no longer falls, which takes some 10^5 steps).

    rank: of the network's two weights, at most its width M + D (released: 1,920).
    scale: alpha at the start, one number a block, which is learned (released: 1e-4).
    units: that of the model is for alpha the root mean square of W_v's entries.
    lr, scale_lr: rates for the network (released: 1e-6) and, relative, for alpha.
    n_edits: of a turn (released: 1).
    edit_weight, locality_weight: c_e of -log p of a turn's edits in other words, and c_loc of the
        divergence from the unedited model on texts that they must leave alone (released: .1, 1).
    """

    rank: PositiveInt = 1920
    scale: PositiveFloat = 1e-4
    lr: NonNegativeFloat = 1e-6
    scale_lr: NonNegativeFloat = 1e-2
    n_edits: PositiveInt = 1
    edit_weight: NonNegativeFloat = 0.1
    locality_weight: NonNegativeFloat = 1.0


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Chosen on tuning streams; "real" on SmolLM2, whose atlas has some 500 edits to train on.
    "embedded": dict(
        n_layers=1, rank=64, scale=0.05, units="model", n_steps=40, lr=1e-4, n_turns=8,
        edit_weight=1.0, n_others=3,
    ),
    "real": dict(
        rank=128, scale=0.002, units="model", n_steps=250, lr=2e-4, n_turns=4, edit_weight=0.3,
    ),
    "released": {},
}  # fmt: skip


@dataclass(frozen=True)
class Network(Hypernetwork):
    """g, which maps [u; delta] of a token, of width F = M + D, to [u~; delta~].

    Two blocks h + max(0, s (U V h + b) + o), in which s and o are of each of the L edited matrices
    and all else is shared. Source: MEND section 3.2, and the released configuration.
    """

    mean: Float[Tensor, " F"]
    deviation: Float[Tensor, " F"]
    alpha: Float[Tensor, " L"]
    U: Float[Tensor, "2 F R"]
    V: Float[Tensor, "2 R F"]
    b: Float[Tensor, "2 F"]
    s: Float[Tensor, "2 L F"]
    o: Float[Tensor, "2 L F"]

    @classmethod
    def start(
        cls, rows: Sequence[Float[Tensor, "n F"]], *, rank: int, alpha: Sequence[float], seed: int
    ) -> Network:
        """The identity (U = 0), normalised by the rows of all edited matrices together."""
        every = torch.cat([*rows]).double()
        F, L, device = every.shape[1], len(rows), every.device
        V = torch.randn(_N_BLOCKS, min(rank, F), F, generator=seeded(seed, "network"))
        zeros = partial(torch.zeros, device=device)
        return cls(
            every.mean(0).float(), every.std(0, correction=0).float(),
            torch.tensor(alpha, device=device), zeros(_N_BLOCKS, F, V.shape[1]), V.to(device),
            zeros(_N_BLOCKS, F), 1 + zeros(_N_BLOCKS, L, F), zeros(_N_BLOCKS, L, F),
        )  # fmt: skip

    def normalised(self, rows: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        return (rows - self.mean) / (self.deviation + 1e-7)

    def __call__(self, rows: Float[Tensor, "n F"], index: int) -> Float[Tensor, "n F"]:
        """[u~; delta~] of the tokens of edited matrix `index`."""
        h = self.normalised(rows)
        for U, V, b, s, o in zip(self.U, self.V, self.b, self.s, self.o, strict=True):
            # clamp and not relu, whose gradient at 0 is 0: U would stay 0.
            h = h + (s[index] * (h @ V.T @ U.T + b) + o[index]).clamp(min=0)
        return h

    def factors(
        self, turns: Sequence[Sequence[Reading]], index: int, n_inner: int
    ) -> list[Float[Tensor, "n F"]]:
        """u~ and -alpha delta~ of the tokens of each turn's edits together."""
        rows = [torch.cat([reading[index] for reading in turn]) for turn in turns]
        u, delta = self(torch.cat(rows), index).tensor_split([n_inner], dim=-1)
        scaled = torch.cat([u, -self.alpha[index] * delta], -1)
        return list(scaled.split([*map(len, rows)]))


class MEND(HypernetworkEditor[MENDConfig, Network]):
    """Each turn adds the network's change of the summed gradient of its edits.

    The paper edits once: of earlier turns the network sees no more than the edited model.
    """

    kind = Network

    def training(self) -> MENDTraining:
        return MENDTraining(self, self._lessons(), self.config.n_edits)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        F, L, B = sum(self._shape), len(self.layers), _N_BLOCKS
        R = min(self.config.rank, F)
        return dict(
            mean=(F,), deviation=(F,), alpha=(L,), U=(B, F, R), V=(B, R, F), b=(B, F), s=(B, L, F),
            o=(B, L, F),
        )  # fmt: skip


@dataclass(frozen=True)
class MENDTraining(Training[Network]):
    """How MEND's network is trained. Source: MEND eq. 4 and algorithm 1."""

    @cached_property
    def start(self) -> Network:
        editor, config = self.editor, self.editor.config
        rows = [torch.cat(of_layer) for of_layer in zip(*self.readings, strict=True)]
        alpha = [config.scale * editor.unit(layer) for layer in editor.layers]
        return Network.start(rows, rank=config.rank, alpha=alpha, seed=editor.seed)

    def learned(self) -> Mapping[str, tuple[Tensor, float]]:
        config, found = self.editor.config, dict[str, tuple[Tensor, float]]()
        for name, each in self.start.tensors.items():
            if name == "alpha":  # relative to the start
                found[name] = torch.ones_like(each), config.scale_lr
            elif name not in ("mean", "deviation"):
                found[name] = each, config.lr
        return found

    def network(self, learned: Mapping[str, Tensor]) -> Network:
        return replace(self.start, **{**learned, "alpha": self.start.alpha * learned["alpha"]})

    def objective(self, learned: Mapping[str, Tensor], step: int) -> Float[Tensor, ""]:
        return self.loss(self.network(learned), step)

    def loss(self, network: Network, step: int) -> Float[Tensor, ""]:
        """c_e L_e + c_loc L_loc of a step's turns."""
        L_e, L_loc = self.losses(network, self.turns(step))
        config = self.editor.config
        return config.edit_weight * L_e + config.locality_weight * L_loc


make = factory(
    MEND, MENDConfig, PRESETS, default=lambda model: "real" if is_large(model) else "embedded"
)
