"""All restored runs of a fact together, layer by layer, computing only what restoration changes.

A state restored at token t changes no token before t, and nothing below its first layer; after its
last layer the run is an ordinary one. So the restored runs of all tokens are packed into one row,
each from its own token on, over the keys and values of the base run before it. Windows with the
same first layer are one run until the first of them ends. Block l is called once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wise.lm.architectures import LanguageModel
from wise.lm.calls import After, Fixed, Seen, at_columns, full_mask
from wise.lm.hooks import Stop, replace
from wise.lm.tail import first_tensor
from wise.localization.model_runs import ModelRun, Target, given, site_module

__all__ = ["sweep"]

Window = tuple[int, int]  # [first, last) layer


@torch.no_grad()
def sweep(
    base: ModelRun,
    source: ModelRun,
    target: Target,
    *,
    tokens: Sequence[int],
    windows: Sequence[Window],
    max_tokens: int | None = None,
) -> Float[Tensor, "W K N 3"]:
    """Scores of the base run with the source's states at one token and one window of layers.

    For each of W windows, K tokens (of the prompt) and N rows, by METRICS. One call reads at most
    `max_tokens`, or one site if that is longer; None chooses a size. Source: ROME section 2.1.
    """
    n_rows = max(len(base.hidden[0]), len(source.hidden[0]))
    base, source = base.expand(n_rows), source.expand(n_rows)
    n_tokens, device = base.hidden[0].shape[1], base.hidden[0].device
    limit = _call_size(base.lm) if max_tokens is None else max_tokens
    parts = []
    for sites in _chunks(tokens, n_tokens, limit):
        packing = _Packing(torch.tensor(sites, device=device), n_tokens, len(target.ids))
        parts.append(_Sweep(base, source, packing, limit).scores(windows, target))
    return torch.cat(parts, dim=1)


def _call_size(lm: LanguageModel) -> int:
    """Tokens of one call: on a CPU, so many that an inner activation of the MLP takes 1 MiB and
    stays in the cache (measured: 1.5 times as fast); on an accelerator, enough to keep it busy."""
    return max(64, 2**18 // len(lm.value_weight(0))) if lm.device.type == "cpu" else 2**14


def _chunks(tokens: Sequence[int], n_tokens: int, limit: int) -> Iterator[list[int]]:
    """Sites in order, packed to at most `limit` tokens."""
    chunk: list[int] = []
    for token in tokens:
        if chunk and sum(n_tokens - site for site in [*chunk, token]) > limit:
            yield chunk
            chunk = []
        chunk.append(token)
    if chunk:
        yield chunk


@dataclass(frozen=True)
class _Packing:
    """The tokens from each of K sites on, one site after the other: P in all, Q of them answer."""

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
        """Which of the base and packed tokens belong to each packed token's own run."""
        begin = self.sites[self.segments][:, None]
        before = torch.arange(self.n_tokens, device=self.sites.device) < begin  # P T
        return torch.cat([before, self.segments[:, None] == self.segments], dim=1)


@dataclass(frozen=True)
class _Sweep:
    base: ModelRun
    source: ModelRun
    packing: _Packing
    max_tokens: int

    def scores(self, windows: Sequence[Window], target: Target) -> Float[Tensor, "W K N 3"]:
        n_layers, packing = self.base.lm.n_layers, self.packing
        N, _, D = self.base.hidden[0].shape
        kept = torch.arange(len(packing.positions), device=packing.sites.device)
        runs: list[Window] = []  # the windows under way, each with N rows
        hidden = self.base.hidden[0][:0]
        for layer in range(min(first for first, _ in windows), n_layers):
            if layer == n_layers - 1:
                kept = packing.answers  # only these are read
            after = sorted({(a, min(b, layer + 1)) for a, b in windows if a <= layer})
            older = [(a, b) for a, b in after if a < layer]
            found = []
            if older:
                parents = [runs.index((a, min(b, layer))) for a, b in older]
                hidden = hidden.view(len(runs), N, -1, D)[parents].flatten(0, 1)  # R P D
                found.append(self._step(layer, hidden, [b > layer for _, b in older], kept))
            if len(older) < len(after):
                found.append(self._start(layer, kept))
            runs, hidden = after, torch.cat(found)
        hidden = hidden.view(len(runs), N, len(packing.sites), -1, D)  # S N K A D
        scored = torch.stack([target.scores(self.base.lm.head(run)) for run in hidden])  # S N K 3
        return scored[[runs.index(window) for window in windows]].transpose(1, 2)

    def _step(
        self, layer: int, hidden: Float[Tensor, "R P D"], covered: list[bool], kept: Tensor
    ) -> Float[Tensor, "R Q D"]:
        """Block `layer` on the current runs; it is restored where the window covers it."""
        R, P, D = hidden.shape
        N, device = R // len(covered), hidden.device
        mask, is_site = self._mask(layer), self.packing.is_site[kept]
        sites = self.packing.sites[self.packing.segments[kept]]
        restored = torch.tensor(covered, device=device).repeat_interleave(N)  # R
        output = hidden.new_empty(R, len(kept), D)
        for group in (restored, ~restored):
            chunks = group.nonzero()[:, 0].split(max(1, self.max_tokens // P))
            for rows in chunks if bool(group.any()) else ():
                states = self.source.states[layer][rows % N][:, sites]
                patch = self._patch(layer, states, is_site) if group is restored else nullcontext()
                keys_values = [x[rows % N] for x in self.base.keys_values[layer]]
                output[rows] = self._run(layer, hidden[rows], mask, keys_values, patch, kept)
        return output

    def _patch(
        self, layer: int, states: Float[Tensor, "r Q D"], where: Bool[Tensor, " Q"]
    ) -> AbstractContextManager[None]:
        """Replace the site of a block by `states`, at the tokens `where`."""
        module = site_module(self.base.lm, layer, self.base.site)
        if self.base.site == "mlp":
            return given(module, states, where)

        def change(_input: object, output: Tensor) -> Tensor:
            return torch.where(where[:, None], states, output.view(states.shape))

        return replace(module, change)

    def _run(
        self,
        layer: int,
        hidden: Float[Tensor, "r P D"],
        mask: Tensor,
        keys_values: Sequence[Tensor],
        patch: AbstractContextManager[None],
        kept: Tensor,
    ) -> Float[Tensor, "r Q D"]:
        """Block `layer` on packed rows; only its outputs at `kept` are needed."""
        positions = self.packing.positions
        cache: After | Fixed = After(*keys_values)
        if len(kept) < len(positions):  # of the others, only keys and values
            cache = seen = Seen(*keys_values)
            try:
                self._call(layer, hidden, positions, mask, seen)
            except Stop:
                cache = Fixed(*seen.held)
        with patch:
            return self._call(layer, hidden[:, kept], positions[kept], mask[:, :, kept], cache)

    def _start(self, layer: int, kept: Tensor) -> Float[Tensor, "N Q D"]:
        """The output of block `layer` for runs whose window begins there."""
        base, sites = self.base, self.packing.sites
        source = self.source.states[layer]
        if base.site == "hidden":
            output = source[:, sites]
        else:
            mask = self._full_mask(layer)[:, :, sites]
            cache = Fixed(*base.keys_values[layer])
            everywhere = torch.ones_like(sites, dtype=torch.bool)
            with self._patch(layer, source[:, sites], everywhere):
                output = self._call(layer, base.hidden[layer][:, sites], sites, mask, cache)
        state = base.hidden[layer + 1][:, self.packing.positions[kept]]
        restored = output[:, self.packing.segments[kept]]
        return torch.where(self.packing.is_site[kept][:, None], restored, state)

    def _full_mask(self, layer: int) -> Tensor:
        """The mask of the base run [1, 1, T, T]."""
        return full_mask(self.base.arguments[layer], self.base.hidden[0])[:1]

    def _mask(self, layer: int) -> Tensor:
        """The mask of packed tokens over base and packed ones [1, 1, P, T + P]."""
        mask = self._full_mask(layer)[:, :, self.packing.positions][..., self.packing.columns]
        blocked = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return mask.masked_fill(~self.packing.is_own, blocked)

    def _call(
        self, layer: int, rows: Tensor, positions: Tensor, mask: Tensor, cache: object
    ) -> Tensor:
        """Block `layer` on tokens at `positions`, which see those of `cache` as `mask` allows."""
        arguments = at_columns(self.base.arguments[layer], positions, cache, n_rows=1)
        return first_tensor(self.base.lm.blocks[layer](rows, **arguments, attention_mask=mask))
