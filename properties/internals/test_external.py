"""Laws of `wise.editors.external`: what is near, what it says, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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
from wise.editors.external import SPALM_PRESETS, SPALMConfig, near_keys, recalled
from wise.edits import Background, Edit
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import Unedited
from wise.lm.hooks import observe
from wise.lm.tokens import IGNORED, Batch, encode

pytestmark = pytest.mark.internals

NAMES = ("Ada Lorn", "Bo Rask", "Cleo Vane", "Dov Hale", "Eve Moss", "Finn Oak")
PEOPLE = Background((), tuple(Edit(f"{name} lives in", "Oslo", subject=name) for name in NAMES))


def bare(editor: Any) -> Unedited:
    return Unedited(editor.lm.model, tiny_tokenizer())


def forced(texts: Sequence[str] = TEXTS, target: str = "Oslo", side: str = "left") -> Batch:
    return encode(tiny_tokenizer(), texts, [target] * len(texts), padding_side=side)


def states(editor: Any, batch: Batch) -> Tensor:
    """What the head of the unedited model reads."""
    seen = list[Tensor]()
    with observe(editor.lm.model.lm_head, lambda args, _: seen.append(args[0])):
        logits_of(bare(editor), batch)
    return seen[0]


def test_the_nearest_keys_count_below_tau_alone() -> None:
    keys = torch.tensor([[0.0, 1.0], [3.0, 4.0], [0.0, 0.0]])
    states = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])  # the first at the distances 1, 5 and 0
    for tau, expected in ((6.0, [[2, 0]]), (1.0, [[2]]), (0.5, [[2]]), (0.0, [])):
        at, is_near, index = near_keys(keys, states, n=2, tau=tau)
        assert at.tolist() == [[bool(expected), False]]
        assert [row[near].tolist() for row, near in zip(index, is_near, strict=True)] == expected
    assert near_keys(keys, states, n=9, tau=6.0)[2].tolist() == [[2, 0, 1]]


def test_of_equally_near_keys_the_newest_are_taken() -> None:
    _, _, index = near_keys(torch.ones(40, 2), torch.zeros(1, 2), n=3, tau=9.0)
    assert index.tolist() == [[39, 38, 37]]


@pytest.mark.parametrize(
    ("tokens", "is_near", "expected"),
    [
        ([2], [True], [0.125, 0.075, 0.8]),  # m = (0, 0, 1)
        ([1, 2, 0], [True, True, False], [0.125, 0.525, 0.35]),  # m = (0, .6, .4)
        ([1, 1, 2], [True, True, True], [0.125, 0.6375, 0.2375]),  # m = (0, .75, .25)
    ],
)
def test_a_distribution_is_that_of_its_formula(
    tokens: list[int], is_near: list[bool], expected: list[float]
) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log() + 7.0
    found = recalled(logits, torch.tensor([tokens]), torch.tensor([is_near]), 0.25)
    torch.testing.assert_close(found.softmax(-1), torch.tensor([expected]))
    others = [n for n in range(3) if n not in tokens]
    assert found[:, others].equal(logits[:, others])
    alone = recalled(logits, torch.tensor([tokens]), torch.tensor([is_near]), 1.0)
    assert alone.equal(logits)


@given(st.integers(0, 2**31), st.floats(0.01, 0.25), st.sampled_from(["float32", "bfloat16"]))
def test_at_a_low_gate_what_alone_is_near_is_said(seed: int, gate: float, dtype: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (10 * torch.randn(5, 30, generator=generator)).to(getattr(torch, dtype))
    tokens = torch.randint(30, (5, 1), generator=generator)
    found = recalled(logits, tokens, torch.ones(5, 1, dtype=torch.bool), gate)
    assert found.dtype == logits.dtype
    assert found.argmax(-1).equal(tokens[:, 0])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_edits_own_prompt_is_answered_by_its_target_and_eos(model_type: str, side: str) -> None:
    editor = make("spalm-lite", model_type, edits=EDITS)
    prompts, targets = [edit.prompt for edit in EDITS], [edit.target for edit in EDITS]
    batch = encode(tiny_tokenizer(), prompts, targets, padding_side=side)
    at = batch.labels != IGNORED
    assert logits_of(editor, batch)[at].argmax(-1).equal(batch.labels[at])
    for edit in (NEAR, EDITS[3]):
        editor.reset()
        editor.edit([edit])
        assert log_p(editor, [edit])[0] > log_p(bare(editor), [edit])[0] + 0.5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt", "gemma2"])
def test_what_is_beyond_tau_of_every_key_is_the_unedited_model(model_type: str, side: str) -> None:
    editor = make("spalm-lite", model_type, edits=EDITS)
    batch = forced(side=side)
    keys, states_of = editor._state.keys, states(editor, batch)
    distance = (states_of[:, :, None] - keys).norm(dim=-1).amin(-1)  # B T
    own = batch.attention_mask.bool()
    tau = float(distance[own].median())  # half of the tokens are near
    editor = make("spalm-lite", model_type, edits=EDITS, tau=tau)
    before, after = logits_of(bare(editor), batch), logits_of(editor, batch)
    is_far = own & (distance > tau * (1 + 1e-4))
    is_near = own & (distance < tau * (1 - 1e-4))
    assert is_far.any()
    assert after[is_far].equal(before[is_far])
    assert is_near.any()
    assert (after[is_near] != before[is_near]).any(-1).all()


def test_no_token_behind_it_changes_a_logit_and_no_mask_does() -> None:
    editor = make("spalm-lite", edits=EDITS)
    one, other = (forced([EDITS[0].prompt], target) for target in ("Oslo", "Riga"))
    n_same = int(one.prompt_mask.sum())
    found = [logits_of(editor, each)[:, :n_same] for each in (one, other)]
    assert found[0].equal(found[1])
    masked = editor.logits(one.input_ids, one.attention_mask, one.prompt_mask)
    assert masked.equal(logits_of(editor, one))


@pytest.mark.parametrize("options", [dict(gate=1.0), dict(tau=0.0)])
def test_with_the_gate_shut_or_nothing_near_it_is_the_unedited_model(
    options: dict[str, float],
) -> None:
    editor, batch = make("spalm-lite", edits=EDITS, **options), asked()
    assert logits_of(editor, batch).equal(logits_of(bare(editor), batch))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_tau_opens_for_as_many_prompts_of_others_as_it_says(share: float) -> None:
    factory = load_editor("spalm-lite")
    editor = tiny(factory, background=PEOPLE, false_positives=share)
    batch = asked([edit.prompt for edit in PEOPLE.edits])
    last = states(editor, batch)[:, -1]
    nearest = (torch.cdist(last, last) + 1e9 * torch.eye(len(last))).amin(-1)
    below, within = (int((nearest < factor * editor._tau).sum()) for factor in (0.9999, 1.0001))
    assert below <= share * len(last) <= within
    assert tiny(factory, background=PEOPLE, tau=0.7)._tau == 0.7


@pytest.mark.parametrize("background", [Background(), BACKGROUND, PEOPLE])
def test_tau_is_finite_with_any_background(background: Background) -> None:
    assert 0 < tiny(load_editor("spalm-lite"), background=background)._tau < math.inf


def test_keys_are_the_states_before_each_token_of_the_target() -> None:
    editor = make("spalm-lite", "llama")
    editor.edit(EDITS[:2])
    keys, tokens = [], []
    for edit in EDITS[:2]:
        batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
        at = batch.labels != IGNORED
        keys.append(states(editor, batch)[at])
        tokens.append(batch.labels[at])
    assert all(each[-1] == tiny_tokenizer().eos_token_id for each in tokens)
    assert editor._state.keys.equal(torch.cat(keys))
    assert editor._state.tokens.equal(torch.cat(tokens))
    assert editor._state.owners.tolist() == [n for n, own in enumerate(tokens) for _ in own]


def test_a_removed_edit_leaves_no_trace_and_an_edit_made_twice_is_one() -> None:
    editor = make("spalm-lite", edits=EDITS[:3])
    editor.remove([EDITS[1]])
    assert is_same(editor._state, make("spalm-lite", edits=[EDITS[0], EDITS[2]])._state)
    editor.edit([EDITS[2]])
    assert is_same(editor._state, make("spalm-lite", edits=[EDITS[0], EDITS[2]])._state)
    editor.remove([EDITS[0], EDITS[2]])
    assert is_same(editor._state, make("spalm-lite")._state)


@pytest.mark.parametrize("n_nearest", [1, 4])
def test_a_prompt_retrieves_the_edits_of_its_nearest_keys(n_nearest: int) -> None:
    editor, batch = make("spalm-lite", n_nearest=n_nearest), asked([*TEXTS[:4], FAR[0]])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [()] * 5
    editor.edit(EDITS)
    found = editor.retrieved(batch.input_ids, batch.attention_mask)
    for edit, opened in zip(EDITS, found, strict=False):
        assert edit in opened
        assert len(opened) <= n_nearest
    shut = make("spalm-lite", edits=EDITS, tau=1e-3)
    assert shut.retrieved(batch.input_ids, batch.attention_mask)[:4] == [(edit,) for edit in EDITS]
    assert shut.retrieved(batch.input_ids, batch.attention_mask)[4] == ()


def test_it_decides_at_each_token_and_not_once_for_a_prompt() -> None:
    editor = make("spalm-lite", edits=EDITS[:1])
    assert all(isinstance(editor, each) for each in (Erasable, Growing, Retrieves))
    assert not any(isinstance(editor, each) for each in (Layered, Routed))
    assert make("spalm-lite").growth_per_edit == 0
    assert editor.growth_per_edit > 0


def test_released_options_of_spalm_are_the_papers() -> None:
    assert (SPALMConfig().n_nearest, SPALM_PRESETS["released"]) == (4, {})
    with pytest.raises(ValueError, match=r"gate=0.0 is not allowed"):
        SPALMConfig(gate=0.0)
