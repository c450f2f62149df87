"""Editors whose turn is one step along the gradients of its own rows, in the W_v of some blocks.

What a step makes of the gradients is all that a family defines. The state is the change of W_v at
each edited block, and hooks add it at inference.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from wise.editors.base import ErasableBase, added, floats, live, without
from wise.edits import Edit, edits_of, fields_of
from wise.lm.tail import Tail, value_gradients

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    class _Config(DataclassInstance, Protocol):
        @property
        def append_eos(self) -> bool: ...


__all__ = ["SteppedEditor", "SteppedState"]

C = TypeVar("C", bound="_Config")
S = TypeVar("S", bound="SteppedState")


@dataclass(frozen=True)
class SteppedState:
    """The state after the turns so far: replaced as a whole, its tensors never written to."""

    turns: tuple[tuple[Edit, ...], ...] = ()
    changes: Mapping[int, Float[Tensor, "M D"]] = field(default_factory=dict)  # of W_v, by layer

    @cached_property
    def edits(self) -> tuple[Edit, ...]:
        return reduce(live, self.turns, ())


class SteppedEditor(ErasableBase[C, S]):
    """An editor of the W_v of `layers`, by one forward and backward a turn.

    Edits are removed by making the other turns again, one pass each.
    """

    @abstractmethod
    def _restored_with(
        self, state: SteppedState, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> S:
        """A family's state, with the turns and changes of `state`."""

    def _gradients(
        self, state: S, edits: tuple[Edit, ...]
    ) -> tuple[Tail, list[tuple[Float[Tensor, "B T M"], Float[Tensor, "B T D"]]]]:
        """What W_v reads and the gradient at its outputs, by layer, on the model as `state` has it.

        The tail has the rows and where their labels are.
        """
        batch = self._encoded(edits, append_eos=self.config.append_eos)
        with added(self.lm, state.changes):
            tail = Tail.capture(self.lm, self.layers[0], batch)
            return tail, value_gradients(tail, self.layers)

    def _without(self, state: S, prompts: frozenset[str]) -> S:
        turns = (without(turn, prompts) for turn in state.turns)
        return reduce(self._after, filter(None, turns), self.empty)

    @property
    def _shape(self) -> tuple[int, int]:
        """M D."""
        inner, hidden = self.lm.value_weight(self.layers[0]).shape
        return inner, hidden

    def _weights(self, state: S) -> Mapping[int, Float[Tensor, "M D"]]:
        return state.changes

    def _record(self, state: S) -> dict[str, Any]:
        return {"turns": [[fields_of(edit) for edit in turn] for turn in state.turns]}

    def _tensors(self, state: S) -> dict[str, Tensor]:
        return {f"change.{layer}": change for layer, change in state.changes.items()}

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> S:
        turns = tuple(edits_of(turn) for turn in record["turns"])
        if not turns:
            return self.empty
        changes = {layer: floats(tensors, f"change.{layer}", *self._shape) for layer in self.layers}
        return self._restored_with(SteppedState(turns, changes), record, tensors)
