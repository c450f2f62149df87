"""The result of a check as the outcome of a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from properties.bench import Bench
from properties.checks import Check, told
from properties.findings import Broken, Unasked, Undecided

__all__ = ["run_as_test"]

Record = Callable[[str, object], None]


def run_as_test(check: Check, bench: Bench, record: Record) -> None:
    """Pass, fail with what was got and needed, or skip with what it would take to decide.

    `record` gets the check, its message and its numbers, for JUnit and the terminal.
    """
    record("check", check.name)
    record("editor", bench.name)
    lacks = check.lacks(bench.example)
    if lacks:
        pytest.skip(f"the editor is not {lacks}")
    is_broken = False
    try:
        with bench.recording(record):
            found = check.run(bench)
    except Unasked as error:
        record("unasked", str(error))
        pytest.skip(str(error))
    except Undecided as error:
        record("message", str(error))
        pytest.skip(str(error))
    except Broken as error:
        found, is_broken = str(error), True
    except Exception as error:
        record("message", told(error))
        raise
    if isinstance(found, str):
        record("message", found)
    if is_broken:  # outside of the except: no traceback is shown, and none keeps an editor alive
        pytest.fail(f"{check.name}: {found}", pytrace=False)
