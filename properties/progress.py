"""How far a long run has come, said in the terminal: its checks, and a stream within one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tqdm import tqdm

__all__ = ["Progress"]

_EVERY = 60.0  # seconds
_PATIENCE = 10.0  # seconds before a bar is drawn


class _Terminal:
    """What a bar is drawn on: the terminal itself, past pytest's capture; a log gets a line a
    minute."""

    def __init__(self, reporter: pytest.TerminalReporter, clock: Callable[[], float]):
        self.reporter, self.clock = reporter, clock
        self.capture = reporter.config.pluginmanager.getplugin("capturemanager")
        self.last = clock()

    def write(self, text: str) -> None:
        if not self.reporter.isatty:
            if self.clock() - self.last < _EVERY or not text.strip():
                return
            self.last, text = self.clock(), f"\n{text.strip()}\n"
        with self.capture.global_and_fixture_disabled():
            self.reporter.write(text, flush=True)

    def flush(self) -> None:
        """Every text is written at once."""


class Progress:
    """A plugin of pytest: how many checks are done, and about how long the others will take."""

    def __init__(
        self,
        session: pytest.Session,
        reporter: pytest.TerminalReporter,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.session, self.reporter, self.clock = session, reporter, clock
        self.n_done, self.longest = 0, 0.0
        self.start = self.last = self.finished = clock()

    def bar_of(self, **options: Any) -> tqdm:
        """A bar of what may take long."""
        file = _Terminal(self.reporter, self.clock)
        return tqdm(file=file, delay=_PATIENCE, **options)

    def pytest_runtest_logfinish(self) -> None:
        self.n_done += 1
        now, n_all = self.clock(), self.session.testscollected
        self.longest, self.finished = max(self.longest, now - self.finished), now
        if now - self.last < _EVERY or self.n_done >= n_all:
            return
        self.last = now
        so_far, told = now - self.start, ""
        if self.n_done > 1:  # the longest made what others share
            left = (so_far - self.longest) * (n_all - self.n_done) / (self.n_done - 1)
            told = f"; about {left / 60:.0f} min left"
        self.reporter.write(
            f"\n{self.n_done} of {n_all} checks after {so_far / 60:.0f} min{told}\n"
        )
