"""The suite is tested: a perfect editor passes, and each planted fault is caught as listed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

from fixtures.faulty import FAULTS
from properties.checks import CHECKS
from properties.meta.kill_matrix import failures_of_the_perfect, main, measure, read

pytestmark = pytest.mark.meta


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def test_the_matrix_lists_every_fault_and_no_other() -> None:
    assert list(read()) == list(FAULTS)


def test_every_fault_is_caught_by_some_check() -> None:
    assert not [fault for fault, checks in read().items() if not checks]


def test_every_check_catches_some_fault() -> None:
    caught = {check for checks in read().values() for check in checks}
    assert not set(CHECKS) - caught


def test_a_fault_that_is_named_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    fault, other = list(FAULTS)[:2]
    assert main([fault]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{fault}: {FAULTS[fault].claim}\n    caught by {read()[fault][0]}")
    assert printed.count("\n") == 2
    assert main([]) == 0
    assert f"\n{other}: " in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(1))
def test_the_perfect_editor_passes_everything(seed: int) -> None:
    assert not failures_of_the_perfect(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_the_perfect_editor_passes_everything_on_fifty_seeds(seed: int) -> None:
    assert not failures_of_the_perfect(seed)


def number_of(fault: str) -> int:
    """A number that follows from the name alone, so that a new fault moves no other."""
    return zlib.crc32(fault.encode())


# One fault in twelve by default; all of them with -m slow, or kill_matrix --measure.
ONE_IN_TWELVE = [
    pytest.param(fault, marks=() if number_of(fault) % 12 == 0 else pytest.mark.slow)
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", ONE_IN_TWELVE)
def test_a_fault_is_caught_by_exactly_its_listed_checks(fault: str) -> None:
    """Of the checks that must not catch it a fifth is tried, by the fault's number.

    `python -m properties.meta.kill_matrix --measure` tries all of them on every fault.
    """
    listed = read()[fault]
    others = [name for name in CHECKS if name not in listed]
    tried = {*listed, *others[number_of(fault) % 5 :: 5]}
    results = measure(fault, [name for name in CHECKS if name in tried])
    errors = {name: result for name, result in results.items() if result.outcome == "error"}
    assert not errors, errors  # a crash tells nobody what is wrong
    found = {name: result for name, result in results.items() if result.outcome == "fail"}
    messages = [f"{name}: {result.message}" for name, result in found.items()]
    assert list(found) == listed, "\n".join(messages)
