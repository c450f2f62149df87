"""The gate at inference: which side memory a row opens, and the hook that adds its change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wise.editors.router import aggregate, routing_activation
from wise.editors.routing_inputs import select
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.memory import Memory, Shard

__all__ = ["Gate", "Route"]


@dataclass
class Route:
    """The choices of one batch of sequences: made at the first forward, kept for those after it."""

    prompt_mask: Bool[Tensor, "B T"]
    choice: Int[Tensor, " B"] | None = None  # the candidate of each row; -1 = the main memory
    rows: dict[int, Int[Tensor, " R"]] = field(default_factory=dict)  # of each candidate in use


@dataclass(frozen=True)
class Gate:
    """Routes rows to side memories. The largest activation wins, if it is above the threshold.

    Source: WISE eq. 6 for one memory, Algorithm 2 for several.
    """

    candidates: Sequence[Memory | Shard]
    config: WISEConfig
    weight: Float[Tensor, "M D"]  # W_v
    activation: nn.Module | None = None

    @property
    def threshold(self) -> float:
        """What a routing activation must exceed; infinite where there is no side memory."""
        if not self.candidates:
            return float("inf")
        if self.config.thresholds == "per-memory":
            return 1.0
        return self.config.threshold_scale * min(part.epsilon for part in self.candidates)

    def activations(
        self, inputs: Float[Tensor, "B T M"], prompt_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "K B"]:
        """Delta of each row for each candidate, in its threshold where each has its own."""
        how = self.config.routing_tokens
        asked = select(inputs, prompt_mask, how)
        value = None if self.activation is None else asked.keys @ self.weight
        deltas = []
        for part in self.candidates:
            change = part.change.apply(asked.keys)
            delta = aggregate(routing_activation(change, value, self.activation), asked.mask, how)
            if self.config.thresholds == "per-memory":
                delta = delta / (self.config.threshold_scale * part.epsilon)
            deltas.append(delta)
        return torch.stack(deltas)

    def decide(self, route: Route, inputs: Float[Tensor, "B T M"]) -> Int[Tensor, " B"]:
        """The choices of `route`, made once; with several memories the host waits for them."""
        if route.choice is not None:
            return route.choice
        copies = len(inputs) // len(route.prompt_mask)  # beams come as neighbouring rows
        mask = route.prompt_mask.repeat_interleave(copies, dim=0)
        strongest, index = self.activations(inputs, mask).max(0)
        route.choice = torch.where(strongest > self.threshold, index, -1)
        if len(self.candidates) > 1:
            chosen = route.choice.tolist()
            for number in sorted(set(chosen) - {-1}):
                rows = [row for row, choice in enumerate(chosen) if choice == number]
                route.rows[number] = torch.tensor(rows, device=inputs.device)
        return route.choice

    def output(self, route: Route, inputs: Tensor, value: Tensor) -> Tensor:
        """The output of W_v with the change of each row's memory; other rows keep their bits."""
        if inputs.ndim == 2:  # some blocks flatten rows and tokens
            width = route.prompt_mask.shape[1]
            n_rows = len(inputs) // width if route.choice is None else len(route.choice)
            shaped = (x.view(n_rows, -1, x.shape[-1]) for x in (inputs, value))
            return self.output(route, *shaped).view_as(value)
        choice = self.decide(route, inputs)
        if len(self.candidates) == 1:
            change = self.candidates[0].change.apply(inputs).to(value.dtype)
            return torch.where((choice >= 0)[:, None, None], value + change, value)
        for number, rows in route.rows.items():
            change = self.candidates[number].change.apply(inputs[rows]).to(value.dtype)
            value = value.index_copy(0, rows, value[rows] + change)
        return value
