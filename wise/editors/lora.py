"""Editors whose edits are low-rank changes of the W_v of some blocks, for the rows in scope alone.

MELO (Yu et al., AAAI 2024, arXiv 2312.11795) gives each edit a block of its own, found by an index
of clusters. ELDER (Li et al., AAAI 2025, arXiv 2408.11869) has a mixture that all edits share; a
prompt is known by the code of what its routers choose.

A row is read once: the input of W_v at its last prompt token, in the lowest of the blocks, where no
edit has changed it. Its change then holds for all of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn, where

from wise.editors.base import ErasableBase, factory, floats, live
from wise.editors.clusters import Clusters, placed, scope
from wise.editors.gated import Latch, Read, ReadingBase, RowsSeen, threshold_among
from wise.editors.grace import distances
from wise.editors.options import Checked, Share
from wise.editors.router import select
from wise.editors.routing_inputs import of_unlike_prompts, prompt_inputs
from wise.editors.trained import trained
from wise.edits import Edit, edits_of
from wise.lm import hooks
from wise.lm.tail import Tail, ValueChanger, changed_values
from wise.lm.tokens import Batch
from wise.seeds import seeded

__all__ = [
    "ELDER", "ELDER_PRESETS", "MELO", "MELO_PRESETS", "ELDERConfig", "LowRank", "MELOConfig",
    "allocated", "chances", "guidance", "hamming", "highest", "make_elder", "make_melo",
]  # fmt: skip

C = TypeVar("C", bound=Any)
S = TypeVar("S", bound=Any)
_LARGEST_EPSILON = 0.5  # of the most bits in which codes differ (released)
_Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class LowRank:
    """Changes of L matrices W_v, for each of R rows or one for all: A of rank r, then B."""

    down: Float[Tensor, "R L M r"]  # A
    up: Float[Tensor, "R L r D"]  # B
    shares: Float[Tensor, "R L r"] | None = None  # of each rank; None = 1

    def at(self, number: int, inputs: Float[Tensor, "R T M"]) -> Float[Tensor, "R T D"]:
        """x A B at one of the matrices, in float32, where each rank counts by its share."""
        inner = inputs.float() @ self.down[:, number]  # R T r
        if self.shares is not None:
            inner = inner * self.shares[:, number, None]
        return inner @ self.up[:, number]


@dataclass
class _Added(Latch[LowRank]):
    """Adds low-rank changes to outputs of W_v; rows out of scope keep their bits."""

    def __call__(self, number: int, inputs: Tensor, output: Tensor) -> Tensor:
        """The output of the matrix of this number; the lowest, of number 0, is called first."""
        inputs = self.rows.apart(inputs) if number else self.rows.read(inputs)
        value = self.rows.apart(output)
        is_open, change = self.read(inputs)
        changed = value + change.at(number, inputs).to(value.dtype)
        return where(is_open[:, None, None], changed, value).view_as(output)


class LowRankBase(ReadingBase[C, S, LowRank]):
    """An editor of `config.n_layers` neighbouring blocks, from `layer` up."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        end = min(self.layer + self.config.n_layers, self.lm.n_layers)
        self.layers = tuple(range(self.layer, end))

    def _changed(self, read: Read[LowRank], rows: RowsSeen) -> AbstractContextManager[None]:
        return changed_values(self.lm, self._of_layers(_Added(read, self.threshold, rows)))

    def _of_layers(self, added: _Added) -> dict[int, ValueChanger]:
        return {layer: partial(added, number) for number, layer in enumerate(self.layers)}

    def _loss(self, tail: Tail, batch: Batch, change: LowRank) -> Float[Tensor, ""]:
        """-log p of the labels of rows that are all in scope."""
        added = _Added(
            lambda queries: (queries.new_zeros(len(queries)), change), -math.inf,
            RowsSeen(batch.prompt_mask),
        )  # fmt: skip
        logits = tail.changed(self._of_layers(added)).float()
        return nn.functional.cross_entropy(logits, tail.labels)

    @cached_property
    def _unlike(self) -> Float[Tensor, "N M"]:
        """What is read of background prompts of different subjects."""

        def read(prompts: Sequence[str]) -> Float[Tensor, "N M"]:
            with hooks.frozen(self.lm.model):
                found = prompt_inputs(self.lm, self.tokenizer, self.layer, prompts, "last")
            return found.keys[:, 0].float()

        return of_unlike_prompts(self.kept, self.background, f"inputs {self.layer}", read,
                                 n=self.config.n_background, seed=self.seed)  # fmt: skip

    def _drawn(self, rank: int, *purpose: str) -> Float[Tensor, "L M r"]:
        """The first A: uniform, as torch draws linear layers."""
        inner = len(self._weight)
        shape = len(self.layers), inner, rank
        drawn = 2 * torch.rand(shape, generator=seeded(self.seed, "A", *purpose)) - 1
        return (drawn / math.sqrt(inner)).to(self.lm.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class MELOConfig(Checked):
    """How MELO edits. Raises ValueError naming the field, its value and what is allowed.

    layer, depth, n_layers: neighbouring blocks, up from `layer` or, without it, from the one at
        that share of them (released: 36 and 37 of 48).
    rank: of the change of a W_v by one edit.
    radius: of a new ball, a Euclidean distance (released: .1 to 75, a model). None = what
        `false_positives` of the background's prompts have to another subject's.
    lr, n_steps: Adam on a block, with a rate that falls linearly to 0 (released: it is halved once
        or twice).
    n_background: prompts of different subjects for the radius.
    append_eos: the target ends with EOS, so that free-run answers stop.

    The released code gives one block to the edits of a turn; here each edit has its own, so that
    it can be taken back. It scales a block by the number of blocks that there are, and reads
    what enters the MLP's activation in the block below; both are left out.
    """

    layer: int | None = None
    depth: Share = 0.75
    n_layers: PositiveInt = 2
    rank: PositiveInt = 2
    radius: _Distance | None = None
    false_positives: Share = 0.05
    lr: NonNegativeFloat = 1e-3
    n_steps: PositiveInt = 50
    n_background: PositiveInt = 100
    append_eos: bool = True


MELO_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": dict(radius=0.5),
    # Chosen on tuning streams.
    "embedded": dict(lr=1e-2),
}


@dataclass(frozen=True)
class _Blocks:
    """The edits in force in the order of writing, their keys, and the block of each."""

    edits: tuple[Edit, ...] = ()
    clusters: Clusters | None = None
    down: Float[Tensor, "E L M r"] | None = None
    up: Float[Tensor, "E L r D"] | None = None


_Block = tuple[Tensor, Tensor, Tensor]  # a key, A and B


class MELO(LowRankBase[MELOConfig, _Blocks], ErasableBase[MELOConfig, _Blocks]):
    """Online editor with a low-rank block for each edit; a turn's edits are made one by one.

    It is Generates, Routed, Retrieves, Growing, Persistent and Erasable. A block depends only on
    its own edit, the model and the seed; which prompts reach it, on the order of the edits too.
    """

    empty = _Blocks()

    @property
    def growth_per_edit(self) -> float:
        """A prompt's input is compared with each edit's."""
        return 3 * len(self._weight) / (2 * self.lm.model.num_parameters())

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edit whose block each prompt gets; none where it gets none."""
        clusters = self._state.clusters
        if clusters is None:
            return [()] * len(input_ids)
        depth, key = scope(clusters, self._queries(input_ids, attention_mask))
        return [(self.edits[n],) if n >= 0 else () for n in where(depth > 0, key, -1).tolist()]

    @property
    def threshold(self) -> float:
        """What a routing activation must exceed; infinite where there is no ball."""
        return math.inf if self._state.clusters is None else 0.0

    def _reader(self, state: _Blocks) -> Read[LowRank] | None:
        """By how deep a prompt lies in the ball of its nearest centre."""
        clusters, down, up = state.clusters, state.down, state.up
        if clusters is None or down is None or up is None:
            return None

        def read(queries: Tensor) -> tuple[Tensor, LowRank]:
            depth, key = scope(clusters, queries)
            return depth, LowRank(down[key], up[key])

        return read

    def _after(self, state: _Blocks, edits: tuple[Edit, ...]) -> _Blocks:
        learned = {edit: self._learned(edit) for edit in edits}
        if len(live(state.edits, edits)) < len(state.edits) + len(edits):
            state = self._without(state, frozenset(edit.prompt for edit in edits))
        return self._with(state, learned)

    def _without(self, state: _Blocks, prompts: frozenset[str]) -> _Blocks:
        kept = {edit: block for edit, block in self._by_edit(state).items()
                if edit.prompt not in prompts}  # fmt: skip
        return self._with(self.empty, kept)

    def _by_edit(self, state: _Blocks) -> dict[Edit, _Block]:
        clusters, down, up = state.clusters, state.down, state.up
        if clusters is None or down is None or up is None:
            return {}
        return dict(zip(state.edits, zip(clusters.keys, down, up, strict=True), strict=True))

    def _with(self, state: _Blocks, learned: Mapping[Edit, _Block]) -> _Blocks:
        """The state after these edits."""
        if not learned:
            return state
        clusters = state.clusters or Clusters.none(len(self._weight), self.lm.device)
        for edit, (key, _, _) in learned.items():
            clusters = placed(clusters, edit.target, key, radius=self._radius)
        _, downs, ups = zip(*learned.values(), strict=True)
        return _Blocks(
            (*state.edits, *learned), clusters, _extended(state.down, downs),
            _extended(state.up, ups),
        )  # fmt: skip

    def _learned(self, edit: Edit) -> _Block:
        """The key of an edit, and a block with which the model gives its target."""
        config = self.config
        found = prompt_inputs(self.lm, self.tokenizer, self.layer, [edit.prompt], "last")
        batch = self._encoded([edit], append_eos=config.append_eos)
        tail = Tail.capture(self.lm, self.layer, batch)
        down = self._drawn(config.rank, edit.prompt)
        up = down.new_zeros(len(self.layers), config.rank, self._weight.shape[1])

        def loss_of(learned: Mapping[str, Tensor], _step: int) -> Tensor:
            return self._loss(tail, batch, LowRank(learned["A"][None], learned["B"][None]))

        block = trained(
            {"A": down, "B": up}, loss_of, lr=dict.fromkeys("AB", config.lr),
            n_steps=config.n_steps, clip=math.inf, name="MELO",
        )  # fmt: skip
        return found.keys[0, 0].float(), block["A"], block["B"]

    @cached_property
    def _radius(self) -> float:
        """The radius of the options, or that of the background."""
        config = self.config
        if config.radius is not None:
            return config.radius
        keys = self._unlike
        return -threshold_among(-distances(keys, keys), false_positives=config.false_positives)

    def _tensors(self, state: _Blocks) -> dict[str, Tensor]:
        parts = [state, *([] if state.clusters is None else [state.clusters])]
        return {name: part for each in parts for name, part in vars(each).items()
                if isinstance(part, Tensor)}  # fmt: skip

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Blocks:
        edits = edits_of(record["edits"])
        (inner, hidden), rank = self._weight.shape, self.config.rank
        E, L, C = len(edits), len(self.layers), len(tensors["radii"])
        owners = tensors["owners"]
        targets = _targets(edits, owners, C)
        clusters = Clusters(
            floats(tensors, "keys", E, inner), owners, floats(tensors, "centres", C, inner),
            floats(tensors, "radii", C), targets,
        )  # fmt: skip
        return _Blocks(
            edits, clusters, floats(tensors, "down", E, L, inner, rank),
            floats(tensors, "up", E, L, rank, hidden),
        )  # fmt: skip


def _extended(held: Tensor | None, new: Sequence[Tensor]) -> Tensor:
    rows = torch.stack([*new])
    return rows if held is None else torch.cat([held, rows])


def _targets(edits: Sequence[Edit], owners: Tensor, n_balls: int) -> tuple[str, ...]:
    """The target of each ball. Raises ValueError where `owners` do not give one to each."""
    if owners.dtype != torch.long or owners.shape != (len(edits),):
        raise ValueError(f"owners are not {len(edits)} numbers of balls")
    own: dict[int, set[str]] = {}
    for edit, ball in zip(edits, owners.tolist(), strict=True):
        own.setdefault(ball, set()).add(edit.target)
    own.pop(-1, None)
    if own.keys() != {*range(n_balls)} or any(len(each) > 1 for each in own.values()):
        raise ValueError(f"owners do not give one target to each of {n_balls} balls")
    return tuple(own[ball].pop() for ball in range(n_balls))


make_melo = factory(MELO, MELOConfig, MELO_PRESETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ELDERConfig(Checked):
    """How ELDER edits. Raises ValueError naming the field, its value and what is allowed.

    layer, depth, n_layers: neighbouring blocks, up from `layer` or, without it, from the one at
        that share of them (released: six).
    n_experts, n_chosen, rank: N low-rank changes of each W_v, of which the router takes k for a
        row (released: 2 of 4, of rank 8).
    scale: on the changes: alpha over the rank.
    guidance: lambda, the weight of the loss by which an edit's router learns the experts that were
        drawn for its target.
    epsilon: a prompt is in scope whose code differs from an edit's in fewer bits than this share of
        the most that two codes can (released: .5, 12 of 24). None = as many, but at most .5, as
        `false_positives` of the background's prompts of different subjects then are in scope; at
        least one bit.
    lr, n_steps, early_stop: Adam on all experts and routers at each turn (released: 50 steps), with
        a rate that falls linearly to 0, until the loss is below.
    n_background: prompts of different subjects for epsilon, and for the unit of what a router
        reads: their median norm.
    append_eos: the target ends with EOS, so that free-run answers stop.

    Released, epsilon is the same throughout; here that of the background is settled anew at each
    turn, as the routers go on learning. The released routers read their query in no unit.
    """

    layer: int | None = None
    depth: Share = 0.5
    n_layers: PositiveInt = 6
    n_experts: PositiveInt = 4
    n_chosen: PositiveInt = 2
    rank: PositiveInt = 8
    scale: NonNegativeFloat = 1.0
    guidance: NonNegativeFloat = 1e-2
    epsilon: _Distance | None = None
    false_positives: Share = 0.05
    lr: NonNegativeFloat = 1e-3
    n_steps: PositiveInt = 50
    early_stop: NonNegativeFloat = 0.0
    n_background: PositiveInt = 100
    append_eos: bool = True

    def __post_init__(self) -> None:
        super(ELDERConfig, self).__post_init__()
        if self.n_chosen >= self.n_experts:
            raise ValueError(
                f"n_chosen={self.n_chosen} is not below n_experts={self.n_experts}: "
                "all prompts would have one code"
            )


ELDER_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": dict(epsilon=0.5),
    # Chosen on tuning streams.
    "embedded": dict(n_layers=3, n_experts=16, guidance=1.0, lr=1e-2, early_stop=0.1),
}


def chances(
    queries: Float[Tensor, "B M"], routers: Float[Tensor, "L M N"]
) -> Float[Tensor, "B L N"]:
    """log p of each expert, by the softmax of its layer's router; all read the same query."""
    return torch.einsum("bm,lmn->bln", queries.float(), routers).log_softmax(-1)


def highest(scores: Float[Tensor, "*B N"], n: int) -> Bool[Tensor, "*B N"]:
    """The n highest of each row: its code, one bit for each expert."""
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(n).indices, True)


def allocated(
    target: str, *, n_layers: int, n_experts: int, n_chosen: int, seed: int
) -> Bool[Tensor, "L N"]:
    """The experts drawn for a target, whatever was edited before."""
    drawn = torch.rand(n_layers, n_experts, generator=seeded(seed, "experts", target))
    return highest(drawn, n_chosen)


def guidance(log_p: Float[Tensor, "B L N"], experts: Bool[Tensor, "B L N"]) -> Float[Tensor, ""]:
    """-log p of the experts drawn for each row, over all layers; the mean of the rows.

    What it has at least, where they share all of the chance alike, is taken off: it teaches
    nothing. Source: ELDER, the guided loss.
    """
    n_chosen = experts.sum(-1)
    least = (n_chosen * n_chosen.log()).sum(-1)
    return (-log_p.where(experts, 0.0).sum((1, 2)) - least).mean()


def hamming(codes: Bool[Tensor, "B L N"], stored: Bool[Tensor, "E L N"]) -> Int[Tensor, "B E"]:
    """In how many bits each code differs from each of those stored."""
    return (codes.flatten(1)[:, None] != stored.flatten(1)).sum(-1)


@dataclass(frozen=True)
class _Experts:
    """The edits made with the code of each, and what they share; None before the first.

    epsilon: the number of bits in which a code in scope differs less.
    """

    edits: tuple[Edit, ...] = ()
    codes: Bool[Tensor, "E L N"] | None = None
    routers: Float[Tensor, "L M N"] | None = None
    down: Float[Tensor, "L M N*r"] | None = None
    up: Float[Tensor, "L N*r D"] | None = None
    epsilon: int = 0


class ELDER(LowRankBase[ELDERConfig, _Experts]):
    """Online editor with a mixture of low-rank changes that all edits share; a turn is one batch.

    It is Generates, Routed and Persistent. An edit's code is stored after its turn. Later turns
    train the same routers and experts without it, so that it cannot be taken back.
    """

    empty = _Experts()

    @property
    def threshold(self) -> float:
        """Minus epsilon, which a routing activation must exceed; infinite before the first edit."""
        return -float(self._state.epsilon) if self.edits else math.inf

    def _reader(self, state: _Experts) -> Read[LowRank] | None:
        """By minus the bits in which a prompt's code differs from the likest one stored."""
        stored, routers, down, up = state.codes, state.routers, state.down, state.up
        if stored is None or routers is None or down is None or up is None:
            return None
        unit = self._unit  # now, as it asks the model, to which hooks are added next

        def read(queries: Tensor) -> tuple[Tensor, LowRank]:
            log_p = chances(queries / unit, routers)
            apart = hamming(self._codes(log_p), stored).amin(-1)
            return -apart.float(), self._mixture(log_p, down, up)

        return read

    def _codes(self, log_p: Float[Tensor, "B L N"]) -> Bool[Tensor, "B L N"]:
        return highest(log_p, self.config.n_chosen)

    def _mixture(
        self, log_p: Float[Tensor, "B L N"], down: Float[Tensor, "L M K"],
        up: Float[Tensor, "L K D"],
    ) -> LowRank:  # fmt: skip
        """The sum of each row's experts, weighted by p; those not chosen have none of it."""
        p = log_p.exp().where(self._codes(log_p), 0.0)
        shares = (self.config.scale * p).repeat_interleave(self.config.rank, -1)  # B L K
        return LowRank(down[None], up[None], shares)

    def _after(self, state: _Experts, edits: tuple[Edit, ...]) -> _Experts:
        config, (L, N) = self.config, self._code_shape
        batch = self._encoded(edits, append_eos=config.append_eos)
        tail = Tail.capture(self.lm, self.layer, batch)
        queries = select(tail.inputs, batch.prompt_mask, "last").keys[:, 0] / self._unit
        drawn = [
            allocated(edit.target, n_layers=L, n_experts=N, n_chosen=config.n_chosen,
                      seed=self.seed) for edit in edits
        ]  # fmt: skip
        experts = torch.stack(drawn).to(self.lm.device)

        def loss_of(learned: Mapping[str, Tensor], _step: int) -> Tensor:
            log_p = chances(queries, learned["routers"])
            loss = self._loss(tail, batch, self._mixture(log_p, learned["A"], learned["B"]))
            return loss + config.guidance * guidance(log_p, experts)

        found = trained(
            self._start(state), loss_of, lr=dict.fromkeys(("routers", "A", "B"), config.lr),
            n_steps=config.n_steps, clip=math.inf, early_stop=config.early_stop, name="ELDER",
        )  # fmt: skip
        routers = found["routers"]
        known = {} if state.codes is None else dict(zip(state.edits, state.codes, strict=True))
        known |= zip(edits, self._codes(chances(queries, routers)), strict=True)
        in_force = live(state.edits, edits)
        codes = torch.stack([known[edit] for edit in in_force])
        epsilon = self._epsilon(codes, routers)
        return _Experts(in_force, codes, routers, found["A"], found["B"], epsilon)

    def _start(self, state: _Experts) -> dict[str, Tensor]:
        """What a turn begins at: the routers and experts there are, or new ones."""
        routers, down, up = state.routers, state.down, state.up
        if routers is None or down is None or up is None:
            L, N = self._code_shape
            n_wide = N * self.config.rank
            routers, down = self._drawn(N, "routers"), self._drawn(n_wide, "experts")
            up = down.new_zeros(L, n_wide, self._weight.shape[1])
        return {"routers": routers, "A": down, "B": up}

    @property
    def _code_shape(self) -> tuple[int, int]:
        """L N."""
        return len(self.layers), self.config.n_experts

    @cached_property
    def _unit(self) -> float:
        return float(self._unlike.norm(dim=-1).median())

    def _epsilon(self, codes: Bool[Tensor, "E L N"], routers: Float[Tensor, "L M N"]) -> int:
        """The number of bits of the options, or that of the background."""
        config, (L, N) = self.config, self._code_shape
        most = 2 * L * min(config.n_chosen, N - config.n_chosen)  # bits in which codes differ
        if config.epsilon is not None:
            return math.ceil(config.epsilon * most)
        others = self._codes(chances(self._unlike / self._unit, routers))
        apart = hamming(others, codes).amin(-1).sort().values
        n_open = math.floor(config.false_positives * len(apart))
        nearest = int(apart[min(n_open, len(apart) - 1)])
        return max(1, min(nearest, math.ceil(_LARGEST_EPSILON * most)))

    def _record(self, state: _Experts) -> dict[str, Any]:
        return {**super()._record(state), "epsilon": state.epsilon}

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Experts:
        edits = edits_of(record["edits"])
        (inner, hidden), (L, N) = self._weight.shape, self._code_shape
        codes, n_wide = tensors["codes"], N * self.config.rank
        is_of_codes = codes.dtype == torch.bool and codes.shape == (len(edits), L, N)
        if not (is_of_codes and bool((codes.sum(-1) == self.config.n_chosen).all())):
            raise ValueError(
                f"codes are not {len(edits)} choices of {self.config.n_chosen} experts"
            )
        return _Experts(
            edits, codes, floats(tensors, "routers", L, inner, N),
            floats(tensors, "down", L, inner, n_wide), floats(tensors, "up", L, n_wide, hidden),
            int(record["epsilon"]),
        )  # fmt: skip


make_elder = factory(ELDER, ELDERConfig, ELDER_PRESETS)
