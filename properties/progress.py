"""How far a long run of checks has come, said in the terminal once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

__all__ = ["Progress"]

_EVERY = 60.0  # seconds


class Progress:
    """A plugin of pytest: how many checks are done, and about how long the others will take."""

    def __init__(
        self,
        session: pytest.Session,
        reporter: pytest.TerminalReporter,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.session, self.reporter, self.clock = session, reporter, clock
        self.n_done = 0
        self.start = self.last = clock()

    def pytest_runtest_logfinish(self) -> None:
        self.n_done += 1
        now, n_all = self.clock(), self.session.testscollected
        if now - self.last < _EVERY or self.n_done >= n_all:
            return
        self.last = now
        so_far, left = now - self.start, (now - self.start) * (n_all - self.n_done) / self.n_done
        self.reporter.write(
            f"\n{self.n_done} of {n_all} checks after {so_far / 60:.0f} min; about "
            f"{left / 60:.0f} min left\n"
        )
