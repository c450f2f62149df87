"""One turn of WISE on a shard: its rows, its background, its scales, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.editors.routing_inputs import (
    RoutingInputs,
    background_inputs,
    prompt_inputs,
    select,
    stack,
)
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.learning import Objective, learn
from wise.editors.wise.memory import Change, Memory, Shard, Turn, sample_mask
from wise.edits import Background
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import background_prefixes, model_prefixes
from wise.lm.tail import Tail
from wise.lm.tokens import encode
from wise.seeds import seeded

__all__ = ["Learner"]


@dataclass
class Learner:
    """Learns turns into shards; holds only what model, background and seed determine."""

    lm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    background: Background
    config: WISEConfig
    layer: int
    seed: int
    activation: nn.Module | None = None  # of the routing activation, where configured
    _masks: dict[int, Bool[Tensor, "M D"]] = field(default_factory=dict)  # the live shard's

    @cached_property
    def weight(self) -> Float[Tensor, "M D"]:
        """W_v."""
        return self.lm.value_weight(self.layer).detach()

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

    def new_shard(self, number: int) -> Shard:
        """An empty shard: W_v' = W_v."""
        device, (inner, hidden) = self.lm.device, self.weight.shape
        return Shard(
            number, (), Change(torch.zeros(inner, hidden, device=device)),  # float32 in any model
            torch.zeros(0, 1, inner, device=device, dtype=self.weight.dtype),
            torch.zeros(0, 1, device=device, dtype=torch.bool),
            torch.zeros(0, device=device),
        )  # fmt: skip

    def learn(self, shard: Shard, turn: Turn, memories: Sequence[Memory]) -> Shard:
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
        unit, lr_factor = self._scales
        tau = shard.change.dense()
        objective = Objective(
            tail, rows, self._irrelevant(turn.number, tau, memories), config, unit,
            self.activation, self.weight,
        )  # fmt: skip
        tau, _ = learn(objective, tau, self._mask(shard.number), lr=config.lr * lr_factor)
        bare = rows[torch.arange(len(turn.edits), device=self.lm.device)]
        keys = stack([RoutingInputs(shard.keys, shard.key_mask), bare])
        with torch.no_grad():
            activations = objective.delta(tau, keys)
        if not activations.isfinite().all():
            raise ValueError(f"lr={config.lr} made an activation that is no number; lower lr")
        if config.threshold == "running":
            activations = torch.cat([shard.activations, activations[len(shard.keys) :]])
        return Shard(
            shard.number, (*shard.turns, turn), Change(tau), keys.keys, keys.mask, activations
        )

    def inputs_of(self, prompts: Sequence[str]) -> RoutingInputs:
        """Routing inputs of `prompts`."""
        how = self.config.routing_tokens
        return prompt_inputs(self.lm, self.tokenizer, self.layer, prompts, how)

    @torch.no_grad()
    def epsilon(self, memory: Memory) -> float:
        """The smallest activation of the memory's edits as it is now."""
        inputs = self.inputs_of([edit.prompt for edit in memory.edits])
        delta = inputs.delta(
            memory.change.apply(inputs.keys), self.config.routing_tokens,
            weight=self.weight, activation=self.activation,
        )  # fmt: skip
        return float(delta.min())

    def _mask(self, shard: int) -> Bool[Tensor, "M D"] | None:
        """M of a shard, by its number; None where every entry may change. The last one is kept."""
        if self.config.mask_ratio == 1.0:
            return None
        if shard not in self._masks:
            inner, hidden = self.weight.shape
            generator = seeded(self.seed, "mask", shard)
            mask = sample_mask((inner, hidden), self.config.mask_ratio, generator)
            self._masks = {shard: mask.to(self.lm.device)}
        return self._masks[shard]

    def _prefixes(self, turn: int) -> tuple[str, ...]:
        if self.config.prefixes == "model":
            return self._model_prefixes
        return background_prefixes(
            self.background, n=self.config.n_prefixes, seed=self.seed, turn=turn
        )

    @cached_property
    def _scales(self) -> tuple[float, float]:
        """Unit of the margins and factor of the learning rate: of the background, else own text."""
        if self.config.units == "absolute":
            return 1.0, 1.0
        inputs = self.irrelevant
        if inputs is None:
            own = model_prefixes(self.lm, self.tokenizer, n=32, length=10, seed=self.seed)
            inputs = self.inputs_of([text for text in own if text])
        keys = inputs.keys[inputs.mask].float()  # N M
        unit = float((keys @ self.weight.float()).norm(dim=-1).median())
        return unit, unit**2 / float(keys.square().sum(-1).mean())

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
                delta = self.irrelevant.delta(change, self.config.routing_tokens)
                order = order[delta[order].argsort(descending=True, stable=True)]
            parts.append(self.irrelevant[order[: self.config.n_irrelevant]])
        earlier = [edit.prompt for memory in memories for edit in memory.edits]
        if self.config.replay and earlier:
            chosen = torch.randperm(len(earlier), generator=generator)[: self.config.replay]
            parts.append(self.inputs_of([earlier[index] for index in chosen]))
        return stack(parts) if parts else None
