"""Every check as a test of each --editor, marked by its kind."""

from collections.abc import Sequence
from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import CONTRACT, LIFELONG, ROUTER, TRIANGLE, Check
from properties.machine import replay
from properties.outcomes import Record, run_as_test
from properties.session import Session

pytestmark = pytest.mark.lifelong


def each_of(checks: Sequence[Check]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("check", checks, ids=attrgetter("name"))


@pytest.mark.contract
@each_of(CONTRACT)
def test_contract(check: Check, bench: Bench, record_property: Record) -> None:
    run_as_test(check, bench, record_property)


@pytest.mark.triangle
@each_of(TRIANGLE)
def test_triangle(check: Check, bench: Bench, record_property: Record) -> None:
    run_as_test(check, bench, record_property)


@pytest.mark.router
@each_of(ROUTER)
def test_router(check: Check, bench: Bench, record_property: Record) -> None:
    run_as_test(check, bench, record_property)


@each_of(LIFELONG)
def test_lifelong(check: Check, bench: Bench, record_property: Record) -> None:
    run_as_test(check, bench, record_property)


@pytest.mark.replayed
def test_a_recorded_sequence_of_operations(bench: Bench, session: Session) -> None:
    replay(bench, session.recorded())
