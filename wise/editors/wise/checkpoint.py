"""WISE's state as a record and tensors to save, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from wise.editors.router import RoutingInputs
from wise.editors.wise.memory import Change, Memory, Shard, Turn, WISEState
from wise.edits import edits_of, fields_of

__all__ = ["record_of", "state_of", "tensors_of"]


def record_of(state: WISEState) -> dict[str, Any]:
    """The parts of a state that are not tensors, as JSON."""
    return {
        "n_turns": state.n_turns,
        "n_shards": state.n_shards,
        "memories": [
            {
                "epsilon": memory.epsilon,
                "merges": [
                    [[number, _turns_out(turns)] for number, turns in group]
                    for group in memory.merges
                ],
            }
            for memory in state.memories
        ],
        "shards": [
            {
                "number": shard.number,
                "turns": _turns_out(shard.turns),
                "activations": shard.activations,
            }
            for shard in state.shards
        ],
    }


def tensors_of(state: WISEState) -> dict[str, Tensor]:
    """The tensors of a state by name."""
    tensors: dict[str, Tensor] = {}
    kinds: Mapping[str, Sequence[Memory | Shard]]
    kinds = {"memory": state.memories, "shard": state.shards}
    for kind, parts in kinds.items():
        for i, part in enumerate(parts):
            found = part.change.parts()
            if len(part.routing):
                found |= {"keys": part.routing.keys, "key_mask": part.routing.mask}
            tensors |= {f"{kind}.{i}.{name}": tensor for name, tensor in found.items()}
    return tensors


def state_of(
    record: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]
) -> WISEState:
    """The state of a record and tensors; ValueError, KeyError or TypeError where they make none.

    `shape` is that of W_v, [M, D].
    """
    memories = []
    for i, memory in enumerate(record["memories"]):
        merges = tuple(
            tuple((number, _turns_in(turns)) for number, turns in group)
            for group in memory["merges"]
        )
        part = f"memory.{i}"
        memories.append(
            Memory(
                merges, _change_in(part, tensors, shape), memory["epsilon"],
                _routing_in(part, tensors, shape[0]),
            )
        )  # fmt: skip
    shards = []
    for i, shard in enumerate(record["shards"]):
        change = _change_in(f"shard.{i}", tensors, shape)
        routing = _routing_in(f"shard.{i}", tensors, shape[0])
        turns, activations = _turns_in(shard["turns"]), tuple(shard["activations"])
        shards.append(Shard(shard["number"], turns, change, routing, activations))
    return WISEState(tuple(memories), tuple(shards), record["n_turns"], record["n_shards"])


def _change_in(prefix: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Change:
    names = ("dense", "crow", "col", "values", "span", "rows")
    parts = {name: tensors[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in tensors}
    return Change.from_parts(parts, shape)


def _routing_in(prefix: str, tensors: Mapping[str, Tensor], inner: int) -> RoutingInputs:
    if f"{prefix}.keys" not in tensors:
        return RoutingInputs.none(inner)
    return RoutingInputs(tensors[f"{prefix}.keys"], tensors[f"{prefix}.key_mask"])


def _turns_out(turns: tuple[Turn, ...]) -> list[Any]:
    return [[turn.number, [fields_of(edit) for edit in turn.edits]] for turn in turns]


def _turns_in(turns: list[Any]) -> tuple[Turn, ...]:
    return tuple(Turn(number, edits_of(edits)) for number, edits in turns)
