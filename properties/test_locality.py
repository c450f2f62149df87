"""Locality: what was not edited is answered as by the unedited model."""

import pytest

from properties.settings import Settings
from properties.triangle import decide
from wise.rows import Row

pytestmark = [pytest.mark.lifelong, pytest.mark.triangle]


@pytest.mark.parametrize("kind", ["far", "near-subject", "near-relation"])
def test_probes_are_answered_as_before_the_edits(
    settings: Settings, lifelong_rows: list[Row], kind: str
) -> None:
    decide(settings, lifelong_rows, kind)
