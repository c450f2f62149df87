"""KnowledgeEditor (KE, "EFK"): a network, trained under a bound on KL, gates an edit's gradient.

De Cao, Aziz and Titov, EMNLP 2021, arXiv 2104.08164. An edit takes
sigma(eta) (softmax(alpha) gamma^T * G + softmax(beta) zeta^T) off W_v, where G is its gradient, *
is by entry, and the five are the network's, conditioned on the edit: a gate of rank one on the
gradient, an offset of rank one, and a gate on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from wise.editors.base import factory
from wise.editors.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    HypernetworkEditor,
    HypernetworkState,
    Reading,
    Training,
)
from wise.editors.options import is_large
from wise.edits import Edit
from wise.seeds import seeded

__all__ = [
    "PRESETS", "Gates", "KEConfig", "KETraining", "KnowledgeEditor", "lagrangian", "make",
]  # fmt: skip

_FIXED = ("mean", "deviation", "unit", "scale")  # of the gates, what is not learned


@dataclass(frozen=True, slots=True, kw_only=True)
class KEConfig(HypernetworkConfig):
    """How the network is made and trained. Raises as HypernetworkConfig, whose options it has
    (released: every weight matrix but the embeddings; 64 turns a step, 200,000 steps).

    width: of h, the condition that all edited matrices share (released: 1,024).
    rank: of the layer between h and what a matrix is changed by (released: 128).
    scale: of a change (released: 1).
    units: that of the model is M times the root mean square of W_v's entries, for a gradient whose
        own is that of the background's edits.
    lr, multiplier_lr: rates for the network and the multiplier (released: 3e-4 of the former).
    margin: m, the mean divergence in nats a token from the unedited model, on texts that an edit
        must leave alone, above which the multiplier grows (released: 1e-3, falling to 1e-5).
    """

    width: PositiveInt = 1024
    rank: PositiveInt = 128
    scale: PositiveFloat = 1.0
    lr: NonNegativeFloat = 3e-4
    multiplier_lr: NonNegativeFloat = 0.1
    margin: NonNegativeFloat = 1e-3


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Chosen on tuning streams; "real" is one that was tried on ten edits of SmolLM2, no search.
    "embedded": dict(
        n_layers=1, width=128, rank=32, scale=0.1, units="model", n_steps=40, lr=1e-3, n_turns=8,
        n_others=3,
    ),
    "real": dict(
        width=256, rank=64, scale=0.003, units="model", n_steps=160, lr=3e-3, n_turns=4,
        multiplier_lr=0.03, margin=0.1,
    ),
    "released": dict(n_layers=99),  # all blocks
}  # fmt: skip


@dataclass(frozen=True)
class Gates(Hypernetwork):
    """What each of the L edited matrices is changed by, given an edit.

    h = tanh(E z + e), where z is the mean over the edit's tokens of [u; delta] at the highest
    matrix, of width F = M + D, normalised; and [alpha; beta; gamma; zeta; eta] of a matrix is
    O tanh(V h + v) + o. Source: section 3.2.
    """

    mean: Float[Tensor, " F"]
    deviation: Float[Tensor, " F"]
    unit: Float[Tensor, " L"]  # of the gradient
    scale: Float[Tensor, " L"]
    E: Float[Tensor, "H F"]
    e: Float[Tensor, " H"]
    V: Float[Tensor, "L R H"]
    v: Float[Tensor, "L R"]
    O: Float[Tensor, "L P R"]  # P = 2 F + 1
    o: Float[Tensor, "L P"]

    @classmethod
    def start(
        cls, readings: Sequence[Reading], *, n_inner: int, width: int, rank: int, seed: int
    ) -> Gates:
        """Half a gradient step: gamma = 1, and all else of the gates is 0.

        Conditions are normalised by those of `readings`; unit and scale are 1.
        """
        every = torch.cat([reading[-1] for reading in readings]).double()
        F, L, device = every.shape[1], len(readings[0]), every.device
        generator = seeded(seed, "gates")

        def drawn(*shape: int) -> Tensor:
            uniform = 2 * torch.rand(*shape, generator=generator) - 1
            return (uniform / shape[-1] ** 0.5).to(device)

        zeros = partial(torch.zeros, device=device)
        o = zeros(L, 2 * F + 1)
        o[:, 2 * n_inner : n_inner + F] = 1
        return cls(
            every.mean(0).float(), every.std(0, correction=0).float(), 1 + zeros(L), 1 + zeros(L),
            drawn(width, F), zeros(width), drawn(L, rank, width), zeros(L, rank),
            zeros(L, 2 * F + 1, rank), o,
        )  # fmt: skip

    def condition(self, readings: Sequence[Reading]) -> Float[Tensor, "N H"]:
        """h of each edit; where nothing has a gradient, that of z = 0."""
        normalised = [(each[-1] - self.mean) / (self.deviation + 1e-7) for each in readings]
        z = torch.stack([each.sum(0) / max(1, len(each)) for each in normalised])
        return torch.tanh(z @ self.E.T + self.e)

    def factors(
        self, turns: Sequence[Sequence[Reading]], index: int, n_inner: int
    ) -> list[Float[Tensor, "n F"]]:
        """Of each edit softmax(alpha) u and gamma delta by token, and softmax(beta) and zeta,
        where the latter of each pair are times -scale sigma(eta)."""
        every, M, D = [each for turn in turns for each in turn], n_inner, len(self.mean) - n_inner
        inner = torch.tanh(self.condition(every) @ self.V[index].T + self.v[index])
        outputs = inner @ self.O[index].T + self.o[index]  # N P
        found = list[Tensor]()
        for reading, output in zip(every, outputs, strict=True):
            alpha, beta, gamma, zeta, eta = output.split([M, M, D, D, 1])
            u, delta = reading[index].tensor_split([M], -1)
            left = torch.cat([alpha.softmax(0) * u, beta.softmax(0)[None]])  # n+1 M
            right = torch.cat([gamma * delta / self.unit[index], zeta[None]])  # n+1 D
            found.append(torch.cat([left, -self.scale[index] * eta.sigmoid() * right], -1))
        each = iter(found)
        return [torch.cat([next(each) for _ in turn]) for turn in turns]


class KnowledgeEditor(HypernetworkEditor[KEConfig, Gates]):
    """Each edit takes its gated gradient off W_v; a turn's edits are made one after the other.

    Left out of KE: the biLSTM that reads question, old answer and new one. The gradient's own rows
    stand in its place: u is the model's reading of the prompt, and delta comes of what it would
    say less what it should. So are other weights than W_v, weight normalisation, label smoothing,
    the fall of the bound, and repeating an edit until it is said; Adam is in place of RMSprop. The
    untrained network is a gradient step (released: random).
    """

    kind = Gates

    def training(self) -> KETraining:
        return KETraining(self, self._lessons())

    def _after(
        self, state: HypernetworkState[Gates], edits: tuple[Edit, ...]
    ) -> HypernetworkState[Gates]:
        after = reduce(super()._after, [(edit,) for edit in edits], state)
        return replace(after, turns=(*state.turns, edits))

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        F, L, H, R = sum(self._shape), len(self.layers), self.config.width, self.config.rank
        P = 2 * F + 1
        return dict(
            mean=(F,), deviation=(F,), unit=(L,), scale=(L,), E=(H, F), e=(H,), V=(L, R, H),
            v=(L, R), O=(L, P, R), o=(L, P),
        )  # fmt: skip


@dataclass(frozen=True)
class KETraining(Training[Gates]):
    """How the gates are trained. Source: section 3.1."""

    least: ClassVar[Mapping[str, float]] = {"multiplier": 0.0}

    @cached_property
    def start(self) -> Gates:
        editor, config = self.editor, self.editor.config
        M = editor.lm.value_weight(editor.layers[0]).shape[0]
        gates = Gates.start(
            self.readings, n_inner=M, width=config.width, rank=config.rank, seed=editor.seed
        )
        scale = torch.full_like(gates.scale, config.scale)
        if config.units == "absolute":
            return replace(gates, scale=scale)
        scale *= M * scale.new_tensor([editor.unit(layer) for layer in editor.layers])
        return replace(gates, unit=self._units(M), scale=scale)

    def _units(self, n_inner: int) -> Float[Tensor, " L"]:
        """The root mean square of the entries of the lessons' gradients, by edited matrix."""
        squares = list[Tensor]()
        for of_layer in zip(*self.readings, strict=True):
            parts = (rows.double().tensor_split([n_inner], -1) for rows in of_layer)
            squares.append(torch.stack([(u.T @ d).square().mean() for u, d in parts]).mean())
        return torch.stack(squares).sqrt().float()

    def learned(self) -> Mapping[str, tuple[Tensor, float]]:
        """All of the gates but what normalises them, and the multiplier of the bound."""
        config, tensors = self.editor.config, self.start.tensors
        found = {name: (each, config.lr) for name, each in tensors.items() if name not in _FIXED}
        return {**found, "multiplier": (self.start.unit.new_ones(()), config.multiplier_lr)}

    def network(self, learned: Mapping[str, Tensor]) -> Gates:
        own = {name: each for name, each in learned.items() if name != "multiplier"}
        return replace(self.start, **own)

    def objective(self, learned: Mapping[str, Tensor], step: int) -> Float[Tensor, ""]:
        L_e, apart = self.losses(self.network(learned), self.turns(step))
        return lagrangian(L_e, apart - self.editor.config.margin, learned["multiplier"])


def lagrangian(
    loss: Float[Tensor, ""], excess: Float[Tensor, ""], multiplier: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """loss + multiplier * excess, of which a descent ascends in the multiplier."""
    held = multiplier.detach()
    return loss + held * excess - (multiplier - held) * excess.detach()


make = factory(
    KnowledgeEditor, KEConfig, PRESETS,
    default=lambda model: "real" if is_large(model) else "embedded",
)  # fmt: skip
