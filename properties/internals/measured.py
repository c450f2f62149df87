"""Rows with known answers, as a run would have written them, and the files of a league and a study.

Every item right is the first `round(rate * n)` of its measure, so that a mean is known exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from wise.measures.rows import Row, Run

__all__ = ["RATES", "ROW", "RUN", "contradicting", "rows_of", "run_rows", "write_rows"]

RUN = Run("wise", "llama", "world-0/evaluation-0", "0f" * 32, 0)
ROW = Row(
    *RUN,
    protocol="free",
    when="final",
    t=10,
    metric="generalization",
    kind="2",
    edit_id="17",
    cluster="Ada Lorn",
    age=3,
    prompt="Where does Ada Lorn work?",
    expected="CERN",
    answer="MIT",
    score=0.0,
    block="checkpoint 10 free",
)

RATES: Mapping[tuple[str, str], float] = {
    ("reliability", ""): 0.9,
    ("generalization", "1"): 0.8,
    ("generalization", "2"): 0.7,
    ("locality", "far"): 1.0,
    ("locality", "near-subject"): 0.6,
    ("locality", "near-relation"): 0.5,
    ("portability", "portability"): 0.2,
}


def rows_of(
    metric: str,
    kind: str,
    scores: Sequence[float | None],
    *,
    run: Run = RUN,
    protocol: str = "free",
    when: str = "final",
    t: int = 10,
    block: str = "",
) -> list[Row]:
    """A row for each score, of a subject each, the oldest first; None is excluded."""
    return [
        Row(
            *run,
            protocol=protocol,
            when=when,
            t=t if when == "final" else index + 1,
            metric=metric,
            kind=kind,
            edit_id=f"edit {index}",
            cluster=f"subject {index}",
            age=max(0, t - 1 - index) if when == "final" and metric == "reliability" else 0,
            prompt=f"{metric} {kind} prompt {index}",
            expected="right",
            answer="right" if score == 1 else "wrong",
            score=score,
            block=block
            or (f"checkpoint {t} {protocol}" if when == "final" else f"edit {index + 1}"),
            excluded="too long" if score is None else "",
        )
        for index, score in enumerate(scores)
    ]


def _scores(rate: float, n: int) -> list[float]:
    n_right = round(rate * n)
    return [0.0] * (n - n_right) + [1.0] * n_right


def routing_rows(
    values: Mapping[str, Sequence[float]], *, run: Run = RUN, t: int = 10
) -> list[Row]:
    """A row for each routing activation by kind of prompt; the threshold is a kind of one value."""
    return [
        Row(
            *run, protocol="free", when="final", t=t, metric="routing", kind=kind, edit_id="",
            cluster=f"subject {index}", age=0, prompt=f"{kind} prompt {index}", expected="",
            answer="", score=None, block=f"routing {t}", excluded="", value=value,
        )
        for kind, of_kind in values.items()
        for index, value in enumerate(of_kind)
    ]  # fmt: skip


def contradicting(n: int, *, run: Run = RUN, t: int = 10) -> list[Row]:
    """Rows of one portability question, asked `n` times for one answer and once for another."""
    scores = [1.0] * n + [0.0]
    rows = rows_of("portability", "portability", scores, run=run, t=t, block=f"contradicting {t}")
    return [replace(row, prompt="Who?", expected="x" if row.score else "y") for row in rows]


def run_rows(
    run: Run = RUN,
    *,
    ts: Sequence[int] = (1, 10),
    rates: Mapping[tuple[str, str], float] = RATES,
    protocols: Sequence[str] = ("free", "forced"),
    fading: float = 0.0,
) -> list[Row]:
    """A whole run: at-edit all right, then at each T all measures at their rates.

    From one T to the next the rates fall by `fading`; the oldest edits are the wrong ones.
    """
    rows = rows_of("reliability", "", [1.0] * max(ts), run=run, when="at-edit", t=max(ts))
    for step, t in enumerate(ts):
        for protocol in protocols:
            for (metric, kind), rate in rates.items():
                scores = _scores(max(0.0, rate - fading * step), t)
                rows += rows_of(metric, kind, scores, run=run, protocol=protocol, t=t)
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """The rows as a run writes them."""
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path
