"""The corners of calibration: editors between which every other must lie, and never ranked."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CALIBRATION", "is_calibration"]

CALIBRATION: Mapping[str, str] = {
    "none": "none",
    "perfect": "fixtures.perfect:make_perfect",
    "random": "wise.editors.corners:make_random_router",
}


def is_calibration(editor: str) -> bool:
    """Whether rows of `editor`, by its name or its factory, are those of a corner."""
    name = editor.partition(", version ")[0].partition("(")[0]
    return name in CALIBRATION or name in CALIBRATION.values()
