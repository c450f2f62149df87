"""WISE: side memories beside one W_v, a router that opens them, shards that are merged.

Wang et al., NeurIPS 2024, arXiv 2405.14768. The caller's model is never written to: an edit learns
tau = W_v' - W_v, and a hook adds A(x) tau to the output of W_v for the rows that are routed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.editors.base import factory
from wise.editors.wise import checkpoint
from wise.editors.wise.config import PRESETS, WISEConfig
from wise.editors.wise.gate import Gate, Route
from wise.editors.wise.memory import WISEState
from wise.editors.wise.sharding import Sharding
from wise.editors.wise.turns import Learner
from wise.edits import Background, Edit, turn_of
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited
from wise.lm.tail import value_inputs
from wise.lm.tokens import Batch

__all__ = ["WISE", "WISEConfig", "make"]


class WISE:
    """Lifelong editor with side memories; it has every capability of `wise.editor`.

    Raises ValueError where the model has no such layer or is of no known type.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        background: Background,
        config: WISEConfig | None = None,
        *,
        seed: int = 0,
    ):
        lm = LanguageModel(model)
        config = WISEConfig() if config is None else config
        layer = 3 * lm.n_layers // 4 if config.layer is None else lm.check_layer(config.layer)
        self.lm = lm
        self.layer = layer
        self.config = replace(config, layer=layer)
        self.seed = seed
        self.tokenizer = tokenizer
        self._activation = lm.activation if config.routing_activation == "activated" else None
        self.learner = Learner(
            lm, tokenizer, background, self.config, layer, seed, self._activation
        )
        self._sharding = Sharding(self.learner)
        self._bare = Unedited(model, tokenizer)
        self._state = WISEState()

    def edit(self, edits: Sequence[Edit]) -> None:
        """One turn: learn these edits together; a prompt edited before gets its new target.

        Raises ValueError, with the state as it was, for an empty turn, a prompt edited twice in it,
        text that encodes to nothing or is too long for the model, and a loss that is not a number.
        """
        edits = turn_of(edits)
        with hooks.frozen(self.lm.model):
            self._state = self._sharding.after(self._state, edits)

    def remove(self, edits: Sequence[Edit]) -> None:
        """Unedit: what holds these edits is learned again without them.

        Raises KeyError naming a prompt that no edit in force has.
        """
        known = {edit.prompt for edit in self.edits}
        for edit in edits:
            if edit.prompt not in known:
                raise KeyError(f"no edit of the prompt {edit.prompt!r} is in force")
        with hooks.frozen(self.lm.model):
            prompts = frozenset(edit.prompt for edit in edits)
            self._state = self._sharding.without(self._state, prompts)

    def reset(self) -> None:
        """Back to the unedited model, bitwise."""
        self._state = WISEState()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force."""
        return self._state.edits

    @property
    def n_bytes(self) -> int:
        """Bytes held for side memories: all of the live one, the changed entries of the others."""
        return sum(part.change.n_bytes for part in self._state.candidates)

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the edited model, routed on `prompt_mask` or, without one, on all tokens."""
        with self._routed(attention_mask if prompt_mask is None else prompt_mask):
            return self._bare.logits(input_ids, attention_mask)

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "B S"]:
        """Greedy continuations (num_beams=n: beams); each row's route is decided on its prompt."""
        with self._routed(attention_mask):
            return self._bare.generate(input_ids, attention_mask, max_new_tokens, **options)

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The largest activation over side memories; 0 before the first edit.

        With thresholds="per-memory" each is measured in its memory's own threshold.
        """
        gate = self._gate()
        if not gate.candidates:
            return torch.zeros(len(input_ids), device=input_ids.device)
        mask = attention_mask.bool()
        with hooks.frozen(self.lm.model):
            inputs = value_inputs(self.lm, self.layer, Batch.of_prompts(input_ids, mask))
            return gate.activations(inputs, mask).amax(0)

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edits of the side memory that each prompt opens; none where it opens none."""
        gate, mask = self._gate(), attention_mask.bool()
        if not gate.candidates:
            return [()] * len(input_ids)
        with hooks.frozen(self.lm.model):
            inputs = value_inputs(self.lm, self.layer, Batch.of_prompts(input_ids, mask))
            choices = gate.decide(Route(mask), inputs).tolist()
        return [gate.candidates[each].edits if each >= 0 else () for each in choices]

    @property
    def growth_per_edit(self) -> float:
        """Routing takes one W_v for a prompt's last token, once for each memory of edits."""
        per_memory = self.learner.weight.numel() / self.config.edits_per_shard
        return per_memory / self.lm.model.num_parameters()

    @property
    def threshold(self) -> float:
        """What a routing activation must exceed to open a side memory."""
        return self._gate().threshold

    def save(self, path: str | Path) -> None:
        """Write the state into the folder `path`: safetensors and a JSON manifest."""
        checkpoint.save(Path(path), self._state, self._identity())

    def load(self, path: str | Path) -> None:
        """Take over a saved state. One that does not fit is a ValueError and changes nothing."""
        inner, hidden = self.learner.weight.shape
        shape = inner, hidden
        self._state = checkpoint.load(Path(path), self._identity(), shape, self.lm.device)

    def _identity(self) -> dict[str, Any]:
        return checkpoint.identity(self.lm, self.config, self.learner.background, self.seed)

    def _gate(self) -> Gate:
        return Gate(self._state.candidates, self.config, self.learner.weight, self._activation)

    @contextmanager
    def _routed(self, prompt_mask: Tensor) -> Iterator[None]:
        gate, route = self._gate(), Route(prompt_mask.bool())
        if not gate.candidates:
            yield
            return
        value = self.lm.part(self.layer, "value")
        with hooks.replace(value, lambda inputs, output: gate.output(route, inputs, output)):
            yield


make = factory(WISE, WISEConfig, PRESETS)
