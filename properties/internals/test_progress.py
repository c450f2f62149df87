"""A long run says once a minute how far it has come."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from properties.progress import Progress

pytestmark = pytest.mark.internals


class _Terminal:
    """What is written to a log."""

    isatty = False

    def __init__(self) -> None:
        self.texts = list[str]()
        capture = SimpleNamespace(global_and_fixture_disabled=nullcontext)
        self.config = SimpleNamespace(
            pluginmanager=SimpleNamespace(getplugin={"capturemanager": capture}.get)
        )

    def write(self, text: str, *, flush: bool = False) -> None:
        self.texts.append(text)


def test_a_line_a_minute_says_how_many_checks_are_done_and_how_long_the_rest_takes() -> None:
    terminal, now = _Terminal(), [0.0]
    progress = Progress(SimpleNamespace(testscollected=12), terminal, clock=lambda: now[0])
    for _ in range(12):
        now[0] += 40
        progress.pytest_runtest_logfinish()
    assert terminal.texts == [
        f"\n{n} of 12 checks after {n * 40 / 60:.0f} min; about {(12 - n) * 40 / 60:.0f} min left\n"
        for n in (2, 4, 6, 8, 10)
    ]


def test_the_check_that_makes_the_run_of_all_others_does_not_count_for_the_rest() -> None:
    terminal, now = _Terminal(), [0.0]
    progress = Progress(SimpleNamespace(testscollected=11), terminal, clock=lambda: now[0])
    for seconds in (660, 6, 54):
        now[0] += seconds
        progress.pytest_runtest_logfinish()
    first, last = terminal.texts
    assert first == "\n1 of 11 checks after 11 min\n"
    assert last == "\n3 of 11 checks after 12 min; about 4 min left\n"


def test_a_bar_in_a_log_is_a_line_a_minute() -> None:
    terminal, now = _Terminal(), [0.0]
    bar_of = Progress(SimpleNamespace(testscollected=1), terminal, clock=lambda: now[0]).bar_of
    with bar_of(total=12, desc="wise", mininterval=0) as bar:
        for _ in range(12):
            now[0] += 25
            bar.update()
            bar.refresh()
    shares = [text.strip().partition("|")[0] for text in terminal.texts]
    assert shares == [f"wise: {percent:3d}%" for percent in (25, 50, 75, 100)]
