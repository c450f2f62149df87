"""Laws of GRACE: the codebook's balls, and the editor around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import asked, log_p, tiny
from properties.internals.tiny_wise import BACKGROUND, EDITS, FAR, is_same
from wise.editor import Erasable, Generates, Persistent, Routed
from wise.editors.grace import Codebook, make, nearest, scope, written
from wise.edits import Edit
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import Unedited

pytestmark = pytest.mark.internals

QUICK: dict[str, Any] = dict(layer=1, radius=1.0, units="absolute", lr=0.3, n_steps=30)
EVERYWHERE: dict[str, Any] = dict(QUICK, radius=1e6)
EMPTY = Codebook.empty(2, 3, torch.device("cpu"))


def learn(edit: Edit, start: Tensor | None) -> Tensor:
    """Counts how often a value was learned on."""
    return torch.zeros(3) if start is None else start + 1


def book(*places: tuple[float, str], radius: float = 1.0) -> Codebook:
    """After an edit at each place of a line, with this target."""
    codebook = EMPTY
    for number, (place, target) in enumerate(places):
        edit = Edit(f"prompt {number}", target)
        key = torch.tensor([place, 0.0])
        codebook = written(codebook, edit, key, radius=radius, learn=learn)
    return codebook


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=8))
def test_the_nearest_key_is_that_of_a_search_by_hand(points: list[tuple[int, int]]) -> None:
    keys, queries = torch.tensor(points).float(), torch.tensor([[0.5, -0.25], [7.0, 7.0]])
    distance, index = nearest(keys, queries)
    for query, found, which in zip(queries, distance, index, strict=True):
        by_hand = [float((key - query).double().norm()) for key in keys]
        assert float(found) == pytest.approx(min(by_hand), rel=1e-5)
        assert by_hand[int(which)] == pytest.approx(min(by_hand), rel=1e-5)


def test_a_key_far_from_all_others_gets_a_ball_of_its_own() -> None:
    codebook = book((0.0, "a"), (2.1, "b"))
    assert codebook.radii.tolist() == [1.0, 1.0]
    assert [len(group) for group in codebook.members] == [1, 1]


def test_a_near_key_of_the_same_target_is_taken_in_and_its_value_learned_on() -> None:
    codebook = book((0.0, "a"), (1.5, "a"))
    depth, index = scope(codebook, torch.tensor([[1.5, 0.0], [1.6, 0.0]]))
    assert len(codebook) == 1
    assert depth[0] > 0 > depth[1]
    assert index.tolist() == [0, 0]
    assert codebook.values.tolist() == [[1.0, 1.0, 1.0]]


def test_a_ball_does_not_shrink_for_a_key_inside_it() -> None:
    assert book((0.0, "a"), (0.5, "a")).radii.tolist() == [1.0]


def test_balls_of_different_targets_meet_half_way() -> None:
    codebook = book((0.0, "a"), (1.0, "b"))
    assert codebook.radii.tolist() == [0.5, 0.5]
    assert scope(codebook, torch.tensor([[0.5, 0.0]]))[0] == 0.0  # in neither


@given(
    st.lists(
        st.tuples(st.integers(0, 40).map(lambda n: n / 8), st.sampled_from("ab")),
        min_size=1, max_size=8, unique_by=lambda pair: pair[0],
    )
)  # fmt: skip
def test_every_edited_key_is_in_scope_and_a_conflict_never_grows_a_ball(
    places: list[tuple[float, str]],
) -> None:
    codebook, edit = book(*places), Edit("another", "c")
    place = places[-1][0] + 1 / 16
    after = written(codebook, edit, torch.tensor([place, 0.0]), radius=1.0, learn=learn)
    assert bool((after.radii[: len(codebook)] <= codebook.radii).all())
    depth, index = scope(after, torch.tensor([[place, 0.0]]))
    assert depth > 0
    assert after.members[int(index)] == (edit,)


def test_where_keys_coincide_the_last_write_wins() -> None:
    codebook = book((3.0, "a"), (3.0, "b"))
    assert codebook.radii.tolist() == [1.0]
    assert [edit.target for (edit,) in codebook.members] == ["b"]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_outside_every_ball_it_is_the_model_bitwise(model_type: str) -> None:
    editor = tiny(make, model_type, **dict(QUICK, radius=1e-3))
    editor.edit(EDITS[:2])
    batch = asked()
    arguments = batch.input_ids, batch.attention_mask
    in_scope = editor.routing_activation(*arguments) > editor.threshold
    base = Unedited(editor.lm.model, tiny_tokenizer()).logits(*arguments)
    edited = editor.logits(*arguments)
    assert in_scope.tolist() == [True, True] + [False] * (len(base) - 2)
    assert torch.equal(edited[2:], base[2:])
    assert not torch.equal(edited[:2], base[:2])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("preset", ["embedded", "released"])
def test_an_edit_raises_the_targets_probability(preset: str, model_type: str) -> None:
    editor = tiny(make, model_type, preset=preset)
    (before,) = log_p(editor, EDITS[:1])
    editor.edit(EDITS[:1])
    (after,) = log_p(editor, EDITS[:1])
    assert after > before + 1


def test_a_prompt_of_one_token_keeps_its_route_through_decoding() -> None:
    editor = tiny(make, **EVERYWHERE)
    editor.edit(EDITS[:1])
    batch = asked(["a"])
    arguments = batch.input_ids, batch.attention_mask, 6
    assert batch.input_ids.shape == (1, 1)
    assert torch.equal(editor.generate(*arguments), editor.generate(*arguments, use_cache=False))


def test_a_target_does_not_move_the_route() -> None:
    editor = tiny(make, **QUICK)
    editor.edit(EDITS[:1])
    prompt = asked([EDITS[0].prompt])
    row = asked([f"{EDITS[0].prompt} Oslo"])
    width = prompt.input_ids.shape[1]
    mask = torch.arange(row.input_ids.shape[1])[None] < width
    forced = editor.logits(row.input_ids, row.attention_mask, prompt_mask=mask)
    free = editor.logits(prompt.input_ids, prompt.attention_mask)
    torch.testing.assert_close(forced[:, :width], free, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("radius", [1.0, 20.0, 1e6])
def test_what_is_removed_leaves_no_trace(radius: float) -> None:
    options: dict[str, Any] = dict(QUICK, radius=radius)
    same = [Edit(prompt, "Oslo") for prompt in FAR[:2]]
    stream = (EDITS[0], same[0], EDITS[1], same[1], EDITS[2])
    editor, never = (tiny(make, **options) for _ in range(2))
    editor.edit(stream)
    for edit in (*stream[:2], stream[3]):
        never.edit([edit])
    editor.remove([stream[2], stream[4]])
    assert is_same(editor._state, never._state)
    with pytest.raises(KeyError, match="no edit of the prompt 'Why' is in force"):
        editor.remove([Edit("Why", "x")])
    editor.remove(editor.edits)
    assert is_same(editor._state, tiny(make, **options)._state)


def test_all_its_capabilities_are_found() -> None:
    editor = tiny(make)
    for capability in (Generates, Routed, Persistent, Erasable):
        assert isinstance(editor, capability)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(layer=12), r"layer=12 is outside the model's 0\.\.2"),
        (dict(radius=-1), "radius=-1 is not allowed: it should be greater than or equal to 0"),
        (
            dict(replacement="all"),
            "replacement='all' is not allowed: it should be 'last' or 'prompt'",
        ),
        (dict(epsilon=1), "there is no option 'epsilon'; there are layer, radius"),
    ],
)
def test_a_bad_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny_model("llama"), tiny_tokenizer(), BACKGROUND, seed=0, **option)
