"""Laws of `wise.editors.options`: a configuration holds what its annotations allow."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest

from wise.editors.router import REDUCTIONS, ROUTING_TOKENS
from wise.editors.wise.config import PRESETS, WISEConfig
from wise.editors.wise.merge import MERGES

pytestmark = pytest.mark.internals


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(n_steps=0), "n_steps=0 is not allowed: it should be greater than 0"),
        (dict(n_steps=2.0), "n_steps=2.0 is not allowed: it should be a valid integer"),
        (dict(n_steps=True), "n_steps=True is not allowed: it should be a valid integer"),
        (dict(replay=-1), "replay=-1 is not allowed: it should be greater than or equal to 0"),
        (dict(lr="fast"), "lr='fast' is not allowed: it should be a valid number"),
        (dict(lr=math.nan), "lr=nan is not allowed: it should be greater than or equal to 0"),
        (dict(mask_ratio=0), "mask_ratio=0 is not allowed: it should be greater than 0"),
        (dict(density=1.5), "density=1.5 is not allowed: it should be less than or equal to 1"),
        (dict(memory="x"), "memory='x' is not allowed: it should be 'merge' or 'retrieve'"),
        (dict(append_eos=1), "append_eos=1 is not allowed: it should be a valid boolean"),
        (dict(layer="3"), "layer='3' is not allowed: it should be a valid integer"),
    ],
)
def test_an_option_outside_its_annotation_is_named_with_what_is_allowed(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(named)}$"):
        WISEConfig.of(**options)
    with pytest.raises(ValueError, match=f"^{re.escape(named)}$"):
        replace(WISEConfig(), **options)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_allowed_is_kept_as_it_is(preset: str) -> None:
    config = WISEConfig.of(preset, lr=1, norm_constraint=math.inf, layer=None)
    assert (config.lr, type(config.lr)) == (1, int)


@pytest.mark.parametrize(
    ("option", "table"),
    [("merge", MERGES), ("routing_tokens", ROUTING_TOKENS), ("margin_reduction", REDUCTIONS)],
)
def test_what_a_table_has_can_be_asked_for_and_nothing_else(
    option: str, table: Collection[str]
) -> None:
    assert get_args(get_type_hints(WISEConfig)[option]) == tuple(table)
