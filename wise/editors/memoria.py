"""Memoria-lite: edits are engrams, which live on as long as later ones remind of them.

Memoria (Park and Bak, ICML 2024, arXiv 2310.03052) gives a model the hidden states of what it is
reminded of, by a cross-attention that it trains; the "-lite" says that this training is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from wise.editors.base import factory, floats
from wise.editors.gated import threshold_among
from wise.editors.incontext import ContextBase, ContextConfig
from wise.editors.options import Share
from wise.editors.routing_inputs import of_unlike_prompts
from wise.edits import Edit, edits_of
from wise.lm.decoding import require_readable
from wise.lm.hooks import frozen
from wise.lm.tail import head_inputs
from wise.lm.tokens import Batch, encode

__all__ = ["PRESETS", "MemoriaConfig", "MemoriaLite", "fired", "lasts", "make", "reminded"]

_FARTHEST = 4.0  # the squared distance of opposite directions


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoriaConfig(ContextConfig):
    """What is remembered for how long, and told. Raises as ContextConfig.

    n_reminded: engrams that a prompt, or an edit, reminds of at most (released: 50).
    n_short: of all engrams the newest are found by their distance (released: 400); older ones
        only as partners of others.
    depth: how far partners' partners are followed (released: 10).
    life: edits until an engram is forgotten, if it never fires (released: 9).
    gain: further ones that firing gives to all engrams of one edit together (released: 8).
    reach: the squared distance of directions below which a prompt reminds of a new engram
        (released: always, as none is above 4). None = what `false_positives` of the background's
        prompts have to another subject's. An edit reminds at any distance.
    n_background: prompts of different subjects for the reach.
    capacity: engrams at most (released: any number); of all but the newest the one with the least
        life, of equal ones the oldest, is forgotten first.
    """

    n_reminded: PositiveInt = 50
    n_short: PositiveInt = 400
    depth: NonNegativeInt = 10
    life: PositiveInt = 9
    gain: NonNegativeFloat = 8.0
    reach: NonNegativeFloat | None = None
    false_positives: Share = 0.05
    n_background: PositiveInt = 100
    capacity: PositiveInt = 1000


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": dict(reach=_FARTHEST),
    # An edit is one engram here, of which few live at once, and not one of many.
    "embedded": dict(n_reminded=4, n_short=8),
}


@dataclass(frozen=True)
class _Engrams:
    """The edits remembered, oldest first: their directions, the edits they have yet to live, and
    how often any two fired together, with how often each did on the diagonal."""

    edits: tuple[Edit, ...] = ()
    directions: Float[Tensor, "E D"] | None = None
    lives: Float[Tensor, " E"] | None = None
    counts: Float[Tensor, "E E"] | None = None


class MemoriaLite(ContextBase[MemoriaConfig, _Engrams]):
    """Tells a prompt the edits that it reminds of; an edit of which none reminds is forgotten.

    It is Generates, Routed and Persistent. It is not Erasable: an edit ages the others and joins
    them. A prompt reminds by its own tokens, once, and not by an answer behind it.

    An engram is the mean, over a prompt, of the states that the head reads, as a direction. An edit
    fires those that its prompt reminds of: each lives longer by its share of `gain`, a softmax of
    minus its squared distance, and they and the new one become partners. Then all but the new one
    have one edit less to live. As published, a question does the same, and so changes the answers
    to later ones; here only an edit does.

    Left out of Memoria: the trained cross-attention to the engrams' states, in place of which their
    texts are told and their distances weigh them; and chance between equal ones.
    """

    empty = _Engrams()

    @property
    def threshold(self) -> float:
        """What minus the squared distance must exceed; infinite before the first edit."""
        return -self._reach if self.edits else math.inf

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """Minus the squared distance of each prompt to the nearest new engram; -4 before one."""
        directions = self._state.directions
        queries = self._directions(input_ids, attention_mask)
        if directions is None:
            return queries.new_full((len(queries),), -_FARTHEST)
        return -_squared_distances(queries, directions[-self.config.n_short :]).amin(-1)

    def _after(self, state: _Engrams, edits: tuple[Edit, ...]) -> _Engrams:
        self._require_told(edits)
        for edit in edits:
            state = self._with(state, edit)
        return state

    def _with(self, state: _Engrams, edit: Edit) -> _Engrams:
        """The engrams after one more edit, which replaces that of the same prompt."""
        batch = encode(self.tokenizer, [edit.prompt]).to(self.lm.device)
        new = self._directions(batch.input_ids, batch.attention_mask)  # 1 D
        stays = [old.prompt != edit.prompt for old in state.edits]
        directions, lives, counts = new[:0], new.new_zeros(0), new.new_zeros(0, 0)
        if state.directions is not None and state.lives is not None and state.counts is not None:
            kept = torch.tensor(stays, device=new.device)
            directions, lives = state.directions[kept], state.lives[kept]
            counts = state.counts[kept][:, kept]
        distances = _squared_distances(new, directions)[0]
        found = self._reminded(distances, counts, within=math.inf)
        lives, counts = fired(lives, counts, distances, found, gain=self.config.gain)
        lives = torch.cat([lives - 1, lives.new_full((1,), float(self.config.life))])
        directions = torch.cat([directions, new])
        lasting = lasts(lives, capacity=self.config.capacity)
        remembered = (*(old for old, stay in zip(state.edits, stays, strict=True) if stay), edit)
        return _Engrams(
            tuple(each for each, last in zip(remembered, lasting.tolist(), strict=True) if last),
            directions[lasting], lives[lasting], counts[lasting][:, lasting],
        )  # fmt: skip

    @torch.no_grad()
    def _directions(
        self, input_ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B D"]:
        """The direction of each prompt's mean state."""
        require_readable(self.lm.model, mask)
        own = mask.bool()
        with frozen(self.lm.model):
            states = head_inputs(self.lm, Batch.of_prompts(input_ids, own)).float()  # B T D
        return nn.functional.normalize(states.masked_fill(~own[..., None], 0.0).sum(1), dim=-1)

    @cached_property
    def _reach(self) -> float:
        """The reach of the options, or that of the background."""
        config = self.config
        if config.reach is not None:
            return config.reach

        def read(prompts: Sequence[str]) -> Float[Tensor, "N D"]:
            batches = (encode(self.tokenizer, [text]).to(self.lm.device) for text in prompts)
            found = [self._directions(each.input_ids, each.attention_mask) for each in batches]
            return torch.cat(found)

        found = of_unlike_prompts(self.kept, self.background, "directions of mean states", read,
                                  n=config.n_background, seed=self.seed)  # fmt: skip
        likeness = -_squared_distances(found, found)
        return -threshold_among(likeness, false_positives=config.false_positives)

    def _reminded(
        self, distances: Float[Tensor, " E"], counts: Float[Tensor, "E E"], *, within: float
    ) -> list[int]:
        config = self.config
        return reminded(
            distances.tolist(), counts.tolist(), within=within,
            n_short=config.n_short, depth=config.depth, n_most=config.n_reminded,
        )  # fmt: skip

    def _shown(self, input_ids: Tensor, prompt_mask: Tensor) -> Sequence[Sequence[Edit]]:
        state = self._state
        if state.directions is None or state.counts is None:
            return [()] * len(input_ids)
        queries = self._directions(input_ids, prompt_mask)
        distances = _squared_distances(queries, state.directions)
        found = [self._reminded(each, state.counts, within=self._reach) for each in distances]
        return [[state.edits[n] for n in reversed(numbers)] for numbers in found]

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Engrams:
        edits = edits_of(record["edits"])
        E, D = len(edits), tensors["directions"].shape[1]
        return _Engrams(
            edits, floats(tensors, "directions", E, D), floats(tensors, "lives", E),
            floats(tensors, "counts", E, E),
        )  # fmt: skip


def reminded(
    distances: Sequence[float],
    counts: Sequence[Sequence[float]],
    *,
    within: float,
    n_short: int,
    depth: int,
    n_most: int,
) -> list[int]:
    """Of the engrams, oldest first, those that something at these squared distances reminds of.

    Of the newest `n_short` the nearest `n_most` that are nearer than `within`; then, `depth` times,
    of each one found the older engram that is its likeliest partner, P(j | i) = n_ij / n_i; and of
    all these the nearest `n_most`, the nearest first. Of equal ones the newer comes first. Source:
    section 3.
    """
    n_old = max(0, len(distances) - n_short)

    def nearest(some: Sequence[int]) -> list[int]:
        return sorted(some, key=lambda n: (distances[n], -n))[:n_most]

    found = last = nearest([n for n in range(n_old, len(distances)) if distances[n] < within])
    for _ in range(depth):
        partners = dict[int, None]()
        for i in last:
            left = [j for j in range(n_old) if counts[i][j] and j not in found]
            if left:
                partners[max(left, key=lambda j: (counts[i][j] / counts[i][i], j))] = None
        last = [*partners]
        found = [*found, *last]
    return nearest(found)


def _squared_distances(
    queries: Float[Tensor, "B D"], directions: Float[Tensor, "E D"]
) -> Float[Tensor, "B E"]:
    return (queries[:, None] - directions).square().sum(-1)


def fired(
    lives: Float[Tensor, " E"],
    counts: Float[Tensor, "E E"],
    distances: Float[Tensor, " E"],
    numbers: Sequence[int],
    *,
    gain: float,
) -> tuple[Float[Tensor, " E"], Float[Tensor, "F F"]]:
    """Lives and counts after these engrams fired together with a new one, which is the last of F.

    The squared distances share `gain` out. Source: section 3.
    """
    at = torch.tensor(numbers, dtype=torch.long, device=lives.device)
    lives = lives.index_add(0, at, gain * (-distances[at]).softmax(-1))
    both = torch.zeros(len(counts) + 1, device=counts.device)
    both[[*numbers, -1]] = 1.0
    return lives, nn.functional.pad(counts, (0, 1, 0, 1)) + both[:, None] * both


def lasts(lives: Float[Tensor, " E"], *, capacity: int) -> Bool[Tensor, " E"]:
    """Which engrams last: those with some life left, at most `capacity`: the newest, and those with
    the most of it."""
    order = lives[:-1].sort(stable=True).indices  # of equal ones the oldest first
    lasting = lives > 0
    lasting[order[: max(0, len(lives) - capacity)]] = False
    return lasting


make = factory(MemoriaLite, MemoriaConfig, PRESETS)
