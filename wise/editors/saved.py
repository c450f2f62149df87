"""An editor's state as a folder: one safetensors file and a JSON manifest with its digests.

Reading executes nothing, and takes nothing over before everything is checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from wise.edits import Background, fields_of
from wise.jobs.ledger import json_digest, write_whole

__all__ = [
    "FORMAT_VERSION",
    "background_digest",
    "background_record",
    "own_memory",
    "read",
    "write",
]

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_OWN = re.compile(r"state-[0-9a-f]{16}\.safetensors")
S = TypeVar("S")


def background_digest(background: Background) -> str:
    """SHA-256 of all that a background holds."""
    return json_digest(background_record(background))


def background_record(background: Background) -> dict[str, Any]:
    """A background as JSON."""
    return {"texts": background.texts, "edits": [fields_of(edit) for edit in background.edits]}


def write(
    folder: Path,
    belongs_to: Mapping[str, Any],
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Save a state, `record` and `tensors`; an earlier one stays valid until the new one is."""
    payload = save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(payload).hexdigest()
    name = f"state-{digest[:16]}.safetensors"
    manifest = {"format": FORMAT_VERSION, **belongs_to, "tensors": name, "sha256": digest, **record}
    manifest["manifest sha256"] = json_digest(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, payload)
    write_whole(folder / _MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for stale in folder.iterdir():
        if stale.name != name and _OWN.fullmatch(stale.name):
            stale.unlink()


def read(
    folder: Path,
    belongs_to: Mapping[str, Any],
    state_of: Callable[[Mapping[str, Any], Mapping[str, Tensor]], S],
    device: torch.device,
) -> S:
    """What `state_of` makes of the record and tensors in `folder`.

    Raises ValueError where they are missing, damaged, another editor's or not a state.
    """
    manifest = _manifest(folder)
    for name, own in json.loads(json.dumps(dict(belongs_to))).items():
        theirs = manifest.get(name)
        if theirs != own:
            raise ValueError(f"checkpoint {folder}: its {_difference(name, own, theirs)}")
    path = folder / str(manifest.get("tensors"))
    if path.parent != folder or not path.is_file():
        raise ValueError(f"checkpoint {folder}: its file {manifest.get('tensors')!r} is missing")
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != manifest.get("sha256"):
        raise ValueError(f"checkpoint {folder}: {path.name} is not what was saved (sha256 differs)")
    try:
        return state_of(manifest, own_memory(load_tensors(payload), device))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint {folder}: {path.name} does not hold its state: {error}"
        ) from error


def own_memory(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors of a file where torch would have put them.

    Their places in a file are not aligned, and a product of a matrix and a vector has other bits
    where the matrix is not.
    """
    return {name: tensor.clone().to(device) for name, tensor in tensors.items()}


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: there is no {_MANIFEST} in it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"checkpoint {folder}: {_MANIFEST} is not JSON: {error}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or version != FORMAT_VERSION:
        raise ValueError(f"checkpoint {folder}: format {version!r}; this reads {FORMAT_VERSION}")
    if manifest.pop("manifest sha256", None) != json_digest(manifest):
        raise ValueError(f"checkpoint {folder}: {_MANIFEST} was changed after it was saved")
    return manifest


def _difference(name: str, own: Any, theirs: Any) -> str:
    if isinstance(own, dict) and isinstance(theirs, dict):
        for key in own:
            if own[key] != theirs.get(key):
                return f"{name} has {key}={theirs.get(key)!r}; this editor has {own[key]!r}"
    return f"{name} is {theirs!r}; this editor has {own!r}"
