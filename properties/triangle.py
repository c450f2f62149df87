"""One verdict of the triangle as the outcome of a test."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from properties.checks import judge
from properties.settings import Settings
from wise.rows import Row

__all__ = ["decide"]


def decide(settings: Settings, rows: Sequence[Row], metric: str) -> None:
    """Fail where the final model misses the threshold; skip, saying why, where n cannot tell."""
    if metric not in settings.thresholds:
        pytest.skip(f"no threshold is set for {metric}; set one with --threshold {metric}=VALUE")
    t = max(row.t for row in rows)
    found = judge(
        rows, metric, t, settings.thresholds[metric],
        protocol=settings.protocols[0], confidence=settings.confidence,
    )  # fmt: skip
    first = rows[0]
    where = (
        f"{first.editor} on {first.model}, stream {first.stream}, seed {first.seed}, "
        f"T={t}, {settings.protocols[0]}"
    )
    if found.n == 0:
        pytest.skip(f"the stream asks nothing for {metric} ({where})")
    text = f"{found.describe(metric)} ({where})"
    if found.outcome == "inconclusive":
        pytest.skip(text)
    if found.outcome == "fail":
        pytest.fail(text, pytrace=False)
