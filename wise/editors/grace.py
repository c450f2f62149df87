"""GRACE: a codebook beside one W_v; a prompt that ends in a key's ball gets the key's value.

Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031. Keys are inputs of W_v at the last prompt token,
values replace its output there, so that a row outside every ball keeps its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from wise.editors.base import ErasableBase, factory, floats, live, without
from wise.editors.gated import Read, SubstitutingBase, places
from wise.editors.options import Checked, Units
from wise.editors.router import select
from wise.editors.routing_inputs import background_inputs, prompt_inputs
from wise.edits import Edit, edits_of
from wise.lm.sampling import own_texts
from wise.lm.tail import Tail
from wise.seeds import seeded

__all__ = [
    "COINCIDE", "GRACE", "HAIR", "PRESETS", "Codebook", "GRACEConfig", "descended", "distances",
    "make", "nearest", "scope", "written",
]  # fmt: skip


COINCIDE = 1e-4  # of a key's norm: keys that differ by less are the same key, from whatever batch
HAIR = 1e-3  # of a distance: a key that a ball grows to lies inside it, not on its edge

_Learn = Callable[[Edit, Float[Tensor, " D"] | None], Float[Tensor, " D"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GRACEConfig(Checked):
    """How GRACE edits. Raises ValueError naming the field, its value and what is allowed.

    layer: the block of W_v; None = at three quarters of the depth.
    radius: epsilon_init, the deferral radius of a new ball (section 3.1; released: 1.0).
    value_init: "cold" = uniform in [0, 1) (released), or "warm" = what W_v gives.
    lr, n_steps, early_stop: Adam on the value (released: 1.0, 50 steps), until the loss is below.
        Cold values and lr are in units of the size of an entry of W_v's output.
    replacement: the "last" prompt token gets the value (released: replace_last), or the whole
        "prompt" (released: replace_prompt).
    units: of the radius: "absolute" (released), or the "model"'s: the median norm of a background
        prompt's key.
    append_eos: the target ends with EOS, so that free-run answers stop.
    """

    layer: int | None = None
    radius: NonNegativeFloat = 1.0
    value_init: Literal["cold", "warm"] = "cold"
    lr: NonNegativeFloat = 1.0
    n_steps: PositiveInt = 50
    early_stop: NonNegativeFloat = 0.01
    replacement: Literal["last", "prompt"] = "last"
    units: Units = "absolute"
    append_eos: bool = True


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": dict(),
    # The radius lies between the distances of paraphrases and of other prompts on tuning streams.
    "embedded": dict(units="model", radius=0.6, value_init="warm", lr=0.5, n_steps=200),
}


@dataclass(frozen=True)
class Codebook:
    """N entries: a key, the radius of its ball, a value, and the edits that made them, in order."""

    keys: Float[Tensor, "N M"]
    radii: Float[Tensor, " N"]
    values: Float[Tensor, "N D"]
    members: tuple[tuple[Edit, ...], ...] = ()

    @classmethod
    def empty(cls, n_inner: int, n_hidden: int, device: torch.device) -> Codebook:
        keys, values = torch.zeros(0, n_inner), torch.zeros(0, n_hidden)
        return cls(keys.to(device), torch.zeros(0, device=device), values.to(device))

    def __len__(self) -> int:
        return len(self.members)


def nearest(
    keys: Float[Tensor, "N M"], queries: Float[Tensor, "B M"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """The Euclidean distance from each query to its nearest key, and which one it is."""
    found = distances(queries, keys).min(-1)
    return found.values, found.indices


def distances(queries: Float[Tensor, "B M"], keys: Float[Tensor, "N M"]) -> Float[Tensor, "B N"]:
    """The Euclidean distance of each query to each key, in float32."""
    return torch.cdist(queries.float(), keys.float(), compute_mode="donot_use_mm_for_euclid_dist")


def scope(
    codebook: Codebook, queries: Float[Tensor, "B M"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """How deep each query lies in the ball of its nearest key (positive = inside), and which."""
    distance, index = nearest(codebook.keys, queries)
    return codebook.radii[index] - distance, index


def written(
    codebook: Codebook, edit: Edit, key: Float[Tensor, " M"], *, radius: float, learn: _Learn
) -> Codebook:
    """The codebook after an edit; `radius` is that of a new ball.

    Far from all keys: a new entry. Near one of the same target: its ball expands to hold the new
    key, and its value is trained further. Near one of another target: both balls end half-way, but
    neither grows; where the two keys coincide the last write wins. Source: Hartvigsen et al. 2023,
    Algorithm 1.
    """
    if not len(codebook):
        return _added(codebook, edit, key, radius, learn)
    nearby, indices = nearest(codebook.keys, key[None])
    distance, index = float(nearby), int(indices)
    ball = float(codebook.radii[index])
    if distance > ball + radius:
        return _added(codebook, edit, key, radius, learn)
    if codebook.members[index][-1].target == edit.target:
        return _expanded(codebook, index, edit, max(ball, distance * (1 + HAIR)), learn)
    if distance <= COINCIDE * float(key.float().norm()):
        keep = [i for i in range(len(codebook)) if i != index]
        return written(_chosen(codebook, keep), edit, key, radius=radius, learn=learn)
    radii = codebook.radii.clone()
    radii[index] = min(ball, distance / 2)
    return _added(replace(codebook, radii=radii), edit, key, distance / 2, learn)


def _added(codebook: Codebook, edit: Edit, key: Tensor, radius: float, learn: _Learn) -> Codebook:
    radii = codebook.radii
    return Codebook(
        torch.cat([codebook.keys, key[None]]),
        torch.cat([radii, radii.new_tensor([radius])]),
        torch.cat([codebook.values, learn(edit, None)[None]]),
        (*codebook.members, (edit,)),
    )


def _expanded(codebook: Codebook, index: int, edit: Edit, radius: float, learn: _Learn) -> Codebook:
    radii, values, members = codebook.radii.clone(), codebook.values.clone(), list(codebook.members)
    radii[index] = radius
    members[index] = (*members[index], edit)
    values[index] = learn(edit, codebook.values[index])
    return Codebook(codebook.keys, radii, values, tuple(members))


def _chosen(codebook: Codebook, indices: Sequence[int]) -> Codebook:
    rows = torch.tensor(indices, dtype=torch.long, device=codebook.keys.device)
    members = tuple(codebook.members[i] for i in indices)
    return Codebook(codebook.keys[rows], codebook.radii[rows], codebook.values[rows], members)


@dataclass(frozen=True)
class _State:
    """The edits in force in the order of writing, and their codebook; None before the first."""

    edits: tuple[Edit, ...] = ()
    codebook: Codebook | None = None


class GRACE(SubstitutingBase[GRACEConfig, _State], ErasableBase[GRACEConfig, _State]):
    """Online editor with a codebook; it is Generates, Routed, Persistent and Erasable.

    An entry depends only on its own edits, the model and the seed, so that a removed edit leaves no
    trace.
    """

    empty = _State()

    @property
    def threshold(self) -> float:
        """What a routing activation must exceed; infinite where there is no key."""
        return float("inf") if self._state.codebook is None else 0.0

    @property
    def span(self) -> str:
        return self.config.replacement

    def _reader(self, state: _State) -> Read[Float[Tensor, "B D"]] | None:
        """By how deep a prompt lies in the ball of its nearest key."""
        codebook = state.codebook
        if codebook is None:
            return None

        def read(queries: Tensor) -> tuple[Tensor, Tensor]:
            depth, index = scope(codebook, queries)
            return depth, codebook.values[index]

        return read

    def _without(self, state: _State, prompts: frozenset[str]) -> _State:
        return self._written(state, self.empty, without(state.edits, prompts))

    def _after(self, state: _State, edits: tuple[Edit, ...]) -> _State:
        """The method writes edits one after the other; an earlier edit of a prompt goes first."""
        if {edit.prompt for edit in state.edits}.isdisjoint(edit.prompt for edit in edits):
            return self._written(state, state, edits)
        return self._written(state, self.empty, live(state.edits, edits))

    def _written(self, known: _State, state: _State, edits: tuple[Edit, ...]) -> _State:
        """`state` after `edits`; values that `known` already holds are not learned again."""
        singles: dict[Edit, Tensor] = {}
        if known.codebook is not None:
            entries = zip(known.codebook.members, known.codebook.values, strict=True)
            singles = {group[0]: value for group, value in entries if len(group) == 1}

        def learn(edit: Edit, start: Tensor | None) -> Tensor:
            if start is None and edit in singles:
                return singles[edit]
            return self._learn(edit, start)

        inner, hidden = self._weight.shape
        codebook = state.codebook or Codebook.empty(inner, hidden, self.lm.device)
        radius = self.config.radius * self._units[0]
        for edit in edits:
            found = prompt_inputs(self.lm, self.tokenizer, self.layer, [edit.prompt], "last")
            codebook = written(codebook, edit, found.keys[0, 0].float(), radius=radius, learn=learn)
        return _State((*state.edits, *edits), codebook if len(codebook) else None)

    def _learn(self, edit: Edit, start: Float[Tensor, " D"] | None) -> Float[Tensor, " D"]:
        """The value with which the model gives the edit's target, from `start` or a new one."""
        config = self.config
        batch = self._encoded([edit], append_eos=config.append_eos)
        where = places(batch.prompt_mask, config.replacement, batch.prompt_mask.shape[1])  # 1 T
        first = int(where[0].int().argmax())
        tail = Tail.capture(self.lm, self.layer, batch, first=first)
        where = where[:, first:, None]  # 1 t 1
        if start is None and config.value_init == "warm":
            start = select(tail.value, batch.prompt_mask[:, first:], "last").keys[0, 0].float()
        elif start is None:
            generator = seeded(self.seed, "value", edit.prompt)
            start = torch.rand(tail.value.shape[-1], generator=generator) * self._units[1]
            start = start.to(self.lm.device)
        return descended(
            tail, where, start, lr=config.lr * self._units[1], n_steps=config.n_steps,
            early_stop=config.early_stop,
        )  # fmt: skip

    @cached_property
    def _units(self) -> tuple[float, float]:
        """The units of the radius and of a value's entries."""
        found = background_inputs(
            self.kept, self.layer, self.background, "last", n=256, seed=self.seed
        )
        if found is None:
            texts = own_texts(self.lm, self.tokenizer, seed=self.seed)
            found = prompt_inputs(self.lm, self.tokenizer, self.layer, texts, "last")
        keys = found.keys[:, 0].float()  # N M
        outputs = keys @ self._weight.detach().float()
        norm = float(keys.norm(dim=-1).median()) if self.config.units == "model" else 1.0
        return norm, float(outputs.square().mean().sqrt())

    def _tensors(self, state: _State) -> dict[str, Tensor]:
        codebook = state.codebook
        if codebook is None:
            return {}
        group_of = {edit: n for n, group in enumerate(codebook.members) for edit in group}
        owner = torch.tensor([group_of.get(edit, -1) for edit in state.edits])
        return {"keys": codebook.keys, "radii": codebook.radii, "values": codebook.values,
                "owner": owner}  # fmt: skip

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _State:
        edits = edits_of(record["edits"])
        inner, hidden = self._weight.shape
        n_keys, owner = len(tensors["keys"]), tensors["owner"].tolist()
        keys = floats(tensors, "keys", n_keys, inner)
        radii, values = floats(tensors, "radii", n_keys), floats(tensors, "values", n_keys, hidden)
        if len(owner) != len(edits):
            raise ValueError(f"{len(owner)} of {len(edits)} edits have a key")
        groups = tuple(
            tuple(edit for edit, n in zip(edits, owner, strict=True) if n == entry)
            for entry in range(n_keys)
        )
        if not all(groups):
            raise ValueError("a key has no edit")
        return _State(edits, Codebook(keys, radii, values, groups))


def descended(
    tail: Tail,
    where: Bool[Tensor, "1 T 1"],
    value: Float[Tensor, " D"],
    *,
    lr: float,
    n_steps: int,
    early_stop: float,
) -> Float[Tensor, " D"]:
    """`value` after Adam on the loss of one row that has it as the output of W_v `where`.

    Raises ValueError where the loss or the value becomes non-finite.
    """
    value = value.clone().requires_grad_()
    optimizer = torch.optim.Adam([value], lr=lr)
    for _ in range(n_steps):
        with torch.enable_grad():
            loss = tail.loss(torch.where(where, value.to(tail.value.dtype), tail.value))
        if not torch.isfinite(loss):
            raise ValueError(f"loss={loss.item()} at lr={lr}; lower lr")
        if loss.item() <= early_stop:
            break
        (value.grad,) = torch.autograd.grad(loss, value)
        optimizer.step()
    if not value.isfinite().all():
        raise ValueError(f"lr={lr} made a non-finite value; lower lr")
    return value.detach()


make = factory(GRACE, GRACEConfig, PRESETS)
