"""The default atlas and its streams, made once; a file that uses them skips without its data."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import pytest

from fixtures.atlas import PACKAGES, Atlas
from fixtures.world_facts import WorldFact
from wise.edits import EditStream

__all__ = ["N_EDITS", "atlas", "fact_of", "needs_data", "stream"]

N_EDITS = {"train": 300, "tuning": 300, "evaluation": 1000}

needs_data = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="the packages of the extra `real` are not installed"
)


@cache
def atlas(seed: int = 0) -> Atlas:
    return Atlas(seed)


@cache
def stream(split: str = "evaluation", seed: int = 0) -> EditStream:
    return atlas().stream(seed, N_EDITS[split], split=split, n_paraphrases=2)


@cache
def _facts() -> dict[str, WorldFact]:
    return {fact.key: fact for fact in atlas().facts}


def fact_of(edit_id: str) -> WorldFact:
    return _facts()[edit_id]
