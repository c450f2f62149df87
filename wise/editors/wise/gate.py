"""The gate at inference: the hook that adds each row's side memory to the outputs of W_v."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor, where

from wise.editors.router import Router, SideMemory

__all__ = ["Gate"]


@dataclass
class Gate:
    """Routes one batch of sequences at its first forward; later forwards keep the routes.

    Rows of the main memory keep their bits. With several memories there is one
    synchronisation with the host, to group the rows by memory.
    """

    router: Router
    memories: Sequence[SideMemory]
    prompt_mask: Bool[Tensor, "B T"]
    choice: Int[Tensor, " R"] | None = None  # the memory of each row; -1 = the main one
    rows: dict[int, Int[Tensor, " r"]] = field(default_factory=dict)  # of each memory in use

    def __call__(self, inputs: Tensor, value: Tensor) -> Tensor:
        """The output of W_v with the change of each row's memory."""
        if inputs.ndim == 2:  # some blocks flatten rows and tokens
            width = self.prompt_mask.shape[1]
            n_rows = len(inputs) // width if self.choice is None else len(self.choice)
            shaped = (x.view(n_rows, -1, x.shape[-1]) for x in (inputs, value))
            return self(*shaped).view_as(value)
        choice = self._route(inputs) if self.choice is None else self.choice
        if len(self.memories) == 1:
            change = self.memories[0].change(inputs).to(value.dtype)
            return where((choice >= 0)[:, None, None], value + change, value)
        for number, rows in self.rows.items():
            change = self.memories[number].change(inputs[rows]).to(value.dtype)
            value = value.index_copy(0, rows, value[rows] + change)
        return value

    def _route(self, inputs: Tensor) -> Tensor:
        copies = len(inputs) // len(self.prompt_mask)  # beams come as neighbouring rows
        mask = self.prompt_mask.repeat_interleave(copies, dim=0)
        self.choice = self.router.choose(self.router.select(inputs, mask), self.memories)
        if len(self.memories) > 1:
            chosen = self.choice.tolist()
            for number in sorted(set(chosen) - {-1}):
                rows = [row for row, choice in enumerate(chosen) if choice == number]
                self.rows[number] = self.choice.new_tensor(rows)
        return self.choice
