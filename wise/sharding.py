"""The edit loop of WISE: turns into shards, full shards into memories, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.config import WISEConfig
from wise.edits import Background, Edit
from wise.irrelevant import RoutingInputs, background_inputs, prompt_inputs, select, stack
from wise.learning import Objective, learn
from wise.lm.architectures import LanguageModel
from wise.lm.tail import Tail
from wise.lm.tokens import encode
from wise.memory import Change, Memory, Shard, State, Turn, sample_mask, seeded
from wise.merge import merge
from wise.prefixes import background_prefixes, model_prefixes
from wise.router import aggregate, routing_activation

__all__ = ["Sharding"]

ShardRecord = tuple[int, tuple[Turn, ...]]


@dataclass
class Sharding:
    """Functions from a state to the next; holds only what the background and the model determine."""

    lm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    background: Background
    config: WISEConfig
    layer: int
    seed: int
    activation: nn.Module | None = None
    scales: tuple[float, float] | None = None  # margin unit, learning rate factor

    @cached_property
    def weight(self) -> Float[Tensor, "M D"]:
        return self.lm.value_weight(self.layer)

    @cached_property
    def irrelevant(self) -> RoutingInputs | None:
        """Routing inputs of background prompts, computed when first needed."""
        return background_inputs(
            self.lm, self.tokenizer, self.layer, self.background, self.config.routing_tokens,
            n=self.config.n_background, seed=self.seed,
        )  # fmt: skip

    @cached_property
    def _model_prefixes(self) -> tuple[str, ...]:
        return model_prefixes(
            self.lm, self.tokenizer,
            n=self.config.n_prefixes, length=self.config.prefix_length, seed=self.seed,
        )  # fmt: skip

    def after(self, state: State, edits: tuple[Edit, ...]) -> State:
        """`state` after a turn. An earlier edit of the same prompt is no longer in force."""
        state = self._overwritten(state, frozenset(edit.prompt for edit in edits))
        *waiting, live = state.shards or (self._new_shard(state.n_shards),)
        live = self._learn(live, Turn(state.n_turns, edits), state.memories)
        state = replace(
            state,
            shards=(*waiting, live),
            n_turns=state.n_turns + 1,
            n_shards=max(state.n_shards, live.number + 1),
        )
        return self._closed(state) if len(live.edits) >= self.config.edits_per_shard else state

    def without(self, state: State, prompts: frozenset[str]) -> State:
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

    def _overwritten(self, state: State, prompts: frozenset[str]) -> State:
        """Open shards will be trained over and only forget the record; memories are learned anew."""
        in_memory = frozenset(edit.prompt for memory in state.memories for edit in memory.edits)
        shards = []
        for shard in state.shards:
            kept = torch.tensor(
                [edit.prompt not in prompts for edit in shard.edits], dtype=torch.bool
            )
            turns = _without(shard.turns, prompts)
            keys, mask, activations = (
                x[kept] for x in (shard.keys, shard.key_mask, shard.activations)
            )
            shards.append(Shard(shard.number, turns, shard.change, keys, mask, activations))
        state = replace(state, shards=tuple(shards))
        return self.without(state, prompts & in_memory) if prompts & in_memory else state

    def _closed(self, state: State) -> State:
        """The live shard is full: begin another, or merge when there are k."""
        if len(state.shards) < self.config.n_shards:
            fresh = self._new_shard(state.n_shards)
            return replace(state, shards=(*state.shards, fresh), n_shards=state.n_shards + 1)
        keep = self.config.memory == "retrieve"
        earlier = None if keep or not state.memories else state.memories[-1]
        merged = self._merged(state.shards, earlier)
        return replace(state, memories=(*(state.memories if keep else ()), merged), shards=())

    def _new_shard(self, number: int) -> Shard:
        device, (inner, hidden) = self.lm.device, self.weight.shape
        return Shard(
            number, (), Change(torch.zeros(inner, hidden, device=device)),  # float32 in any model
            torch.zeros(0, 1, inner, device=device, dtype=self.weight.dtype),
            torch.zeros(0, 1, device=device, dtype=torch.bool),
            torch.zeros(0, device=device),
        )  # fmt: skip

    def _mask(self, shard: int) -> Bool[Tensor, "M D"] | None:
        if self.config.mask_ratio == 1.0:
            return None
        inner, hidden = self.weight.shape
        generator = seeded(self.seed, "mask", shard)
        return sample_mask((inner, hidden), self.config.mask_ratio, generator).to(self.lm.device)

    def _learn(self, shard: Shard, turn: Turn, memories: Sequence[Memory]) -> Shard:
        """`shard` after one turn."""
        config, how = self.config, self.config.routing_tokens
        starts = ("", *self._prefixes(turn.number))
        prompts = [
            f"{start} {e.prompt}" if start else e.prompt for start in starts for e in turn.edits
        ]
        batch = encode(
            self.tokenizer, prompts, [edit.target for edit in turn.edits] * len(starts),
            append_eos=config.append_eos, max_length=self.lm.context_length,
        ).to(self.lm.device)  # fmt: skip
        tail = Tail.capture(self.lm, self.layer, batch)
        rows = select(tail.inputs, batch.prompt_mask, how)
        unit, lr_factor = self._scales(rows)
        tau = shard.change.dense()
        objective = Objective(
            tail, rows, self._irrelevant(turn.number, tau, memories), config, unit,
            self.activation, None if self.activation is None else self.weight,
        )  # fmt: skip
        tau, _ = learn(objective, tau, self._mask(shard.number), lr=config.lr * lr_factor)
        bare = rows[torch.arange(len(turn.edits), device=self.lm.device)]
        keys = stack([RoutingInputs(shard.keys, shard.key_mask), bare])
        with torch.no_grad():
            activations = objective.delta(tau, keys)
        if config.threshold == "running":
            activations = torch.cat([shard.activations, activations[len(shard.keys) :]])
        return Shard(
            shard.number, (*shard.turns, turn), Change(tau), keys.keys, keys.mask, activations
        )

    def _prefixes(self, turn: int) -> tuple[str, ...]:
        if self.config.prefixes == "model":
            return self._model_prefixes
        return background_prefixes(
            self.background, n=self.config.n_prefixes, seed=self.seed, turn=turn
        )

    def _scales(self, rows: RoutingInputs) -> tuple[float, float]:
        """Unit of the margins and factor of the learning rate; fixed at the first turn."""
        if self.config.units == "absolute":
            return 1.0, 1.0
        if self.scales is None:
            inputs = rows if self.irrelevant is None else self.irrelevant
            keys = inputs.keys[inputs.mask].float()  # N M
            unit = float((keys @ self.weight.float()).norm(dim=-1).median())
            self.scales = unit, unit**2 / float(keys.square().sum(-1).mean())
        return self.scales

    def _irrelevant(
        self, turn: int, tau: Float[Tensor, "M D"], memories: Sequence[Memory]
    ) -> RoutingInputs | None:
        """x_i of a turn: background prompts, and prompts of earlier memories where replay is on."""
        generator = seeded(self.seed, "irrelevant", turn)
        parts = []
        if self.irrelevant is not None and self.config.n_irrelevant:
            order = torch.randperm(len(self.irrelevant), generator=generator).to(tau.device)
            if self.config.negatives == "hardest":
                change = self.irrelevant.keys.float() @ tau
                how = self.config.routing_tokens
                delta = aggregate(routing_activation(change), self.irrelevant.mask, how)
                order = order[delta[order].argsort(descending=True, stable=True)]
            parts.append(self.irrelevant[order[: self.config.n_irrelevant]])
        earlier = [edit.prompt for memory in memories for edit in memory.edits]
        if self.config.replay and earlier:
            chosen = torch.randperm(len(earlier), generator=generator)[: self.config.replay]
            parts.append(self._inputs_of([earlier[index] for index in chosen]))
        return stack(parts) if parts else None

    def _inputs_of(self, prompts: Sequence[str]) -> RoutingInputs:
        how = self.config.routing_tokens
        return prompt_inputs(self.lm, self.tokenizer, self.layer, prompts, how)

    def _relearned(self, number: int, turns: Sequence[Turn], memories: Sequence[Memory]) -> Shard:
        shard = self._new_shard(number)
        for turn in turns:
            shard = self._learn(shard, turn, memories)
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
        merges = (tuple((shard.number, shard.turns) for shard in shards),)
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
                density=config.density, generator=seeded(self.seed, "merge", shards[0].number),
            )  # fmt: skip
        memory = Memory(merges, Change.of(tau), min(known))
        if config.threshold == "recomputed" and len(parts) > 1:
            memory = replace(memory, epsilon=self._epsilon(memory))
        return memory

    @torch.no_grad()
    def _epsilon(self, memory: Memory) -> float:
        """The smallest activation of the memory's edits as it is now."""
        inputs = self._inputs_of([edit.prompt for edit in memory.edits])
        value = None if self.activation is None else inputs.keys @ self.weight
        change = memory.change.apply(inputs.keys)
        delta = routing_activation(change, value, self.activation)
        return float(aggregate(delta, inputs.mask, self.config.routing_tokens).min())


def _affected(edits: Sequence[Edit], prompts: frozenset[str]) -> bool:
    return any(edit.prompt in prompts for edit in edits)


def _without(turns: Sequence[Turn], prompts: frozenset[str]) -> tuple[Turn, ...]:
    kept = (turn.without(prompts) for turn in turns)
    return tuple(turn for turn in kept if turn.edits)
