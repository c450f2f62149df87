"""How the tests of a strategy look for examples: some example, or the simplest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.strategies import SearchStrategy

from wise.edits import Edit

__all__ = ["EVERY", "SPEAKS", "find_any", "minimal"]

EVERY = settings(derandomize=True, database=None, deadline=None, max_examples=60)
_SOME = settings(
    EVERY, max_examples=2000, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
_SIMPLEST = settings(_SOME, phases=[Phase.generate, Phase.shrink])

# The simplest edit of the small world that the strategies ask unless they are given another.
SPEAKS = Edit(
    "Alexandra Lilwick speaks", "Czech", "Alexandra Lilwick",
    ground_truth="Bengali", id="Alexandra Lilwick / language",
)  # fmt: skip

_Example = TypeVar("_Example")


def minimal(
    strategy: SearchStrategy[_Example], condition: Callable[[_Example], bool] = lambda _: True
) -> _Example:
    """The simplest example for which `condition` holds."""
    return find(strategy, condition, settings=_SIMPLEST)


def find_any(strategy: SearchStrategy[_Example], condition: Callable[[_Example], bool]) -> _Example:
    """Some example for which `condition` holds, not made simpler."""
    return find(strategy, condition, settings=_SOME)
