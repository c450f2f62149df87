"""Reliability: what was edited is answered, after all edits."""

import pytest

from properties.settings import Settings
from properties.triangle import decide
from wise.rows import Row

pytestmark = [pytest.mark.lifelong, pytest.mark.triangle]


def test_edited_prompts_are_answered_after_all_edits(
    settings: Settings, lifelong_rows: list[Row]
) -> None:
    decide(settings, lifelong_rows, "reliability")
