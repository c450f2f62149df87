"""Whether a mean score is known to reach its threshold: pass, fail or inconclusive.

Every verdict of the project is `judge_mean`'s. Where it takes several looks (interim analyses) at
more and more items, they share the error.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

from wise.jobs.ledger import read_records, write_whole
from wise.measures.rows import Run
from wise.measures.statistics import format_share, interval_at, lower_bound, upper_bound, worth

__all__ = [
    "DEFAULT_THRESHOLDS",
    "JUDGED",
    "MAX_LOOKS",
    "RELATIVE",
    "THRESHOLDS",
    "Draw",
    "Ruling",
    "SharedDraws",
    "Terms",
    "Verdict",
    "format_threshold",
    "judge",
    "judge_in_looks",
    "judge_mean",
    "n_to_decide",
    "read_rulings",
    "terms_of",
    "verdicts_beside",
    "write_rulings",
]

_T = TypeVar("_T")
_Outcome = Literal["pass", "fail", "inconclusive"]
_DOUBLED = [2**k for k in range(31)]  # the numbers of items that are tried

# The default threshold of each metric, and how many looks its verdict may take.
THRESHOLDS: Mapping[str, float] = {
    "reliability": 0.85,
    "generalization": 0.75,
    "generalization-1": 0.75,
    "generalization-2": 0.75,
    "far": 0.95,
    "near-subject": 0.75,
    "near-relation": 0.75,
    "separation-far": 0.9,
    "separation-near": 0.75,
    "gate-edits": 0.85,
    "gate-paraphrases": 0.75,
    "gate-far": 0.9,
    "gate-near": 0.75,
    "retrieval": 0.75,
}
# The threshold of a harder metric is the share that is needed of what the unedited model can do: of
# the questions that it answers about the facts as they were, on edits that the editor answers
# directly. Portability has none by default: no editor of the field carries consequences over.
RELATIVE = ("generalization-3", "generalization-4", "generalization-5", "portability")
DEFAULT_THRESHOLDS: Mapping[str, float] = {**THRESHOLDS, **dict.fromkeys(RELATIVE[:3], 0.75)}
JUDGED = (*THRESHOLDS, *RELATIVE)  # the metrics that may have a threshold
MAX_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mean score is known to reach `threshold` (pass), to miss it (fail), or neither.

    `low` and `high` are the two-sided interval at `confidence`; `bound` is the one-sided bound that
    decided, at the same confidence, or None. Where inconclusive, `n_needed` is how many items would
    decide at the mean and design effect seen; None where no number would, or without items. A
    verdict at look `n_looks` is on the items of all looks so far, and `confidence` is that of this
    one of `max_looks`; without looks `n_looks` is 0.
    """

    outcome: _Outcome
    mean: float | None
    low: float
    high: float
    n: int
    threshold: float
    n_needed: int | None
    bound: float | None
    confidence: float
    n_looks: int = 0
    max_looks: int = 1

    def describe(self, name: str = "") -> str:
        """One line, as in `fail: reliability .62 [.52, .72] at n=100; needed >= .90`.

        It ends with the look where there are several: `... needed >= .90 (look 2 of 4)`.
        """
        mean = "unknown" if self.mean is None else format_share(self.mean)
        bounds = f"[{format_share(self.low)}, {format_share(self.high)}]"
        text = " ".join(filter(None, (f"{self.outcome}:", name, mean, bounds, f"at n={self.n}")))
        if self.bound is not None and self.low < self.threshold <= self.high:
            side = "at least" if self.outcome == "pass" else "at most"
            bound = _on_its_side(self.bound, self.threshold)
            text += f", {side} {bound} at {100 * self.confidence:.4g} % confidence"
        text += f"; needed >= {format_threshold(self.threshold)}"
        if self.n_needed is not None:
            text += f", which n={self.n_needed:,} would decide at this rate"
        return text + f" (look {self.n_looks} of {self.max_looks})" * bool(self.n_looks)

    def __str__(self) -> str:
        return self.describe()


def _on_its_side(bound: float, threshold: float) -> str:
    """`.861`, with more digits where three would read as the other side of the threshold."""
    texts = (f"{bound:.{n_digits}f}" for n_digits in range(3, 18))
    is_below = bound < threshold
    text = next((text for text in texts if (float(text) < threshold) == is_below), f"{bound}")
    return text.removeprefix("0")


def format_threshold(threshold: float) -> str:
    """`.90`, with all its digits: it was given, and not measured."""
    return max(f"{threshold:.2f}", f"{threshold:g}", key=len).removeprefix("0")


class Ruling(NamedTuple):
    """The verdict of one check on a run after `t` edits; later looks are at runs of other seeds."""

    run: Run
    protocol: str
    t: int
    check: str
    verdict: Verdict


class Terms(NamedTuple):
    """On what terms means are judged: by which thresholds, at what confidence over all looks."""

    thresholds: Mapping[str, float] = THRESHOLDS
    confidence: float = 0.95
    max_looks: int = MAX_LOOKS


def terms_of(rulings: Iterable[Ruling]) -> Terms:
    """The terms of these rulings; where they say nothing, or do not agree, the default."""
    told = [(ruling.check, ruling.verdict) for ruling in rulings]
    usual, thresholds = Terms(), dict(THRESHOLDS)
    for name in thresholds:
        own = {verdict.threshold for check, verdict in told if check == name}
        thresholds[name] = own.pop() if len(own) == 1 else thresholds[name]
    looks = {verdict.max_looks for _, verdict in told}
    shares = {round(1 - (1 - verdict.confidence) * verdict.max_looks, 9) for _, verdict in told}
    return Terms(
        thresholds,
        shares.pop() if len(shares) == 1 else usual.confidence,
        looks.pop() if len(looks) == 1 else usual.max_looks,
    )


def verdicts_beside(rows: Path) -> Path:
    """The file of verdicts on the rows in `rows`."""
    return rows.with_name(f"{rows.stem}.verdicts.jsonl")


def write_rulings(path: Path, rulings: Iterable[Ruling], *, resume: bool = False) -> None:
    """Write rulings as JSON lines, as `read_rulings` reads them, whole or not at all.

    With `resume` those that `path` holds stay, but for checks that are judged again.
    """
    held = read_rulings(path) if resume and path.exists() else []
    latest = {ruling[:-1]: ruling for ruling in (*held, *rulings)}
    lines = (
        json.dumps(run._asdict() | {"protocol": protocol, "t": t, "check": check} | asdict(verdict))
        for run, protocol, t, check, verdict in latest.values()
    )
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def read_rulings(path: Path | str) -> list[Ruling]:
    """The rulings of a file. Raises ValueError with the line."""
    found = []
    for record in read_records(path):
        values = record.values
        try:
            run = Run(*(values.pop(name) for name in Run._fields))
            protocol, t, check = (values.pop(name) for name in ("protocol", "t", "check"))
            found.append(Ruling(run, protocol, t, check, Verdict(**values)))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{record.place} is not a verdict: {error}") from error
    return found


def judge(
    scores: Sequence[float],
    threshold: float,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Verdict:
    """The verdict on the mean of `scores`, with clusters as in `interval`. Raises ValueError."""
    return judge_mean(*worth(scores, clusters), threshold, n=len(scores), confidence=confidence)


def judge_mean(
    mean: float,
    effective_n: float,
    threshold: float,
    *,
    n: int,
    confidence: float = 0.95,
    n_looks: int = 0,
    max_looks: int = 1,
) -> Verdict:
    """Pass if the one-sided lower bound reaches `threshold`, fail if the upper one is below it.

    The mean is of `n` items that are worth `effective_n` independent ones; without items the
    verdict is inconclusive. The error is (1 - confidence) / max_looks: false passes have at most
    this rate, and so have false fails. Raises ValueError.
    """
    confidence = 1 - (1 - confidence) / max_looks
    low, high = interval_at(mean, effective_n, confidence=confidence)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is outside [0, 1]")
    error = 1 - confidence
    lower, upper = lower_bound(mean, effective_n, error), upper_bound(mean, effective_n, error)
    outcome: _Outcome = "inconclusive"
    bound = n_needed = None
    if n and lower >= threshold:
        outcome, bound = "pass", lower
    elif upper < threshold:
        outcome, bound = "fail", upper
    elif n and (independent := n_to_decide(mean, threshold, confidence=confidence)):
        n_needed = math.ceil(independent * n / effective_n)
    seen = (mean if n else None, low, high, n, threshold)
    return Verdict(outcome, *seen, n_needed, bound, confidence, n_looks, max_looks)


def n_to_decide(rate: float, threshold: float, *, confidence: float = 0.95) -> int | None:
    """The smallest n of independent items at which a mean of `rate` passes or fails.

    None where no n up to 2^30 does, as where the rate equals the threshold.
    """
    error = 1 - confidence

    def decides(n: int) -> bool:
        if rate < threshold:
            return upper_bound(rate, n, error) < threshold
        return lower_bound(rate, n, error) >= threshold

    enough = next((n for n in _DOUBLED if decides(n)), None)
    return None if enough is None else 1 + bisect_left(range(1, enough + 1), True, key=decides)


class Draw(NamedTuple):
    """Scores in [0, 1] of newly drawn items; a name in two draws is one cluster."""

    scores: Sequence[float]
    clusters: Sequence[Hashable] | None = None


class SharedDraws(Generic[_T]):
    """The endless sequence `make(0)`, `make(1)`, ...: each is made once, when first needed.

    Several metrics iterate over the same draws, each as far as it needs. `make` takes its seed from
    the number; its error is raised in every iteration that reaches it.
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


def judge_in_looks(
    draws: Iterable[tuple[Sequence[float], Sequence[Hashable] | None]],
    threshold: float,
    *,
    confidence: float = 0.95,
    max_looks: int = MAX_LOOKS,
) -> Verdict:
    """The verdict of the first look that passes or fails; inconclusive if none of them does.

    A look takes one more draw and judges all items drawn so far, with an error of (1 - confidence)
    / max_looks. So over all looks false passes have a rate of at most 1 - confidence, and so have
    false fails, however the looks depend on each other. No draw is made after the one that decides.
    Draws must be independent and identically distributed, with sizes that do not depend on earlier
    scores. Raises ValueError.

    Source: Pocock, Biometrika, 1977 (repeated looks); the split of the error is Bonferroni's.
    """
    if max_looks < 1:
        raise ValueError(f"max_looks={max_looks} is too few; allowed is 1 or more")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence} is outside [0.5, 1)")
    scores: list[float] = []
    clusters: list[Hashable] = []

    def judge_look(n_looks: int) -> Verdict:
        seen = worth(scores, clusters)
        how = {"n": len(scores), "n_looks": n_looks, "max_looks": max_looks}
        return judge_mean(*seen, threshold, confidence=confidence, **how)

    found = judge_look(0)
    for n_looks, (new, names) in enumerate(islice(draws, max_looks), start=1):
        if names is not None and len(names) != len(new):
            raise ValueError(f"{len(names)} clusters for {len(new)} scores; give one for each")
        scores += new
        clusters += names or [(n_looks, index) for index in range(len(new))]
        found = judge_look(n_looks)
        if found.outcome != "inconclusive":
            break
    return found
