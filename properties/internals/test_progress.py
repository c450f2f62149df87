"""A long run says once a minute how far it has come."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from properties import progress as module
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


@pytest.mark.parametrize("patience", [0.0, 10.0])
def test_a_bar_in_a_log_is_lines_and_only_of_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(module, "_EVERY", 0.0)
    monkeypatch.setattr(module, "_PATIENCE", patience)
    terminal = _Terminal()
    bar = Progress(SimpleNamespace(testscollected=1), terminal).bar_of(total=3, desc="wise")
    for _ in range(3):
        bar.update()
    bar.close()
    shown = "".join(terminal.texts)
    assert "\r" not in shown
    assert shown.count("\nwise: ") == (0 if patience else 5)
