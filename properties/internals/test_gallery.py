"""The gallery asks for editors and options that there are, each once."""

from __future__ import annotations

import pytest

from benchmarks import gallery
from reports.study_tables import options_of
from wise.editor import load_editor
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.merge import MERGES

pytestmark = pytest.mark.internals


def test_every_editor_of_the_gallery_can_be_loaded() -> None:
    entries = gallery.editors()
    assert all(callable(load_editor(entry.spec)) for entry in entries)
    assert len({entry.editor for entry in entries}) == len(entries)


def test_checked_editors_have_rates_to_stand_beside() -> None:
    assert set(gallery.CHECKED) <= {entry.editor for entry in gallery.editors()}


def test_swept_options_are_those_of_wise_and_are_read_back_from_the_name() -> None:
    entries = gallery.swept()
    assert len({entry.editor for entry in entries}) == len(entries)
    for entry in entries:
        WISEConfig.of(**dict(entry.options))
        assert options_of(entry.editor) == {name: str(value) for name, value in entry.options}


def test_the_sweep_varies_ratios_and_shards_apart_from_merges() -> None:
    options = [dict(entry.options) for entry in gallery.swept()]
    pairs = {(each["mask_ratio"], each["n_shards"]) for each in options if "merge" not in each}
    assert len(pairs) == len(gallery.MASK_RATIOS) * len(gallery.N_SHARDS)
    assert {each.get("merge") for each in options} == {None, *MERGES}
