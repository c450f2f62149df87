"""WISE's state as a folder: one safetensors file and a JSON manifest that vouches for it.

Nothing is executed on reading, and nothing is taken over before all of it has been checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from wise.config import WISEConfig
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.memory import Change, Memory, Shard, State, Turn

__all__ = ["FORMAT_VERSION", "identity", "load", "save"]

FORMAT_VERSION = 1
_SAMPLED = 4096
_MANIFEST = "manifest.json"


def identity(
    lm: LanguageModel, config: WISEConfig, background: Background, seed: int
) -> dict[str, Any]:
    """What a checkpoint belongs to: the model by its type, sizes and weights, and how."""
    if config.layer is None:
        raise ValueError("layer=None names no block; a checkpoint belongs to one")
    weight = lm.value_weight(config.layer).detach().float().cpu().contiguous()
    return {
        "model": {
            "model_type": lm.model.config.model_type,
            "n_layers": lm.n_layers,
            "vocab_size": lm.model.config.vocab_size,
            "W_v sha256": hashlib.sha256(weight.numpy().tobytes()).hexdigest(),
            "weights sha256": _fingerprint(lm),
        },
        "config": asdict(config),
        "background sha256": _digest(asdict(background)),
        "seed": seed,
    }


def save(folder: Path, state: State, belongs_to: Mapping[str, Any]) -> None:
    """Write `state`; an earlier checkpoint in `folder` stays whole until the new one is."""
    tensors: dict[str, Tensor] = {}
    body = {
        "n_turns": state.n_turns,
        "n_shards": state.n_shards,
        "memories": [_memory_out(m, f"memory.{i}", tensors) for i, m in enumerate(state.memories)],
        "shards": [_shard_out(s, f"shard.{i}", tensors) for i, s in enumerate(state.shards)],
    }
    payload = save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(payload).hexdigest()
    name = f"memories-{digest[:16]}.safetensors"
    manifest = {"format": FORMAT_VERSION, **belongs_to, "tensors": name, "sha256": digest, **body}
    manifest["manifest sha256"] = _digest(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / name, payload)
    _replace(folder / _MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for stale in folder.glob("memories-*.safetensors"):
        if stale.name != name:
            stale.unlink()


def load(
    folder: Path,
    belongs_to: Mapping[str, Any],
    shape: tuple[int, int],
    device: torch.device,
) -> State:
    """The state in `folder`; ValueError where it is missing, damaged or another model's."""
    manifest = _manifest(folder)
    for name, own in json.loads(json.dumps(dict(belongs_to))).items():
        theirs = manifest.get(name)
        if theirs != own:
            raise ValueError(f"checkpoint {folder}: its {_difference(name, own, theirs)}")
    path = folder / str(manifest["tensors"])
    if path.parent != folder or not path.is_file():
        raise ValueError(f"checkpoint {folder}: its file {manifest['tensors']!r} is missing")
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != manifest["sha256"]:
        raise ValueError(f"checkpoint {folder}: {path.name} is not what was saved (sha256 differs)")
    try:
        tensors = {name: tensor.to(device) for name, tensor in load_tensors(payload).items()}
        return State(
            tuple(
                _memory_in(m, f"memory.{i}", tensors, shape)
                for i, m in enumerate(manifest["memories"])
            ),
            tuple(
                _shard_in(s, f"shard.{i}", tensors, shape) for i, s in enumerate(manifest["shards"])
            ),
            manifest["n_turns"],
            manifest["n_shards"],
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint {folder}: {path.name} does not hold its state: {error}"
        ) from error


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: there is no {_MANIFEST} in it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"checkpoint {folder}: {_MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        version = manifest.get("format") if isinstance(manifest, dict) else None
        raise ValueError(f"checkpoint {folder}: format {version!r}; this reads {FORMAT_VERSION}")
    if manifest.pop("manifest sha256", None) != _digest(manifest):
        raise ValueError(f"checkpoint {folder}: {_MANIFEST} was changed after it was saved")
    return manifest


def _fingerprint(lm: LanguageModel) -> str:
    """Of every parameter its name, its shape and up to `_SAMPLED` of its entries, evenly spaced."""
    digest = hashlib.sha256()
    for name, weight in lm.model.named_parameters():
        entries = weight.detach().flatten()[:: max(1, weight.numel() // _SAMPLED)]
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(entries.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _difference(name: str, own: Any, theirs: Any) -> str:
    if isinstance(own, dict) and isinstance(theirs, dict):
        for key in own:
            if own[key] != theirs.get(key):
                return f"{name} has {key}={theirs.get(key)!r}; this editor has {own[key]!r}"
    return f"{name} is {theirs!r}; this editor has {own!r}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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
