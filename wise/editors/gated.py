"""Side memories beside one W_v: the gate that opens one for each row, and what it shows of itself.

The main memory is never written to: an open memory's change is added to the outputs of W_v, or its
value stands in their place.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn, where

from wise.editors.base import ValueEditorBase
from wise.editors.router import RouterBase, RoutingInputs, SideMemory, ValueChange, select
from wise.editors.routing_inputs import prompt_inputs, readable
from wise.edits import Edit
from wise.lm import hooks
from wise.lm.tail import inputs_at, value_inputs
from wise.lm.tokens import Batch, last_column

__all__ = [
    "Gate", "GatedBase", "Latch", "OneEdit", "Read", "ReadingBase", "RowsSeen", "Substitute",
    "SubstitutingBase", "places", "threshold_among",
]  # fmt: skip

C = TypeVar("C", bound=Any)
S = TypeVar("S", bound=Any)
V = TypeVar("V", bound=ValueChange)
F = TypeVar("F")


@dataclass
class RowsSeen:
    """The rows of a batch as one forward after another shows them; beams come as neighbours."""

    prompt_mask: Bool[Tensor, "B T"]
    n: int = 0  # R, from the first forward on
    n_columns: int = 0  # of the forward that is read
    is_step: bool = False  # whether that holds tokens of the answer alone, the prompt being cached

    def read(self, inputs: Tensor) -> Float[Tensor, "R n M"]:
        """The inputs of a forward, whose rows and tokens some blocks flatten."""
        inputs = self.apart(inputs)
        self.is_step = self.n > 0 and inputs.shape[1] <= self.prompt_mask.shape[1]
        self.n, self.n_columns = inputs.shape[:2]
        return inputs

    def apart(self, flat: Tensor) -> Tensor:
        """What is flattened, by rows and tokens."""
        if flat.ndim == 3:
            return flat
        n = self.n or len(flat) // self.prompt_mask.shape[1]
        return flat.view(n, -1, flat.shape[-1])

    @property
    def mask(self) -> Bool[Tensor, "R T"]:
        return self.prompt_mask.repeat_interleave(self.n // len(self.prompt_mask), dim=0)

    def at(self, span: str) -> Bool[Tensor, "R n"]:
        """`places` of the forward that is read."""
        if self.is_step:
            return self.prompt_mask.new_full((self.n, self.n_columns), span == "answer")
        return places(self.mask, span, self.n_columns)


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
    rows: RowsSeen
    span: str = "row"
    choice: Int[Tensor, " R"] | None = None  # the memory of each row; -1 = the main one
    of_memory: dict[int, Int[Tensor, " r"]] = field(default_factory=dict)  # rows; of those in use
    below: list[Tensor] = field(default_factory=list)  # inputs of W_v at the router's lower layer

    def see(self, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        """Keep the inputs of W_v at the router's lower layer until the rows are routed."""
        if self.choice is None:
            self.below.append(self.rows.apart(args[0]))

    def __call__(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The output of W_v with the change of each row's memory."""
        inputs, value = self.rows.read(inputs), self.rows.apart(output)
        choice = self._route(inputs) if self.choice is None else self.choice
        changes = self._changes(inputs)
        if len(self.memories) == 1:
            change = changes(self.memories[0], slice(None)).to(value.dtype)
            value = where((choice >= 0)[:, None, None], value + change, value)
        for number, rows in self.of_memory.items():
            change = changes(self.memories[number], rows).to(value.dtype)
            value = value.index_copy(0, rows, value[rows] + change)
        return value.view_as(output)

    def _changes(self, inputs: Tensor) -> Callable[[SideMemory, Tensor | slice], Tensor]:
        """What a memory adds to the outputs of W_v in some rows."""
        if self.span == "row":
            return lambda memory, rows: memory.change(inputs[rows])
        at = self.rows.at(self.span)[..., None]  # R n 1
        recalls = self.span == "answer" and not self.rows.is_step
        at_last = self.rows.at("last")[..., None] if recalls else None

        def change(memory: SideMemory, rows: Tensor | slice) -> Tensor:
            changed = memory.change(inputs[rows])
            if at_last is not None:
                changed = where(at_last[rows], memory.change.recalled, changed)
            return changed * at[rows]

        return change

    def _route(self, inputs: Tensor) -> Tensor:
        rows = self.router.select([*self.below, inputs], self.rows.mask)
        self.below.clear()
        self.choice = self.router.choose(rows, self.memories)
        if len(self.memories) > 1:
            chosen = self.choice.tolist()
            for number in sorted(set(chosen) - {-1}):
                rows_of = [row for row, choice in enumerate(chosen) if choice == number]
                self.of_memory[number] = self.choice.new_tensor(rows_of)
        return self.choice


Read = Callable[[Float[Tensor, "B M"]], tuple[Float[Tensor, " B"], F]]


@dataclass
class Latch(Generic[F]):
    """Reads each row of a batch at its first forward, and keeps for later ones what it found then.

    reader: from inputs of W_v at last prompt tokens, the routing activation of each row, which is
        in scope where that exceeds `threshold`, and what is found for it.
    """

    reader: Read[F]
    threshold: float
    rows: RowsSeen
    found: tuple[Bool[Tensor, " R"], F] | None = None

    def read(self, inputs: Float[Tensor, "R n M"]) -> tuple[Bool[Tensor, " R"], F]:
        """What was found of the rows, of which these are the inputs of W_v."""
        if self.found is None:
            activation, found = self.reader(select(inputs, self.rows.mask, "last").keys[:, 0])
            self.found = activation > self.threshold, found
        return self.found


@dataclass(kw_only=True)
class Substitute(Latch[Float[Tensor, "R D"]]):
    """Puts another value in place of W_v's output at some tokens of the rows in scope.

    A row out of scope keeps its bits. span: the tokens that get the value, as `places` has them.
    """

    span: str

    def __call__(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The output of W_v with the values of the rows in scope."""
        inputs, value = self.rows.read(inputs), self.rows.apart(output)
        is_open, values = self.read(inputs)
        at = (is_open[:, None] & self.rows.at(self.span))[..., None]  # R n 1
        return where(at, values.to(value.dtype)[:, None], value).view_as(output)


def places(
    prompt_mask: Bool[Tensor, "B T"], span: str, n_columns: int
) -> Bool[Tensor, "B {n_columns}"]:
    """The "last" token of each prompt, the whole "prompt", or the "answer", from the last on."""
    padded = nn.functional.pad(prompt_mask, (0, n_columns - prompt_mask.shape[1]))
    columns = torch.arange(n_columns, device=padded.device)
    last = last_column(prompt_mask)[:, None]
    return {"last": padded & (columns == last), "prompt": padded, "answer": columns >= last}[span]


class ReadingBase(ValueEditorBase[C, S], Generic[C, S, F]):
    """An editor that changes outputs of W_v by what a Latch reads at the last prompt token.

    It is Routed.
    """

    @property
    @abstractmethod
    def threshold(self) -> float:
        """What a routing activation must exceed; infinite before the first edit."""

    @abstractmethod
    def _reader(self, state: S) -> Read[F] | None:
        """How prompts are read; None before the first edit."""

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The activation that is read of each prompt; 0 before the first edit."""
        read = self._reader(self._state)
        if read is None:
            return torch.zeros(len(input_ids), device=input_ids.device)
        return read(self._queries(input_ids, attention_mask))[0]

    @abstractmethod
    def _changed(self, read: Read[F], rows: RowsSeen) -> AbstractContextManager[None]:
        """The model with the outputs that `read` changes in these rows."""

    def _queries(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "B M"]:
        """The inputs of W_v at the last token of prompts."""
        batch = Batch.of_prompts(input_ids, attention_mask.bool())
        with hooks.frozen(self.lm.model):
            inputs = value_inputs(self.lm, self.layer, batch)
        return select(inputs, batch.prompt_mask, "last").keys[:, 0]

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        read = self._reader(self._state)
        return nullcontext() if read is None else self._changed(read, RowsSeen(prompt_mask.bool()))


class SubstitutingBase(ReadingBase[C, S, Float[Tensor, "R D"]]):
    """An editor that puts a value in place of W_v's output in the rows in scope."""

    @property
    @abstractmethod
    def span(self) -> str:
        """The tokens that get the value, as `places` has them."""

    def _changed(
        self, read: Read[Float[Tensor, "R D"]], rows: RowsSeen
    ) -> AbstractContextManager[None]:
        substitute = Substitute(read, self.threshold, rows, span=self.span)
        return hooks.replace(self.lm.part(self.layer, "value"), substitute)


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
        with hooks.frozen(self.lm.model):
            inputs = inputs_at(self.lm, self.routing_layers, batch)
        return self.router.select(inputs, mask)

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        memories = self._memories(self._state)
        return self._gated(memories, prompt_mask.bool()) if memories else nullcontext()

    @contextmanager
    def _gated(self, memories: Sequence[SideMemory], prompt_mask: Tensor) -> Iterator[None]:
        gate = Gate(self.router, memories, RowsSeen(prompt_mask), self.span)
        with ExitStack() as stack:
            for layer in self.routing_layers[:-1]:
                stack.enter_context(hooks.observe(self.lm.part(layer, "value"), gate.see))
            stack.enter_context(hooks.replace(self.lm.part(self.layer, "value"), gate))
            yield
