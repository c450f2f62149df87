"""CSV files that grow by a line at a time."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["append", "check_columns"]


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise ValueError for a file with other columns; one that is not there has none."""
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
        if header != list(columns):
            raise ValueError(
                f"{path} has the columns {', '.join(header)}, not {', '.join(columns)}"
            )


def append(path: Path, columns: Sequence[str], record: Mapping[str, Any]) -> None:
    """Append a line; what was not measured stays empty. Raises as `check_columns`."""
    check_columns(path, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({key: f"{value:.4f}" if isinstance(value, float) else value
                         for key, value in record.items()})  # fmt: skip
