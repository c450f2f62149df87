"""The edit loop of WISE: turns into shards, full shards into memories, and edits removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wise.editors.router import epsilon
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.learning import Learner
from wise.editors.wise.memory import Change, Memory, Shard, Turn, WISEState
from wise.editors.wise.merge import merge
from wise.edits import Edit
from wise.seeds import seeded

__all__ = ["Sharding"]


@dataclass(frozen=True)
class Sharding:
    """Makes the next state from a state, which is never written to."""

    learner: Learner

    @property
    def config(self) -> WISEConfig:
        return self.learner.config

    def after(self, state: WISEState, edits: tuple[Edit, ...]) -> WISEState:
        """`state` after a turn, which fills as many shards as it needs.

        An earlier edit of the same prompt is no longer in force.
        """
        state = self._forgotten(state, frozenset(edit.prompt for edit in edits))
        while edits:
            *full, live = state.shards or (self.learner.new_shard(state.n_shards),)
            room = self.config.edits_per_shard - len(live.edits)
            turn, edits = Turn(state.n_turns, edits[:room]), edits[room:]
            live = self.learner.learn(live, turn, _edits_of(*state.memories, *full))
            n_shards = max(state.n_shards, live.number + 1)
            state = replace(state, shards=(*full, live), n_shards=n_shards)
            if len(live.edits) == self.config.edits_per_shard:
                state = self._closed(state)
        return replace(state, n_turns=state.n_turns + 1)

    def without(self, state: WISEState, prompts: frozenset[str]) -> WISEState:
        """`state` as if the edits of `prompts` had not been made, shard by shard."""
        memories: list[Memory] = []
        for memory in state.memories:
            kept: Memory | None = memory
            if _holds(memory, prompts):
                kept = self._rebuilt(memory, prompts, memories)
            memories += [] if kept is None else [kept]
        shards: list[Shard] = []
        for shard in state.shards:
            if _holds(shard, prompts):
                turns = _without(shard.turns, prompts)
                shard = self._relearned(shard.number, turns, _edits_of(*memories, *shards))
            shards.append(shard)
        return replace(state, memories=tuple(memories), shards=tuple(shards))

    def merged(self, shards: Sequence[Shard], earlier: Memory | None) -> Memory:
        """One memory of full shards (eq. 8) and, in a later merge, of the `earlier` one."""
        config = self.config
        parts = [shard.change.dense() for shard in shards]
        weights = [1.0] * len(parts)
        known = [shard.epsilon for shard in shards]
        records = tuple((shard.number, shard.turns) for shard in shards)
        merges: tuple[tuple[tuple[int, tuple[Turn, ...]], ...], ...] = (records,)
        if earlier is not None:
            weights = [(1 - config.earlier_weight) / len(parts)] * len(parts)
            weights.append(config.earlier_weight)
            parts.append(earlier.change.dense())
            known.append(earlier.epsilon)
            merges = (*earlier.merges, *merges)
        if len(parts) == 1:
            change = shards[0].change.compact()
        else:
            change = Change.of(merge(
                config.merge, torch.zeros_like(parts[0]), parts, weights=weights,
                density=config.density,
                generator=seeded(self.learner.seed, "merge", shards[0].number),
            ))  # fmt: skip
        joined: list[Shard | Memory] = [*([] if earlier is None else [earlier]), *shards]
        memory = Memory(merges, change, epsilon(known), self.learner.routing_of(joined))
        if config.threshold == "recomputed" and len(parts) > 1:
            memory = replace(memory, epsilon=self.learner.epsilon(memory))
        return memory

    def _forgotten(self, state: WISEState, prompts: frozenset[str]) -> WISEState:
        """Without `prompts`: the live shard drops their records, as it was trained over them; the
        others are learned again."""
        closed = _edits_of(*state.memories, *state.shards[:-1])
        stale = prompts & frozenset(edit.prompt for edit in closed)
        if stale:
            state = self.without(state, stale)
        *full, live = state.shards or (None,)
        if live is None or not _holds(live, prompts):
            return state
        kept = [index for index, edit in enumerate(live.edits) if edit.prompt not in prompts]
        live = replace(
            live, turns=_without(live.turns, prompts), routing=live.routing[kept],
            activations=tuple(live.activations[index] for index in kept),
        )  # fmt: skip
        return replace(state, shards=(*full, live))

    def _closed(self, state: WISEState) -> WISEState:
        """The live shard is full: begin another, or merge when there are k."""
        if len(state.shards) < self.config.n_shards:
            fresh = self.learner.new_shard(state.n_shards)
            return replace(state, shards=(*state.shards, fresh), n_shards=state.n_shards + 1)
        keep = self.config.memory == "retrieve"
        earlier = None if keep or not state.memories else state.memories[-1]
        merged = self.merged([shard for shard in state.shards if shard.edits], earlier)
        return replace(state, memories=(*(state.memories if keep else ()), merged), shards=())

    def _relearned(self, number: int, turns: Sequence[Turn], earlier: Sequence[Edit]) -> Shard:
        shard = self.learner.new_shard(number)
        for turn in turns:
            shard = self.learner.learn(shard, turn, earlier)
        return shard

    def _rebuilt(
        self, memory: Memory, prompts: frozenset[str], earlier: Sequence[Memory]
    ) -> Memory | None:
        """`memory` learned again without `prompts`, merge by merge; None where no edit is left."""
        rebuilt: Memory | None = None
        for group in memory.merges:
            before = earlier if rebuilt is None else (*earlier, rebuilt)
            shards: list[Shard] = []
            for number, turns in group:
                known = _edits_of(*before, *shards)
                shard = self._relearned(number, _without(turns, prompts), known)
                shards += [shard] if shard.edits else []
            rebuilt = self.merged(shards, rebuilt) if shards else rebuilt
        return rebuilt


def _edits_of(*parts: Memory | Shard) -> tuple[Edit, ...]:
    return tuple(edit for part in parts for edit in part.edits)


def _holds(part: Memory | Shard, prompts: frozenset[str]) -> bool:
    return any(edit.prompt in prompts for edit in part.edits)


def _without(turns: Sequence[Turn], prompts: frozenset[str]) -> tuple[Turn, ...]:
    kept = (turn.without(prompts) for turn in turns)
    return tuple(turn for turn in kept if turn.edits)
