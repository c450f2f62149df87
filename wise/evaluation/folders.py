"""The folder of a long job: whose it is, and records that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["claim", "write_json"]


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


def write_json(record: object, path: Path) -> None:
    """Write `path` whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
