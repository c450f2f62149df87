"""What a law needs, what it can find, and when two logits count as equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from wise.editor import Editor, Erasable
from wise.edits import Edit

__all__ = [
    "Broken", "Unasked", "Undecided", "close", "for_metrics", "gap", "needs", "remade", "require",
    "require_error", "take_back", "tolerance",
]  # fmt: skip

_Law = TypeVar("_Law", bound=Callable[..., Any])
_Editor = TypeVar("_Editor", bound=Editor)

# Times the dtype's machine epsilon and the largest logit.
_TOLERANCES = {
    torch.float64: 2**10,
    torch.float32: 2**10,
    torch.bfloat16: 2**3,
    torch.float16: 2**3,
}


class Broken(AssertionError):  # noqa: N818 - a law is broken; the message says how
    """A law does not hold."""


class Undecided(Exception):  # noqa: N818 - no error: the data do not decide
    """Whether a law holds is not known; the message says why."""


class Unasked(Undecided):
    """A law that is not applicable: the stream has nothing for it, or no threshold is set."""


def needs(*capabilities: type) -> Callable[[_Law], _Law]:
    """Mark a law as applicable only to editors with all of these capabilities."""
    return _marked(needs=capabilities)


def for_metrics(*metrics: str) -> Callable[[_Law], _Law]:
    """Mark a law of several metrics: each is a check, called by the metric's name."""
    return _marked(metrics=metrics)


def _marked(**marks: object) -> Callable[[_Law], _Law]:
    def mark(law: _Law) -> _Law:
        vars(law).update(marks)
        return law

    return mark


def require(holds: bool, message: str) -> None:
    """Raise Broken with `message` unless the law `holds`."""
    if not holds:
        raise Broken(message)


def require_error(call: Callable[[], object], what: str, *kinds: type[Exception]) -> Exception:
    """The error of `call`, one of `kinds` with a reason; Broken says of `what` where it is not."""
    needed = f"a {' or '.join(kind.__name__ for kind in kinds)} that names what is wrong"
    try:
        call()
    except kinds as error:
        require(bool(str(error).strip()), f"{what} is refused without a reason; needed: {needed}")
        return error
    except Exception as error:
        raise Broken(f"{what} ends in {type(error).__name__}: {error}; needed: {needed}") from error
    raise Broken(f"{what} is accepted; needed: {needed}")


def remade(editor: _Editor, turns: Iterable[Sequence[Edit]]) -> _Editor:
    """`editor` after a reset and these turns."""
    editor.reset()
    for turn in turns:
        editor.edit(turn)
    return editor


def take_back(editor: Editor, edits: Sequence[Edit], since: str = "") -> None:
    """Remove `edits`, which are in force, if the editor can; Broken where it refuses.

    `since` says what else was done after they were made.
    """
    if isinstance(editor, Erasable):
        try:
            editor.remove(edits)
        except (KeyError, ValueError) as error:
            what = ", ".join(repr(edit.prompt) for edit in edits)
            since = f", {since}" if since else ""
            raise Broken(
                f"the edit of {what} was made{since}, and cannot be removed by its prompt: {error}"
            ) from error


def tolerance(logits: Tensor) -> float:
    """How much the order of additions may change: 2^10 machine epsilons of the largest logit, 2^3
    in half precision."""
    factor = _TOLERANCES[logits.dtype] * torch.finfo(logits.dtype).eps
    return factor * float(logits.abs().max())


def gap(one: Tensor, other: Tensor) -> float:
    """The most by which two logits differ."""
    return float((one - other).abs().max())


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two logits are equal up to the order of additions."""
    return bool(torch.allclose(one.to(other.dtype), other, rtol=0, atol=tolerance(other)))
