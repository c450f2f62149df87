"""What a law can find besides that it holds, and when two logits count as equal."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Broken", "Unasked", "Undecided", "close", "require", "tolerance"]

# Times the dtype's machine epsilon and the largest logit.
_TOLERANCES = {
    torch.float64: 2**10,
    torch.float32: 2**10,
    torch.bfloat16: 2**3,
    torch.float16: 2**3,
}


class Broken(AssertionError):  # noqa: N818 - a law is broken; the message says how
    """A law does not hold."""


class Undecided(Exception):  # noqa: N818 - no error: what was seen does not tell
    """A law can be said neither to hold nor to be broken; the message says why."""


class Unasked(Undecided):
    """A law that nobody asked for: the stream holds nothing for it, or no threshold is set."""


def require(holds: bool, message: str) -> None:
    """Raise Broken with `message` unless the law `holds`."""
    if not holds:
        raise Broken(message)


def tolerance(logits: Tensor) -> float:
    """What the order of additions may change: 2^10 machine epsilons of the largest logit, 2^3 in
    half precision."""
    factor = _TOLERANCES[logits.dtype] * torch.finfo(logits.dtype).eps
    return factor * float(logits.abs().max())


def close(one: Tensor, other: Tensor) -> bool:
    """Equal but for the order of additions."""
    return bool(torch.allclose(one, other, rtol=0, atol=tolerance(other)))
