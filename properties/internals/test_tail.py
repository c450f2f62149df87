"""Laws of `wise.lm.tail`: the tail of a model answers as the whole model does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.lm.architectures import ARCHITECTURES, LanguageModel
from wise.lm.tail import Tail, block_call, block_states, first_tensor, head_inputs, value_inputs
from wise.lm.tokens import Batch, encode

pytestmark = pytest.mark.internals

N_LAYERS = 3
every_place = pytest.mark.parametrize(
    ("model_type", "layer"), [(name, layer) for name in ARCHITECTURES for layer in range(N_LAYERS)]
)
both_sides = pytest.mark.parametrize("padding_side", ["left", "right"])


def double(model_type: str) -> tuple[LanguageModel, float]:
    """A tiny model in float64, and the largest difference of logits that is only rounding.

    Gemma 2 stays in float32: transformers masks its padding with infinities that float64 makes NaN.
    """
    if model_type == "gemma2":
        return LanguageModel(tiny_model(model_type)), 1e-5
    return LanguageModel(tiny_model(model_type).double()), 1e-11


def labelled(padding_side: str) -> Batch:
    """Rows of very different lengths, with targets of one token and of several."""
    prompts = ["Ada", "The quiet mother of Bo Rask speaks", "Where does Cleo live?"]
    return encode(tiny_tokenizer(), prompts, ["x", "French", "Riga"], padding_side=padding_side)


def whole(lm: LanguageModel, batch: Batch) -> Tensor:
    """Logits of the model itself where labels stand."""
    output = lm.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )
    return output.logits[batch.labels != -100]


def value_of(lm: LanguageModel, layer: int, inputs: Tensor, W: Tensor) -> Tensor:
    bias = lm.part(layer, "value").bias
    return inputs @ W if bias is None else inputs @ W + bias


def random_tau(W: Tensor) -> Tensor:
    return 0.1 * torch.randn(W.shape, generator=torch.Generator().manual_seed(7)).to(W.dtype)


@both_sides
@every_place
def test_the_unchanged_tail_gives_the_whole_models_logits(
    model_type: str, layer: int, padding_side: str
) -> None:
    (lm, atol), batch = double(model_type), labelled(padding_side)
    tail = Tail.capture(lm, layer, batch)
    with torch.no_grad():
        torch.testing.assert_close(tail.logits(tail.value), whole(lm, batch), rtol=0, atol=atol)


@both_sides
@every_place
def test_a_changed_tail_gives_the_logits_of_the_model_whose_weight_is_changed(
    model_type: str, layer: int, padding_side: str
) -> None:
    (lm, atol), batch = double(model_type), labelled(padding_side)
    tail = Tail.capture(lm, layer, batch)
    W = lm.value_weight(layer)
    with torch.no_grad():
        before = whole(lm, batch)
        tau = random_tau(W)
        by_tail = tail.logits(tail.value + tail.inputs @ tau)
        W += tau  # a view: the model itself is changed
        after = whole(lm, batch)
    assert (after - before).abs().max() > 0.05
    torch.testing.assert_close(by_tail, after, rtol=0, atol=atol)


@both_sides
@every_place
def test_a_tail_from_a_column_on_gives_what_the_whole_tail_gives_of_changes_from_there_on(
    model_type: str, layer: int, padding_side: str
) -> None:
    (lm, atol), batch = double(model_type), labelled(padding_side)
    first = 5 if padding_side == "left" else 2
    whole_tail, tail = (Tail.capture(lm, layer, batch, first=column) for column in (0, first))
    change = torch.zeros_like(whole_tail.value)
    change[:, first:] = random_tau(change[:, first:])
    with torch.no_grad():
        expected = whole_tail.logits(whole_tail.value + change)[whole_tail.columns >= first]
        for _ in range(2):  # what stands before the tail is not written to
            found = tail.logits(tail.value + change[:, first:])
            torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    assert len(found) == len(tail.labels) > 0
    assert (expected - tail.logits(tail.value)).abs().max() > 0.05


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_gradients_through_the_tail_are_those_of_the_whole_model(model_type: str) -> None:
    (lm, atol), batch, layer = double(model_type), labelled("left"), 1
    tail = Tail.capture(lm, layer, batch)
    W = lm.value_weight(layer).detach().clone().requires_grad_()
    logits = tail.logits(value_of(lm, layer, tail.inputs, W))
    (by_tail,) = torch.autograd.grad(cross_entropy(logits, tail.labels), W)
    weight = lm.part(layer, "value").weight
    (by_model,) = torch.autograd.grad(cross_entropy(whole(lm, batch), tail.labels), weight)
    by_model = by_model if model_type == "gpt2" else by_model.T  # Conv1D is [M, D] already
    assert by_model.abs().max() > 1e-3
    torch.testing.assert_close(by_tail, by_model, rtol=0, atol=atol)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_the_tail_keeps_is_what_the_value_projection_saw_and_gave(model_type: str) -> None:
    lm, batch = LanguageModel(tiny_model(model_type)), labelled("right")
    tail = Tail.capture(lm, 2, batch)
    assert tail.inputs.shape == (*batch.input_ids.shape, 48)
    assert torch.equal(tail.inputs, value_inputs(lm, 2, batch))
    value = value_of(lm, 2, tail.inputs, lm.value_weight(2))
    torch.testing.assert_close(tail.value, value.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_step_runs_only_the_blocks_above_and_the_head_only_on_labels(model_type: str) -> None:
    lm, batch, layer = LanguageModel(tiny_model(model_type, n_layers=4)), labelled("left"), 1
    tail = Tail.capture(lm, layer, batch)
    called: list[str] = []
    head_rows: list[int] = []
    watched = {f"block {index}": block for index, block in enumerate(lm.blocks)}
    watched |= {"embedding": lm.embedding, "value": lm.part(layer, "value")}
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    head = lm.model.get_output_embeddings()
    head.register_forward_hook(lambda _module, args, _out: head_rows.append(len(args[0])))
    tail.logits(tail.value)
    assert called == ["block 2", "block 3"]
    assert head_rows == [int((batch.labels != -100).sum())]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_value_inputs_run_no_block_above_and_no_head(model_type: str) -> None:
    lm = LanguageModel(tiny_model(model_type))
    called: list[str] = []
    for name, module in (("block 2", lm.blocks[2]), ("head", lm.model.get_output_embeddings())):
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    value_inputs(lm, 1, labelled("left"))
    assert not called


@both_sides
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_labelled_logit_does_not_depend_on_padding_or_batch_mates(
    model_type: str, padding_side: str
) -> None:
    (lm, _), batch = double(model_type), labelled(padding_side)
    together = Tail.capture(lm, 1, batch)
    alone = encode(tiny_tokenizer(), ["Ada"], ["x"])
    single = Tail.capture(lm, 1, alone)
    with torch.no_grad():
        first = together.logits(together.value)[together.rows == 0]
        # GPT-J attends in float32 always.
        torch.testing.assert_close(first, single.logits(single.value), rtol=0, atol=1e-5)


@both_sides
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_head_turns_its_inputs_into_the_logits(model_type: str, padding_side: str) -> None:
    (lm, atol), batch = double(model_type), labelled(padding_side)
    logits = lm.model.get_output_embeddings()(head_inputs(lm, batch)[batch.labels != -100])
    cap = getattr(lm.model.config, "final_logit_softcapping", None)
    found = logits if cap is None else cap * torch.tanh(logits / cap)
    torch.testing.assert_close(found, whole(lm, batch), rtol=0, atol=atol)


def test_no_hook_is_left_on_the_model() -> None:
    lm = LanguageModel(tiny_model("llama"))
    Tail.capture(lm, 0, labelled("left"))
    value_inputs(lm, 1, labelled("left"))
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in lm.model.modules()]
    assert not any(after or before for after, before in hooks)


@both_sides
@every_place
def test_a_block_called_as_in_a_forward_gives_what_it_gives_there(
    model_type: str, layer: int, padding_side: str
) -> None:
    lm, batch = LanguageModel(tiny_model(model_type)), labelled(padding_side)
    (states,) = block_states(lm, [layer], batch)
    with torch.no_grad():
        for _ in range(2):
            found = first_tensor(lm.blocks[layer](**block_call(lm, layer, batch)))
            assert found.equal(states.stream)
