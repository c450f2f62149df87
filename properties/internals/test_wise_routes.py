"""Laws of `wise.editors.gated`: a row's route is its own and made once, from its prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_wise import (
    EDITS,
    FAMILIES,
    FAR,
    make_wise,
    prompts_of,
    routes,
)
from wise.editors.router import ROUTING_TOKENS
from wise.editors.wise.wise import WISE
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import Unedited
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

every_family = pytest.mark.parametrize("model_type", FAMILIES)
ONE_MEMORY: dict[str, Any] = dict(memory="merge", edits_per_shard=4)
MEMORIES: dict[str, Any] = dict(memory="retrieve", edits_per_shard=2)
every_memory = pytest.mark.parametrize("options", [ONE_MEMORY, MEMORIES])
PROMPTS = [*(edit.prompt for edit in EDITS[:4]), *FAR]
ATOL = 5e-5  # across shapes; logits here have a standard deviation above 3


def edited(model_type: str, **options: Any) -> WISE:
    return make_wise(model_type, edits=EDITS[:4], **options)


def by_logits(editor: WISE, texts: list[str], n_tokens: int) -> Tensor:
    """Greedy decoding with a whole forward a token, routed on the prompt."""
    batch = prompts_of(texts)
    ids, mask, prompt = batch.input_ids, batch.attention_mask, batch.prompt_mask
    for _ in range(n_tokens):
        token = editor.logits(ids, mask, prompt_mask=prompt)[:, -1:].argmax(-1)
        ids = torch.cat([ids, token], dim=1)
        mask = torch.cat([mask, torch.ones_like(token)], dim=1)
        prompt = torch.cat([prompt, torch.zeros_like(token).bool()], dim=1)
    return ids[:, batch.input_ids.shape[1] :]


def endless(editor: WISE) -> WISE:
    """The editor with a tokenizer that never ends a sequence, so that answers have one length."""
    endless: Any = NoEnd()
    editor._bare.tokenizer = endless
    return editor


class NoEnd:
    eos_token_id = None
    pad_token_id = 0


@every_family
@every_memory
def test_an_edited_prompt_opens_the_gate_and_some_other_does_not(
    model_type: str, options: dict[str, Any]
) -> None:
    opened = routes(edited(model_type, **options), PROMPTS)
    assert all(opened[:4])
    assert not all(opened[4:])


@every_family
@every_memory
def test_a_row_of_the_main_memory_has_bitwise_the_base_logits(
    model_type: str, options: dict[str, Any]
) -> None:
    editor = edited(model_type, **options)
    base = Unedited(editor.lm.model, editor.tokenizer)
    batch, opened = prompts_of(PROMPTS), torch.tensor(routes(editor, PROMPTS))
    arguments = batch.input_ids, batch.attention_mask
    changed = (editor.logits(*arguments) != base.logits(*arguments)).flatten(1).any(1)
    assert changed.equal(opened)
    for text, is_open in zip(PROMPTS, opened.tolist(), strict=True):
        alone = prompts_of([text])
        arguments = alone.input_ids, alone.attention_mask
        assert editor.logits(*arguments).equal(base.logits(*arguments)) == (not is_open)


@every_family
@pytest.mark.parametrize("how", ROUTING_TOKENS)
def test_the_activation_does_not_depend_on_padding_or_batch_mates(
    model_type: str, how: str
) -> None:
    editor = edited(model_type, routing_tokens=how)
    single = [prompts_of([text]) for text in PROMPTS]
    alone = torch.cat([editor.routing_activation(b.input_ids, b.attention_mask) for b in single])
    for side in ("left", "right"):
        batch = prompts_of([*PROMPTS, "a long " * 9], padding_side=side)
        together = editor.routing_activation(batch.input_ids, batch.attention_mask)[:-1]
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@every_family
@every_memory
def test_logits_do_not_depend_on_padding_or_batch_mates(
    model_type: str, options: dict[str, Any]
) -> None:
    editor = edited(model_type, **options)
    for side in ("left", "right"):
        batch = prompts_of(PROMPTS, padding_side=side)
        logits = editor.logits(batch.input_ids, batch.attention_mask)
        for row, text in enumerate(PROMPTS):
            alone = prompts_of([text])
            expected = editor.logits(alone.input_ids, alone.attention_mask)[0]
            own = logits[row][batch.attention_mask[row].bool()]
            torch.testing.assert_close(own, expected, rtol=0, atol=ATOL)


@every_family
@every_memory
def test_cached_generation_is_that_of_whole_forwards(
    model_type: str, options: dict[str, Any]
) -> None:
    editor = endless(edited(model_type, **options))
    batch = prompts_of(PROMPTS)
    cached = editor.generate(batch.input_ids, batch.attention_mask, 6)
    assert cached.equal(by_logits(editor, PROMPTS, 6))


@every_family
@pytest.mark.parametrize("options", [ONE_MEMORY, MEMORIES, dict(MEMORIES, routing_tokens="mean")])
@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_with_and_without_a_cache_alone_and_in_a_batch_the_beams_are_the_same(
    model_type: str, options: dict[str, Any], num_beams: int
) -> None:
    editor = endless(edited(model_type, **options))
    batch = prompts_of(PROMPTS)
    arguments = batch.input_ids, batch.attention_mask, 5
    cached = editor.generate(*arguments, num_beams=num_beams)
    assert editor.generate(*arguments, num_beams=num_beams, use_cache=False).equal(cached)
    for row, text in enumerate(PROMPTS):
        alone = prompts_of([text])
        answer = editor.generate(alone.input_ids, alone.attention_mask, 5, num_beams=num_beams)
        assert answer[0].equal(cached[row]), text


@every_family
@every_memory
def test_a_target_cannot_open_or_close_the_gate(model_type: str, options: dict[str, Any]) -> None:
    editor = edited(model_type, **options)
    base = Unedited(editor.lm.model, editor.tokenizer)
    targets = [EDITS[0].prompt, "x", "time sets is"] * len(PROMPTS)
    batch = encode(tiny_tokenizer(), PROMPTS, targets[: len(PROMPTS)])
    arguments = batch.input_ids, batch.attention_mask
    forced = editor.logits(*arguments, prompt_mask=batch.prompt_mask)
    changed = (forced != base.logits(*arguments)).flatten(1).any(1)
    assert changed.tolist() == routes(editor, PROMPTS)


@every_family
def test_a_target_that_is_an_edited_prompt_would_open_the_gate(model_type: str) -> None:
    """The law above has something to guard against: unmasked targets do route."""
    editor = edited(model_type)
    closed = [text for text in FAR if routes(editor, [text]) == [False]]
    joined = [f"{text} {EDITS[3].prompt}" for text in closed]
    assert any(routes(editor, joined))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["linear", "activated"])
def test_every_architecture_is_edited_and_routed(model_type: str, activation: str) -> None:
    editor = endless(make_wise(model_type, edits=EDITS[:2], routing_activation=activation))
    texts = [EDITS[0].prompt, *FAR]
    assert routes(editor, texts)[0]
    batch = prompts_of(texts)
    cached = editor.generate(batch.input_ids, batch.attention_mask, 4)
    assert cached.equal(by_logits(editor, texts, 4))


def test_an_edit_is_answered_and_stops_by_itself() -> None:
    editor = make_wise("gptj", n_steps=60)
    editor.edit(EDITS[1:4:2])
    batch = prompts_of([edit.prompt for edit in EDITS[1:4:2]])
    answers = editor.generate(batch.input_ids, batch.attention_mask, 8)
    texts = editor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert [text.strip() for text in texts] == ["CERN", "French"]
    assert (answers == editor.tokenizer.eos_token_id).any(1).all()


@pytest.mark.parametrize("thresholds", ["shared", "per-memory"])
def test_the_threshold_is_the_scaled_smallest_epsilon(thresholds: str) -> None:
    editor = edited("llama", thresholds=thresholds)
    smallest = min(part.epsilon for part in editor._state.candidates)
    assert editor.threshold == (0.9 * smallest if thresholds == "shared" else 1.0)
