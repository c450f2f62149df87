"""Where each architecture keeps its parts. The one table of module paths in the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

__all__ = ["ARCHITECTURES", "Architecture", "LanguageModel", "architecture_of", "context_length"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Module paths of a model type; those of `attention`, `mlp` and `value*` start at a block."""

    embedding: str
    blocks: str
    attention: str
    mlp: str
    value: str  # W_v: the projection out of the MLP's inner layer
    norm: str
    value_norm: str = ""  # a norm between W_v and the residual stream
    head: str = "lm_head"


_LLAMA = Architecture(
    "model.embed_tokens", "model.layers", "self_attn", "mlp", "mlp.down_proj", "model.norm"
)
_NORMED_VALUE = replace(_LLAMA, value_norm="post_feedforward_layernorm")
_GPT2 = Architecture(
    "transformer.wte", "transformer.h", "attn", "mlp", "mlp.c_proj", "transformer.ln_f"
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "phi3": _LLAMA,
    "stablelm": _LLAMA,
    "gemma2": _NORMED_VALUE,
    "gemma3_text": _NORMED_VALUE,
    "olmo2": _NORMED_VALUE,
    "phi": Architecture(
        "model.embed_tokens", "model.layers", "self_attn", "mlp", "mlp.fc2", "model.final_layernorm"
    ),
    "gptj": Architecture(
        "transformer.wte", "transformer.h", "attn", "mlp", "mlp.fc_out", "transformer.ln_f"
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "falcon": Architecture(
        "transformer.word_embeddings", "transformer.h", "self_attention", "mlp",
        "mlp.dense_4h_to_h", "transformer.ln_f",
    ),
    "gpt_neox": Architecture(
        "gpt_neox.embed_in", "gpt_neox.layers", "attention", "mlp", "mlp.dense_4h_to_h",
        "gpt_neox.final_layer_norm",
    ),
    "opt": Architecture(
        "model.decoder.embed_tokens", "model.decoder.layers", "self_attn", "fc2", "fc2",
        "model.decoder.final_layer_norm",
    ),
}  # fmt: skip

# Settings that change what a block computes from what this module and the tail assume.
_UNSUPPORTED: tuple[tuple[str, bool, str], ...] = (
    ("do_layer_norm_before", False, "a block must add the output of W_v, or its norm, to the "
     "residual stream, and not norm their sum"),
    ("alibi", True, "positions must be rotary or embedded, as the tail cuts what blocks are given "
     "by columns"),
)  # fmt: skip


def architecture_of(model_type: str) -> Architecture:
    """The parts of a model type. Raises ValueError for one outside the table."""
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model_type={model_type!r} is not supported; supported are "
            f"{', '.join(sorted(ARCHITECTURES))}. To add it, give its module paths in one "
            "line of ARCHITECTURES in wise/lm/architectures.py"
        )
    return ARCHITECTURES[model_type]


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens the model can read; None where its configuration does not say."""
    return getattr(model.config, "max_position_embeddings", None)


class LanguageModel:
    """A causal language model of transformers, with its parts by name.

    L blocks, hidden width D, inner width M. Raises ValueError for a model type outside the table,
    and for a setting with which its blocks work otherwise.
    """

    def __init__(self, model: PreTrainedModel):
        architecture = architecture_of(getattr(model.config, "model_type", type(model).__name__))
        for setting, value, needed in _UNSUPPORTED:
            if getattr(model.config, setting, not value) == value:
                raise ValueError(f"{setting}={value} is not supported: {needed}")
        self.model = model
        self.architecture = architecture
        self.embedding = model.get_submodule(self.architecture.embedding)
        self.blocks = list(model.get_submodule(self.architecture.blocks).children())
        self.norm = model.get_submodule(self.architecture.norm)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context_length(self) -> int | None:
        """The most tokens the model can read; None where its configuration does not say."""
        return context_length(self.model)

    @property
    def activation(self) -> nn.Module:
        """The function that the MLP applies before W_v."""
        names = ("hidden_act", "hidden_activation", "activation_function", "activation")
        named = (getattr(self.model.config, name, None) for name in names)
        return ACT2FN[next(name for name in named if name)]

    def check_layer(self, layer: int) -> int:
        """`layer` itself; ValueError where the model has no such block."""
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise ValueError(f"layer={layer!r} is not a whole number")
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer={layer} is outside the model's 0..{self.n_layers - 1}")
        return layer

    def window(self, layer: int, n: int) -> tuple[int, int]:
        """[first, last) of `n` neighbouring layers with `layer` at their centre, cut off at the
        model's ends. Source: ROME, trace_important_window."""
        self.check_layer(layer)
        return max(0, layer - n // 2), min(self.n_layers, layer + (n + 1) // 2)

    def around(self, layer: int, n: int) -> tuple[int, ...]:
        """The layers of a `window`."""
        return tuple(range(*self.window(layer, n)))

    def part(self, layer: int, name: str) -> nn.Module:
        """The `attention`, `mlp` or `value` module of a block."""
        block = self.blocks[self.check_layer(layer)]
        return block.get_submodule(getattr(self.architecture, name))

    def value_weight(self, layer: int) -> Float[Tensor, "M D"]:
        """W_v as a view that maps [.., M] to [.., D] by `a @ W_v`, for Linear and Conv1D alike."""
        module = self.part(layer, "value")
        weight = cast(Tensor, module.weight)
        return weight.T if isinstance(module, nn.Linear) else weight

    def weights_with(self, changes: Mapping[int, Float[Tensor, "M D"]]) -> dict[str, Tensor]:
        """W_v + change at each layer of `changes`, as weights of the model by name."""
        weights = {}
        for layer, change in changes.items():
            module = self.part(layer, "value")
            tau = change.T if isinstance(module, nn.Linear) else change
            own = cast(Tensor, module.weight).detach()
            name = f"{self.block_name(layer)}.{self.architecture.value}.weight"
            weights[name] = (own.to(tau.dtype) + tau).to(own.dtype)
        return weights

    def block_name(self, layer: int) -> str:
        """With which the names of a block's weights begin."""
        return f"{self.architecture.blocks}.{self.check_layer(layer)}"

    def value_norm(self, layer: int, value: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """What the block adds to the residual stream when W_v gives `value`."""
        if not self.architecture.value_norm:
            return value
        return self.blocks[layer].get_submodule(self.architecture.value_norm)(value)

    def head(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of the last block's output: final norm, projection, head and soft cap."""
        hidden = self.norm(hidden)
        decoder = getattr(getattr(self.model, "model", None), "decoder", None)
        project_out = getattr(decoder, "project_out", None)
        if project_out is not None:
            hidden = project_out(hidden)
        logits = self.model.get_submodule(self.architecture.head)(hidden)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap
