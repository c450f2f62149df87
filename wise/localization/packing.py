"""Runs of several lengths in one row, each over the keys and values of the tokens before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """The tokens from each of K sites on, one after the other: P in all, Q of them answer."""

    sites: Int[Tensor, " K"]
    n_tokens: int  # T
    n_places: int  # A

    @cached_property
    def segments(self) -> Int[Tensor, " P"]:
        lengths = self.n_tokens - self.sites
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)

    @cached_property
    def positions(self) -> Int[Tensor, " P"]:
        runs = [torch.arange(site, self.n_tokens) for site in self.sites.tolist()]
        return torch.cat(runs).to(self.sites.device)

    @cached_property
    def answers(self) -> Int[Tensor, " Q"]:
        return (self.positions >= self.n_tokens - self.n_places).nonzero()[:, 0]

    @cached_property
    def is_site(self) -> Bool[Tensor, " P"]:
        return self.positions == self.sites[self.segments]

    @cached_property
    def columns(self) -> Int[Tensor, " T+P"]:
        everything = torch.arange(self.n_tokens, device=self.sites.device)
        return torch.cat([everything, self.positions])

    @cached_property
    def is_own(self) -> Bool[Tensor, "P T+P"]:
        """Of base and packed tokens, those that a packed token's own run consists of."""
        begin = self.sites[self.segments][:, None]
        before = torch.arange(self.n_tokens, device=self.sites.device) < begin  # P T
        return torch.cat([before, self.segments[:, None] == self.segments], dim=1)
