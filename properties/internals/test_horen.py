"""Laws of `wise.editors.horen`: directions, the step towards the stored ones, and whose value."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from properties.internals.tiny_editors import EDITS, KINDS, asked, log_p, logits_of, make, tiny
from properties.internals.tiny_wise import is_same
from wise.editor import load_editor
from wise.editors.horen import Angle
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

ANGLE = Angle(share=0.5, sharpness=20.0, pull=0.1, least=0.85)


def directions(seed: int, n: int, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1)


def test_a_key_is_the_direction_of_the_last_tokens_of_a_prompt() -> None:
    inputs = torch.arange(12.0).reshape(1, 6, 2)
    mask = torch.tensor([[False, True, True, True, True, True]])
    found = replace(ANGLE, share=0.6).select([inputs], mask).keys[0, 0]  # 3 of 5 tokens
    assert torch.allclose(found, nn.functional.normalize(inputs[0, 3:].mean(0), dim=-1))
    nothing = replace(ANGLE, share=0.05).select([inputs], mask).keys[0, 0]  # at least one
    assert torch.allclose(nothing, nn.functional.normalize(inputs[0, 5], dim=-1))


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_the_size_of_inputs_changes_no_key(seed: int, factor: float) -> None:
    inputs = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(2, 4, dtype=torch.bool)
    one, other = (ANGLE.select([each], mask).keys for each in (inputs, factor * inputs))
    assert torch.allclose(one, other, atol=1e-6)


@given(st.integers(0, 2**31))
def test_without_a_pull_it_is_the_plain_cosine(seed: int) -> None:
    keys, stored = directions(seed, 3), directions(seed + 1, 5)
    assert torch.allclose(replace(ANGLE, pull=0.0).moved(keys, stored), keys, atol=1e-6)


@given(st.integers(0, 2**31))
def test_a_step_is_that_of_its_formula(seed: int) -> None:
    keys, stored = directions(seed, 3).double(), directions(seed + 1, 5).double()
    found = ANGLE.moved(keys, stored)
    for key, moved in zip(keys, found, strict=True):
        weights = [math.exp(20 * float(key @ each)) for each in stored]
        recalled = sum(w * each for w, each in zip(weights, stored, strict=True))
        assert isinstance(recalled, Tensor)
        expected = 0.9 * key + 0.1 * recalled / recalled.norm()
        assert torch.allclose(moved, expected / expected.norm(), atol=1e-9)


def test_a_value_stands_at_the_last_prompt_token_alone() -> None:
    edit = EDITS[0]
    editor = make("horen", edits=[edit], threshold=0.5)
    seen = list[Tensor]()
    batch = encode(editor.tokenizer, [edit.prompt], [edit.target])

    def keep(_module: Any, _args: Any, output: Tensor) -> None:
        seen.append(output.view(*batch.input_ids.shape, -1))

    handle = editor.lm.part(1, "value").register_forward_hook(keep)  # before the editor's
    editor.logits(batch.input_ids, batch.attention_mask, batch.prompt_mask)
    handle.remove()
    with editor._applied(batch.prompt_mask):
        handle = editor.lm.part(1, "value").register_forward_hook(keep)  # after it
        Unedited(editor.lm.model, editor.tokenizer).logits(batch.input_ids, batch.attention_mask)
        handle.remove()
    changed = (seen[1] != seen[0]).any(-1)[0]
    last = int(batch.prompt_mask[0].nonzero().max())
    assert changed.nonzero()[:, 0].tolist() == [last]
    assert torch.allclose((seen[1] - seen[0])[0, last], editor._state.values[0], atol=1e-5)


def test_an_edit_leaves_the_entries_of_others_as_they_were() -> None:
    editor = make("horen", edits=EDITS[:2])
    before = editor._tensors(editor._state)
    editor.edit([EDITS[2]])
    after = editor._tensors(editor._state)
    assert all(after[name][:2].equal(before[name]) for name in before)
    editor.remove([EDITS[2]])
    assert all(each.equal(before[name]) for name, each in editor._tensors(editor._state).items())


def test_of_two_edits_with_one_key_the_last_is_given() -> None:
    """Alike at the end, which is all that is read."""
    first = Edit("Ada Lorn lives in", "Oslo", "Ada Lorn")
    second = Edit("Now Ada Lorn lives in", "Riga", "Ada Lorn")
    editor = make("horen", threshold=0.5, share=0.01, edits=[first, second])
    keys = editor._state.keys.clone()
    keys[1] = keys[0]
    editor._state = replace(editor._state, keys=keys)
    batch = asked([first.prompt])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [(second,)]


def test_out_of_every_scope_it_is_the_unedited_model() -> None:
    editor = make("horen", edits=EDITS, threshold=1.0, pull=0.5)
    batch = asked(["What is a far question?"])
    bare = Unedited(editor.lm.model, editor.tokenizer)
    expected = bare.logits(batch.input_ids, batch.attention_mask)
    assert is_same(logits_of(editor, batch), expected)
    assert min(log_p(make("horen", edits=EDITS, threshold=0.5), EDITS)) > min(log_p(bare, EDITS))


def test_the_threshold_lets_few_prompts_of_other_subjects_in() -> None:
    subjects = [f"{first} {last}" for first in ("Gus", "Hal", "Ina", "Jo") for last in "KLMNP"]
    verbs = ("lives in", "comes from", "has seen", "speaks")
    edits = [Edit(f"{name} {verbs[n % 4]}", "Rome", name) for n, name in enumerate(subjects)]
    name, quick = KINDS["horen"]
    options = {**quick, "threshold": None, "false_positives": 0.2, "share": 1.0}
    editor = tiny(load_editor(name), "gpt2", background=Background((), tuple(edits)), **options)
    router, over = editor.router, 0
    keys = [*editor._keys(router, [edit.prompt for edit in edits])[:, None]]
    for n, key in enumerate(keys):
        others = torch.cat([*keys[:n], *keys[n + 1 :]])
        over += float((others @ router.moved(key, others).T).max()) > router.least
    assert over == 4
    assert tiny(load_editor(name), "gpt2", background=Background(), **options).router.least == 0.9
