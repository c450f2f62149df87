"""Laws of `wise.editors.scoped`: whose scope a prompt is in, and that nothing else is touched."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from properties.internals.tiny_editors import EDITS, TEXTS, asked, logits_of, make, tiny
from properties.internals.tiny_wise import FAR, is_same
from wise.editor import Erasable, Growing, Layered, Retrieves, Routed, load_editor
from wise.editors.scoped import scope_loss, squared_distances
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tokens import encode

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
