"""Calls of single blocks: arguments by name, restricted to columns, with keys and values given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from transformers import Cache

from wise.lm.hooks import Stop

__all__ = ["After", "Fixed", "Seen", "at_columns", "full_mask", "named"]


def named(block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `block` by name; the hidden state is `hidden_states`."""
    found = _signature(type(block).forward).bind(block, *args, **kwargs).arguments
    more = found.pop("kwargs", {})
    del found["self"]
    return {**found, **more}


@functools.cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    """The signature of `forward`, cached: inspecting it costs as much as running a small block."""
    return inspect.signature(forward)


def full_mask(arguments: Mapping[str, Any], rows: Shaped[Tensor, "B T ..."]) -> Tensor:
    """The attention mask [B or 1, 1, T, T] of a call on `rows`, boolean or additive."""
    mask: Tensor | None = arguments["attention_mask"]
    if mask is not None:
        return mask
    T = rows.shape[1]
    return torch.ones(T, T, dtype=torch.bool, device=rows.device).tril()[None, None]


def at_columns(
    arguments: Mapping[str, Any], columns: slice | Int[Tensor, " P"], cache: object, *,
    n_rows: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The arguments, without the mask, of the same call on `columns` of the first `n_rows` rows.

    `cache` replaces the cache among them.
    """

    def at(value: Any) -> Any:
        if isinstance(value, Cache):
            return cache
        if isinstance(value, tuple):
            return tuple(at(part) for part in value)
        return value[:n_rows, columns] if isinstance(value, Tensor) else value

    return {name: at(value) for name, value in arguments.items() if name != "attention_mask"}


class After:
    """Acts as a cache that holds the keys and values of the tokens before those of the call."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.before = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = (
            torch.cat([old, new], -2) for old, new in zip(self.before, (keys, values), strict=True)
        )
        return keys, values


class Fixed:
    """Acts as a cache that already holds the keys and values of the call."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.held = keys, values

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self.held


class Seen(After):
    """Like After, but keeps the keys and values that attention would read, and ends the forward."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.held = super().update(keys, values)
        raise Stop
