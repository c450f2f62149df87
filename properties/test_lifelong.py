"""Lifelong: any sequence of operations, in any order, with any number of edits."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import LIFELONG, Check
from properties.machine import replay
from properties.outcomes import Record, run_as_test
from properties.session import Session

pytestmark = pytest.mark.lifelong


@pytest.mark.parametrize("check", LIFELONG, ids=attrgetter("name"))
def test_edits_last(check: Check, bench: Bench, record_property: Record) -> None:
    run_as_test(check, bench, record_property)


@pytest.mark.replayed
def test_a_recorded_sequence_of_operations(bench: Bench, session: Session) -> None:
    replay(bench, session.recorded())
