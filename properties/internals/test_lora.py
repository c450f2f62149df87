"""Laws of `wise.editors.lora`: which rows are in scope, whose change they get, and what it adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import wise.editors.saved
from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_editors import (
    EDITS,
    NEAR,
    TEXTS,
    asked,
    log_p,
    logits_of,
    make,
    tiny,
)
from properties.internals.tiny_wise import BACKGROUND, FAR, is_same
from wise.editor import Erasable, Growing, Layered, Retrieves, Routed, load_editor
from wise.editors.base import added
from wise.editors.clusters import Clusters, placed, scope
from wise.editors.grace import COINCIDE, HAIR
from wise.editors.lora import (
    ELDER_PRESETS,
    MELO_PRESETS,
    ELDERConfig,
    LowRank,
    MELOConfig,
    allocated,
    chances,
    guidance,
    hamming,
    highest,
)
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tokens import IGNORED, Batch, encode

pytestmark = pytest.mark.internals

EVERYWHERE = 1e6  # a radius within which all prompts lie
NAMES = ("Ada Lorn", "Bo Rask", "Cleo Vane", "Dov Hale", "Eve Moss", "Finn Oak")
PEOPLE = Background((), tuple(Edit(f"{name} lives in", "Oslo", subject=name) for name in NAMES))
# Conv1D; rows and tokens apart; flattened; a norm between W_v and the stream.
four_architectures = pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt", "gemma2"])
both_sides = pytest.mark.parametrize("side", ["left", "right"])
Place = tuple[float, str]  # of a key on a line, and its target


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bare(editor: Any) -> Unedited:
    return Unedited(editor.lm.model, tiny_tokenizer())


def forced(texts: Sequence[str] = TEXTS, target: str = "Oslo", side: str = "left") -> Batch:
    return encode(tiny_tokenizer(), texts, [target] * len(texts), padding_side=side)


def answered(editor: Any, batch: Batch) -> Tensor:
    return editor.logits(batch.input_ids, batch.attention_mask, batch.prompt_mask)


def opened(editor: Any, texts: Sequence[str]) -> list[tuple[Edit, ...]]:
    batch = asked(texts)
    return editor.retrieved(batch.input_ids, batch.attention_mask)


def balls(*places: Place, radius: float = 1.0) -> Clusters:
    """After a key at each place."""
    clusters = Clusters.none(2, torch.device("cpu"))
    for place, target in places:
        clusters = placed(clusters, target, torch.tensor([place, 0.0]), radius=radius)
    return clusters


def by_hand(places: Sequence[Place], radius: float = 1.0) -> list[tuple[float, float, list[int]]]:
    """Centre, radius and keys of each ball, by the rule in plain numbers."""
    found: list[tuple[float, float, list[int]]] = []
    for number, (place, target) in enumerate(places):
        while True:
            near = min(found, key=lambda ball: abs(ball[0] - place), default=None)
            if near is None or abs(near[0] - place) > near[1] + radius:
                found.append((place, radius, [number]))
                break
            at, (centre, own, keys) = found.index(near), near
            distance = abs(centre - place)
            if places[keys[0]][1] == target:
                keys = [*keys, number]
                centre = sum(places[each][0] for each in keys) / len(keys)
                farthest = max(abs(places[each][0] - centre) for each in keys)
                found[at] = (centre, max(farthest * (1 + HAIR), radius), keys)
                break
            is_same_place = distance <= COINCIDE * abs(place)
            own = 0.0 if is_same_place else min(own, distance / 2)
            kept = [each for each in keys if abs(places[each][0] - centre) < own]
            found[at : at + 1] = [(centre, own, kept)] if kept else []
            if not is_same_place:
                found.append((place, distance / 2, [number]))
                break
    return found


places_on_a_line = st.lists(
    st.tuples(st.integers(8, 40).map(lambda n: n / 8), st.sampled_from("ab")),
    min_size=1, max_size=9,
)  # fmt: skip


@given(places_on_a_line)
def test_balls_are_those_of_the_rule_by_hand(places: list[Place]) -> None:
    clusters, expected = balls(*places), by_hand(places)
    assert clusters.centres[:, 0].tolist() == pytest.approx([ball[0] for ball in expected])
    assert clusters.radii.tolist() == pytest.approx([ball[1] for ball in expected], rel=1e-5)
    of_ball = [(clusters.owners == n).nonzero()[:, 0].tolist() for n in range(len(expected))]
    assert of_ball == [ball[2] for ball in expected]
    assert [*clusters.targets] == [places[ball[2][0]][1] for ball in expected]


@given(places_on_a_line)
def test_the_newest_key_is_found_and_no_ball_has_two_targets(places: list[Place]) -> None:
    clusters = balls(*places)
    depth, key = scope(clusters, torch.tensor([[places[-1][0], 0.0]]))
    assert depth > 0
    place, target = places[int(key)]
    assert (place, target) == places[-1]
    for (_, own), ball in zip(places, clusters.owners.tolist(), strict=True):
        assert ball == -1 or own == clusters.targets[ball]


def test_a_key_of_the_same_target_moves_the_centre_to_the_mean() -> None:
    clusters = balls((2.0, "a"), (3.5, "a"), (3.8, "a"))
    assert clusters.centres[:, 0].tolist() == pytest.approx([3.1])
    assert clusters.radii.tolist() == pytest.approx([1.1 * (1 + HAIR)])
    depth, key = scope(clusters, torch.tensor([[2.0, 0.0], [3.6, 0.0], [1.9, 0.0]]))
    assert (depth > 0).tolist() == [True, True, False]
    assert key.tolist() == [0, 1, 0]  # the nearest key of the ball, not its centre


def test_a_key_of_another_target_halves_the_distance_and_keys_outside_are_forgotten() -> None:
    clusters = balls((2.0, "a"), (3.0, "a"), (3.3, "b"))  # 0.8 from the centre at 2.5
    assert clusters.centres[:, 0].tolist() == pytest.approx([3.3])  # no "a" is within 0.4
    assert clusters.radii.tolist() == pytest.approx([0.4])
    assert clusters.owners.tolist() == [-1, -1, 0]
    kept = balls((2.0, "a"), (3.0, "a"), (3.9, "b"))  # 1.4 from it
    assert kept.radii.tolist() == pytest.approx([0.7, 0.7])
    assert kept.owners.tolist() == [0, 0, 1]


def test_where_keys_coincide_the_last_write_wins() -> None:
    clusters = balls((3.0, "a"), (3.0, "b"))
    assert (clusters.targets, clusters.radii.tolist()) == (("b",), [1.0])
    assert clusters.owners.tolist() == [-1, 0]


@pytest.mark.parametrize("n_down", [1, 3])
def test_a_change_is_that_of_its_formula_row_by_row(n_down: int) -> None:
    """One A for all rows, or one each."""
    inputs, down, up = random(0, 3, 5, 8), random(1, n_down, 2, 8, 4), random(2, 3, 2, 4, 6)
    shares = random(3, 3, 2, 4)
    for number in range(2):
        found = LowRank(down, up).at(number, inputs)
        shared = LowRank(down, up, shares).at(number, inputs)
        for row in range(3):
            A, B = down[row % n_down, number], up[row, number]
            for token in range(5):
                expected = (inputs[row, token] @ A) @ B
                torch.testing.assert_close(found[row, token], expected, atol=1e-4, rtol=1e-4)
                expected = ((inputs[row, token] @ A) * shares[row, number]) @ B
                torch.testing.assert_close(shared[row, token], expected, atol=1e-4, rtol=1e-4)


@four_architectures
def test_an_edit_is_its_product_added_to_each_weight(model_type: str) -> None:
    editor, batch = make("melo", model_type, edits=EDITS[:1], radius=EVERYWHERE), asked()
    state = editor._state
    changes = {layer: state.down[0, n] @ state.up[0, n] for n, layer in enumerate(editor.layers)}
    assert editor.layers == (1, 2)
    assert [int(torch.linalg.matrix_rank(each)) for each in changes.values()] == [2, 2]
    with added(editor.lm, changes):
        expected = logits_of(bare(editor), batch)
    torch.testing.assert_close(logits_of(editor, batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_is_that_of_the_options(rank: int) -> None:
    state = make("melo", edits=EDITS[:2], rank=rank)._state
    for number in range(2):
        for layer in range(2):
            change = state.down[number, layer] @ state.up[number, layer]
            assert int(torch.linalg.matrix_rank(change)) == rank


def test_a_step_is_that_of_the_whole_model() -> None:
    """By autograd through the model: of a zero B, Adam's first step is the sign of its gradient."""
    editor, edit = make("melo", "llama", n_steps=1, lr=0.01), EDITS[0]
    editor.edit([edit])
    down, up = editor._state.down[0], editor._state.up[0]
    assert down.equal(editor._drawn(2, edit.prompt))  # a zero B gives A no gradient
    B = torch.zeros_like(up).requires_grad_()
    batch = encode(editor.tokenizer, [edit.prompt], [edit.target])
    with added(editor.lm, {1: down[0] @ B[0], 2: down[1] @ B[1]}):
        logits = editor.lm.model(input_ids=batch.input_ids).logits
    loss = nn.functional.cross_entropy(logits.mT, batch.labels, ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(loss, B)
    clear = gradient.abs() > 1e-5
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(up[clear], -0.01 * gradient.sign()[clear], atol=1e-4, rtol=0)


@both_sides
@four_architectures
def test_outside_every_ball_it_is_the_model_bitwise(model_type: str, side: str) -> None:
    editor = make("melo", model_type, edits=EDITS[:2], radius=1e-3)
    batch = forced(side=side)
    before, after = logits_of(bare(editor), batch), answered(editor, batch)
    assert opened(editor, TEXTS) == [(EDITS[0],), (EDITS[1],)] + [()] * (len(TEXTS) - 2)
    assert after[2:].equal(before[2:])
    assert (after[:2] != before[:2])[batch.attention_mask[:2].bool()].any(-1).all()


@pytest.mark.parametrize("options", [dict(radius=0.0), dict(lr=0.0, radius=EVERYWHERE)])
def test_with_balls_of_no_size_or_untrained_blocks_it_is_the_model(options: Any) -> None:
    editor, batch = make("melo", edits=EDITS, **options), asked()
    assert logits_of(editor, batch).equal(logits_of(bare(editor), batch))


def test_in_a_ball_of_any_size_every_prompt_gets_the_edit() -> None:
    editor = make("melo", edits=[NEAR], radius=EVERYWHERE)
    assert opened(editor, TEXTS) == [(NEAR,)] * len(TEXTS)


def test_each_prompt_gets_the_block_of_its_own_edit() -> None:
    editor = make("melo", "llama", edits=EDITS, radius=1e-3)
    batch = asked([edit.prompt for edit in EDITS])
    for number, edit in enumerate(EDITS):
        alone = make("melo", "llama", edits=[edit], radius=EVERYWHERE)
        torch.testing.assert_close(
            logits_of(editor, batch)[number], logits_of(alone, batch)[number], atol=1e-4, rtol=1e-4
        )
    assert min(log_p(editor, EDITS)) > max(log_p(bare(editor), EDITS))


def test_a_target_does_not_move_the_route() -> None:
    editor = make("melo", "llama", edits=EDITS[:3], radius=1e-3)
    for target in ("Oslo", "Riga and all else", "x"):
        batch = forced([EDITS[0].prompt, FAR[0]], target)
        before, after = logits_of(bare(editor), batch), answered(editor, batch)
        assert after[1].equal(before[1])
        free = logits_of(editor, asked([EDITS[0].prompt]))[0]
        own = after[0][batch.prompt_mask[0]]
        torch.testing.assert_close(own, free, atol=1e-4, rtol=1e-4)


def test_a_batch_of_as_many_rows_as_tokens_mixes_neither() -> None:
    editor = make("melo", "llama", edits=EDITS, radius=EVERYWHERE)
    one = encode(editor.tokenizer, [EDITS[0].prompt])
    n_tokens = one.input_ids.shape[1]
    ids = one.input_ids.repeat(n_tokens, 1)
    ids[:, 1] = torch.arange(5, 5 + n_tokens)
    mask = torch.ones_like(ids)
    together = editor.logits(ids, mask)
    for row in range(n_tokens):
        alone = editor.logits(ids[row : row + 1], mask[:1])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)


def test_a_block_depends_on_no_other_edit() -> None:
    alone = {edit: make("melo", edits=[edit])._state for edit in EDITS[:3]}
    state = make("melo", edits=EDITS[2::-1])._state
    for number, edit in enumerate(EDITS[2::-1]):
        assert state.down[number].equal(alone[edit].down[0])
        assert state.up[number].equal(alone[edit].up[0])
        assert state.clusters.keys[number].equal(alone[edit].clusters.keys[0])


@pytest.mark.parametrize("radius", [1e-3, 1.0, EVERYWHERE])
def test_what_is_removed_or_written_again_leaves_no_trace(radius: float) -> None:
    same = [Edit(prompt, "Oslo") for prompt in FAR[:2]]
    stream = (EDITS[0], same[0], EDITS[1], same[1], EDITS[2])
    editor = make("melo", radius=radius)
    editor.edit(stream)
    editor.remove([stream[2], stream[4]])
    never = make("melo", edits=[stream[0], stream[1], stream[3]], radius=radius)
    assert is_same(editor._state, never._state)
    again = replace(stream[1], target="Bonn")
    editor.edit([again])
    fresh = make("melo", edits=[stream[0], stream[3], again], radius=radius)
    assert is_same(editor._state, fresh._state)
    editor.remove(editor.edits)
    assert is_same(editor._state, make("melo")._state)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_ball_holds_as_few_prompts_of_others_as_it_says(share: float) -> None:
    editor = tiny(load_editor("melo"), background=PEOPLE, layer=1, false_positives=share)
    batch = asked([edit.prompt for edit in PEOPLE.edits])
    keys = editor._queries(batch.input_ids, batch.attention_mask)
    nearest = (torch.cdist(keys, keys) + 1e9 * torch.eye(len(keys))).amin(-1)
    below, within = (int((nearest < factor * editor._radius).sum()) for factor in (0.9999, 1.0001))
    assert below <= share * len(keys) <= within


@pytest.mark.parametrize("background", [Background(), BACKGROUND, PEOPLE])
def test_a_radius_is_finite_with_any_background(background: Background) -> None:
    assert 0 < tiny(load_editor("melo"), background=background)._radius < math.inf


def test_balls_of_no_edit_or_of_two_targets_are_refused(tmp_path: Path) -> None:
    editor = make("melo", edits=EDITS[:2], radius=1e-3)
    state, tensors = editor._state, editor._tensors(editor._state)
    assert tensors["owners"].tolist() == [0, 1]
    for owners in ([0, 0], [1, 1], [-1, 1], [0, 2], [-2, 0]):
        wrong = {**tensors, "owners": torch.tensor(owners)}
        wise.editors.saved.write(tmp_path, editor._identity(), editor._record(state), wrong)
        with pytest.raises(ValueError, match="owners do not give one target to each of 2 balls"):
            editor.load(tmp_path)
    assert editor._state is state


def test_a_forgotten_edit_stays_in_force_and_opens_nothing(tmp_path: Path) -> None:
    """Two of one target lie in one ball, far from its centre; a third cuts both off."""
    pair, third = [Edit(prompt, "Oslo") for prompt in (FAR[0], FAR[3])], NEAR
    editor = make("melo", edits=[*pair, third], radius=EVERYWHERE)
    assert editor._state.clusters.owners.tolist() == [-1, -1, 0]
    assert editor.edits == (*pair, third)
    found = opened(editor, [*(edit.prompt for edit in pair), third.prompt])
    assert set(found) <= {(), (third,)}
    editor.save(tmp_path)
    loaded = make("melo", radius=EVERYWHERE)
    loaded.load(tmp_path)
    assert is_same(loaded._state, editor._state)
    loaded.remove([third])
    assert is_same(loaded._state, make("melo", edits=pair, radius=EVERYWHERE)._state)


def test_melo_reads_scopes_and_takes_edits_back() -> None:
    editor = make("melo")
    for capability in (Erasable, Growing, Layered, Retrieves, Routed):
        assert isinstance(editor, capability)
    assert editor.threshold == math.inf
    editor.edit(EDITS[:1])
    assert (editor.threshold, editor.layer) == (0.0, 1)


def test_blocks_above_the_model_are_cut_off() -> None:
    assert make("melo", layer=2).layers == (2,)
    assert make("melo", layer=0, n_layers=9).layers == (0, 1, 2)


def test_released_options_of_melo_are_the_codes() -> None:
    config = MELOConfig(**MELO_PRESETS["released"])
    assert (config.rank, config.n_layers, config.n_steps, config.lr) == (2, 2, 50, 1e-3)
    for name, value in (("radius", math.inf), ("radius", -1.0), ("rank", 0)):
        with pytest.raises(ValueError, match=f"{name}={value} is not allowed"):
            MELOConfig(**{name: value})


def elder(*edits: Edit, model_type: str = "llama", **options: Any) -> Any:
    """ELDER after edits one by one."""
    return make("elder", model_type, edits=edits, **options)


def row_codes(editor: Any, texts: Sequence[str]) -> Tensor:
    batch = asked(texts)
    queries = editor._queries(batch.input_ids, batch.attention_mask)
    return editor._codes(chances(queries / editor._unit, editor._state.routers))


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_a_code_has_a_bit_for_each_of_the_highest(seed: int, n: int) -> None:
    scores = random(seed, 3, 2, 4)
    codes = highest(scores, n)
    assert codes.sum(-1).eq(n).all()
    for row, code in zip(scores.flatten(0, 1).tolist(), codes.flatten(0, 1).tolist(), strict=True):
        taken = [value for value, bit in zip(row, code, strict=True) if bit]
        assert sorted(taken) == sorted(row)[-n:]


@given(st.integers(0, 2**31))
def test_codes_differ_in_the_bits_that_a_count_by_hand_finds(seed: int) -> None:
    one, other = highest(random(seed, 3, 2, 4), 2), highest(random(seed + 1, 5, 2, 4), 2)
    found = hamming(one, other)
    for b in range(3):
        for e in range(5):
            pairs = zip(one[b].flatten().tolist(), other[e].flatten().tolist(), strict=True)
            assert int(found[b, e]) == sum(x != y for x, y in pairs)


def test_experts_are_drawn_for_a_target_by_the_seed_alone() -> None:
    options: dict[str, Any] = dict(n_layers=6, n_experts=4, n_chosen=2)
    drawn = {name: allocated(name, seed=0, **options) for name in ("Oslo", "Riga", "Bonn")}
    assert all(int(each.sum()) == 12 for each in drawn.values())
    assert allocated("Oslo", seed=0, **options).equal(drawn["Oslo"])
    others = [drawn["Riga"], drawn["Bonn"], allocated("Oslo", seed=1, **options)]
    assert not any(each.equal(drawn["Oslo"]) for each in others)


def test_guidance_is_that_of_its_formula() -> None:
    log_p, experts = random(0, 3, 2, 4).log_softmax(-1), highest(random(1, 3, 2, 4), 2)
    total = 0.0
    for row in range(3):
        for layer in range(2):
            for n in range(4):
                if experts[row, layer, n]:
                    total -= float(log_p[row, layer, n])
    least = 2 * 2 * math.log(2)  # of two layers, each with two experts at one half
    assert float(guidance(log_p, experts)) == pytest.approx(total / 3 - least, rel=1e-5)
    learned = experts.float().clamp(min=1e-9).log().log_softmax(-1)
    assert float(guidance(learned, experts)) == pytest.approx(0.0, abs=1e-5)


@four_architectures
def test_a_row_gets_its_own_sum_of_weighted_experts(model_type: str) -> None:
    editor, batch = elder(*EDITS[:3], model_type=model_type, scale=0.5, epsilon=2.0), asked()
    state, r = editor._state, editor.config.rank
    together = logits_of(editor, batch)
    queries = editor._queries(batch.input_ids, batch.attention_mask) / editor._unit
    for row, text in enumerate(TEXTS):
        changes = dict[int, Tensor]()
        for n, layer in enumerate(editor.layers):
            p = (queries[row] @ state.routers[n]).softmax(-1)
            down, up = state.down[n].split(r, 1), state.up[n].split(r)
            kept = p.argsort(descending=True)[:2].tolist()
            changes[layer] = sum(0.5 * p[k] * down[k] @ up[k] for k in kept)
        with added(editor.lm, changes):
            expected = logits_of(bare(editor), asked([text]))[0]
        own = together[row][batch.attention_mask[row].bool()]
        torch.testing.assert_close(own, expected, atol=1e-3, rtol=1e-3)


def test_a_first_step_is_that_of_the_whole_model() -> None:
    """While B is zero its gradient is the model's, and a router's that of the guidance alone."""
    editor, edit = make("elder", "llama", n_steps=1, lr=0.01), EDITS[0]
    first = editor._start(editor._state)
    editor.edit([edit])
    state = editor._state
    batch = encode(editor.tokenizer, [edit.prompt], [edit.target])
    query = editor._queries(*(each[:, : int(batch.prompt_mask.sum())]
                              for each in (batch.input_ids, batch.attention_mask)))  # fmt: skip
    p = (query[0] / editor._unit @ first["routers"]).softmax(-1)  # L N
    drawn = allocated(edit.target, n_layers=2, n_experts=4, n_chosen=2, seed=0).float()
    expected = torch.einsum("m,ln->lmn", query[0], 2 * p - drawn)
    clear = expected.abs() > 1e-2
    assert clear.float().mean() > 0.5
    moved = state.routers - first["routers"]
    torch.testing.assert_close(moved[clear], -0.01 * expected.sign()[clear], atol=1e-4, rtol=0)
    assert state.down.equal(first["A"])
    B = torch.zeros_like(state.up).requires_grad_()
    shares = (p * highest(p, 2)).repeat_interleave(4, -1)  # L K
    changes = {1 + n: first["A"][n] * shares[n] @ B[n] for n in range(2)}
    with added(editor.lm, changes):
        logits = editor.lm.model(input_ids=batch.input_ids).logits
    loss = nn.functional.cross_entropy(logits.mT, batch.labels, ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(loss, B)
    clear = gradient.abs() > 1e-5
    assert clear.float().mean() > 0.3
    torch.testing.assert_close(state.up[clear], -0.01 * gradient.sign()[clear], atol=1e-4, rtol=0)
    assert state.up[gradient == 0].eq(0).all()  # of experts that were not chosen


def test_guided_routers_learn_the_experts_drawn_for_a_target() -> None:
    guided, free = (elder(*EDITS[:1], guidance=g, n_steps=60, lr=0.05) for g in (10.0, 0.0))
    drawn = allocated(EDITS[0].target, n_layers=2, n_experts=4, n_chosen=2, seed=0)
    assert guided._state.codes[0].equal(drawn)
    assert not free._state.codes[0].equal(drawn)


def test_an_edits_code_is_that_of_its_prompt_and_later_turns_leave_it() -> None:
    editor = make("elder", "llama")
    editor.edit(EDITS[:3])
    assert editor._state.codes.equal(row_codes(editor, [edit.prompt for edit in EDITS[:3]]))
    before = editor._state.codes
    editor.edit(EDITS[3:])
    assert editor._state.codes[:3].equal(before)


def test_a_prompt_is_in_scope_below_epsilon_and_not_at_it() -> None:
    editor = elder(*EDITS[:2])
    batch = asked()
    apart = -editor.routing_activation(batch.input_ids, batch.attention_mask)
    expected = hamming(row_codes(editor, TEXTS), editor._state.codes).amin(-1)
    assert apart.equal(expected.float())
    base = logits_of(bare(editor), batch)
    assert expected.max() >= 2
    for epsilon in range(int(expected.max()) + 2):
        editor._state = replace(editor._state, epsilon=epsilon)
        assert editor.threshold == -epsilon
        found = logits_of(editor, batch)
        is_open = expected < epsilon
        assert found[~is_open].equal(base[~is_open])
        assert (found[is_open] != base[is_open]).flatten(1).any(-1).all()


@both_sides
@four_architectures
def test_out_of_scope_elder_is_the_model_bitwise(model_type: str, side: str) -> None:
    options: dict[str, Any] = dict(epsilon=1 / 8, n_experts=16, lr=0.005)  # one bit
    editor = elder(*EDITS[:1], model_type=model_type, **options)
    batch = forced(side=side)
    is_open = torch.tensor([bool((code == editor._state.codes[0]).all())
                            for code in row_codes(editor, TEXTS)])  # fmt: skip
    assert is_open.any()
    assert not is_open.all()
    before, after = logits_of(bare(editor), batch), answered(editor, batch)
    assert after[~is_open].equal(before[~is_open])
    assert not after[is_open].equal(before[is_open])


def test_with_an_epsilon_of_no_bit_it_is_the_model_and_of_all_every_row_is_changed() -> None:
    batch = asked()
    for epsilon, changes in ((0.0, False), (9 / 8, True)):
        editor = elder(*EDITS, epsilon=epsilon)
        base, found = logits_of(bare(editor), batch), logits_of(editor, batch)
        is_changed = (found != base).flatten(1).any(-1)
        assert is_changed.tolist() == [changes] * len(TEXTS)


@pytest.mark.parametrize("target", ["Riga and all else", "x"])
def test_a_target_does_not_move_a_code(target: str) -> None:
    editor = elder(*EDITS[:1], epsilon=2.0)
    batch = forced([EDITS[0].prompt], target)
    free = logits_of(editor, asked([EDITS[0].prompt]))[0]
    own = answered(editor, batch)[0][batch.prompt_mask[0]]
    torch.testing.assert_close(own, free, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_epsilon_opens_for_as_few_prompts_of_others_as_it_says(share: float) -> None:
    editor = tiny(load_editor("elder"), background=PEOPLE, layer=1, false_positives=share, lr=0.01)
    editor.edit(EDITS[:1])
    apart = hamming(row_codes(editor, [e.prompt for e in PEOPLE.edits]), editor._state.codes)[:, 0]
    epsilon = editor._state.epsilon
    assert epsilon == 1 or int((apart < epsilon).sum()) <= share * len(apart)
    assert int((apart <= epsilon).sum()) > share * len(apart)


def test_epsilon_is_at_most_half_of_the_largest_distance_and_else_that_of_the_options() -> None:
    editor = make("elder", "llama", epsilon=None)
    alike = torch.zeros(2, 48, 4)  # routers to which all prompts are one
    codes = highest(torch.zeros(1, 2, 4), 2)
    assert editor._epsilon(~codes, alike) == 4  # of eight, by which each differs
    assert editor._epsilon(codes, alike) == 1
    for n_experts, n_chosen, epsilon in ((4, 2, 3), (16, 2, 3), (4, 3, 2)):  # of 8, 8 and 4
        other = make("elder", "llama", epsilon=0.3, n_experts=n_experts, n_chosen=n_chosen)
        assert other._epsilon(codes, alike) == epsilon


@pytest.mark.parametrize("background", [Background(), BACKGROUND, PEOPLE])
def test_an_edit_is_in_its_own_scope_with_any_background(background: Background) -> None:
    editor = tiny(load_editor("elder"), background=background, layer=1)
    editor.edit(EDITS[:2])
    batch = asked([edit.prompt for edit in EDITS[:2]])
    found = editor.routing_activation(batch.input_ids, batch.attention_mask)
    assert (found > editor.threshold).all()


def test_a_turn_of_elder_is_one_batch() -> None:
    together, apart = make("elder", "llama"), elder(*EDITS[:2])
    together.edit(EDITS[:2])
    assert not together._state.up.equal(apart._state.up)
    after, before = log_p(together, EDITS[:2]), log_p(bare(together), EDITS[:2])
    assert all(new > old + 0.5 for new, old in zip(after, before, strict=True))


def test_codes_that_are_none_are_refused(tmp_path: Path) -> None:
    editor = elder(*EDITS[:2])
    state, tensors = editor._state, editor._tensors(editor._state)
    for wrong in (~tensors["codes"] & False, tensors["codes"].long(), tensors["codes"][:, :1]):
        record = editor._record(state)
        parts = {**tensors, "codes": wrong}
        wise.editors.saved.write(tmp_path, editor._identity(), record, parts)
        with pytest.raises(ValueError, match="codes are not 2 choices of 2 experts"):
            editor.load(tmp_path)
    assert editor._state is state


def test_elder_reads_scopes_and_takes_no_edit_back() -> None:
    editor = make("elder")
    assert all(isinstance(editor, each) for each in (Layered, Routed))
    assert not any(isinstance(editor, each) for each in (Erasable, Growing, Retrieves))
    assert editor.threshold == math.inf
    editor.edit(EDITS[:1])
    assert editor._tensors(editor._state)["codes"].shape == (1, 2, 4)


def test_released_options_of_elder_are_the_papers() -> None:
    config = ELDERConfig(**ELDER_PRESETS["released"])
    found = (config.n_layers, config.n_experts, config.n_chosen, config.rank, config.guidance)
    assert found == (6, 4, 2, 8, 0.01)
    assert (config.epsilon or 0) * 24 == 12
    with pytest.raises(ValueError, match="n_chosen=4 is not below n_experts=4"):
        ELDERConfig(n_chosen=4)


def test_a_loaded_editor_answers_before_it_has_asked_the_model(tmp_path: Path) -> None:
    """The unit of the routers is found by the model, and not while it answers."""
    editor = elder(*EDITS[:2])
    editor.save(tmp_path)
    loaded = elder()
    loaded.load(tmp_path)
    loaded.lm.model.train()
    assert logits_of(loaded).equal(logits_of(editor))
