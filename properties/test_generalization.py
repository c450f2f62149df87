"""Generalization: an edit is understood, not memorised by its prompt."""

import pytest

from properties.settings import Settings
from properties.triangle import decide
from wise.rows import Row

pytestmark = [pytest.mark.lifelong, pytest.mark.triangle]


def test_ungraded_paraphrases_are_answered(settings: Settings, lifelong_rows: list[Row]) -> None:
    decide(settings, lifelong_rows, "generalization")


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_paraphrases_of_a_level_are_answered(
    settings: Settings, lifelong_rows: list[Row], level: int
) -> None:
    decide(settings, lifelong_rows, f"generalization-{level}")


def test_consequences_of_an_edit_are_answered(settings: Settings, lifelong_rows: list[Row]) -> None:
    decide(settings, lifelong_rows, "portability")
