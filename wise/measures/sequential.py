"""Verdicts from as few draws of items as it takes: looks at more and more of them, to a limit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count, islice
from typing import Generic, NamedTuple, TypeVar

from wise.measures.statistics import Verdict, verdict

__all__ = ["Draw", "SequentialVerdict", "SharedDraws", "decide"]

_T = TypeVar("_T")


class Draw(NamedTuple):
    """Scores in [0, 1] of newly drawn items; a name in two draws is one cluster."""

    scores: Sequence[float]
    clusters: Sequence[Hashable] | None = None


class SharedDraws(Generic[_T]):
    """Without end `make(0)`, `make(1)`, ...: each made when first asked for, and made once.

    Several metrics go over the same draws, each as far as it needs. `make` is to seed itself by the
    number; where it raises, so does every iteration that comes there.
    """

    def __init__(self, make: Callable[[int], _T]) -> None:
        self._make = make
        self._made: list[_T] = []

    def __iter__(self) -> Iterator[_T]:
        for number in count():
            if number == len(self._made):
                self._made.append(self._make(number))
            yield self._made[number]

    @property
    def n_made(self) -> int:
        return len(self._made)


@dataclass(frozen=True, slots=True)
class SequentialVerdict(Verdict):
    """A verdict at look `n_looks` of at most `max_looks`, on the items of all looks so far.

    `confidence`, the bounds and `n_needed` are those of this one look; over all looks together the
    verdict is right with `overall_confidence`.
    """

    n_looks: int
    max_looks: int
    overall_confidence: float

    def describe(self, name: str = "") -> str:
        """The line of a verdict and the look, as in `... needed >= .90 (look 2 of 4)`."""
        # slots=True makes the class anew, which super() without arguments does not know
        return f"{Verdict.describe(self, name)} (look {self.n_looks} of {self.max_looks})"


def decide(
    draws: Iterable[tuple[Sequence[float], Sequence[Hashable] | None]],
    threshold: float,
    *,
    confidence: float = 0.95,
    max_looks: int = 4,
) -> SequentialVerdict:
    """The verdict of the first look that passes or fails; inconclusive if none of them does.

    A look takes one more draw and judges all items drawn so far, with an error of
    (1 - confidence) / max_looks. So the false passes over all looks have a rate of at most
    1 - confidence, and so have the false fails, however the looks depend on each other. No draw is
    made beyond the one that decides. Each draw has to be independent of those before it, like
    them in kind, and of a size that does not depend on their scores. Raises ValueError.

    Source: Pocock, Biometrika, 1977 (repeated looks); the split of the error is Bonferroni's.
    """
    if max_looks < 1:
        raise ValueError(f"max_looks={max_looks} is too few; allowed is 1 or more")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence} is outside [0.5, 1)")
    of_a_look = 1 - (1 - confidence) / max_looks
    scores: list[float] = []
    clusters: list[Hashable] = []
    n_looks, found = 0, verdict([], threshold, confidence=of_a_look)
    for n_looks, (new, names) in enumerate(islice(draws, max_looks), start=1):
        if names is not None and len(names) != len(new):
            raise ValueError(f"clusters are {len(names)} for {len(new)} scores; one for each")
        scores += new
        clusters += names or [(n_looks, index) for index in range(len(new))]
        found = verdict(scores, threshold, clusters=clusters, confidence=of_a_look)
        if found.outcome != "inconclusive":
            break
    seen = {field.name: getattr(found, field.name) for field in fields(Verdict)}
    return SequentialVerdict(
        **seen, n_looks=n_looks, max_looks=max_looks, overall_confidence=confidence
    )
