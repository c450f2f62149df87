"""The folder of a long job: whose it is, and records that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["claim", "file_name", "write_json"]


def claim(folder: Path, what: str, identity: Mapping[str, Any]) -> None:
    """Make `folder` that of one league or study (`what`), or see that it is.

    Raises ValueError naming what differs where the folder holds another.
    """
    manifest = folder / f"{what}.json"
    if not manifest.exists():
        write_json(identity, manifest)
        return
    held = json.loads(manifest.read_text(encoding="utf-8"))
    for name, value in identity.items():
        if held.get(name) != value:
            raise ValueError(
                f"{folder} holds a {what} with {name}={held.get(name)!r}, not {value!r}; "
                "name another folder"
            )


def file_name(task: DataclassInstance, words: str) -> str:
    """A name for a task's file: what can be read of `words`, and a digest of its fields."""
    digest = hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode()).hexdigest()
    readable = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in words)
    return f"{readable[-80:]}-{digest[:12]}"


def write_json(record: object, path: Path) -> None:
    """Write `path` whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
