"""The edit loop of WISE: turns into shards, full shards into memories, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wise.editors.wise.config import WISEConfig
from wise.editors.wise.memory import Change, Memory, Shard, Turn, WISEState
from wise.editors.wise.merge import merge
from wise.editors.wise.turns import Learner
from wise.edits import Edit
from wise.seeds import seeded

__all__ = ["Sharding"]


@dataclass(frozen=True)
class Sharding:
    """From a state to the next. A state is never written to."""

    learner: Learner

    @property
    def config(self) -> WISEConfig:
        return self.learner.config

    def after(self, state: WISEState, edits: tuple[Edit, ...]) -> WISEState:
        """`state` after a turn. An earlier edit of the same prompt is no longer in force."""
        state = self._overwritten(state, frozenset(edit.prompt for edit in edits))
        *waiting, live = state.shards
        live = self.learner.learn(live, Turn(state.n_turns, edits), state.memories)
        state = replace(
            state,
            shards=(*waiting, live),
            n_turns=state.n_turns + 1,
            n_shards=max(state.n_shards, live.number + 1),
        )
        return self._closed(state) if len(live.edits) >= self.config.edits_per_shard else state

    def without(self, state: WISEState, prompts: frozenset[str]) -> WISEState:
        """`state` as if the edits of `prompts` had not been made, shard by shard."""
        memories: list[Memory] = []
        for memory in state.memories:
            rebuilt: Memory | None = memory
            if _affected(memory.edits, prompts):
                rebuilt = self._rebuilt(memory, prompts, tuple(memories))
            memories += [] if rebuilt is None else [rebuilt]
        shards = [
            self._relearned(shard.number, _without(shard.turns, prompts), tuple(memories))
            if _affected(shard.edits, prompts)
            else shard
            for shard in state.shards
        ]
        return replace(state, memories=tuple(memories), shards=tuple(shards))

    def _overwritten(self, state: WISEState, prompts: frozenset[str]) -> WISEState:
        """The live shard will be trained over and forgets the record; others are learned anew."""
        closed: tuple[Memory | Shard, ...] = (*state.memories, *state.shards[:-1])
        stale = prompts & frozenset(edit.prompt for part in closed for edit in part.edits)
        if stale:
            state = self.without(state, stale)
        *waiting, live = state.shards or (self.learner.new_shard(state.n_shards),)
        if _affected(live.edits, prompts):
            kept = [index for index, edit in enumerate(live.edits) if edit.prompt not in prompts]
            live = replace(
                live, turns=_without(live.turns, prompts), keys=live.keys[kept],
                key_mask=live.key_mask[kept], activations=live.activations[kept],
            )  # fmt: skip
        return replace(state, shards=(*waiting, live))

    def _closed(self, state: WISEState) -> WISEState:
        """The live shard is full: begin another, or merge when there are k."""
        if len(state.shards) < self.config.n_shards:
            fresh = self.learner.new_shard(state.n_shards)
            return replace(state, shards=(*state.shards, fresh), n_shards=state.n_shards + 1)
        keep = self.config.memory == "retrieve"
        earlier = None if keep or not state.memories else state.memories[-1]
        merged = self._merged([shard for shard in state.shards if shard.edits], earlier)
        return replace(state, memories=(*(state.memories if keep else ()), merged), shards=())

    def _relearned(self, number: int, turns: Sequence[Turn], memories: Sequence[Memory]) -> Shard:
        shard = self.learner.new_shard(number)
        for turn in turns:
            shard = self.learner.learn(shard, turn, memories)
        return shard

    def _rebuilt(
        self, memory: Memory, prompts: frozenset[str], memories: Sequence[Memory]
    ) -> Memory | None:
        """`memory` learned again without `prompts`, merge by merge; None where nothing is left."""
        rebuilt: Memory | None = None
        for group in memory.merges:
            relearned = [
                self._relearned(n, _without(turns, prompts), memories) for n, turns in group
            ]
            shards = [shard for shard in relearned if shard.edits]
            rebuilt = self._merged(shards, rebuilt) if shards else rebuilt
        return rebuilt

    def _merged(self, shards: Sequence[Shard], earlier: Memory | None) -> Memory:
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
        tau = parts[0]
        if len(parts) > 1:
            tau = merge(
                config.merge, torch.zeros_like(tau), parts, weights=weights,
                density=config.density,
                generator=seeded(self.learner.seed, "merge", shards[0].number),
            )  # fmt: skip
        memory = Memory(merges, Change.of(tau), min(known))
        if config.threshold == "recomputed" and len(parts) > 1:
            memory = replace(memory, epsilon=self.learner.epsilon(memory))
        return memory


def _affected(edits: Sequence[Edit], prompts: frozenset[str]) -> bool:
    return any(edit.prompt in prompts for edit in edits)


def _without(turns: Sequence[Turn], prompts: frozenset[str]) -> tuple[Turn, ...]:
    kept = (turn.without(prompts) for turn in turns)
    return tuple(turn for turn in kept if turn.edits)
