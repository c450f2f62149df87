"""WISE: side memories of one W_v, a router that opens them, shards that are merged.

Wang et al., NeurIPS 2024, arXiv 2405.14768. The caller's model is never written to: an edit learns
tau = W_v' - W_v, and a hook adds A(x) tau to the output of W_v for the rows that are routed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.editors.base import ErasableBase, ValueEditorBase, factory
from wise.editors.router import RoutingInputs
from wise.editors.wise import checkpoint
from wise.editors.wise.config import PRESETS, WISEConfig, default_preset
from wise.editors.wise.gate import Gate
from wise.editors.wise.learning import Learner
from wise.editors.wise.matcher import N_READINGS
from wise.editors.wise.memory import Memory, Shard, WISEState
from wise.editors.wise.sharding import Sharding
from wise.edits import Background, Edit
from wise.lm import hooks
from wise.lm.tail import inputs_seen, run
from wise.lm.tokens import Batch

__all__ = ["WISE", "WISEConfig", "make"]


class WISE(ValueEditorBase[WISEConfig, WISEState], ErasableBase[WISEConfig, WISEState]):
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
        self._learner = Learner(self.kept, background, self.config, self.layer, seed)
        self._sharding = Sharding(self._learner)

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The largest activation over side memories; 0 before the first edit.

        With thresholds="per-memory" each is divided by its memory's own threshold.
        """
        memories = self._state.candidates
        if not memories:
            return torch.zeros(len(input_ids), device=input_ids.device)
        rows = self._rows(input_ids, attention_mask)
        return self._learner.router.activations(rows, memories).amax(0)

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edits of the side memory that each prompt opens; none where it opens none."""
        memories = self._state.candidates
        if not memories:
            return [()] * len(input_ids)
        rows = self._rows(input_ids, attention_mask)
        choices = self._learner.router.choose(rows, memories).tolist()
        return [memories[each].edits if each >= 0 else () for each in choices]

    @property
    def growth_per_edit(self) -> float:
        """Routing multiplies a prompt's last token by one W_v for each side memory.

        By match, it compares each token with readings of each edit's subject, and a prompt's mean
        and last token with the edit's.
        """
        inner, hidden = self._learner.weight.shape
        per_edit = (
            (N_READINGS + 2) * inner
            if self.config.routing == "match"
            else (inner * hidden / self.config.edits_per_shard)
        )
        return per_edit / self.lm.model.num_parameters()

    @property
    def threshold(self) -> float:
        """What a routing activation must exceed to open a side memory; infinite without one."""
        memories = self._state.candidates
        return self._learner.router.threshold(memories) if memories else float("inf")

    def _rows(self, input_ids: Tensor, attention_mask: Tensor) -> RoutingInputs:
        mask = attention_mask.bool()
        batch = Batch.of_prompts(input_ids, mask)
        with (
            hooks.frozen(self.lm.model),
            inputs_seen(self.lm, self._learner.layers, batch, stop=True) as inputs,
        ):
            run(self.lm, batch)
        return self._learner.router.select(inputs, mask)

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        memories = self._state.candidates
        if not memories:
            return nullcontext()
        return self._gated(memories, prompt_mask.bool())

    @contextmanager
    def _gated(self, memories: Sequence[Memory | Shard], prompt_mask: Tensor) -> Iterator[None]:
        gate = Gate(self._learner.router, memories, prompt_mask, self.config.span)
        with ExitStack() as stack:
            for layer in self._learner.layers[:-1]:
                stack.enter_context(hooks.observe(self.lm.part(layer, "value"), gate.see))
            stack.enter_context(hooks.replace(self.lm.part(self.layer, "value"), gate))
            yield

    def _after(self, state: WISEState, edits: tuple[Edit, ...]) -> WISEState:
        return self._settled_at(self._sharding.after(state, edits))

    def _without(self, state: WISEState, prompts: frozenset[str]) -> WISEState:
        """Shards and memories with edits of these prompts are learned again without them."""
        return self._settled_at(self._sharding.without(state, prompts))

    def _settled_at(self, state: WISEState) -> WISEState:
        """`state`, with the router ready for it."""
        self._learner.router.settle(state.candidates)
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
