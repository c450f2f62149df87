"""Routing: select tokens -> activation -> threshold -> choice, and the margin learned for it.

Learning and inference use the same `Router`, so that prompts are routed as was learned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wise.edits import Edit
from wise.lm.tokens import last_column

__all__ = [
    "REDUCTIONS",
    "ROUTING_TOKENS",
    "Router",
    "RouterBase",
    "RoutingInputs",
    "SideMemory",
    "ValueChange",
    "aggregate",
    "epsilon",
    "margin_loss",
    "routing_activation",
    "select",
    "stack",
]


_T = TypeVar("_T")


class ValueChange(Protocol):
    """W_v' - W_v of a memory."""

    def __call__(self, inputs: Float[Tensor, "... M"], /) -> Float[Tensor, "... D"]:
        """A(x) (W_v' - W_v), in float32."""

    @property
    def recalled(self) -> Float[Tensor, " D"]:
        """The same at the last token of its own edit's prompt."""


class SideMemory(Protocol):
    """A memory that a prompt can be routed to."""

    @property
    def change(self) -> ValueChange:
        """What it adds to the outputs of W_v."""

    @property
    def epsilon(self) -> float:
        """The smallest routing activation of its edits."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Its edits."""

    @property
    def routing(self) -> RoutingInputs:
        """A(x) of each of them, as its router selects it; empty where routes do not need it."""


@dataclass(frozen=True)
class RoutingInputs:
    """A(x) at the routing tokens of prompts; rows with fewer are zero where `mask` is False."""

    keys: Float[Tensor, "N S M"]
    mask: Bool[Tensor, "N S"]

    @classmethod
    def none(cls, inner: int, **options: Any) -> RoutingInputs:
        """Of no prompt; `options` are those of torch.zeros."""
        return cls(torch.zeros(0, 1, inner, **options), torch.zeros(0, 1).bool())

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Tensor | list[int] | slice) -> RoutingInputs:
        return RoutingInputs(self.keys[rows], self.mask[rows])


def stack(parts: Sequence[RoutingInputs]) -> RoutingInputs:
    """All rows below each other, as wide as the widest."""
    width = max(part.keys.shape[1] for part in parts)
    keys = [nn.functional.pad(p.keys, (0, 0, 0, width - p.keys.shape[1])) for p in parts]
    masks = [nn.functional.pad(p.mask, (0, width - p.mask.shape[1])) for p in parts]
    return RoutingInputs(torch.cat(keys), torch.cat(masks))


def _last_token(inputs: Float[Tensor, "B T M"], prompt_mask: Bool[Tensor, "B T"]) -> RoutingInputs:
    keys = inputs[torch.arange(len(inputs), device=inputs.device), last_column(prompt_mask)]
    return RoutingInputs(keys[:, None], prompt_mask.any(-1, keepdim=True))  # B 1 M


def _whole_prompt(
    inputs: Float[Tensor, "B T M"], prompt_mask: Bool[Tensor, "B T"]
) -> RoutingInputs:
    return RoutingInputs(inputs * prompt_mask[..., None], prompt_mask)


def _largest(delta: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
    return delta.amax(-1)


def _mean(delta: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
    return delta.sum(-1) / mask.sum(-1).clamp(min=1)


# The tokens that decide a row's route, and how their activations (zero where there is no token)
# become one. The paper does not say; the released code takes the mean over all tokens.
ROUTING_TOKENS: Mapping[
    str, tuple[Callable[[Tensor, Tensor], RoutingInputs], Callable[[Tensor, Tensor], Tensor]]
] = {
    "last": (_last_token, _largest),
    "mean": (_whole_prompt, _mean),
    "max": (_whole_prompt, _largest),
}


def select(
    inputs: Float[Tensor, "B T M"], prompt_mask: Bool[Tensor, "B T"], how: str
) -> RoutingInputs:
    """The routing tokens of each row of inputs of W_v, by a name of ROUTING_TOKENS."""
    return _named(ROUTING_TOKENS, routing_tokens=how)[0](inputs, prompt_mask)


def aggregate(
    delta: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], how: str
) -> Float[Tensor, " B"]:
    """One activation for each row from its tokens in `mask`; 0 for a row without any."""
    return _named(ROUTING_TOKENS, routing_tokens=how)[1](torch.where(mask, delta, 0.0), mask)


def routing_activation(
    value_change: Float[Tensor, "... D"],
    value: Float[Tensor, "... D"] | None = None,
    activation: nn.Module | None = None,
) -> Float[Tensor, "..."]:
    """Delta = || A(x) (W_v' - W_v) ||_2 per token, in float32.

    `value_change` is A(x) (W_v' - W_v). The paper takes its norm as it is; the released code first
    passes both outputs of W_v through the model's activation function, for which `value` and
    `activation` are given.

    Source: WISE eq. 3; released configuration for the activation function.
    """
    change = value_change.float()
    if activation is not None and value is not None:
        change = activation(value.float() + change) - activation(value.float())
    return torch.linalg.vector_norm(change, dim=-1)


def epsilon(activations: Iterable[float]) -> float:
    """The smallest activation of edits; infinite without one. Source: WISE, Algorithm 1."""
    return min(activations, default=float("inf"))


class RouterBase(ABC):
    """Routes prompts to side memories: the largest activation wins, if above the threshold."""

    @abstractmethod
    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """What decides each row's route, from inputs of W_v at the router's layers."""

    def remembered(self, rows: RoutingInputs) -> RoutingInputs:
        """What a memory keeps of its edits' rows."""
        return rows

    def own(self, rows: RoutingInputs, change: ValueChange) -> Float[Tensor, " N"]:
        """The activation of edits at `rows` in their own memory: 1 where it is a likeness."""
        return rows.keys.new_ones(len(rows))

    def settle(self, memories: Sequence[SideMemory]) -> None:
        """Do beforehand what routing to these memories needs once."""
        return

    @abstractmethod
    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """The activation of each row for each memory."""

    @abstractmethod
    def threshold(self, memories: Sequence[SideMemory]) -> float:
        """What an activation must exceed to open one of these, of which there is at least one."""

    def choose(self, rows: RoutingInputs, memories: Sequence[SideMemory]) -> Int[Tensor, " N"]:
        """The memory that each row opens, by its index in `memories`; -1 = the main memory."""
        strongest, index = self.activations(rows, memories).max(0)
        return torch.where(strongest > self.threshold(memories), index, -1)


@dataclass(frozen=True, kw_only=True)
class Router(RouterBase):
    """Routes prompts by Delta_act of the memories' changes.

    tokens: a name of ROUTING_TOKENS.
    weight, activation: W_v, and the function that its outputs pass through before they are
        compared; None compares them as they are.
    threshold_scale: factor on epsilon.
    thresholds: one epsilon "shared" by all memories, or one "per-memory", by which its activations
        are then divided.

    Source: WISE eq. 6 for one memory, Algorithm 2 for several.
    """

    tokens: str
    weight: Float[Tensor, "M D"]
    activation: nn.Module | None = None
    threshold_scale: float = 1.0
    thresholds: str = "shared"

    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """The routing tokens of each row, from inputs of W_v at the edited layer."""
        return select(inputs[-1], prompt_mask, self.tokens)

    def deltas(self, rows: RoutingInputs, changes: Iterable[ValueChange]) -> Float[Tensor, "K N"]:
        """Delta_act of each row under each change."""
        value = self.value(rows)
        return torch.stack([self.delta(rows, change(rows.keys), value) for change in changes])

    def delta(
        self,
        rows: RoutingInputs,
        value_change: Float[Tensor, "N S D"],
        value: Float[Tensor, "N S D"] | None,
    ) -> Float[Tensor, " N"]:
        """Delta_act of each row, of A(x) (W_v' - W_v) and `value` at its routing tokens."""
        delta = routing_activation(value_change, value, self.activation)
        return aggregate(delta, rows.mask, self.tokens)

    def value(self, rows: RoutingInputs) -> Float[Tensor, "N S D"] | None:
        """A(x) W_v; None where changes are compared without it."""
        return None if self.activation is None else rows.keys @ self.weight

    def own(self, rows: RoutingInputs, change: ValueChange) -> Float[Tensor, " N"]:
        """Delta_act of each row under the change of its memory."""
        return self.deltas(rows, [change])[0]

    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """Delta_act of each row for each memory, over its threshold where each has its own."""
        deltas = self.deltas(rows, [memory.change for memory in memories])
        if self.thresholds == "shared":
            return deltas
        own = [self.threshold_scale * memory.epsilon for memory in memories]
        bounds = deltas.new_tensor(own)[:, None]
        return (deltas / bounds).where(bounds > 0, 0.0)  # 0: a memory that changes nothing

    def threshold(self, memories: Sequence[SideMemory]) -> float:
        """The smallest epsilon, scaled; 1 where each memory has its own."""
        if self.thresholds == "per-memory":
            return 1.0
        return self.threshold_scale * epsilon(memory.epsilon for memory in memories)


def _over_rows(hinge: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    return hinge.mean() if len(hinge) else hinge.sum()


def _over_violating(hinge: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)


# How a hinge is averaged: over all rows (the paper's expectation), or those above 0 (released).
REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rows": _over_rows,
    "violating": _over_violating,
}


def margin_loss(
    edit: Float[Tensor, " E"],
    irrelevant: Float[Tensor, " I"],
    replayed: Float[Tensor, " R"] | None = None,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    reduction: str = "rows",
) -> Float[Tensor, ""]:
    """L_a: irrelevant prompts below alpha, edited ones above beta, each pair gamma apart.

    Prompts of earlier shards, `replayed`, must be below alpha too; they make no pairs. `reduction`
    is a name of REDUCTIONS. Source: WISE eq. 5; appendix B.3 for replay.
    """
    pairs = (gamma - (edit[:, None] - irrelevant[None, :])).flatten()  # E*I
    mean = _named(REDUCTIONS, margin_reduction=reduction)
    hinges = (irrelevant - alpha, beta - edit, pairs)
    loss = torch.stack([mean(torch.relu(hinge)) for hinge in hinges]).sum()
    return loss if replayed is None else loss + mean(torch.relu(replayed - alpha))


def _named(table: Mapping[str, _T], **choice: str) -> _T:
    """The entry that an option names; ValueError where there is none."""
    [(option, name)] = choice.items()
    if name not in table:
        raise ValueError(f"{option}={name!r} is none of {', '.join(table)}")
    return table[name]
