"""Side memories as changes of W_v: tau = W_v' - W_v, its masks, its compact form.

The main memory W_v is stored once and never written to. A side memory gives A(x) W_v' = A(x) W_v +
A(x) tau, so only tau is kept: dense while it learns, compact when full.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wise.editors.base import without
from wise.editors.router import RoutingInputs, epsilon
from wise.edits import Edit

__all__ = ["Change", "Memory", "Shard", "Turn", "WISEState", "sample_mask"]

_DENSE_FROM = 0.5  # share of changed entries from which a dense form is smaller


def sample_mask(
    shape: tuple[int, int], ratio: float, generator: torch.Generator
) -> Bool[Tensor, "M D"]:
    """M_i: each entry 1 with probability `ratio`, independently. Source: WISE section 2.3."""
    return torch.rand(shape, generator=generator) < ratio


@dataclass(frozen=True)
class Change:
    """tau by its changed entries: its transpose as sparse rows, or dense where most changed.

    With `span`, rows of inputs that tau was learned on, tau = span^T tensor: gradients of W_v' lie
    in the span of its inputs, so that a few tokens' tau is kept exactly in a few rows.
    """

    tensor: Tensor
    span: Float[Tensor, "R M"] | None = None

    @classmethod
    def of(cls, tau: Float[Tensor, "M D"]) -> Change:
        if int(tau.count_nonzero()) >= _DENSE_FROM * tau.numel():
            return cls(tau)
        with _unwarned():
            rows = tau.T.to_sparse_csr()
            parts = rows.crow_indices().int(), rows.col_indices().int(), rows.values()
            return cls(torch.sparse_csr_tensor(*parts, size=rows.shape, check_invariants=False))

    @property
    def recalled(self) -> Float[Tensor, " D"]:
        """A(x) tau at the first of the inputs that it was learned on."""
        if self.span is None:
            raise ValueError("a change without its span recalls nothing")
        return self(self.span[0])

    def compact(self) -> Change:
        return self if self.span is not None else Change.of(self.dense())

    def __call__(self, inputs: Float[Tensor, "... M"]) -> Float[Tensor, "... D"]:
        """A(x) tau, in float32."""
        if self.span is not None:
            return (inputs.float() @ self.span.T) @ self.tensor
        if self.tensor.layout == torch.strided:
            return inputs.float() @ self.tensor
        flat = inputs.float().reshape(-1, inputs.shape[-1])  # N M
        return (self.tensor @ flat.T).T.reshape(*inputs.shape[:-1], -1)

    def dense(self) -> Float[Tensor, "M D"]:
        if self.span is not None:
            return self.span.T @ self.tensor
        return self.tensor if self.tensor.layout == torch.strided else self.tensor.to_dense().T

    def parts(self) -> dict[str, Tensor]:
        """Its tensors by name; the inverse of `from_parts`."""
        if self.span is not None:
            return {"span": self.span, "rows": self.tensor}
        if self.tensor.layout == torch.strided:
            return {"dense": self.tensor.contiguous()}
        crow, col = self.tensor.crow_indices(), self.tensor.col_indices()
        return {"crow": crow, "col": col, "values": self.tensor.values()}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], shape: tuple[int, int]) -> Change:
        """Raises ValueError where the parts are not those of a change of `shape` [M, D]."""
        if set(parts) == {"dense"} and tuple(parts["dense"].shape) == shape:
            return cls(parts["dense"])
        if set(parts) == {"span", "rows"}:
            span, rows = parts["span"], parts["rows"]
            if (len(rows), *span.shape[1:], *rows.shape[1:]) == (len(span), *shape):
                return cls(rows, span)
        if set(parts) != {"crow", "col", "values"}:
            raise ValueError(f"parts {sorted(parts)} do not make a change of shape {shape}")
        given = parts["crow"], parts["col"], parts["values"]
        with _unwarned():
            try:
                sparse = torch.sparse_csr_tensor(*given, size=shape[::-1], check_invariants=True)
            except RuntimeError as error:
                raise ValueError(
                    f"sparse parts do not make a change of shape {shape}: {error}"
                ) from error
        return cls(sparse)


def _unwarned() -> AbstractContextManager[object]:
    """torch warns that its sparse rows are a prototype."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


@dataclass(frozen=True)
class Turn:
    """One call of `edit`: its number in the stream and its edits."""

    number: int
    edits: tuple[Edit, ...]

    def without(self, prompts: frozenset[str]) -> Turn:
        return replace(self, edits=without(self.edits, prompts))


@dataclass(frozen=True)
class Shard:
    """A side memory that still learns: its turns, their change, each edit's A(x_e), Delta(x_e).

    `activations` are those when each edit was learned, or those now (WISEConfig.threshold).
    """

    number: int
    turns: tuple[Turn, ...]
    change: Change
    routing: RoutingInputs
    activations: tuple[float, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        return tuple(edit for turn in self.turns for edit in turn.edits)

    @property
    def epsilon(self) -> float:
        return epsilon(self.activations)


@dataclass(frozen=True)
class Memory:
    """A finished side memory: its merged change, its eps, and what it was merged from.

    `merges` holds, for each merge in order, the numbers and turns of the shards that joined then;
    `routing` its edits' A(x_e), empty where routes do not depend on them.
    """

    merges: tuple[tuple[tuple[int, tuple[Turn, ...]], ...], ...]
    change: Change
    epsilon: float
    routing: RoutingInputs

    @property
    def edits(self) -> tuple[Edit, ...]:
        shards = (shard for group in self.merges for shard in group)
        return tuple(edit for _, turns in shards for turn in turns for edit in turn.edits)


@dataclass(frozen=True)
class WISEState:
    """All that editing has changed; replaced as a whole at the end of a turn."""

    memories: tuple[Memory, ...] = ()
    shards: tuple[Shard, ...] = ()  # full ones that wait for their merge, then the live one
    n_turns: int = 0
    n_shards: int = 0  # begun so far

    @property
    def candidates(self) -> tuple[Memory | Shard, ...]:
        """Everything that a prompt can be routed to."""
        return (*self.memories, *(shard for shard in self.shards if shard.edits))

    @property
    def edits(self) -> tuple[Edit, ...]:
        return tuple(edit for part in self.candidates for edit in part.edits)
