"""The calibration corners: editors between which all others lie, and which are not ranked."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CALIBRATION", "is_calibration"]

CALIBRATION: Mapping[str, str] = {
    "none": "none",
    "perfect": "fixtures.perfect:make_perfect",
    "random": "wise.editors.corners:make_random_router",
}


def is_calibration(editor: str) -> bool:
    """Whether `editor` is a calibration corner, by its name or its factory."""
    name = editor.partition(", version ")[0].partition("(")[0]
    return name in CALIBRATION or name in CALIBRATION.values()
