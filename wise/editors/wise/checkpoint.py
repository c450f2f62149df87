"""WISE's state as a folder: what of it is a record, what are tensors, and how they come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wise.editors import saved
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.memory import Change, Memory, Shard, Turn, WISEState
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel

__all__ = ["identity", "load", "save"]


def identity(
    lm: LanguageModel, config: WISEConfig, background: Background, seed: int
) -> dict[str, Any]:
    """What a checkpoint belongs to."""
    if config.layer is None:
        raise ValueError("layer=None names no block; a checkpoint belongs to one")
    return saved.identity(lm, config, background, seed)


def save(folder: Path, state: WISEState, belongs_to: Mapping[str, Any]) -> None:
    """Write `state`; an earlier checkpoint in `folder` stays whole until the new one is."""
    tensors: dict[str, Tensor] = {}
    record = {
        "n_turns": state.n_turns,
        "n_shards": state.n_shards,
        "memories": [_memory_out(m, f"memory.{i}", tensors) for i, m in enumerate(state.memories)],
        "shards": [_shard_out(s, f"shard.{i}", tensors) for i, s in enumerate(state.shards)],
    }
    saved.write(folder, belongs_to, record, tensors)


def load(
    folder: Path,
    belongs_to: Mapping[str, Any],
    shape: tuple[int, int],
    device: torch.device,
) -> WISEState:
    """The state in `folder`; ValueError where it is missing, damaged or another model's."""

    def state_of(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> WISEState:
        memories = enumerate(record["memories"])
        shards = enumerate(record["shards"])
        return WISEState(
            tuple(_memory_in(m, f"memory.{i}", tensors, shape) for i, m in memories),
            tuple(_shard_in(s, f"shard.{i}", tensors, shape) for i, s in shards),
            record["n_turns"],
            record["n_shards"],
        )

    return saved.read(folder, belongs_to, state_of, device)


def _change_out(change: Change, prefix: str, tensors: dict[str, Tensor]) -> None:
    tensors.update({f"{prefix}.{name}": part for name, part in change.parts().items()})


def _change_in(prefix: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Change:
    names = ("dense", "crow", "col", "values")
    parts = {name: tensors[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in tensors}
    return Change.from_parts(parts, shape)


def _turns_out(turns: tuple[Turn, ...]) -> list[Any]:
    return [[turn.number, [asdict(edit) for edit in turn.edits]] for turn in turns]


def _turns_in(turns: list[Any]) -> tuple[Turn, ...]:
    return tuple(Turn(number, tuple(Edit(**edit) for edit in edits)) for number, edits in turns)


def _memory_out(memory: Memory, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    _change_out(memory.change, prefix, tensors)
    merges = [[[number, _turns_out(turns)] for number, turns in group] for group in memory.merges]
    return {"epsilon": memory.epsilon, "merges": merges}


def _memory_in(
    record: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]
) -> Memory:
    merges = tuple(
        tuple((number, _turns_in(turns)) for number, turns in group) for group in record["merges"]
    )
    return Memory(merges, _change_in(prefix, tensors, shape), record["epsilon"])


def _shard_out(shard: Shard, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    _change_out(shard.change, prefix, tensors)
    for name in ("keys", "key_mask", "activations"):
        tensors[f"{prefix}.{name}"] = getattr(shard, name)
    return {"number": shard.number, "turns": _turns_out(shard.turns)}


def _shard_in(
    record: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]
) -> Shard:
    kept = (tensors[f"{prefix}.{name}"] for name in ("keys", "key_mask", "activations"))
    change = _change_in(prefix, tensors, shape)
    return Shard(record["number"], _turns_in(record["turns"]), change, *kept)
