"""Side memories beside one W_v: the gate that opens one for each row, and what it shows of itself.

The main memory is never written to: an open memory's change is added to the outputs of W_v.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, where

from wise.editors.base import ValueEditorBase
from wise.editors.router import RouterBase, RoutingInputs, SideMemory, ValueChange
from wise.editors.routing_inputs import prompt_inputs, readable
from wise.edits import Edit
from wise.lm import hooks
from wise.lm.tail import inputs_seen, run
from wise.lm.tokens import Batch, last_column

__all__ = ["Gate", "GatedBase", "OneEdit", "threshold_among"]

C = TypeVar("C", bound=Any)
S = TypeVar("S", bound=Any)
V = TypeVar("V", bound=ValueChange)


@dataclass
class Gate:
    """Routes one batch of sequences at its first forward; later forwards keep the routes.

    Rows of the main memory keep their bits. With several memories there is one
    synchronisation with the host, to group the rows by memory.

    span: the tokens that an open memory changes: every one of its "row"; the "last" of the prompt
        alone; or the "answer", from there on, where the memory answers as for its own edit's
        prompt.
    """

    router: RouterBase
    memories: Sequence[SideMemory]
    prompt_mask: Bool[Tensor, "B T"]
    span: str = "row"
    choice: Int[Tensor, " R"] | None = None  # the memory of each row; -1 = the main one
    rows: dict[int, Int[Tensor, " r"]] = field(default_factory=dict)  # of each memory in use
    below: list[Tensor] = field(default_factory=list)  # inputs of W_v at the router's lower layer

    def see(self, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        """Keep the inputs of W_v at the router's lower layer until the rows are routed."""
        if self.choice is None:
            self.below.append(self._by_row(args[0]))

    def __call__(self, inputs: Tensor, value: Tensor) -> Tensor:
        """The output of W_v with the change of each row's memory."""
        if inputs.ndim == 2:  # some blocks flatten rows and tokens
            return self(self._by_row(inputs), self._by_row(value)).view_as(value)
        is_step = self.choice is not None and inputs.shape[1] <= self.prompt_mask.shape[1]
        choice = self._route(inputs) if self.choice is None else self.choice
        if len(self.memories) == 1:
            change = self._change(self.memories[0], inputs, slice(None), is_step).to(value.dtype)
            return where((choice >= 0)[:, None, None], value + change, value)
        for number, rows in self.rows.items():
            change = self._change(self.memories[number], inputs, rows, is_step).to(value.dtype)
            value = value.index_copy(0, rows, value[rows] + change)
        return value

    def _change(
        self, memory: SideMemory, inputs: Tensor, rows: Tensor | slice, is_step: bool
    ) -> Tensor:
        """What the memory adds to the outputs of W_v in some rows.

        is_step: they hold tokens of the answer alone, as what stands before them is cached.
        """
        change = memory.change(inputs[rows])
        if self.span == "row":
            return change
        if is_step:
            return change if self.span == "answer" else torch.zeros_like(change)
        copies = len(inputs) // len(self.prompt_mask)
        last = last_column(self.prompt_mask).repeat_interleave(copies)[rows]
        columns = torch.arange(inputs.shape[1], device=inputs.device)
        at_last = (columns == last[:, None])[..., None]
        if self.span == "last":
            return change * at_last
        change = where(at_last, memory.change.recalled, change)
        return change * (columns >= last[:, None])[..., None]

    def _by_row(self, flat: Tensor) -> Tensor:
        if flat.ndim == 3:
            return flat
        n_rows = len(flat) // self.prompt_mask.shape[1] if self.choice is None else len(self.choice)
        return flat.view(n_rows, -1, flat.shape[-1])

    def _route(self, inputs: Tensor) -> Tensor:
        copies = len(inputs) // len(self.prompt_mask)  # beams come as neighbouring rows
        mask = self.prompt_mask.repeat_interleave(copies, dim=0)
        rows = self.router.select([*self.below, inputs], mask)
        self.below.clear()
        self.choice = self.router.choose(rows, self.memories)
        if len(self.memories) > 1:
            chosen = self.choice.tolist()
            for number in sorted(set(chosen) - {-1}):
                rows_of = [row for row, choice in enumerate(chosen) if choice == number]
                self.rows[number] = self.choice.new_tensor(rows_of)
        return self.choice


@dataclass(frozen=True)
class OneEdit(Generic[V]):
    """A SideMemory of a single edit, for routers by likeness."""

    change: V
    edits: tuple[Edit]
    routing: RoutingInputs
    epsilon: float = 1.0


def threshold_among(likeness: Float[Tensor, "N N"], *, false_positives: float) -> float:
    """What `false_positives` of N prompts of different subjects exceed with the likest other one.

    likeness: of each prompt, a column, to each as an edit.
    """
    others = ~torch.eye(len(likeness), dtype=torch.bool, device=likeness.device)
    nearest = likeness.where(others, -math.inf).amax(0)
    return float(nearest.quantile(1 - false_positives))


class GatedBase(ValueEditorBase[C, S]):
    """An editor whose router opens one of its side memories for a row, or none.

    It is Routed and Retrieves. `span` is that of its Gate.
    """

    span = "row"

    @property
    @abstractmethod
    def router(self) -> RouterBase:
        """How prompts are routed."""

    @property
    def routing_layers(self) -> tuple[int, ...]:
        """The blocks whose inputs of W_v decide a route, ascending; the edited one is the last."""
        return (self.layer,)

    @property
    def _weight(self) -> Float[Tensor, "M D"]:
        return self.lm.value_weight(self.layer)

    def _inputs_of(self, prompts: Sequence[str]) -> RoutingInputs:
        """Inputs of W_v at every token of prompts, each cut to what the model reads."""
        prompts = readable(self.lm, self.tokenizer, prompts)
        return prompt_inputs(self.lm, self.tokenizer, self.layer, prompts, "mean")

    @abstractmethod
    def _memories(self, state: S) -> Sequence[SideMemory]:
        """Everything that a prompt can be routed to."""

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The largest activation over side memories; 0 before the first edit."""
        memories = self._memories(self._state)
        if not memories:
            return torch.zeros(len(input_ids), device=input_ids.device)
        rows = self._rows(input_ids, attention_mask)
        return self.router.activations(rows, memories).amax(0)

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edits of the side memory that each prompt opens; none where it opens none."""
        memories = self._memories(self._state)
        if not memories:
            return [()] * len(input_ids)
        rows = self._rows(input_ids, attention_mask)
        choices = self.router.choose(rows, memories).tolist()
        return [memories[each].edits if each >= 0 else () for each in choices]

    @property
    def threshold(self) -> float:
        """What a routing activation must exceed to open a side memory; infinite without one."""
        memories = self._memories(self._state)
        return self.router.threshold(memories) if memories else float("inf")

    def _rows(self, input_ids: Tensor, attention_mask: Tensor) -> RoutingInputs:
        mask = attention_mask.bool()
        batch = Batch.of_prompts(input_ids, mask)
        with (
            hooks.frozen(self.lm.model),
            inputs_seen(self.lm, self.routing_layers, batch, stop=True) as inputs,
        ):
            run(self.lm, batch)
        return self.router.select(inputs, mask)

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        memories = self._memories(self._state)
        return self._gated(memories, prompt_mask.bool()) if memories else nullcontext()

    @contextmanager
    def _gated(self, memories: Sequence[SideMemory], prompt_mask: Tensor) -> Iterator[None]:
        gate = Gate(self.router, memories, prompt_mask, self.span)
        with ExitStack() as stack:
            for layer in self.routing_layers[:-1]:
                stack.enter_context(hooks.observe(self.lm.part(layer, "value"), gate.see))
            stack.enter_context(hooks.replace(self.lm.part(self.layer, "value"), gate))
            yield
