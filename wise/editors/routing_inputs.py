"""Background prompts as inputs of W_v: what the routing loss must keep out of scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.editors.router import aggregate, routing_activation, token_selection
from wise.edits import Background
from wise.lm.architectures import LanguageModel
from wise.lm.tail import value_inputs
from wise.lm.tokens import encode
from wise.seeds import seeded

__all__ = ["RoutingInputs", "background_inputs", "prompt_inputs", "stack"]


@dataclass(frozen=True)
class RoutingInputs:
    """A(x) at the routing tokens of prompts; rows with fewer are zero where `mask` is False."""

    keys: Float[Tensor, "N S M"]
    mask: Bool[Tensor, "N S"]

    def __len__(self) -> int:
        return len(self.keys)

    def delta(
        self,
        change: Float[Tensor, "N S D"],
        how: str,
        *,
        weight: Float[Tensor, "M D"] | None = None,
        activation: nn.Module | None = None,
    ) -> Float[Tensor, " N"]:
        """Delta_act of each row, where a memory's `change` is A(x) tau; `weight` is W_v."""
        value = None if activation is None or weight is None else self.keys @ weight
        return aggregate(routing_activation(change, value, activation), self.mask, how)

    def __getitem__(self, rows: Tensor) -> RoutingInputs:
        return RoutingInputs(self.keys[rows], self.mask[rows])


def stack(parts: Sequence[RoutingInputs]) -> RoutingInputs:
    """All rows below each other, as wide as the widest."""
    width = max(part.keys.shape[1] for part in parts)
    keys = [torch.nn.functional.pad(p.keys, (0, 0, 0, width - p.keys.shape[1])) for p in parts]
    masks = [torch.nn.functional.pad(p.mask, (0, width - p.mask.shape[1])) for p in parts]
    return RoutingInputs(torch.cat(keys), torch.cat(masks))


def select(
    inputs: Float[Tensor, "B T M"], prompt_mask: Bool[Tensor, "B T"], how: str
) -> RoutingInputs:
    """The routing tokens of each row; for "last" S is 1, else T."""
    selected = token_selection(prompt_mask, how)
    if how != "last":
        return RoutingInputs(inputs * selected[..., None], selected)
    last = selected.long().argmax(-1)  # B
    keys = inputs[torch.arange(len(inputs), device=inputs.device), last]
    return RoutingInputs(keys[:, None], selected.any(-1, keepdim=True))


def prompt_inputs(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    prompts: Sequence[str],
    how: str,
    *,
    batch_size: int = 64,
) -> RoutingInputs:
    """Routing inputs of `prompts`, in their order."""
    parts = []
    for start in range(0, len(prompts), batch_size):
        rows = prompts[start : start + batch_size]
        batch = encode(tokenizer, rows, max_length=lm.context_length).to(lm.device)
        parts.append(select(value_inputs(lm, layer, batch), batch.prompt_mask, how))
    return stack(parts)


def background_inputs(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    background: Background,
    how: str,
    *,
    n: int,
    seed: int,
) -> RoutingInputs | None:
    """Routing inputs of `n` background prompts; None for an empty background.

    Half of them (or all, or none, as the background has them) are its edits' prompts and
    paraphrases, the others its texts, each cut off after a random word: a prompt may end anywhere.
    """
    generator = seeded(seed, "background")
    asked = [text for edit in background.edits for text in (edit.prompt, *edit.paraphrases)]
    n_asked = min(len(asked), n - min(n // 2, len(background.texts)))
    chosen = [asked[i] for i in torch.randperm(len(asked), generator=generator)[:n_asked]]
    order = torch.randperm(len(background.texts), generator=generator)[: n - n_asked]
    for index in order.tolist():
        words = background.texts[index].split(" ")
        cut = int(torch.randint(len(words), (), generator=generator)) + 1
        text = " ".join(words[:cut])
        chosen.append(text if text.strip() else background.texts[index])
    if not chosen:
        return None
    chosen = [_readable(lm, tokenizer, text) for text in chosen]
    chosen.sort(key=len)  # batches of like length; the order is drawn anew for each turn
    return prompt_inputs(lm, tokenizer, layer, chosen, how)


def _readable(lm: LanguageModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text`, halved until the model can read it: a background prompt may end anywhere."""
    while lm.context_length is not None and len(tokenizer(text).input_ids) > lm.context_length:
        text = text[: len(text) // 2]
    return text
