"""Laws of `wise.measures.quantities` that are of no one protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest

from properties.internals.measured import ROW
from wise.measures.quantities import told_of
from wise.measures.rows import Row

pytestmark = pytest.mark.internals


def asked(case: str, prompt: str, score: float | None, *, t: int = 9, stream: str = "mquake:f.json",
          protocol: str = "free") -> Row:  # fmt: skip
    return replace(
        ROW, stream=stream, protocol=protocol, when="final", t=t, metric="portability",
        kind="portability", edit_id=case, cluster=case, age=0, prompt=prompt, expected="Norway",
        score=score, excluded="" if score is not None else "too long",
    )  # fmt: skip


def test_a_case_is_right_if_any_wording_of_its_question_is() -> None:
    rows = [
        asked("a", "Where?", 0.0), asked("a", "Which place?", 1.0), asked("a", "In what?", 0.0),
        asked("b", "Who?", 0.0), asked("b", "Which person?", None),
        asked("a", "Where?", 1.0, t=1), asked("a", "Where?", 1.0, protocol="forced"),
    ]  # fmt: skip
    (told,) = told_of(rows)
    assert told.what.startswith("Multi-hop accuracy: cases of which any wording of the question")
    assert told.at == ("T=1: 1.00 [.03, 1.00], n=1", "T=9: .50 [.01, .99], n=2")


def test_only_wordings_of_one_question_are_pooled() -> None:
    several = [asked("a", "Where?", 0.0), asked("a", "Which place?", 1.0)]
    assert not list(told_of([replace(row, stream="knowedit:f.json") for row in several]))
    assert not list(told_of(several[:1]))
    others = [several[0], replace(several[1], expected="Oslo"), asked("b", "Who?", 0.0),
              asked("b", "Which one?", 0.0)]  # fmt: skip
    ((_, [told]),) = told_of(others)
    assert told.startswith("T=9: .33 [")
    assert told.endswith("], n=3")
