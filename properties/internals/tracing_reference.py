"""Causal tracing as the papers' code does it: one forward of the whole model per restored state.

Written apart from `wise.localization`: of the model it knows the module paths, nothing else. The
rows may be padded on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wise.lm.architectures import LanguageModel

__all__ = ["Reading", "naive_trace"]


@dataclass(frozen=True)
class Reading:
    """Token rows [N, T] and what is added to the embeddings [N, T, E]; None adds nothing."""

    ids: Tensor
    added: Tensor | None = None


def _module(lm: LanguageModel, layer: int, site: str) -> nn.Module:
    return lm.blocks[layer] if site == "hidden" else lm.part(layer, site)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _padded(x: Tensor, n: int, side: str) -> Tensor:
    blank = x.new_zeros(len(x), n, *x.shape[2:])
    return torch.cat([blank, x] if side == "left" else [x, blank], dim=1)


def naive_trace(
    lm: LanguageModel,
    base: Reading,
    source: Reading,
    *,
    target_ids: Sequence[int],
    alternative: int,
    place: int,
    tokens: Iterable[int],
    windows: Iterable[tuple[int, int]],
    site: str,
    n_padding: int = 0,
    padding_side: str = "left",
) -> Tensor:
    """Probability, log-probability and logit difference [W, K, N, 3] of `base` with the state of
    `source` at one token and one window of layers."""
    T = base.ids.shape[1]
    shift = n_padding if padding_side == "left" else 0
    first_place = shift + T - len(target_ids)
    mask = _padded(torch.ones_like(base.ids[:1]), n_padding, padding_side)
    positions = (mask.cumsum(-1) - 1) * mask

    def forward(reading: Reading, changes: dict[nn.Module, Any]) -> Tensor:
        ids = _padded(reading.ids, n_padding, padding_side)
        with ExitStack() as stack:
            if reading.added is not None:
                added = _padded(reading.added, n_padding, padding_side)
                changes = {lm.embedding: lambda output: output + added, **changes}
            for module, change in changes.items():

                def hook(_module: Any, _args: Any, output: Any, change: Any = change) -> Any:
                    new = change(_first(output))
                    return (new, *output[1:]) if isinstance(output, tuple) else new

                stack.callback(module.register_forward_hook(hook).remove)
            logits = lm.model(
                input_ids=ids,
                attention_mask=mask.expand_as(ids),
                position_ids=positions.expand_as(ids),
                use_cache=False,
            ).logits
        return logits[:, first_place : first_place + len(target_ids)]

    def scored(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        joint = torch.stack([log_p[:, i, token] for i, token in enumerate(target_ids)]).sum(0)
        difference = logits[:, place, target_ids[place]] - logits[:, place, alternative]
        return torch.stack([joint.exp(), joint, difference], dim=-1)

    kept: dict[int, Tensor] = {}
    width = T + n_padding

    def keep(layer: int) -> Any:
        def change(output: Tensor) -> Tensor:
            kept[layer] = output.view(-1, width, output.shape[-1]).clone()
            return output

        return change

    with torch.no_grad():
        forward(source, {_module(lm, layer, site): keep(layer) for layer in range(lm.n_layers)})

        def put(layer: int, token: int) -> Any:
            def change(output: Tensor) -> Tensor:
                state = output.view(-1, width, output.shape[-1]).clone()
                state[:, shift + token] = kept[layer][:, shift + token]
                return state.view(output.shape)

            return change

        return torch.stack([
            torch.stack([
                scored(forward(base, {
                    _module(lm, layer, site): put(layer, token) for layer in range(*window)
                }))
                for token in tokens
            ])
            for window in windows
        ])  # fmt: skip
