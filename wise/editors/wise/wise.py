"""WISE: side memories of one W_v, a router that opens them, shards that are merged.

Wang et al., NeurIPS 2024, arXiv 2405.14768. The caller's model is never written to: an edit learns
tau = W_v' - W_v, and a hook adds A(x) tau to the output of W_v for the rows that are routed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.editors.base import ErasableBase, factory
from wise.editors.gated import GatedBase
from wise.editors.router import RouterBase
from wise.editors.wise import checkpoint
from wise.editors.wise.config import PRESETS, WISEConfig, default_preset
from wise.editors.wise.learning import Learner
from wise.editors.wise.matcher import N_COMPARED
from wise.editors.wise.memory import Memory, Shard, WISEState
from wise.editors.wise.sharding import Sharding
from wise.edits import Background, Edit
from wise.lm import hooks

__all__ = ["WISE", "WISEConfig", "make"]


class WISE(GatedBase[WISEConfig, WISEState], ErasableBase[WISEConfig, WISEState]):
    """Lifelong editor with side memories; it has every capability of `wise.editor`.

    Without a `config` it has the preset that its factory would choose. Raises ValueError where
    the model has no such layer or is of no known type.
    """

    empty = WISEState()

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        background: Background,
        config: WISEConfig | None = None,
        *,
        seed: int = 0,
        cache: str | Path | None = None,
    ):
        config = WISEConfig.of(default_preset(model)) if config is None else config
        super().__init__(model, tokenizer, background, config, seed=seed, cache=cache)
        self.span = config.span
        self._learner = Learner(self.kept, background, self.config, self.layer, seed)
        self._sharding = Sharding(self._learner)

    @property
    def router(self) -> RouterBase:
        return self._learner.router

    @property
    def routing_layers(self) -> tuple[int, ...]:
        return self._learner.layers

    def _memories(self, state: WISEState) -> tuple[Memory | Shard, ...]:
        return state.candidates

    @property
    def growth_per_edit(self) -> float:
        """Routing multiplies a prompt's last token by one W_v for each side memory.

        By match, it compares each token with those of readings of each edit's subject, and a
        prompt's mean and last token with the edit's.
        """
        inner, hidden = self._learner.weight.shape
        per_edit = (
            N_COMPARED * inner
            if self.config.routing == "match"
            else inner * hidden / self.config.edits_per_shard
        )
        return per_edit / self.lm.model.num_parameters()

    def _after(self, state: WISEState, edits: tuple[Edit, ...]) -> WISEState:
        return self._settled_at(self._sharding.after(state, edits))

    def _without(self, state: WISEState, prompts: frozenset[str]) -> WISEState:
        """Shards and memories with edits of these prompts are learned again without them."""
        return self._settled_at(self._sharding.without(state, prompts))

    def _settled_at(self, state: WISEState) -> WISEState:
        """`state`, with the router ready for it."""
        self.router.settle(state.candidates)
        return state

    def reset(self) -> None:
        super().reset()
        self._settled_at(self._state)

    def _record(self, state: WISEState) -> dict[str, Any]:
        return checkpoint.record_of(state)

    def _tensors(self, state: WISEState) -> dict[str, Tensor]:
        return checkpoint.tensors_of(state)

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> WISEState:
        inner, hidden = self._learner.weight.shape
        with hooks.frozen(self.lm.model):
            return self._settled_at(checkpoint.state_of(record, tensors, (inner, hidden)))


make = factory(WISE, WISEConfig, PRESETS, default=default_preset)
