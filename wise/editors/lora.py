"""Editors whose edits are low-rank changes of the W_v of some blocks, for the rows in scope alone.

MELO (Yu et al., AAAI 2024, arXiv 2312.11795) gives each edit a block of its own, found by an index
of clusters. A row is read once: the input of W_v at its last prompt token, in the lowest of the
blocks, where no edit has changed it. Its change then holds for all of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, where

from wise.editors.base import ErasableBase, edits_of, factory, floats, live
from wise.editors.clusters import Clusters, placed, scope
from wise.editors.gated import Latch, Read, ReadingBase, RowsSeen, threshold_among
from wise.editors.grace import distances
from wise.editors.options import Checked, Share
from wise.editors.routing_inputs import prompt_inputs, unlike_prompts
from wise.editors.trained import trained
from wise.edits import Edit
from wise.lm import hooks
from wise.lm.tail import Tail
from wise.lm.tokens import Batch
from wise.seeds import seeded

__all__ = ["MELO", "MELO_PRESETS", "LowRank", "MELOConfig", "make_melo"]

C = TypeVar("C", bound=Any)
S = TypeVar("S", bound=Any)
_Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class LowRank:
    """Changes of L matrices W_v, for each of R rows or one for all: A of rank r, then B."""

    down: Float[Tensor, "R L M r"]  # A
    up: Float[Tensor, "R L r D"]  # B

    def at(self, number: int, inputs: Float[Tensor, "R T M"]) -> Float[Tensor, "R T D"]:
        """x A B at one of the matrices, in float32."""
        return inputs.float() @ self.down[:, number] @ self.up[:, number]


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
        return self._adding(_Added(read, rows))

    @contextmanager
    def _adding(self, added: _Added, start: int = 0) -> Iterator[None]:
        """The model with the changes of its blocks, from that of number `start` up."""
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers[start:], start):
                part = self.lm.part(layer, "value")
                stack.enter_context(hooks.replace(part, partial(added, number)))
            yield

    def _loss(self, tail: Tail, batch: Batch, change: LowRank) -> Float[Tensor, ""]:
        """-log p of the labels of rows that are all in scope."""
        is_open = batch.prompt_mask.new_ones(len(batch.prompt_mask))
        added = _Added(lambda _queries: (is_open, change), RowsSeen(batch.prompt_mask))
        value = added(0, tail.inputs, tail.value)
        with self._adding(added, start=1):
            return tail.loss(value)

    @cached_property
    def _unlike(self) -> Float[Tensor, "N M"]:
        """What is read of background prompts of different subjects."""
        prompts = unlike_prompts(
            self.lm, self.tokenizer, self.background, self.config.n_background, seed=self.seed
        )

        def compute() -> dict[str, Tensor]:
            found = prompt_inputs(self.lm, self.tokenizer, self.layer, prompts, "last")
            return {"keys": found.keys[:, 0].float()}

        return self.kept.get(f"inputs {self.layer} of unlike prompts", prompts, compute)["keys"]

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
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """How deep each prompt lies in the ball of its nearest centre; 0 before the first edit."""
        clusters = self._state.clusters
        if clusters is None:
            return torch.zeros(len(input_ids), device=input_ids.device)
        return scope(clusters, self._queries(input_ids, attention_mask))[0]

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
        clusters, down, up = state.clusters, state.down, state.up
        if clusters is None or down is None or up is None:
            return None

        def read(queries: Tensor) -> tuple[Tensor, LowRank]:
            depth, key = scope(clusters, queries)
            return depth > 0, LowRank(down[key], up[key])

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
        edits = edits_of(record)
        if not edits:
            return self.empty
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
