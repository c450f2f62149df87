"""The diagonal Fisher information of one W_v, and the penalty of elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.lm.architectures import LanguageModel
from wise.lm.tail import Tail
from wise.lm.tokens import IGNORED, Batch, pad

__all__ = ["fisher", "penalty"]


def penalty(
    information: Float[Tensor, "*L M D"], tau: Float[Tensor, "*L M D"]
) -> Float[Tensor, ""]:
    """1/2 sum F tau^2, what leaving W_v costs. Source: Kirkpatrick et al. 2017, eq. 3."""
    return (information * tau.square()).sum() / 2


def fisher(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "M D"]:
    """The diagonal Fisher information of W_v: the mean over texts of (d log p(text) / d W_v)^2.

    Texts are cut off at the model's context; those of one token count as nothing learned from.
    Source: Kirkpatrick et al. 2017, section 2 (empirical, one gradient a text).
    """
    total = torch.zeros(lm.value_weight(layer).shape, device=lm.device)
    for start in range(0, len(texts), batch_size):
        batch = _next_tokens(tokenizer, texts[start : start + batch_size], lm.context_length)
        tail = Tail.capture(lm, layer, batch.to(lm.device))
        with torch.enable_grad():
            value = tail.value.detach().requires_grad_()
            logits = tail.logits(value).float()
            log_p = -nn.functional.cross_entropy(logits, tail.labels, reduction="sum")
        (gradients,) = torch.autograd.grad(log_p, value)  # B T D
        for inputs, gradient in zip(tail.inputs.float(), gradients.float(), strict=True):
            total += (inputs.T @ gradient).square()
    return total / len(texts)


def _next_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None
) -> Batch:
    """Texts with every next token as a label."""
    rows = [ids[:max_length] for ids in tokenizer(list(texts)).input_ids]
    input_ids, mask = pad(rows, tokenizer.pad_token_id or 0)
    labels, _ = pad([[*ids[1:], IGNORED] for ids in rows], IGNORED)
    return Batch(input_ids, mask, mask.bool(), labels)
