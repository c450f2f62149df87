"""Laws of the search: one budget for all, begun at the preset, gone on with from its file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search import COLUMNS, SPACES, search
from fixtures.models import LoadedModel, load_model
from fixtures.scenes import scene_of
from wise.editors import (
    external,
    finetune,
    grace,
    horen,
    incontext,
    knowledge_editor,
    longform,
    lora,
    memoir,
    memoria,
    mend,
    pool,
    scoped,
)
from wise.editors.key_value import alphaedit, emmet, memit, rome, ultraedit
from wise.editors.key_value.associative import SpreadConfig
from wise.editors.options import configured
from wise.editors.wise.config import WISEConfig
from wise.evaluation.entries import best_options, every_name

pytestmark = pytest.mark.internals


def _of(config: Any, presets: Any) -> Callable[[], Any]:
    return partial(configured, config, presets, "embedded", {})


MEMIT = _of(memit.MEMITConfig, memit.PRESETS)
EMMET = _of(SpreadConfig, emmet.PRESETS)
ULTRAEDIT = _of(ultraedit.UltraEditConfig, ultraedit.PRESETS)
EMBEDDED: dict[str, Callable[[], Any]] = {
    "wise": WISEConfig.of,
    "rome": _of(rome.ROMEConfig, rome.PRESETS),
    "r-rome": _of(rome.ROMEConfig, rome.R_ROME),
    "memit": MEMIT,
    "memit-mass": MEMIT,
    **{name: _of(memit.MEMITConfig, memit.RESTRAINED[name]) for name in ("prune", "rect")},
    "emmet": EMMET,
    "emmet-mass": EMMET,
    "ultraedit": ULTRAEDIT,
    "ultraedit-mass": ULTRAEDIT,
    "alphaedit": _of(alphaedit.AlphaEditConfig, alphaedit.PRESETS),
    "grace": _of(grace.GRACEConfig, grace.PRESETS),
    "horen": _of(horen.HoReNConfig, horen.PRESETS),
    "memoir": _of(memoir.MEMOIRConfig, memoir.PRESETS),
    "elder": _of(lora.ELDERConfig, lora.ELDER_PRESETS),
    "melo": _of(lora.MELOConfig, lora.MELO_PRESETS),
    "ke": _of(knowledge_editor.KEConfig, knowledge_editor.PRESETS),
    "mend": _of(mend.MENDConfig, mend.PRESETS),
    "locft-bf-mass": _of(finetune.FineTuneConfig, finetune.PRESETS["locft-bf"]),
    **{name: _of(finetune.FineTuneConfig, finetune.PRESETS[name]) for name in
       ("ft-l", "ft-m", "ft-ewc")},
    **{name: _of(incontext.InContextConfig, incontext.PRESETS[name]) for name in
       ("ike", "retrieval")},
    "defer": _of(scoped.DEFERConfig, scoped.DEFER_PRESETS),
    "anyedit": _of(memit.MEMITConfig, memit.ANYEDIT),
    "unke": _of(longform.UnKEConfig, longform.PRESETS),
    "memllm-lite": _of(external.MemLLMConfig, external.MEMLLM_PRESETS),
    "memoria-lite": _of(memoria.MemoriaConfig, memoria.PRESETS),
    "memoryllm-lite": _of(pool.MemoryLLMConfig, pool.PRESETS),
    "spalm-lite": _of(external.SPALMConfig, external.SPALM_PRESETS),
    "serac": _of(scoped.SERACConfig, scoped.SERAC_PRESETS),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("gptj")


def trials(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SPACES)
def test_a_space_begins_at_the_embedded_preset_and_holds_it(name: str) -> None:
    preset = asdict(EMBEDDED[name]())
    for option, each in SPACES[name].items():
        assert preset[option] == each.start, option
        assert each.within._contains(each.within.to_internal_repr(each.start)), option


def test_every_built_in_editor_has_a_space() -> None:
    assert set(every_name()) <= set(SPACES)


def test_a_search_goes_on_to_its_budget_and_the_league_finds_its_best(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "search.csv"
    two, three = (scene_of(loaded, 1000, n, split="tuning") for n in (2, 3))
    for n_trials in (1, 2, 2):
        search("wise", two, model="gptj", n_trials=n_trials, path=path, seed=1000)
    found = trials(path)
    assert tuple(found[0]) == COLUMNS
    assert [trial["trial"] for trial in found] == ["0", "1"]
    options = [json.loads(trial["options"]) for trial in found]
    assert options[0] == {option: each.start for option, each in SPACES["wise"].items()}
    assert options[0] != options[1]
    best = max(found, key=lambda trial: float(trial["worst"]))
    assert best_options(path, model="gptj") == {"wise": json.loads(best["options"])}
    with pytest.raises(
        ValueError, match="holds trials with edits=2, not 3; all editors share one budget"
    ):
        search("wise", three, model="gptj", n_trials=3, path=path, seed=1000)


def test_an_editor_without_a_space_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="editor='none' has no search space; wise, rome"):
        search("none", scene_of(loaded, 0, 1), model="gptj", n_trials=1, path=tmp_path, seed=0)
