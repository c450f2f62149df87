"""What became of each check, for the page: passed, failed, could not be told, or went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["OUTCOMES", "Check", "read_checks"]

# What the page shows for each, in the order of the page.
OUTCOMES = {
    "error": "!",
    "fail": "✗",
    "inconclusive": "?",
    "excluded": "–",
    "xfail": "~",
    "pass": "✓",
}


class Check(NamedTuple):
    """What became of one check on one editor; `stream` and `replay` show and repeat a failure."""

    name: str
    editor: str
    outcome: str
    detail: str = ""
    stream: str = ""
    replay: str = ""


def read_checks(path: Path | str) -> list[Check]:
    """Checks from JSON lines, their fields as Check names them. Raises ValueError with the line."""
    found = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        try:
            check = Check(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is no check: {error}") from error
        for field, value in zip(Check._fields, check, strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{path}, line {number}: {field}={value!r} is not a text")
        if check.outcome not in OUTCOMES:
            known = ", ".join(OUTCOMES)
            raise ValueError(f"{path}, line {number}: outcome={check.outcome!r} is none of {known}")
        found.append(check)
    return found
