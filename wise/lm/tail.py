"""The part of a model above W_v at one layer, run repeatedly for new outputs of W_v.

An edit changes W_v of one block. Everything before it is computed once: the inputs `a` of W_v, its
outputs, and the rest of the residual stream. A step then runs only the blocks above, and the head
only at labelled positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from wise.lm.architectures import LanguageModel
from wise.lm.calls import After, at_columns, full_mask, named
from wise.lm.hooks import observe, replace
from wise.lm.tokens import IGNORED, Batch

__all__ = [
    "BlockStates", "Tail", "ValueChanger", "block_call", "block_inputs_seen", "block_states",
    "changed_values", "first_tensor",
    "head_inputs", "inputs_at", "inputs_seen", "value_gradients", "value_inputs",
]  # fmt: skip


ValueChanger = Callable[[Tensor, Tensor], Tensor]  # of what W_v reads and gives: another output


def first_tensor(output: Any) -> Tensor:
    """A block's hidden state, whether the block returns it alone or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def inputs_seen(
    lm: LanguageModel, layers: Sequence[int], batch: Batch, *, stop: bool = False
) -> Iterator[list[Float[Tensor, "B T M"]]]:
    """The inputs `a` of W_v at ascending `layers`, filled in by the next forward of `batch`.

    With `stop`, no block above the last of them is run.
    """
    seen: list[Tensor] = []

    def see(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        seen.append(args[0].reshape(*batch.input_ids.shape, -1))  # B T M

    with ExitStack() as stack:
        for layer in layers:
            last = stop and layer == layers[-1]
            stack.enter_context(observe(lm.part(layer, "value"), see, stop=last))
        yield seen


@contextmanager
def block_inputs_seen(lm: LanguageModel) -> Iterator[list[Float[Tensor, "B T D"]]]:
    """The hidden state that each block reads, the lowest first, filled in by the next forward."""
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for block in lm.blocks:

            def see(args: Any, kwargs: Any, block: nn.Module = block) -> None:
                seen.append(named(block, args, kwargs)["hidden_states"])

            stack.enter_context(observe(block, see))
        yield seen


@torch.no_grad()
def inputs_at(
    lm: LanguageModel, layers: Sequence[int], batch: Batch
) -> list[Float[Tensor, "B T M"]]:
    """The inputs of W_v at ascending `layers`; no block above the last of them is run."""
    with inputs_seen(lm, layers, batch, stop=True) as seen:
        _run(lm, batch)
    return seen


def value_inputs(lm: LanguageModel, layer: int, batch: Batch) -> Float[Tensor, "B T M"]:
    """The inputs of W_v at `layer`; no block above it is run."""
    return inputs_at(lm, [layer], batch)[0]


@torch.no_grad()
def head_inputs(lm: LanguageModel, batch: Batch) -> Float[Tensor, "B T D"]:
    """The states that the head reads, normed; it is not run."""
    seen: list[Tensor] = []

    def see(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        seen.append(args[0])

    with observe(lm.model.get_output_embeddings(), see, stop=True):
        lm.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
    return seen[0]


@dataclass(slots=True)
class BlockStates:
    """The states of one block in a forward."""

    inputs: Float[Tensor, "B T M"]  # a
    value: Float[Tensor, "B T D"]  # a @ W_v and its bias
    stream: Float[Tensor, "B T D"]  # the residual stream after the block


@torch.no_grad()
def block_states(lm: LanguageModel, layers: Sequence[int], batch: Batch) -> list[BlockStates]:
    """The states of some blocks; no block above the highest of them is run."""
    above = [*lm.blocks, lm.norm][max(layers) + 1]
    with ExitStack() as stack:
        seen = [stack.enter_context(_seen(lm, layer, batch)) for layer in layers]
        stack.enter_context(observe(above, lambda _args, _kwargs: None, stop=True))
        _run(lm, batch)
    return [BlockStates(**states) for states in seen]


@torch.no_grad()
def block_call(lm: LanguageModel, layer: int, batch: Batch) -> dict[str, Any]:
    """The arguments of a block in a forward of `batch`; neither it nor one above it is run."""
    calls: list[dict[str, Any]] = []

    def see(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(named(lm.blocks[layer], args, kwargs))

    with observe(lm.blocks[layer], see, stop=True):
        _run(lm, batch)
    return calls[0]


@contextmanager
def _seen(lm: LanguageModel, layer: int, batch: Batch) -> Iterator[dict[str, Tensor]]:
    """The fields of BlockStates, filled in by the next forward."""
    seen: dict[str, Tensor] = {}

    def see_value(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        shape = batch.input_ids.shape
        seen["inputs"] = args[0].view(*shape, -1)
        seen["value"] = output.view(*shape, -1).clone()  # Falcon's block adds to it in place

    def see_block(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        seen["stream"] = first_tensor(output)

    with (
        lm.part(layer, "value").register_forward_hook(see_value),
        lm.blocks[layer].register_forward_hook(see_block),
    ):
        yield seen


def _run(lm: LanguageModel, batch: Batch, cache: Cache | None = None) -> None:
    """One forward of the blocks, without the head: hooks see it, and it fills `cache`."""
    lm.model.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
    )


@contextmanager
def changed_values(lm: LanguageModel, changes: Mapping[int, ValueChanger]) -> Iterator[None]:
    """The model with other outputs of W_v at some layers: what `changes` make of what it reads and
    gives there, whose rows and tokens some blocks flatten."""
    with ExitStack() as stack:
        for layer, change in changes.items():
            stack.enter_context(replace(lm.part(layer, "value"), change))
        yield


@dataclass(frozen=True)
class Tail:
    """The blocks above `layer` on fixed rows, ready to run for new outputs of W_v."""

    lm: LanguageModel
    layer: int
    inputs: Float[Tensor, "B T M"]  # a
    value: Float[Tensor, "B T D"]  # a @ W_v and its bias, unedited
    residual: Float[Tensor, "B T D"]  # the block's output without the value
    calls: tuple[tuple[nn.Module, dict[str, Any]], ...]
    rows: Int[Tensor, " N"]  # of the labels
    columns: Int[Tensor, " N"]
    labels: Int[Tensor, " N"]

    @classmethod
    @torch.no_grad()
    def capture(cls, lm: LanguageModel, layer: int, batch: Batch, *, first: int = 0) -> Tail:
        """Run the model once on `batch` and keep what later runs need.

        The tail begins at column `first`. Earlier columns, where the output of W_v never changes,
        are kept only as the keys and values that later columns read; their labels are dropped.
        """
        upper = lm.blocks[layer + 1 :]
        calls: list[dict[str, Any]] = []  # without the hidden state

        def see_upper(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            arguments = named(upper[len(calls)], args, kwargs)
            del arguments["hidden_states"]
            calls.append(arguments)

        cache = DynamicCache() if first else None
        with ExitStack() as stack:
            seen = stack.enter_context(_seen(lm, layer, batch))
            for block in upper:  # the last one's keys and values are all that is read of it
                is_end = cache is None and block is upper[-1]
                stack.enter_context(observe(block, see_upper, stop=is_end))
            _run(lm, batch, cache)
        if cache is not None:
            kept: list[Any] = cache.layers[layer + 1 :]
            for arguments, held in zip(calls, kept, strict=True):
                mask = full_mask(arguments, batch.input_ids)[:, :, first:]
                before = After(held.keys[:, :, :first], held.values[:, :, :first])
                arguments |= at_columns(arguments, slice(first, None), before)
                arguments["attention_mask"] = mask
        inputs, value, stream = (seen[name][:, first:] for name in ("inputs", "value", "stream"))
        labels = batch.labels[:, first:]
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        return cls(
            lm, layer, inputs, value, stream - lm.value_norm(layer, value),
            tuple(zip(upper, calls, strict=True)), rows, columns, labels[rows, columns],
        )  # fmt: skip

    def logits(self, value: Float[Tensor, "B T D"]) -> Float[Tensor, "N V"]:
        """Logits at the labelled positions if W_v gives `value`."""
        hidden = self.residual + self.lm.value_norm(self.layer, value)  # B T D
        for block, arguments in self.calls:
            hidden = first_tensor(block(hidden, **arguments))
        return self.lm.head(hidden[self.rows, self.columns])

    def changed(self, changes: Mapping[int, ValueChanger]) -> Float[Tensor, "N V"]:
        """Logits at the labelled positions with `changed_values`; the first layer is the tail's."""
        (_, own), *others = changes.items()
        with changed_values(self.lm, dict(others)):
            return self.logits(own(self.inputs, self.value))

    def loss(self, value: Float[Tensor, "B T D"], reduction: str = "mean") -> Tensor:
        """-log p of the labels if W_v gives `value`, in float32; `reduction` as of torch."""
        logits = self.logits(value).float()
        return nn.functional.cross_entropy(logits, self.labels, reduction=reduction)


def value_gradients(
    tail: Tail, layers: Sequence[int]
) -> list[tuple[Float[Tensor, "B T M"], Float[Tensor, "B T D"]]]:
    """The inputs of W_v and d(-log p of the labels) / d(its outputs), at each of `layers`.

    The lowest of them is the tail's. The loss is the sum over all labels, so that the gradients of
    a row do not depend on the others.
    """
    shifts = [torch.zeros_like(tail.value).requires_grad_() for _ in layers]
    inputs = list[Tensor]()

    def shifted(shift: Tensor, seen: Tensor, value: Tensor) -> Tensor:
        inputs.append(seen.detach().view(*shift.shape[:2], -1))  # B T M
        return value + shift.view(value.shape)

    with torch.enable_grad():
        logits = tail.changed({
            layer: partial(shifted, shift) for layer, shift in zip(layers, shifts, strict=True)
        })  # fmt: skip
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = nn.functional.cross_entropy(logits, tail.labels, reduction="sum")
    gradients = torch.autograd.grad(loss, shifts)
    return list(zip(inputs, gradients, strict=True))
