"""The results of tracing, fact by fact, and their ledger. Standard library alone.

The first line of a file holds the settings, each other line one fact. An interrupted file is
continued; facts in it are not traced again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wise.jobs.ledger import Ledger, Record, read_records

__all__ = [
    "ROLES",
    "CorruptionKind",
    "Direction",
    "FactTrace",
    "Method",
    "Site",
    "Trace",
    "TraceFile",
    "TraceSettings",
    "read_trace",
]

Site = Literal["hidden", "mlp", "attention"]
Method = Literal["exact", "attribution"]
Direction = Literal["denoising", "noising"]
CorruptionKind = Literal["gaussian", "replacement"]

ROLES = (
    "before", "first-subject", "middle-subject", "last-subject", "first-after", "after", "last",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """The settings that all traces of a file share: the model, and how it was traced."""

    model: str  # digest of its weights
    dtype: str
    site: Site
    window: int
    layers: tuple[int, ...]
    method: Method
    direction: Direction
    corruption: CorruptionKind
    noise: float  # in standard deviations of the subjects' embeddings
    sigma: float  # in units of the embedding
    n_noise: int
    metrics: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class FactTrace:
    """One fact's effects by metric, [layer][token of the prompt], with their standard errors.

    The effect is that of restoring (denoising: restored - corrupted) or of corrupting (noising:
    clean - patched) one token's states in a window of layers about `layers[i]`, a mean over
    `n_noise` draws; one draw has no standard error. A fact that could not be traced has a reason in
    `excluded`, and no numbers.
    """

    fact: str
    sha256: str
    prompt: str
    subject: str
    target: str
    excluded: str = ""
    tokens: tuple[str, ...] = ()
    span: tuple[int, int] = (0, 0)
    layers: tuple[int, ...] = ()
    n_noise: int = 0
    clean: Mapping[str, float] | None = None
    corrupted: Mapping[str, float] | None = None
    effect: Mapping[str, Sequence[Sequence[float]]] | None = None
    standard_error: Mapping[str, Sequence[Sequence[float]]] | None = None

    def _of(self, values: Mapping[str, Any] | None, metric: str) -> Any:
        if values is None:
            raise ValueError(f"fact {self.fact!r} was not traced: {self.excluded}")
        if metric not in values:
            raise ValueError(f"metric={metric!r} was not measured; {', '.join(values)} were")
        return values[metric]

    def effects(self, metric: str) -> Sequence[Sequence[float]]:
        """The effects by one metric. Raises ValueError for an excluded fact."""
        return self._of(self.effect, metric)

    def total(self, metric: str = "probability") -> float:
        """The total effect, clean - corrupted."""
        return float(self._of(self.clean, metric) - self._of(self.corrupted, metric))

    def fractions(self, metric: str = "probability") -> list[list[float]]:
        """Effects as shares of the total effect's size, cut off at 0. Source: Hase et al. 4.1."""
        size = abs(self.total(metric))
        rows = self.effects(metric)
        return [[max(0.0, value / size) if size else 0.0 for value in row] for row in rows]

    def tracing_effect(
        self, metric: str = "probability", *, tokens: Literal["max", "last-subject"] = "max"
    ) -> dict[int, float]:
        """By layer, the largest fraction over all tokens, or the one at the subject's last token.

        Source: Hase et al. section 4.1; the second, figure 16.
        """
        if tokens not in ("max", "last-subject"):
            raise ValueError(f"tokens={tokens!r} is neither 'max' nor 'last-subject'")
        last = self.span[1] - 1
        rows = self.fractions(metric)
        found = [max(row) if tokens == "max" else row[last] for row in rows]
        return dict(zip(self.layers, found, strict=True))

    def roles(self) -> list[str]:
        """Each prompt token's role about the subject, one of ROLES. Source: ROME figure 3."""
        begin, end = self.span
        n = len(self.tokens)
        names = []
        for index in range(n):
            if index < begin:
                names.append("before")
            elif index < end:
                ends = "first-subject" if index == begin else "middle-subject"
                names.append("last-subject" if index == end - 1 else ends)
            elif index == n - 1:
                names.append("last")
            else:
                names.append("first-after" if index == end else "after")
        return names


@dataclass(frozen=True)
class Trace:
    """The traces of several facts under one setting, including the excluded facts."""

    settings: TraceSettings
    facts: tuple[FactTrace, ...]

    @property
    def traced(self) -> tuple[FactTrace, ...]:
        return tuple(fact for fact in self.facts if not fact.excluded)

    def rows(self) -> Iterator[dict[str, object]]:
        """A long table: one row per traced fact, layer, token and metric."""
        for fact in self.traced:
            roles = fact.roles()
            for metric in fact.effect or ():
                shares, errors = fact.fractions(metric), (fact.standard_error or {}).get(metric)
                for i, layer in enumerate(fact.layers):
                    for t, effect in enumerate(fact.effects(metric)[i]):
                        yield dict(
                            fact=fact.fact, token_index=t, token=fact.tokens[t], role=roles[t],
                            layer=layer, site=self.settings.site, metric=metric, effect=effect,
                            standard_error=errors[i][t] if errors else None, fraction=shares[i][t],
                        )  # fmt: skip


class TraceFile(Ledger):
    """A ledger of traces, which takes fact by fact; a context manager.

    Facts that it already holds, without a last line that was cut off, are in `done` by digest.
    Raises ValueError for a file of other settings, naming the first that differs, or of other
    content.
    """

    def __init__(self, path: Path | str, settings: TraceSettings):
        super().__init__(path, claim=asdict(settings), what="trace")
        self.done = {fact.sha256: fact for fact in _facts(self.records[1:])}
        if not self.records:
            self.append(asdict(settings))

    def write(self, fact: FactTrace) -> None:
        """Append one fact; it is on disk on return. Raises ValueError for a fact already there."""
        if fact.sha256 in self.done:
            raise ValueError(f"fact {fact.fact!r} is in {self.path} already")
        self.append(asdict(fact))
        self.done[fact.sha256] = fact


def read_trace(path: Path | str, *, truncated: Literal["raise", "drop"] = "raise") -> Trace:
    """The traces of a file. Raises ValueError naming file and line."""
    records = read_records(path, truncated=truncated)
    if not records:
        raise ValueError(f"{path} holds no trace")
    return Trace(_build(TraceSettings, records[0]), tuple(_facts(records[1:])))


def _facts(records: Sequence[Record]) -> list[FactTrace]:
    return [_build(FactTrace, record) for record in records]


def _build(kind: Any, record: Record) -> Any:
    tuples = ("layers", "metrics", "tokens", "span")
    values = {key: tuple(v) if key in tuples else v for key, v in record.values.items()}
    try:
        return kind(**values)
    except TypeError as error:  # a field is missing or unknown
        raise ValueError(f"{record.place}: {error}") from error
