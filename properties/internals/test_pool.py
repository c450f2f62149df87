"""Laws of `wise.editors.pool`: what a pool holds, who reads it, and how it wears away."""

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
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import EDITS, TEXTS, asked, logits_of, make
from properties.internals.tiny_wise import is_same
from wise.editor import Erasable, Growing, Layered, Retrieves, Routed
from wise.editors.pool import PRESETS, MemoryLLMConfig, slots_at, survivors, with_slots
from wise.edits import Edit
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import greedy_by_logits
from wise.seeds import seeded

pytestmark = pytest.mark.internals

SHORT = (EDITS[3], Edit("Bo is in", "Rome"))
WIDE: dict[str, Any] = dict(n_slots=32, n_newest=16, reserve=0)  # room for all tokens of SHORT


def pool(model: str | PreTrainedModel = "gpt2", **options: Any) -> Any:
    return make("memoryllm-lite", model, **options)


def tokens(text: str) -> list[int]:
    return tiny_tokenizer()(text).input_ids


@torch.no_grad()
def behind(model: PreTrainedModel, texts: Sequence[str], prompt: str) -> Tensor:
    """Logits of a prompt by transformers' own cache of the texts before it."""
    cache = DynamicCache(config=model.config)
    rows = [token for text in texts for token in tokens(text)], tokens(prompt)
    n_read = 0
    for row in rows:
        positions = torch.arange(n_read, n_read + len(row))[None]
        n_read += len(row)
        logits = model(
            input_ids=torch.tensor([row]), attention_mask=torch.ones(1, n_read),
            position_ids=positions, past_key_values=cache, use_cache=True,
        ).logits  # fmt: skip
    return logits[0]


@pytest.mark.parametrize("n_edits", [1, 2])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_pool_that_dropped_nothing_is_the_edits_in_the_context(
    model_type: str, n_edits: int
) -> None:
    editor = pool(model_type, edits=SHORT[:n_edits], **WIDE)
    texts = [f"{edit.prompt} {edit.target}." for edit in SHORT[:n_edits]]
    assert editor._state.slots.shape[1] == sum(len(tokens(text)) for text in texts)
    for side in ("left", "right"):
        batch = asked(padding_side=side)
        found = logits_of(editor, batch)
        for row, own, prompt in zip(found, batch.attention_mask.bool(), TEXTS, strict=True):
            expected = behind(editor.lm.model, texts, prompt)
            torch.testing.assert_close(row[own], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gpt2", "opt"])
def test_generation_and_beams_read_the_pool(model_type: str) -> None:
    editor, batch = pool(model_type, edits=EDITS), asked()
    arguments = batch.input_ids, batch.attention_mask, 6
    plain = greedy_by_logits(editor, tiny_tokenizer(), *arguments)
    assert editor.generate(*arguments).equal(plain)
    beams = [editor.generate(*arguments, num_beams=3, use_cache=cached) for cached in (True, False)]
    assert beams[0].equal(beams[1])


def test_only_the_newest_states_of_an_edit_are_kept() -> None:
    whole, short = (pool(edits=EDITS[:1], n_slots=40, n_newest=n) for n in (40, 3))
    assert short._state.slots.equal(whole._state.slots[:, -3:])


def test_a_write_is_read_behind_the_pool() -> None:
    after, alone = pool(edits=EDITS[:2]), pool(edits=EDITS[1:2])
    assert not after._state.slots[1:, -5:].allclose(alone._state.slots[1:])


def test_a_write_drops_the_same_slots_of_every_layer_and_keeps_the_order() -> None:
    editor = pool(edits=EDITS[:3])
    before = editor._state.slots
    editor.edit(EDITS[3:])
    after = editor._state.slots
    assert after.shape == before.shape == (3, 12, 32)  # L N D
    same = (after[:, :, None] == before[:, None]).all(-1)  # L N N
    assert all(layer.equal(same[-1]) for layer in same[1:])
    kept = [row.nonzero()[0, 0].item() for row in same[-1] if row.any()]
    assert len(kept) == 12 - 5
    assert kept == sorted(set(kept))


def test_a_pool_never_holds_more_than_it_may_and_stays_full() -> None:
    editor, sizes = pool(), list[int]()
    for _ in range(2):
        for edit in EDITS:
            editor.edit([edit])
            sizes.append(editor._state.slots.shape[1])
    assert sizes == [5, 10, *[12] * 6]


@given(st.integers(1, 40), st.data())
def test_those_that_stay_are_in_order_and_as_many_as_are_kept(n: int, data: st.DataObject) -> None:
    n_kept = data.draw(st.integers(0, n))
    found = survivors(n, n_kept, generator=seeded("stay", n, n_kept)).tolist()
    assert found == sorted(set(found))
    assert len(found) == n_kept
    assert set(found) <= set(range(n))


@pytest.mark.parametrize("n_further", [1, 5, 20])
def test_the_slots_of_a_write_wear_away_as_a_geometric_series(n_further: int) -> None:
    """Of K = 8 slots of N = 64, 1000 pools keep 8 (1 - 8/64)^t on average, within five standard
    deviations of a binomial count: 6e-7 of such tests fail, and .5 slots too many are seen."""
    N, K, n_pools = 64, 8, 1000
    left = 0
    for number in range(n_pools):
        writes = torch.arange(N) // K
        for further in range(n_further):
            stay = survivors(N, N - K, generator=seeded("wear", number, further))
            writes = torch.cat([writes[stay], torch.full((K,), N)])
        left += int((writes == N // K - 1).sum())
    n, p = n_pools * K, (1 - K / N) ** n_further
    assert abs(left - n * p) < 5 * math.sqrt(n * p * (1 - p))


def test_another_seed_drops_other_slots() -> None:
    one, other = (pool(edits=EDITS, seed=seed)._state.slots for seed in (0, 1))
    assert one.shape == other.shape
    assert not one.equal(other)


def test_a_turn_writes_its_edits_one_by_one() -> None:
    editor = pool()
    editor.edit(EDITS)
    assert is_same(editor._state, pool(edits=EDITS)._state)


def test_an_edit_made_again_takes_slots_again() -> None:
    editor = pool(edits=[EDITS[0], EDITS[0]])
    assert editor.edits == EDITS[:1]
    assert editor._state.slots.shape[1] == 10


def test_a_long_prompt_reads_the_newest_slots_that_have_room() -> None:
    editor = pool(edits=EDITS)
    prompt = next(text for n in range(99) if len(tokens(text := "a b " * n + "c")) >= 53)
    n_room = 64 - 6 - len(tokens(prompt))
    assert 0 < n_room < 12
    found, whole = logits_of(editor, asked([prompt])), editor._state
    editor._state = replace(whole, slots=whole.slots[:, -n_room:])
    assert logits_of(editor, asked([prompt])).equal(found)
    editor._state = replace(whole, slots=whole.slots[:, 1 - n_room :])
    assert not logits_of(editor, asked([prompt])).equal(found)


def test_a_prompt_that_leaves_no_room_is_answered_by_the_model() -> None:
    editor = pool(edits=EDITS)
    prompt = next(text for n in range(99) if len(tokens(text := "a b " * n + "c")) >= 59)
    bare = editor._bare
    assert logits_of(editor, asked([prompt])).equal(logits_of(bare, asked([prompt])))


def test_a_row_begins_with_its_lead_then_come_the_newest_slots() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    found = slots_at(mask, [2, 3, 0], n_slots=7, n_lead=1)
    assert found.tolist() == [[-1, -1, 5, 6, -1], [-1, 4, 5, 6, -1], [-1] * 5]


def test_slots_stand_in_each_beam_of_a_row_and_in_no_cached_step() -> None:
    slots, at = torch.tensor([[7.0], [8.0]]), torch.tensor([[-1, 0, 1], [-1, -1, 1]])
    hidden = torch.zeros(4, 4, 1)  # two beams a row; a token behind
    found = with_slots(slots, at, hidden)[..., 0].tolist()
    assert found == [[0, 7, 8, 0], [0, 7, 8, 0], [0, 0, 8, 0], [0, 0, 8, 0]]
    assert not hidden.any()
    assert with_slots(slots, at, hidden[:, :1]) is not None
    assert not with_slots(slots, at, hidden[:, :1]).any()


def test_a_pool_larger_than_it_may_be_is_refused(tmp_path: Path) -> None:
    editor = pool(edits=EDITS)
    editor.save(tmp_path)
    smaller = pool(edits=EDITS[:1], n_slots=11)
    with pytest.raises(ValueError, match="n_slots"):
        smaller.load(tmp_path)
    with pytest.raises(ValueError, match="n_newest=9 is more than n_slots=8"):
        pool(n_newest=9, n_slots=8)


def test_a_pool_has_no_scope_and_takes_nothing_back() -> None:
    editor = pool(edits=EDITS[:1])
    for capability in (Erasable, Growing, Layered, Retrieves, Routed):
        assert not isinstance(editor, capability)


def test_released_options_of_memoryllm_are_the_papers() -> None:
    config = MemoryLLMConfig()
    assert (config.n_slots, config.n_newest, PRESETS["released"]) == (50 * 256, 256, {})
    assert tiny_model("gpt2").config.n_positions < config.n_slots  # the newest that have room
    editor = pool(edits=EDITS, n_slots=config.n_slots, n_newest=config.n_newest)
    assert logits_of(editor).isfinite().all()
