"""A long run says once a minute how far it has come."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from properties.progress import Progress

pytestmark = pytest.mark.internals


class _Terminal:
    """Lines that are written."""

    def __init__(self) -> None:
        self.lines = list[str]()

    def ensure_newline(self) -> None:
        """Lines are whole."""

    def write_line(self, line: str) -> None:
        self.lines.append(line)


def test_a_line_a_minute_says_how_many_checks_are_done_and_how_long_the_rest_takes() -> None:
    terminal, now = _Terminal(), [0.0]
    progress = Progress(SimpleNamespace(testscollected=12), terminal, clock=lambda: now[0])
    for _ in range(12):
        now[0] += 40
        progress.pytest_runtest_logfinish()
    assert terminal.lines == [
        f"{n} of 12 checks after {n * 40 / 60:.0f} min; about {(12 - n) * 40 / 60:.0f} min left"
        for n in (2, 4, 6, 8, 10)
    ]
