"""How well an edit did, by probabilities before and after it: the scores of Hase et al."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

__all__ = ["essence", "neighborhood", "overall", "rewrite"]


def rewrite(before: float, after: float, *, objective: Literal["raise", "lower"]) -> float:
    """The share gained of what could be gained: of 1 - p for a raised target, p for a lowered one.

    `before`, `after`: p of the target, in [0, 1]. A raised target that lost probability scores
    below 0; a lowered one that gained scores 0. Where nothing could be gained, it is 1 if nothing
    was lost. Paraphrases are scored alike. Source: Hase et al. 2023, section 5.2; the lowered one
    from the released code.
    """
    _check(before, after)
    room = 1.0 - before if objective == "raise" else before
    gained = after - before if objective == "raise" else before - after
    if room == 0.0:
        return 1.0 if gained == 0.0 else 0.0
    return gained / room if objective == "raise" else max(0.0, gained / room)


def neighborhood(before: float, after: float) -> float:
    """1 where p of the target for a neighbour is unchanged, 0 where it moved as far as possible.

    Source: Hase et al. 2023, section 5.2.
    """
    _check(before, after)
    return 1.0 - abs(after - before) / (0.5 + abs(before - 0.5))


def essence(before: float, after: float) -> float:
    """1 where the perplexity of text about the subject did not rise, 0 where it rose by 5 or more.

    Source: Hase et al. 2023, section 5.2.
    """
    return 1.0 - min(max(after - before, 0.0), 5.0) / 5.0


def overall(scores: Sequence[float]) -> float:
    """The arithmetic mean of rewrite, paraphrase and neighborhood. Source: Hase et al. 2023."""
    return statistics.fmean(scores)


def _check(*probabilities: float) -> None:
    for p in probabilities:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"probability {p!r} is outside [0, 1]")
