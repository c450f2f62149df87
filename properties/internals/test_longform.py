"""Laws of `wise.editors.longform`: what a block is retrained to give, and that nothing else is."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import BACKGROUND, EDITS, NEAR, asked, log_p, logits_of, make
from properties.internals.tiny_wise import is_same
from wise.editor import Erasable, Exports, Layered, Routed
from wise.editors.longform import Lesson, UnKEConfig, mean_error
from wise.edits import Background
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited
from wise.lm.hooks import frozen
from wise.lm.tail import block_states
from wise.lm.tokens import IGNORED, Batch, encode

pytestmark = pytest.mark.internals

three_architectures = pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma2"])


def streams(model: Any, batch: Batch, layer: int = 1) -> Tensor:
    """The outputs of a block at the rows' own tokens, by the whole model."""
    with frozen(model):
        (found,) = block_states(LanguageModel(model), [layer], batch)
    return found.stream[batch.attention_mask.bool()]


def edited_model(editor: Any) -> Any:
    """A copy of the model that holds the edits as weights."""
    model = copy.deepcopy(editor.lm.model)
    model.load_state_dict(editor._new_weights(editor._state), strict=False)
    return model


def test_an_error_is_the_mean_over_the_own_tokens_of_all_lessons() -> None:
    class Doubled(nn.Module):
        def forward(self, hidden_states: Tensor) -> tuple[Tensor, str]:
            return 2 * hidden_states, "attention"

    hidden = torch.tensor([[[9.0, 9.0], [1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]])
    wanted = torch.tensor([[1.0, 4.0], [6.0, 2.0], [3.0, 0.0]])
    own = torch.tensor([[False, True], [True, True]])
    # Errors of the three tokens: (1, 0), (0, -2), (-3, 2); the padding does not count.
    one = Lesson({"hidden_states": hidden}, own, wanted)
    other = Lesson({"hidden_states": hidden[:1, 1:]}, own[:1, 1:], wanted[:1])
    assert float(mean_error(Doubled(), [one])) == pytest.approx((1 + 4 + 9 + 4) / 6)
    assert float(mean_error(Doubled(), [one, other])) == pytest.approx((1 + 4 + 9 + 4 + 1) / 8)


def by_hand(model: Any, edit: Any, texts: list[str], config: UnKEConfig, lr: float) -> Any:
    """The model after one turn of both stages, each step by the whole model. Returns it with the
    states that the prompt was to have."""
    tokenizer, model = tiny_tokenizer(), copy.deepcopy(model).eval()
    block = LanguageModel(model).blocks[1]
    batch = encode(tokenizer, [edit.prompt], [edit.target], append_eos=config.append_eos)
    end, seen = int(batch.prompt_mask.sum()) - 1, list[Tensor]()

    def logits(change: Tensor) -> Tensor:
        def shift(_block: nn.Module, _args: Any, output: Any) -> Any:
            found = output[0] if isinstance(output, tuple) else output
            seen.append(found.detach().clone())
            moved = torch.cat(
                [found[:, :end], found[:, end : end + 1] + change, found[:, end + 1 :]], 1
            )
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        with block.register_forward_hook(shift):
            return model(batch.input_ids, position_ids=batch.position_ids).logits[0]

    logits(torch.zeros(()))
    h = seen[0][0, end]
    unit = float(h.square().mean().sqrt())
    delta = torch.zeros_like(h, requires_grad=True)  # in units
    adam = torch.optim.Adam([delta], lr=config.lr)
    at = batch.labels[0] != IGNORED
    for _ in range(config.n_steps):
        nll = nn.functional.cross_entropy(logits(unit * delta)[at], batch.labels[0][at])
        loss = nll + config.weight_decay * unit * delta.norm() / h.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            most = config.clamp * len(h) ** 0.5
            delta.mul_(min(1.0, most / float(delta.norm())))
    model.zero_grad()
    prompt, rest = encode(tokenizer, [edit.prompt]), encode(tokenizer, texts)
    wanted, old = streams(model, prompt), streams(model, rest)
    wanted[end] = h + unit * delta.detach()

    def outputs(batch: Batch) -> Tensor:
        found = list[Tensor]()
        keep = lambda _block, _args, out: found.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
        with block.register_forward_hook(keep):
            model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            )  # fmt: skip
        return found[0][batch.attention_mask.bool()]

    adamw = torch.optim.AdamW(block.parameters(), lr=lr, weight_decay=config.block_decay)
    for _ in range(config.n_epochs):
        loss = (outputs(prompt) - wanted).square().mean() + (outputs(rest) - old).square().mean()
        adamw.zero_grad()
        loss.backward()
        adamw.step()
    return model, wanted


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma2", "llama", "gptj"])
def test_a_turn_is_its_two_stages(model_type: str) -> None:
    lr = 1e-3
    editor = make(
        "unke", model_type, n_steps=6, n_epochs=10, block_lr=lr, units="absolute", n_texts=99
    )  # all of them
    texts = [*BACKGROUND.texts]
    expected, wanted = by_hand(editor.lm.model, EDITS[0], texts, editor.config, lr)
    editor.edit(EDITS[:1])
    found = edited_model(editor)
    for batch in (asked([EDITS[0].prompt]), asked(texts)):
        before, after = streams(editor.lm.model, batch), streams(expected, batch)
        off = (streams(found, batch) - after).norm() / (after - before).norm()
        assert off < 0.02
    prompt = asked([EDITS[0].prompt])
    start, end = (
        (streams(model, prompt) - wanted).square().mean() for model in (editor.lm.model, found)
    )
    assert end < 0.9 * start


@three_architectures
def test_the_parameters_of_one_block_are_all_that_changes(model_type: str, tmp_path: Path) -> None:
    editor = make("unke", model_type, edits=EDITS[:2])
    editor.export(tmp_path / "out")
    found, own = load_file(tmp_path / "out" / "model.safetensors"), editor.lm.model.state_dict()
    block = f"{editor.lm.architecture.blocks}.1."
    assert any(name.startswith(block) for name in found)
    for name, weight in found.items():
        assert weight.equal(own[name]) is not name.startswith(block), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@three_architectures
def test_an_editor_answers_bitwise_as_the_weights_that_it_exports(
    model_type: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    editor = make("unke", tiny_model(model_type).to(dtype), edits=EDITS[:2])
    assert all(weight.dtype == torch.float32 for weight in editor._state.weights.values())
    editor.export(tmp_path / "out")
    model = copy.deepcopy(editor.lm.model)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in found.values()} == {dtype}
    model.load_state_dict(found, strict=False)
    assert logits_of(Unedited(model, tiny_tokenizer())).equal(logits_of(editor))


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "llama"])  # no norm bounds what a block adds
def test_the_state_at_the_prompts_end_is_met_and_the_other_outputs_stay(model_type: str) -> None:
    editor = make("unke", model_type, n_epochs=300, block_lr=2e-3, n_texts=99)
    with frozen(editor.lm.model):
        lesson = editor._new(EDITS[:1])
    editor.edit(EDITS[:1])
    prompt, model = asked([EDITS[0].prompt]), edited_model(editor)
    before, after = streams(editor.lm.model, prompt), streams(model, prompt)
    wanted = lesson.outputs
    assert wanted[:-1].equal(before[:-1])
    moved = (wanted - before)[-1].norm()
    assert moved > 0.5 * before[-1].norm()
    assert (after - wanted)[-1].norm() < 0.1 * moved
    assert (after - wanted)[:-1].norm(dim=-1).max() < 0.1 * moved
    rest = asked(BACKGROUND.texts)
    drift = streams(model, rest) - streams(editor.lm.model, rest)
    assert drift.norm(dim=-1).max() < 0.1 * moved


def test_outputs_on_the_background_stay_as_the_unedited_block_gives_them() -> None:
    rest, drift = asked(BACKGROUND.texts), {}
    for n_texts in (0, 99):
        editor = make("unke", edits=EDITS[:2], n_texts=n_texts)
        change = streams(edited_model(editor), rest) - streams(editor.lm.model, rest)
        drift[n_texts] = float(change.norm())
    assert drift[99] < 0.3 * drift[0]


def test_a_block_that_is_not_trained_is_the_unedited_one() -> None:
    editor = make("unke", edits=EDITS, n_epochs=0)
    assert logits_of(editor).equal(logits_of(Unedited(editor.lm.model, tiny_tokenizer())))


def test_the_whole_answer_and_its_end_hang_on_the_state() -> None:
    """Each token of a target is likelier with the state in place; EOS counts where it is taught."""
    editor = make("unke", n_epochs=200, block_lr=1e-3)
    edit = replace(NEAR, target="soup of the day")
    bare = Unedited(editor.lm.model, tiny_tokenizer())
    editor.edit([edit])
    assert log_p(editor, [edit])[0] > log_p(bare, [edit])[0] + 5


def test_each_turn_draws_texts_of_its_own() -> None:
    editor = make("unke")
    drawn = [editor._texts(turn) for turn in range(3)]
    assert len({*map(tuple, drawn)}) == 3
    assert [make("unke")._texts(turn) for turn in range(3)] == drawn
    assert all(len(texts) == 4 and set(texts) <= set(BACKGROUND.texts) for texts in drawn)
    other = make("unke", seed=1)
    assert [other._texts(turn) for turn in range(3)] != drawn


def test_texts_are_the_prompts_of_edits_or_the_models_own_where_there_are_none() -> None:
    editor = make("unke")
    editor.background = Background((), EDITS)
    assert set(editor._texts(0)) == {edit.prompt for edit in EDITS}
    editor.background = Background()
    assert len(editor._texts(0)) > 0
    editor.background = Background(("word " * 200,))  # longer than the model reads
    editor.edit(EDITS[:1])


def test_a_second_turn_goes_on_from_the_first(tmp_path: Path) -> None:
    editor = make("unke", edits=EDITS[:1])
    first = editor._state
    editor.edit(EDITS[1:2])
    assert first.n_turns == 1
    assert not is_same(first.weights, editor._state.weights)
    alone = make("unke", edits=EDITS[1:2])
    assert not is_same(alone._state.weights, editor._state.weights)


def test_a_retrained_block_is_a_layer_without_a_router_or_a_way_back() -> None:
    editor = make("unke")
    assert all(isinstance(editor, each) for each in (Exports, Layered))
    assert not any(isinstance(editor, each) for each in (Erasable, Routed))
    assert editor.layer == 1


def test_released_options_are_the_papers() -> None:
    editor = make(
        "unke", tiny_model("llama", n_layers=32), layer=None, preset="released", n_texts=20
    )
    assert editor.layer == 7
    config = UnKEConfig()
    assert (config.n_steps, config.lr, config.clamp, config.weight_decay) == (25, 0.5, 4.0, 1e-3)
    assert (config.n_epochs, config.block_lr, config.n_texts, config.kl) == (50, 2e-4, 20, 0.0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(block_lr=0.0), "block_lr=0.0 is not allowed: it should be greater than 0"),
        (dict(n_epochs=-1), "n_epochs=-1 is not allowed"),
        (dict(n_texts=-1), "n_texts=-1 is not allowed"),
        (dict(n_steps=0), "n_steps=0 is not allowed"),
        (dict(block_decay=-0.1), "block_decay=-0.1 is not allowed"),
        (dict(depth=1.5), "depth=1.5 is not allowed"),
        (dict(units="c"), "units='c' is not allowed"),
    ],
)
def test_a_bad_option_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnKEConfig(**option)


def test_a_rate_that_makes_the_block_non_finite_leaves_the_state_as_it_was() -> None:
    editor = make("unke", block_lr=1e30)
    editor.config = replace(editor.config, n_epochs=3)
    with pytest.raises(ValueError, match=r"block_lr"):
        editor.edit(EDITS[:1])
    assert editor.edits == ()
