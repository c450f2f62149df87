"""Laws of `wise.lm.architectures`: the parts of every model type are what their names say."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fixtures.tiny import tiny_model
from wise.lm.architectures import ARCHITECTURES, LanguageModel

pytestmark = pytest.mark.internals

every_architecture = pytest.mark.parametrize("model_type", ARCHITECTURES)
SUPPORTED = (
    "llama", "mistral", "gptj", "gpt2", "qwen2", "qwen3", "gemma2", "phi", "gpt_neox", "opt",
    "gemma3_text", "olmo2", "smollm3", "phi3", "stablelm", "falcon", "gpt_bigcode",
)  # fmt: skip


def test_the_table_holds_the_promised_types() -> None:
    assert sorted(ARCHITECTURES) == sorted(SUPPORTED)


@every_architecture
def test_blocks_embedding_and_norm_are_the_models_own(model_type: str) -> None:
    model = tiny_model(model_type, n_layers=4)
    lm = LanguageModel(model)
    assert lm.n_layers == len(lm.blocks) == model.config.num_hidden_layers == 4
    assert lm.embedding is model.get_input_embeddings()
    assert lm.norm in list(model.base_model.modules())
    assert len({id(block) for block in lm.blocks}) == 4


@every_architecture
@pytest.mark.parametrize("name", ["attention", "mlp", "value"])
def test_every_block_calls_its_parts_in_its_forward(model_type: str, name: str) -> None:
    lm = LanguageModel(tiny_model(model_type))
    called: list[nn.Module] = []
    for layer in range(lm.n_layers):
        lm.part(layer, name).register_forward_hook(lambda module, _in, _out: called.append(module))
    lm.model(torch.arange(5)[None])
    assert called == [lm.part(layer, name) for layer in range(lm.n_layers)]


@every_architecture
def test_the_value_weight_and_bias_map_inputs_to_outputs(model_type: str) -> None:
    lm = LanguageModel(tiny_model(model_type))
    module = lm.part(1, "value")
    a = torch.randn(7, 48, generator=torch.Generator().manual_seed(0))
    bias = 0.0 if module.bias is None else module.bias
    W = lm.value_weight(1)
    assert W.shape == (48, 32)
    torch.testing.assert_close(a @ W + bias, module(a), rtol=0, atol=1e-6)


@every_architecture
def test_the_value_weight_is_a_view_of_the_models_own_parameter(model_type: str) -> None:
    lm = LanguageModel(tiny_model(model_type))
    weight = lm.part(2, "value").weight
    assert lm.value_weight(2).data_ptr() == weight.data_ptr()
    assert (lm.value_weight(2).shape == weight.shape) == (model_type == "gpt2")  # Conv1D


@every_architecture
def test_a_block_adds_the_normed_value_to_the_rest_of_its_output(model_type: str) -> None:
    lm = LanguageModel(tiny_model(model_type).double())
    seen: dict[str, torch.Tensor] = {}
    value, block = lm.part(1, "value"), lm.blocks[1]
    change = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0)).double()

    def outputs(added: torch.Tensor | float) -> torch.Tensor:
        def replace(_module: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
            seen["value"] = (output.view(1, 6, 32) + added).detach()
            return seen["value"].view_as(output)

        def see(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            seen["block"] = output[0] if isinstance(output, tuple) else output

        handles = [value.register_forward_hook(replace), block.register_forward_hook(see)]
        lm.model(torch.arange(6)[None])
        for handle in handles:
            handle.remove()
        return seen["block"] - lm.value_norm(1, seen["value"])

    with torch.no_grad():
        torch.testing.assert_close(outputs(0.0), outputs(change), rtol=0, atol=1e-12)


@every_architecture
def test_the_head_gives_the_models_own_logits(model_type: str) -> None:
    lm = LanguageModel(tiny_model(model_type))
    seen: list[torch.Tensor] = []

    def see(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    lm.blocks[-1].register_forward_hook(see)
    with torch.no_grad():
        logits = lm.model(torch.arange(9)[None]).logits
        torch.testing.assert_close(lm.head(seen[0]), logits, rtol=0, atol=1e-6)


@every_architecture
def test_the_activation_is_the_function_that_the_mlp_applies(model_type: str) -> None:
    lm = LanguageModel(tiny_model(model_type))
    x = torch.linspace(-3, 3, 13)
    own = [m for m in lm.blocks[0].modules() if not list(m.parameters()) and not list(m.children())]
    candidates = [m for m in own if "dropout" not in type(m).__name__.lower() and _takes(m, x)]
    assert any(torch.equal(module(x), lm.activation(x)) for module in candidates)


def _takes(module: nn.Module, x: torch.Tensor) -> bool:
    try:
        return module(x).shape == x.shape
    except (TypeError, NotImplementedError):
        return False


def test_the_context_length_is_what_the_model_reads() -> None:
    assert {LanguageModel(tiny_model(name)).context_length for name in ARCHITECTURES} == {64}


def test_an_unknown_model_type_is_told_how_to_be_added() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="mamba"))
    with pytest.raises(
        ValueError, match=r"'mamba' is not supported; supported are falcon, gemma2, .*qwen3"
    ):
        LanguageModel(model)
    with pytest.raises(ValueError, match=re.escape("of ARCHITECTURES in wise/lm/architectures.py")):
        LanguageModel(model)


@pytest.mark.parametrize(
    ("model_type", "setting", "value"),
    [("opt", "do_layer_norm_before", False), ("falcon", "alibi", True)],
)
def test_a_setting_with_which_blocks_work_otherwise_is_refused_with_the_reason(
    model_type: str, setting: str, value: bool
) -> None:
    with pytest.raises(ValueError, match=f"{setting}={value} is not supported: .* must "):
        LanguageModel(tiny_model(model_type, **{setting: value}))


@pytest.mark.parametrize("layer", [-1, 3, 2.0, True, None, "1"])
def test_a_layer_that_the_model_lacks_is_named(layer: object) -> None:
    lm = LanguageModel(tiny_model("llama"))
    with pytest.raises(ValueError, match=f"layer={layer!r} is (not a|outside the model's 0..2)"):
        lm.check_layer(layer)
