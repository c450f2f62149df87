"""Generators of random numbers, seeded by purpose and number; there is no global one."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["seeded"]


def seeded(*parts: object) -> torch.Generator:
    """A CPU generator for this purpose alone, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
