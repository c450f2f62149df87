"""The contract: exact laws that every editor keeps, selected by its capabilities."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import CONTRACT, Check
from properties.outcomes import Record, run_as_test

pytestmark = [pytest.mark.lifelong, pytest.mark.contract]


@pytest.mark.parametrize("check", CONTRACT, ids=attrgetter("name"))
def test_contract(check: Check, bench: Bench, record_property: Record) -> None:
    run_as_test(check, bench, record_property)
