"""Laws on a file of a user's own, of few edits that name no subject: asked, or said not to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from properties.bench import Bench
from properties.findings import Unasked
from properties.laws.edges import check_an_edit_opens_no_prompt_at_the_edge_of_its_scope
from properties.laws.texts import check_a_prompt_may_name_its_subject_twice
from wise.edits import Edit, EditStream
from wise.measures.verdicts import DEFAULT_THRESHOLDS

pytestmark = pytest.mark.internals

STREAM = EditStream((Edit("Ada Lorn's employer is", "CERN"), Edit("Bo Rask's employer is", "NASA")))


class _Loaded:
    name, world = "none", None


class _Router:
    threshold = 0.0

    def routing_activation(self, input_ids: Any, attention_mask: Any) -> Any:
        raise NotImplementedError


class _Closed(Bench):
    """A bench whose editor opens nothing, and which is asked about some prompts at least."""

    def editor(self, *arguments: Any, **options: Any) -> Any:
        return _Router()

    def opens(self, editor: Any, prompts: Sequence[str]) -> list[bool]:
        assert prompts
        return [False] * len(prompts)


BENCH = _Closed(
    name="editor", factory=None, loaded=_Loaded, stream=STREAM, background=None, runs=[],
    streams=[STREAM], thresholds=DEFAULT_THRESHOLDS,
)  # fmt: skip


def test_a_kind_without_prompts_is_not_asked() -> None:
    check_an_edit_opens_no_prompt_at_the_edge_of_its_scope(BENCH)


def test_a_subject_that_no_edit_names_is_not_named_twice() -> None:
    with pytest.raises(Unasked, match="no edit of the stream has another prompt to be written"):
        check_a_prompt_may_name_its_subject_twice(BENCH)
