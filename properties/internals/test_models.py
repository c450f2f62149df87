"""Laws of the embedded models: they know their world as their cards say, and load safely."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import fisher_exact
from transformers.utils import logging

from fixtures.atlas import PACKAGES, Atlas
from fixtures.encyclopedia import Encyclopedia
from fixtures.models import FAMILIES, PRETRAINED, LoadedModel, _atlas, load_model, world_of
from fixtures.tiny import tiny_model, tiny_tokenizer
from fixtures.train import exact_match
from wise.lm.loading_bars import no_bars
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

MEGABYTE = 10**6
# Free-run exact match that every family must reach; a family may say that it cannot do the last.
FLOORS = {"level 1": 0.99, "level 2": 0.98, "level 3": 0.95, "level 4": 0.95, "level 5": 0.95}
TWO_HOPS = {"two hops": 0.95}
# Fisher's exact test: false-fail rate per comparison; n = 100 against .99 of 1000 sees a fall to .9
N_ASKED, FALSE_FAIL = 100, 1e-4
every_family = pytest.mark.parametrize("family", FAMILIES)


def folder_of(family: str) -> Path:
    if not (PRETRAINED / family).is_dir():
        pytest.skip(f"no {family} is embedded")
    return PRETRAINED / family


def card_of(family: str) -> dict[str, Any]:
    return json.loads((folder_of(family) / "card.json").read_text())


@cache
def loaded(family: str) -> LoadedModel:
    return load_model(family)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_bars_of_loading_are_shown_on_a_terminal_alone(
    is_terminal: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr(logging, "_tqdm_active", True)
    load_model("gptj")
    assert ("Loading weights" in capfd.readouterr().err) == is_terminal


@pytest.mark.parametrize("are_shown", [False, True])
def test_progress_bars_are_afterwards_as_a_user_set_them(
    are_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "_tqdm_active", are_shown)
    with suppress(KeyError), no_bars():
        assert not logging.is_progress_bar_enabled()
        raise KeyError
    assert logging.is_progress_bar_enabled() == are_shown


@every_family
def test_a_card_reaches_the_floors_or_says_what_the_family_cannot(family: str) -> None:
    card = card_of(family)
    cannot = card.get("cannot", [])
    assert set(cannot) <= set(TWO_HOPS)
    shares = card["exact match, free-run"]
    for name, floor in {**FLOORS, **TWO_HOPS}.items():
        assert shares[name] >= floor or name in cannot, name


@every_family
def test_a_card_holds_in_a_sample_of_each_kind_of_question(family: str) -> None:
    card, world = card_of(family), loaded(family).world
    assert world is not None
    measured = exact_match(loaded(family).model, loaded(family).tokenizer, world, n=N_ASKED)
    claimed = card["exact match, free-run"]
    assert measured.keys() == claimed.keys()
    for name, share in measured.items():
        kind = "editable" if name.startswith("level") else name.removesuffix(", unseen")
        n_of_card = min(1000, card["facts"][kind])
        outcomes = [
            (round(right * n), n - round(right * n))
            for right, n in ((share, N_ASKED), (claimed[name], n_of_card))
        ]
        p = fisher_exact(outcomes).pvalue
        assert p >= FALSE_FAIL, f"{name}: {share}, n={N_ASKED}; the card: {claimed[name]}; {p=}"


@every_family
def test_a_card_tells_how_the_model_is_made_and_of_which_world(family: str) -> None:
    card, model = card_of(family), loaded(family).model
    assert f"python -m fixtures.train --family {family} --seed " in card["command"]
    assert card["parameters"] == sum(weight.numel() for weight in model.parameters())
    world = FAMILIES[family].size.world()
    found = loaded(family).world
    assert found is not None
    assert (found.facts, found.far_facts) == (world.facts, world.far_facts)
    assert card["facts"] == {
        "editable": len(world.facts), "far": len(world.far_facts), "two hops": len(world.hops),
    }  # fmt: skip


@every_family
def test_a_model_has_the_architecture_of_its_family(family: str) -> None:
    folder_of(family)
    config = loaded(family).model.config.to_dict()
    expected = {"model_type": FAMILIES[family].model_type, **FAMILIES[family].config}
    assert {name: config[name] for name in expected} == expected


@every_family
def test_a_model_is_small_half_precision_and_without_pickles(family: str) -> None:
    folder = folder_of(family)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(f.stat().st_size for f in files) <= (12 if family == "llama" else 6) * MEGABYTE
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("name", ["bert", "", "no/such/folder", str(PRETRAINED)])
def test_an_unknown_model_is_an_error_that_lists_what_exists(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"neither an embedded family \(.*llama.*\) nor a folder"
    ) as e:
        load_model(name)
    assert f"model={name!r}" in str(e.value)


def test_a_family_that_is_not_trained_is_an_error_that_says_how_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fixtures.models.PRETRAINED", tmp_path)
    with pytest.raises(ValueError, match=r"'gptj' has not been trained; run python -m fixtures"):
        load_model("gptj")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of somebody else's."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    tiny_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_local_folder_is_loaded_as_it_was_saved(local: Path) -> None:
    found = load_model(str(local))
    assert (found.name, found.model.training) == ("mine", False)
    saved = tiny_model("gpt2").state_dict()
    weights = found.model.state_dict()
    assert all(weights[name].equal(weight) for name, weight in saved.items())
    assert found.tokenizer("Ada").input_ids == tiny_tokenizer()("Ada").input_ids


def test_a_local_folder_with_a_world_comes_with_it(local: Path) -> None:
    size = {"seed": 5, "n_people": 16, "n_cities": 8, "n_firms": 9}
    (local / "world.json").write_text(json.dumps(size))
    world = load_model(str(local)).world
    (local / "world.json").unlink()
    assert isinstance(world, Encyclopedia)
    assert (world.seed, len(world.people), len(world.cities), len(world.firms)) == (5, 16, 8, 9)


@pytest.mark.parametrize("missing", [None, *PACKAGES])
def test_a_folder_without_a_world_has_the_atlas_where_all_its_packages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    monkeypatch.setattr("fixtures.models.find_spec", lambda name: name != missing or None)
    _atlas.cache_clear()
    world = world_of(tmp_path)
    _atlas.cache_clear()
    assert world is None if missing else isinstance(world, Atlas)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_comes_in_the_precision_asked_for(local: Path, dtype: torch.dtype) -> None:
    assert {w.dtype for w in load_model(str(local), dtype=dtype).model.parameters()} == {dtype}


def test_a_tokenizer_that_knows_no_characters_of_its_tokens_is_refused(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: object())
    with pytest.raises(ValueError, match=r"has a object; its tokenizer must be a fast one"):
        load_model(str(local))


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"in pytorch_model\.bin, a pickle, which is not read; save"
    ):
        load_model(str(tmp_path))


def test_a_folder_without_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder_of("gptj") / name).read_bytes())
    with pytest.raises(ValueError, match=r"cannot be loaded: .*safetensors") as error:
        load_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_that_lacks_a_weight_is_refused(local: Path, tmp_path: Path) -> None:
    for path in local.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(local / "model.safetensors")
    del weights["transformer.h.1.mlp.c_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, the first transformer\.h\.1\.mlp"):
        load_model(str(tmp_path))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def config_with(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in ("config.json", "tokenizer_config.json"):
            held = json.loads((folder / name).read_text())
            known = {key: value for key, value in changes.items() if (key == "eos_token") == (
                name == "tokenizer_config.json")}  # fmt: skip
            (folder / name).write_text(json.dumps(held | known))

    return change


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.ln_f.bias"][0] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: cut(folder / "model.safetensors"), "a file of its weights is cut off"),
        (lambda folder: cut(folder / "tokenizer.json"), "a damaged tokenizer.json; save its token"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json; save its token"),
        (lambda folder: cut(folder / "config.json"), "its config.json is not JSON: "),
        (config_with(model_type="mamba"), "model_type='mamba' is not supported; supported are fal"),
        (config_with(quantization_config={"quant_method": "gptq"}), r"is quantized \(gptq\), and"),
        (config_with(n_inner=7), "weights of other shapes than its config.json says, the first tr"),
        (config_with(eos_token=None), "without an end-of-sequence token, .* name it as eos_token"),
        (not_finite, "weights that are not finite numbers, the first transformer.ln_f.bias"),
        (adapter_alone, "holds an adapter and no model; merge it into its model"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_that_says_what_to_do(
    damage: Callable[[Path], None], said: str, local: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(local, folder)
    damage(folder)
    with pytest.raises(ValueError, match=said) as caught:
        load_model(str(folder))
    assert str(caught.value).startswith(f"model={str(folder)!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["sharded", "tied", "bfloat16", "without pad and BOS"])
def test_a_folder_may_be_saved_in_many_ways(how: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    if how == "tied":
        model.config.tie_word_embeddings = True
        model.tie_weights()
    if how == "bfloat16":
        model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if how == "sharded" else "1GB")
    tiny_tokenizer().save_pretrained(tmp_path)
    if how == "without pad and BOS":
        config_with()(tmp_path)
        file = tmp_path / "tokenizer_config.json"
        held = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in held.items() if k[:3] not in ("pad", "bos")}))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (how == "sharded")
    found = load_model(str(tmp_path))
    weights = found.model.state_dict()
    assert all(weights[name].equal(w.float()) for name, w in model.state_dict().items())
    batch = encode(found.tokenizer, ["Ada lives in", "Bo"])
    assert found.model(batch.input_ids, attention_mask=batch.attention_mask).logits.isfinite().all()
