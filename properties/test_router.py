"""The router separates what was edited from what was not."""

from operator import attrgetter

import pytest

from properties.bench import Bench
from properties.checks import ROUTER, Check
from properties.outcomes import Record, run_as_test

pytestmark = [pytest.mark.lifelong, pytest.mark.router]


@pytest.mark.parametrize("check", ROUTER, ids=attrgetter("name"))
def test_prompts_in_scope_are_told_from_others(
    check: Check, bench: Bench, record_property: Record
) -> None:
    run_as_test(check, bench, record_property)
