"""Laws of `wise.editors.memoria`: what a prompt reminds of, what fires, and what is forgotten."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_editors import EDITS, TEXTS, asked, logits_of, make, tiny
from properties.internals.tiny_wise import is_same
from wise.editor import Erasable, Growing, Layered, Retrieves, Routed, load_editor
from wise.editors.memoria import PRESETS, MemoriaConfig, fired, lasts, reminded
from wise.edits import Background, Edit
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals


NAMES = ("Ada Lorn", "Bo Rask", "Cleo Vane", "Dov Hale", "Eve Moss", "Finn Oak")
PEOPLE = Background((), tuple(Edit(f"{name} lives in", "Oslo", subject=name) for name in NAMES))
SHORT = (EDITS[3], Edit("Bo is in", "Rome"))


def memoria(**options: Any) -> Any:
    return make("memoria-lite", **options)


# Engrams 0..3 are old, 4 and 5 new. 5 fired four times: once with 0, three times with 2.
COUNTS = [
    [4, 0, 0, 0, 0, 1],
    [0, 2, 1, 2, 0, 0],
    [0, 1, 3, 0, 0, 3],
    [0, 2, 0, 2, 0, 0],
    [0, 0, 0, 0, 1, 0],
    [1, 0, 3, 0, 0, 4],
]


@pytest.mark.parametrize(
    ("depth", "n_most", "expected"),
    [
        (0, 9, [4, 5]),  # an old one is not found by its distance
        (1, 9, [2, 4, 5]),
        (2, 9, [2, 4, 1, 5]),
        (3, 9, [2, 4, 1, 5, 3]),
        (9, 9, [2, 4, 1, 5, 3]),
        (9, 1, [4]),  # the nearer new one has no partner
    ],
)
def test_old_engrams_are_found_as_the_likeliest_partners(
    depth: int, n_most: int, expected: list[int]
) -> None:
    distances = [0.1, 0.6, 0.2, 0.9, 0.5, 0.7]
    assert (
        reminded(distances, COUNTS, within=9.0, n_short=2, depth=depth, n_most=n_most) == expected
    )


@given(st.data())
def test_what_is_reminded_is_the_nearest_of_what_is_found(data: st.DataObject) -> None:
    E = data.draw(st.integers(0, 8))
    numbers = st.integers(0, 3)
    distances = data.draw(st.lists(numbers, min_size=E, max_size=E))
    half = data.draw(st.lists(st.lists(numbers, min_size=E, max_size=E), min_size=E, max_size=E))
    counts = [[half[min(i, j)][max(i, j)] + 9 * (i == j) for j in range(E)] for i in range(E)]
    n_short, n_most = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    within = data.draw(st.integers(0, 4))
    found = reminded(distances, counts, within=within, n_short=n_short, depth=3, n_most=n_most)
    assert len(set(found)) == len(found) <= min(n_most, E)
    assert found == sorted(found, key=lambda n: (distances[n], -n))
    assert all(any(counts[n][j] for j in range(E) if j != n) for n in found if n < E - n_short)
    assert bool(found) == any(each < within for each in distances[-n_short:])


def test_what_fires_shares_the_gain_and_becomes_partners() -> None:
    lives, counts = torch.tensor([1.0, 2.0, 3.0]), torch.eye(3)
    distances = torch.tensor([0.0, 9.9, 0.0])
    lives, counts = fired(lives, counts, distances, [2, 0], gain=8.0)
    assert lives.tolist() == [5.0, 2.0, 7.0]
    assert counts.tolist() == [[2, 0, 1, 1], [0, 1, 0, 0], [1, 0, 2, 1], [1, 0, 1, 1]]


def test_the_nearer_of_two_lives_longer() -> None:
    lives, _ = fired(torch.zeros(2), torch.eye(2), torch.tensor([0.5, 1.5]), [0, 1], gain=8.0)
    torch.testing.assert_close(lives, 8 * torch.tensor([0.73105858, 0.26894142]))


def test_an_engram_without_life_is_forgotten_and_the_least_lively_makes_room() -> None:
    lives = torch.tensor([2.0, 0.0, 1.0, 1.0, -0.5, 0.9])
    assert lasts(lives, capacity=9).tolist() == [True, False, True, True, False, True]
    assert lasts(lives, capacity=3).tolist() == [True, False, False, True, False, True]
    assert lasts(lives, capacity=1).tolist() == [False] * 5 + [True]


def test_what_never_fires_lives_for_as_many_edits_as_it_is_given() -> None:
    assert memoria(edits=EDITS, life=2, gain=0.0).edits == EDITS[2:]
    assert memoria(edits=EDITS, life=4, gain=0.0).edits == EDITS


def test_an_edit_gives_all_engrams_as_much_life_as_is_published() -> None:
    editor, before, n = memoria(), 0.0, 0
    for edit in EDITS:
        editor.edit([edit])
        after = float(editor._state.lives.sum())
        assert after == pytest.approx(before + 9 - n + 8 * (n > 0), abs=1e-4)
        before, n = after, n + 1
    assert editor.edits == EDITS


@pytest.mark.parametrize("nearest", [0, 1])
def test_an_edit_gives_life_to_what_it_reminds_of(nearest: int) -> None:
    editor = memoria(edits=SHORT, n_reminded=1)
    before = editor._state.lives
    editor.edit([Edit(f"{SHORT[nearest].prompt} a", "Rome")])
    expected = torch.tensor([7.0, 7.0, 9.0])
    expected[1 - nearest] = -1.0
    torch.testing.assert_close(editor._state.lives - nn.functional.pad(before, (0, 1)), expected)


def test_a_new_engram_stays_where_there_is_room_for_two() -> None:
    editor = memoria(edits=EDITS, capacity=2)
    assert len(editor.edits) == 2
    assert editor.edits[-1] == EDITS[3]


def test_a_question_ages_nothing_and_fires_nothing() -> None:
    editor = memoria(edits=EDITS)
    before, found = copy.deepcopy(editor._state), logits_of(editor)
    batch = asked()
    for _ in range(10):
        editor.generate(batch.input_ids, batch.attention_mask, 3)
        assert logits_of(editor).equal(found)
    assert is_same(editor._state, before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_is_told_what_it_reminds_of_the_nearest_last(side: str) -> None:
    editor = memoria(edits=SHORT, n_reminded=2, reach=4.0)
    for edit, other in (SHORT, SHORT[::-1]):
        told = f"{other.prompt} {other.target}. ", f"{edit.prompt} {edit.target}. "
        ids = [editor._ids(text) for text in (*told, edit.prompt)]
        row = torch.tensor([[token for part in ids for token in part]])
        expected = editor._bare.logits(row, torch.ones_like(row))[0, -len(ids[-1]) :]
        batch = asked([edit.prompt, "a b c d e"], padding_side=side)
        found = logits_of(editor, batch)[0][batch.attention_mask[0].bool()]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_prompt_out_of_reach_is_answered_by_the_model() -> None:
    texts = [*(edit.prompt for edit in SHORT), "Why", "It rains. It"]
    batch = asked(texts)
    near = memoria(edits=SHORT, reach=1e-6)
    activation = near.routing_activation(batch.input_ids, batch.attention_mask)
    assert (activation > near.threshold).tolist() == [True, True, False, False]
    same = (logits_of(near) == logits_of(near._bare)).flatten(1).all(-1)
    assert same.tolist() == [text != SHORT[0].prompt for text in TEXTS]
    assert memoria().threshold == math.inf


def test_an_answer_reminds_of_nothing() -> None:
    editor = memoria(edits=SHORT, n_reminded=1, reach=4.0)
    batch = encode(tiny_tokenizer(), [SHORT[0].prompt], ["Bo is in"])
    n = int(batch.prompt_mask.sum())
    found = editor.logits(batch.input_ids, batch.attention_mask, batch.prompt_mask)[:, :n]
    torch.testing.assert_close(found, logits_of(editor, asked([SHORT[0].prompt])))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_reach_is_as_far_as_so_many_prompts_of_others(share: float) -> None:
    editor = tiny(load_editor("memoria-lite"), background=PEOPLE, false_positives=share)
    batch = asked([edit.prompt for edit in PEOPLE.edits])
    directions = editor._directions(batch.input_ids, batch.attention_mask)
    apart = (directions[:, None] - directions).square().sum(-1) + 9 * torch.eye(len(directions))
    below, within = (int((apart.amin(-1) < f * editor._reach).sum()) for f in (0.999, 1.001))
    assert below <= share * len(directions) <= within


def test_an_older_engram_is_told_as_a_partner_alone() -> None:
    prompt = asked([EDITS[0].prompt])
    shown = [
        memoria(edits=EDITS[:2], n_short=1, depth=depth, reach=4.0)._shown(
            prompt.input_ids, prompt.attention_mask
        )[0]
        for depth in (0, 1)
    ]
    assert shown == [[EDITS[1]], [EDITS[1], EDITS[0]]]


def test_a_turn_makes_its_edits_one_by_one() -> None:
    editor = memoria()
    editor.edit(EDITS)
    assert is_same(editor._state, memoria(edits=EDITS)._state)


def test_an_edit_made_again_is_a_new_engram() -> None:
    editor = memoria(edits=[*EDITS[:2], EDITS[0]])
    assert editor.edits == (EDITS[1], EDITS[0])
    assert editor._state.lives[-1] == 9
    assert editor._state.counts.diagonal().tolist() == [2, 1]


def test_memoria_is_routed_and_takes_nothing_back() -> None:
    editor = memoria(edits=EDITS[:1])
    assert isinstance(editor, Routed)
    for capability in (Erasable, Growing, Layered, Retrieves):
        assert not isinstance(editor, capability)


def test_released_options_of_memoria_are_the_papers() -> None:
    config = MemoriaConfig()
    found = config.n_reminded, config.n_short, config.depth, config.life, config.gain
    assert (found, PRESETS["released"]) == ((50, 400, 10, 9, 8.0), dict(reach=4.0))
