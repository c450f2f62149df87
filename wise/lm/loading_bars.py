"""The progress bars of transformers while models are read and written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

__all__ = ["bars_on_a_terminal", "no_bars"]


@contextmanager
def no_bars() -> Iterator[None]:
    """No progress bar within; after it they are as they were, also on an error."""
    were_shown = logging.is_progress_bar_enabled()
    if were_shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            logging.enable_progress_bar()


@contextmanager
def bars_on_a_terminal() -> Iterator[None]:
    """Within, progress bars are shown on a terminal alone: a file would hold their every step."""
    if sys.stderr.isatty():
        yield
        return
    with no_bars():
        yield
