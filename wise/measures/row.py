"""One measured item, and the run that it is of."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import NamedTuple, NoReturn

__all__ = ["Row", "Run"]

_CHOICES = {
    "protocol": ("free", "forced"),
    "when": ("at-edit", "final"),
    "metric": ("reliability", "generalization", "locality", "portability", "routing"),
}
# By metric: the kinds that it has, in words and as a pattern.
_KINDS = {
    "reliability": ("none", ""),
    "generalization": ("a level from 1 up, or none where ungraded", "|[1-9][0-9]*"),
    "locality": ("far, near-subject or near-relation", "far|near-subject|near-relation"),
    "portability": ("portability", "portability"),
    "routing": (
        "edit, paraphrase or paraphrase-LEVEL, far, near-subject, near-relation, threshold",
        "edit|paraphrase(-[1-9][0-9]*)?|far|near-subject|near-relation|threshold",
    ),
}
_NOT_BLANK = ("editor", "model", "stream", "cluster", "prompt", "block")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Run(NamedTuple):
    """What makes the rows of one run comparable, and different from those of any other."""

    editor: str
    model: str
    stream: str
    stream_sha256: str
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One measured item: what was asked, expected and answered, by whom, when, and its score.

    `score` is in [0, 1]. `t` counts the edits made when the item was measured, `age` the turns
    since its own edit (0 at-edit). `cluster` is what is resampled together: the subject, or the
    item itself where it has none. `kind` is a paraphrase level or a kind of probe. Where the metric
    is "routing", `value` is the routing activation of the prompt in place of a score, or, in the
    one row of kind "threshold", what it is compared with. An item that could not be measured has
    the reason in `excluded`, and no number. Raises ValueError naming field, value and what is
    allowed.
    """

    editor: str
    model: str
    stream: str
    stream_sha256: str
    seed: int
    protocol: str
    when: str
    t: int
    metric: str
    kind: str
    edit_id: str
    cluster: str
    age: int
    prompt: str
    expected: str
    answer: str
    score: float | None
    block: str
    excluded: str = ""
    value: float | None = None

    def __post_init__(self) -> None:
        for field in _TEXTS:
            value = getattr(self, field)
            if not isinstance(value, str):
                self._refuse(field, "is not a text")
            if field in _NOT_BLANK and not value.strip():
                self._refuse(field, "is not a text that is not blank")
            if _SURROGATE.search(value):
                self._refuse(field, "is not Unicode text: it holds a lone surrogate")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                self._refuse(field, f"is none of {', '.join(choices)}")
        if not re.fullmatch("[0-9a-f]{64}", self.stream_sha256):
            self._refuse("stream_sha256", "is not 64 lower-case hexadecimal digits")
        for field in ("seed", "t", "age"):
            value = getattr(self, field)
            if type(value) is not int or value < 0:
                self._refuse(field, "is not an int >= 0")
        if self.when == "at-edit" and self.age:
            self._refuse("age", "is not 0, which it is at-edit")
        allowed, pattern = _KINDS[self.metric]
        if not re.fullmatch(pattern, self.kind):
            self._refuse("kind", f"is no kind of {self.metric}; allowed: {allowed}")
        self._check_score()

    def _check_score(self) -> None:
        """A number where the metric has it, and nowhere else; none where the item is excluded."""
        numbers = ("value", "score") if self.metric == "routing" else ("score", "value")
        measured, other = (getattr(self, name) for name in numbers)
        if other is not None:
            self._refuse(numbers[1], f"is not None, as {self.metric} has a {numbers[0]}")
        if (measured is None) != bool(self.excluded):
            self._refuse(
                "excluded", f"with {numbers[0]}={measured}; a reason stands where it is None"
            )
        if measured is None:
            return
        if not isinstance(measured, int | float):
            self._refuse(numbers[0], "is not a number")
        if self.metric == "routing":
            if math.isnan(measured) or math.isinf(measured):
                self._refuse("value", "is not a finite number")
        elif not 0 <= measured <= 1:
            self._refuse("score", "is not a number in [0, 1]")
        object.__setattr__(self, numbers[0], float(measured) + 0.0)  # -0.0 becomes 0.0

    def _refuse(self, field: str, reason: str) -> NoReturn:
        raise ValueError(f"Row.{field}={getattr(self, field)!r} {reason}")

    @property
    def run(self) -> Run:
        """What the row shares with all others of its run."""
        return Run(self.editor, self.model, self.stream, self.stream_sha256, self.seed)


_TEXTS = tuple(field.name for field in fields(Row) if field.type == "str")
