"""Laws of `wise.editors.scoped`: whose scope a prompt is in, and that nothing else is touched."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from properties.internals.tiny_editors import EDITS, TEXTS, asked, logits_of, make, tiny
from properties.internals.tiny_wise import FAR, is_same
from wise.editor import Erasable, Growing, Layered, Retrieves, Routed, load_editor
from wise.editors.scoped import (
    DEFER_PRESETS,
    DEFERConfig,
    deferral,
    scope_loss,
    squared_distances,
    with_one,
)
from wise.edits import Background, Edit
from wise.lm import hooks
from wise.lm.decoding import Unedited
from wise.lm.tokens import IGNORED, Batch, encode

pytestmark = pytest.mark.internals

PHRASES = ("{} lives in", "{} speaks", "{} has seen", "The employer of {} is")
NAMES = ("Gus Hale", "Hal Moss", "Ina Lund", "Jo Park")
ASKED = tuple(
    Edit(phrase.format(name), "Rome", name, (f"Now {phrase.format(name)}",))
    for name, phrase in itertools.product(NAMES, PHRASES)
)
TAUGHT = Background(("Rivers run into the sea.", "Nobody knows why."), ASKED)


def seen(background: Background = TAUGHT, *, edits: tuple[Edit, ...] = (), **options: Any) -> Any:
    """SERAC on a tiny model, trained on this background."""
    options = {"reserve": 6, "n_dims": 16, **options}
    editor = tiny(load_editor("serac"), "llama", background=background, **options)
    for edit in edits:
        editor.edit([edit])
    return editor


def similarity(editor: Any, texts: tuple[str, ...] = TEXTS) -> Tensor:
    batch = asked(texts)
    return editor.routing_activation(batch.input_ids, batch.attention_mask)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_serac_is_routed_and_erasable_and_has_no_layer_of_its_own() -> None:
    editor = make("serac")
    for capability in (Routed, Retrieves, Growing, Erasable):
        assert isinstance(editor, capability)
    assert not isinstance(editor, Layered)


@given(st.integers(0, 2**31))
def test_the_loss_is_the_cross_entropy_of_its_formula(seed: int) -> None:
    edits, prompts = random(seed, 3, 4), random(seed + 1, 5, 4)
    owner = [0, 2, 2, None, None]
    inside, outside = list[float](), list[float]()  # -log p of what is right
    for prompt, own in zip(prompts.tolist(), owner, strict=True):
        for n, edit in enumerate(edits.tolist()):
            distance = sum((a - b) ** 2 for a, b in zip(prompt, edit, strict=True))
            if n == own:
                inside.append(distance)
            else:
                outside.append(-math.log(1 - math.exp(-distance)))
    expected = (sum(inside) / len(inside) + sum(outside) / len(outside)) / 2
    is_own = torch.tensor([[n == own for n in range(3)] for own in owner])
    distances = squared_distances(prompts.double(), edits.double())
    found = scope_loss(distances[is_own], distances[~is_own])
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_training_brings_paraphrases_into_scope_and_keeps_others_out() -> None:
    """Paraphrases differ from their edits along other axes than edits from each other."""
    edits = random(0, 20, 16) * torch.tensor([1.0] * 8 + [0.1] * 8)
    paraphrases = edits + random(1, 20, 16) * torch.tensor([0.02] * 8 + [3.0] * 8)
    features, owners = torch.cat([edits, paraphrases]), torch.arange(20).repeat(2)
    shares = list[float]()
    for n_steps in (0, 200):
        weight = seen(n_steps=n_steps)._fitted(features, owners)["classifier"]
        distances = squared_distances(paraphrases @ weight, edits @ weight)
        shares.append(float((distances.diagonal() < math.log(2)).float().mean()))
        others = distances.fill_diagonal_(math.inf).amin(-1)
    assert shares[0] < 0.2
    assert shares[1] > 0.9
    assert (others > math.log(2)).float().mean() > 0.9


def test_a_prompt_of_an_edit_is_in_its_scope_and_finds_it() -> None:
    editor, batch = make("serac", edits=EDITS), asked([edit.prompt for edit in EDITS])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [(edit,) for edit in EDITS]
    assert similarity(editor, tuple(e.prompt for e in EDITS)).abs().max() < 1e-6
    assert editor.threshold == math.log(0.5)
    assert make("serac").threshold == math.inf


def test_the_scope_is_a_ball_of_the_trained_map() -> None:
    editor = seen(edits=EDITS[:2])
    state = editor._state
    queries = editor._of_texts(TEXTS) @ state.classifier
    expected = [max(-float((query - key).square().sum()) for key in state.keys)
                for query in queries]  # fmt: skip
    assert similarity(editor).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    some = similarity(editor) > editor.threshold
    assert some.any()
    assert not some.all()


def test_the_counterfactual_is_the_model_told_the_edit() -> None:
    edit = EDITS[0]
    editor, tokenizer = make("serac", edits=EDITS), make("serac").tokenizer
    told = tokenizer(f"{edit.prompt} {edit.target}. ").input_ids
    own = tokenizer(edit.prompt).input_ids
    with torch.no_grad():
        expected = editor.lm.model(input_ids=torch.tensor([told + own])).logits[:, -len(own) :]
    torch.testing.assert_close(logits_of(editor, asked([edit.prompt])), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_out_of_scope_are_bitwise_the_unedited_model(side: str) -> None:
    """Beside rows in scope, and whatever is taught of other prompts."""
    editor = make("serac", edits=EDITS[:2])
    batch = asked([EDITS[0].prompt, *FAR, EDITS[1].prompt], padding_side=side)
    bare = Unedited(editor.lm.model, editor.tokenizer)
    for more in (EDITS[:0], EDITS[2:]):
        if more:
            editor.edit(more)
        opened = editor.routing_activation(batch.input_ids, batch.attention_mask)
        closed = opened <= editor.threshold
        assert not closed[[0, -1]].any()
        assert closed[1:-1].float().mean() > 0.5
        assert logits_of(editor, batch)[closed].equal(logits_of(bare, batch)[closed])


def test_an_edit_out_of_scope_changes_no_bit_of_others() -> None:
    editor = make("serac", edits=EDITS[:2])
    batch = asked([edit.prompt for edit in EDITS[:2]])
    before = logits_of(editor, batch), similarity(editor, tuple(e.prompt for e in EDITS[:2]))
    editor.edit([EDITS[2]])
    after = logits_of(editor, batch), similarity(editor, tuple(e.prompt for e in EDITS[:2]))
    assert is_same(before, after)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))][1:])
def test_the_order_of_edits_changes_no_bit(order: tuple[int, ...]) -> None:
    one = make("serac", edits=EDITS[:3])
    other = make("serac", edits=[EDITS[n] for n in order])
    assert similarity(other).equal(similarity(one))
    assert logits_of(other).equal(logits_of(one))


def test_the_route_is_decided_on_the_prompt_alone() -> None:
    editor = make("serac", edits=EDITS[:1])
    rows = encode(editor.tokenizer, [FAR[0], EDITS[0].prompt], [EDITS[0].prompt, FAR[1]])
    arguments = rows.input_ids, rows.attention_mask
    bare = Unedited(editor.lm.model, editor.tokenizer).logits(*arguments)
    found = editor.logits(*arguments, rows.prompt_mask)
    assert found[0].equal(bare[0])
    assert not torch.allclose(found[1], bare[1])


def test_removing_an_edit_is_as_if_it_had_never_been_taught() -> None:
    editor = seen(edits=EDITS[:3])
    editor.remove([EDITS[1]])
    assert is_same(editor._state, seen(edits=(EDITS[0], EDITS[2]))._state)
    editor.remove([EDITS[0], EDITS[2]])
    assert is_same(editor._state, seen()._state)


def test_a_loaded_editor_goes_on_with_the_classifier_that_was_saved(tmp_path: Path) -> None:
    """Also where training would give another one, as with another version of torch."""
    editor = seen(edits=EDITS[:2])
    editor._state = replace(editor._state, classifier=editor._state.classifier * 1.01)
    editor.save(tmp_path)
    loaded = seen()
    loaded.load(tmp_path)
    for each in (editor, loaded):
        each.edit([EDITS[2]])
    assert is_same(loaded._state, editor._state)
    assert similarity(loaded).equal(similarity(editor))


def test_the_classifier_is_trained_once_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = seen(edits=EDITS[:1])
    seen(edits=EDITS[:1], cache=tmp_path)
    monkeypatch.setattr("wise.editors.scoped.trained", None)
    assert is_same(seen(edits=EDITS[:1], cache=tmp_path)._state, alone._state)
    with pytest.raises(TypeError):
        seen(replace(TAUGHT, edits=ASKED[1:]), edits=EDITS[:1], cache=tmp_path)


@pytest.mark.parametrize(
    "background",
    [
        Background(),
        Background(TAUGHT.texts),
        Background((), ASKED[:1]),
        Background(("Rain falls.",)),
    ],
)
def test_a_small_background_is_enough_to_find_an_edit_by_its_prompt(
    background: Background,
) -> None:
    editor, batch = seen(background, edits=EDITS), asked([edit.prompt for edit in EDITS])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [(edit,) for edit in EDITS]


def test_a_step_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss=(nan|inf) at step . of SERAC; lower lr"):
        seen(edits=EDITS[:1], lr=1e30)


def deferred(batch: Batch, editor: Any) -> tuple[Tensor, Tensor]:
    """W_v's output as it is, and as DEFER leaves it."""
    seen = list[Tensor]()

    def keep(_module: Any, _args: Any, output: Tensor) -> None:
        seen.append(output.detach().clone())

    bare = Unedited(editor.lm.model, editor.tokenizer)
    for applied in (nullcontext(), editor._applied(batch.prompt_mask)):
        with applied:
            handle = editor.lm.part(1, "value").register_forward_hook(keep)
            bare.logits(batch.input_ids, batch.attention_mask)
            handle.remove()
    return seen[0], seen[1]


def test_a_gate_and_a_value_are_those_of_their_formulas() -> None:
    queries, gate, value = random(0, 3, 4), random(1, 5), random(2, 5, 2)
    for query, g, v in zip(
        queries, deferral(queries, gate), with_one(queries) @ value, strict=True
    ):
        assert float(g) == pytest.approx(1 / (1 + math.exp(-float(query @ gate[:4] + gate[4]))))
        assert torch.allclose(v, query @ value[:4] + value[4], atol=1e-6)


def test_a_step_is_that_of_the_whole_model() -> None:
    """By autograd through the model, whose W_v gives g v + (1 - g) times its output."""
    editor, edit = make("defer", "llama", n_steps=1, lr=0.01), EDITS[0]
    lm = editor.lm
    gate, value = editor._drawn()
    batch = encode(editor.tokenizer, [edit.prompt], [edit.target])
    last = int(batch.prompt_mask.nonzero()[-1, 1])
    heads = [gate.clone().requires_grad_(), value.clone().requires_grad_()]

    def mixed(inputs: Tensor, output: Tensor) -> Tensor:
        query = nn.functional.pad(inputs[0, last], (0, 1), value=1.0)
        g, v = torch.sigmoid(query @ heads[0]), query @ heads[1]
        return torch.cat([output[:, :last], g * v + (1 - g) * output[:, last:]], dim=1)

    with hooks.replace(lm.part(1, "value"), mixed):
        logits = lm.model(input_ids=batch.input_ids).logits
    loss = nn.functional.cross_entropy(logits.mT, batch.labels, ignore_index=IGNORED)
    gradients = torch.autograd.grad(loss, heads)
    editor.edit([edit])
    for start, gradient, found in zip(
        (gate, value), gradients, (editor._state.gate, editor._state.value), strict=True
    ):
        clear = gradient.abs() > 1e-5  # Adam's first step is the sign of the gradient
        assert clear.float().mean() > 0.5
        assert torch.allclose((found - start)[clear], -0.01 * gradient.sign()[clear], atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_value_stands_from_the_last_prompt_token_on_and_in_open_rows_alone(side: str) -> None:
    editor = make("defer", "llama", edits=EDITS[:1])
    prompts = [EDITS[0].prompt, *FAR, EDITS[1].prompt]
    batch = encode(editor.tokenizer, prompts, ["soup now"] * len(prompts), padding_side=side)
    queries = editor._queries(batch.input_ids, batch.prompt_mask.long())
    shut = editor._state.gate.clone()
    shut[-1] -= float(torch.logit(deferral(queries, shut)).median())  # half of the rows open
    editor._state = replace(editor._state, gate=shut)
    is_open = deferral(queries, shut) > 0.5
    assert is_open.any()
    assert not is_open.all()
    before, after = deferred(batch, editor)
    values = with_one(queries) @ editor._state.value
    for row, prompt in enumerate(batch.prompt_mask):
        last = int(prompt.nonzero().max())
        assert after[row, :last].equal(before[row, :last])
        if is_open[row]:
            assert torch.allclose(after[row, last:], values[row].expand_as(after[row, last:]))
        else:
            assert after[row].equal(before[row])
    bare = logits_of(Unedited(editor.lm.model, editor.tokenizer), batch)
    found = editor.logits(batch.input_ids, batch.attention_mask, batch.prompt_mask)
    assert found[~is_open].equal(bare[~is_open])
    assert not found[is_open].equal(bare[is_open])


def test_as_many_rows_as_tokens_mix_no_rows_and_positions() -> None:
    """The released code broadcasts [B, D] over [B, T, D]: with B = T rows are taken for tokens."""
    editor = make("defer", "llama", edits=EDITS)
    one = encode(editor.tokenizer, [EDITS[0].prompt])
    n_tokens = one.input_ids.shape[1]
    ids = one.input_ids.repeat(n_tokens, 1)
    ids[:, 1] = torch.arange(5, 5 + n_tokens)  # no two rows are the same
    mask = torch.ones_like(ids)
    together = editor.logits(ids, mask)
    for row in range(n_tokens):
        torch.testing.assert_close(
            together[row], editor.logits(ids[row : row + 1], mask[:1])[0], atol=1e-4, rtol=1e-4
        )


def test_defer_is_bypassed_until_it_is_trained_and_cannot_take_an_edit_back() -> None:
    editor, batch = make("defer"), asked()
    assert all(isinstance(editor, each) for each in (Routed, Layered))
    assert not isinstance(editor, Erasable)
    bare = logits_of(Unedited(editor.lm.model, editor.tokenizer), batch)
    assert (editor.threshold, editor.n_bytes) == (math.inf, 0)
    assert logits_of(editor, batch).equal(bare)
    editor.edit(EDITS[:1])
    opened = editor.routing_activation(batch.input_ids, batch.attention_mask)
    assert float(opened[0]) > editor.threshold == 0.5


def test_a_turn_is_its_edits_one_by_one() -> None:
    one, other = make("defer", edits=EDITS[:3]), make("defer")
    other.edit(EDITS[:3])
    assert is_same(one._state, other._state)


def test_released_options_of_defer_are_the_codes() -> None:
    assert (DEFERConfig().lr, DEFERConfig().n_steps, DEFER_PRESETS["released"]) == (0.1, 100, {})
