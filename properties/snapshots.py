"""What an editor shows from outside, to be compared bitwise: with before, or with another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from properties.bench import Bench
from properties.findings import Broken, close, gap, require, tolerance
from wise.editor import Editor, Retrieves, Routed
from wise.edits import Edit
from wise.lm.decoding import Answer
from wise.measures.text import quoted

__all__ = [
    "Snapshot",
    "is_same",
    "require_close",
    "require_same",
    "require_same_answers",
    "require_same_threshold",
    "snapshot",
]


@dataclass(frozen=True)
class Snapshot:
    """Everything that an editor says and does for a few prompts."""

    prompts: tuple[str, ...]
    answers: tuple[Answer, ...]
    logits: Tensor  # B T V
    threshold: float | None  # this and the activations, where it is Routed
    activations: Tensor | None  # B
    retrieved: tuple[tuple[Edit, ...], ...]  # empty where it is not Retrieves

    @property
    def is_open(self) -> list[bool]:
        """Whether each prompt is routed to an edit; empty where the editor is not Routed."""
        if self.activations is None or self.threshold is None:
            return []
        return (self.activations > self.threshold).tolist()


def snapshot(bench: Bench, editor: Editor, prompts: Sequence[str] = ()) -> Snapshot:
    """What `editor` shows for `prompts` in one batch, by default for a few of the bench's."""
    asked = tuple(prompts) or bench.few_prompts
    batch = bench.batch(asked)
    given = batch.input_ids, batch.attention_mask
    return Snapshot(
        asked,
        tuple(bench.ask(editor, asked)),
        editor.logits(*given).detach().masked_fill(~batch.attention_mask.bool()[..., None], 0),
        editor.threshold if isinstance(editor, Routed) else None,
        editor.routing_activation(*given).clone() if isinstance(editor, Routed) else None,
        tuple(editor.retrieved(*given)) if isinstance(editor, Retrieves) else (),
    )


def require_same_answers(found: Snapshot, expected: Snapshot, when: str) -> None:
    """Require the same answers, and that the same prompts are routed to an edit."""
    rows = zip(found.prompts, found.answers, expected.answers, strict=True)
    for prompt, own, other in rows:
        require(
            own.token_ids == other.token_ids,
            f"{when}, {prompt!r} is answered {quoted(own.text)}; needed: {quoted(other.text)}",
        )
    routes = zip(found.prompts, found.is_open, expected.is_open, strict=False)
    for prompt, is_open, should in routes:
        require(
            is_open == should,
            f"{when}, {prompt!r} is routed to {_route(is_open)}; needed: {_route(should)}",
        )


def require_close(
    found: Snapshot, expected: Snapshot, when: str, *, rounding: Callable[[], float] | None = None
) -> None:
    """Require the same answers and routes, and logits and threshold equal up to rounding.

    rounding: how far logits may be apart where a descent enlarges rounding; asked for only where
        they are farther apart than the order of additions alone allows.
    """
    require_same_answers(found, expected, when)
    for prompt, own, other in zip(found.prompts, found.logits, expected.logits, strict=True):
        if close(own, other):
            continue
        apart, most = gap(own, other), 0.0 if rounding is None else rounding()
        by_rounding = f", by {most:.1e} here" if most else ""
        require(
            apart <= most,
            f"{when}, logits of {prompt!r} differ by {apart:.1e}; only rounding may{by_rounding}",
        )
    require_same_threshold(found, expected, when)


def require_same_threshold(found: Snapshot, expected: Snapshot, when: str) -> None:
    """Require the same threshold, up to the order of additions in activations."""
    own, other = found.threshold, expected.threshold
    if own is None or other is None or expected.activations is None:
        return
    require(
        own == other or abs(own - other) <= tolerance(expected.activations),
        f"{when}, the threshold is {own:.6g}; needed: {other:.6g}, and only rounding may differ",
    )


def _route(is_open: bool) -> str:
    return "an edit" if is_open else "no edit"


def require_same(found: Snapshot, expected: Snapshot, when: str) -> None:
    """Require that all which is shown is bitwise equal."""
    require_same_answers(found, expected, when)
    require(
        found.threshold == expected.threshold,
        f"{when}, the threshold is {found.threshold}; needed: {expected.threshold}",
    )
    for what, own, other in (
        ("logits", found.logits, expected.logits),
        ("routing activations", found.activations, expected.activations),
    ):
        if own is None or other is None:
            continue
        apart = (own != other).reshape(len(own), -1).any(-1).nonzero()[:, 0].tolist()
        if apart:
            raise Broken(
                f"{when}, {what} differ by up to {gap(own, other):.1e} on {len(apart)} of "
                f"{len(own)} prompts, first on {found.prompts[apart[0]]!r}; needed: bitwise equal",
            )
    require(
        found.retrieved == expected.retrieved,
        f"{when}, the memories that prompts open hold other edits than they should",
    )


def is_same(found: Snapshot, expected: Snapshot) -> bool:
    """Whether all which is shown is bitwise equal."""
    try:
        require_same(found, expected, "")
    except Broken:
        return False
    return True
