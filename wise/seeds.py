"""Generators of random numbers, seeded by purpose and number; there is no global one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import torch

__all__ = ["seeded", "shuffled"]

_T = TypeVar("_T")


def seeded(*parts: object) -> torch.Generator:
    """A CPU generator for this purpose alone, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def shuffled(items: Sequence[_T], generator: torch.Generator) -> list[_T]:
    """All of `items` in a random order."""
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]
