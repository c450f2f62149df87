"""The contract: exact laws that every editor keeps, selected by its capabilities."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import CONTRACT, Check
from properties.outcomes import Record, decide

pytestmark = [pytest.mark.lifelong, pytest.mark.contract]


@pytest.mark.parametrize("check", CONTRACT, ids=attrgetter("name"))
def test_contract(check: Check, bench: Bench, record_property: Record) -> None:
    decide(check, bench, record_property)
