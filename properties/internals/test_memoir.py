"""Laws of `wise.editors.memoir`: an edit's rows, what it writes there, and who reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fixtures.tiny import tiny_model
from properties.internals.tiny_editors import BACKGROUND, EDITS, KINDS, asked, logits_of, make, tiny
from properties.internals.tiny_wise import is_same
from wise.editor import load_editor
from wise.editors.base import added
from wise.editors.memoir import MEMOIRConfig, Overlap
from wise.editors.router import RoutingInputs
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tokens import IGNORED, encode

pytestmark = pytest.mark.internals


def rows_of(editor: Any, edit: Edit) -> torch.Tensor:
    place = [each.prompt for each in editor.edits].index(edit.prompt)
    return editor._state.rows[place].long()


def seen(background: Background, **options: Any) -> Any:
    """An editor that has seen this background."""
    name, quick = KINDS["memoir"]
    return tiny(load_editor(name), "gpt2", background=background, **{**quick, **options})


def test_an_edit_changes_its_own_rows_and_no_other() -> None:
    editor = make("memoir", edits=EDITS[:2])
    before = editor._state.memory
    editor.edit([EDITS[2]])
    changed = (editor._state.memory != before).any(-1).nonzero()[:, 0]
    assert set(changed.tolist()) == set(rows_of(editor, EDITS[2]).tolist())
    written = {row for edit in EDITS[:3] for row in rows_of(editor, edit).tolist()}
    unwritten = sorted(set(range(len(before))) - written)
    assert unwritten
    assert not editor._state.memory[unwritten].any()


def test_a_step_is_that_of_the_whole_model_on_the_rows_of_an_edit() -> None:
    """By autograd through W_v itself, in one step from an empty memory."""
    lr, edit = 0.5, EDITS[0]
    editor = make("memoir", tiny_model("llama"), n_steps=1, lr=lr, max_norm=1e9, n_prefixes=0)
    lm = editor.lm
    change = torch.zeros_like(lm.value_weight(1)).requires_grad_()
    batch = encode(editor.tokenizer, [edit.prompt], [edit.target], append_eos=True)
    with added(lm, {1: change}):
        logits = lm.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        ).logits
    loss = nn.functional.cross_entropy(logits.mT, batch.labels, ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(loss, change)
    editor.edit([edit])
    expected, rows = torch.zeros_like(gradient), rows_of(editor, edit)
    expected[rows] = -lr * gradient[rows]
    assert torch.allclose(editor._state.memory, expected, atol=1e-6)
    assert expected.any()


def test_a_gradient_is_cut_to_its_norm() -> None:
    editor = make("memoir", n_steps=1, lr=1.0, max_norm=1e-3, edits=EDITS[:1])
    assert float(editor._state.memory.norm()) == pytest.approx(1e-3, rel=1e-4)


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_rows_are_those_of_the_largest_entries_whatever_their_order(seed: int, n_rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(5, 12, generator=generator)
    prompts = RoutingInputs(features[:, None], torch.ones(5, 1, dtype=torch.bool))
    mean, order = torch.zeros(12), torch.randperm(12, generator=generator)
    plain = Overlap(mean, torch.arange(12), n_rows).rows_of(prompts).keys[:, 0]
    mixed = Overlap(mean, order, n_rows).rows_of(prompts).keys[:, 0]
    assert plain.sum(-1).tolist() == mixed.sum(-1).tolist() == [n_rows] * 5
    for row, feature in zip(plain.bool(), features.abs(), strict=True):
        assert n_rows == 12 or feature[row].min() >= feature[~row].max()
    assert mixed[:, order].equal(plain)
    assert (mixed @ mixed.T).equal(plain @ plain.T)


def test_a_prompt_overlaps_wholly_with_its_own_edit() -> None:
    editor = make("memoir", edits=EDITS, threshold=0.5)
    batch = asked([edit.prompt for edit in EDITS])
    activation = editor.routing_activation(batch.input_ids, batch.attention_mask)
    assert activation.tolist() == [1.0] * len(EDITS)
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [(edit,) for edit in EDITS]


def test_out_of_every_scope_it_is_the_unedited_model() -> None:
    editor = make("memoir", edits=EDITS, threshold=1.0)
    batch = asked()
    bare = Unedited(editor.lm.model, editor.tokenizer).logits(batch.input_ids, batch.attention_mask)
    assert is_same(logits_of(editor), bare)
    opened = make("memoir", edits=EDITS, threshold=0.0)
    assert not is_same(logits_of(opened), bare)


def test_an_edit_of_a_known_prompt_writes_the_same_rows() -> None:
    editor = make("memoir", edits=EDITS[:1])
    before = rows_of(editor, EDITS[0])
    editor.edit([Edit(EDITS[0].prompt, "soup", EDITS[0].subject)])
    assert [edit.target for edit in editor.edits] == ["soup"]
    assert rows_of(editor, EDITS[0]).equal(before)


def test_the_threshold_lets_few_prompts_of_other_subjects_in() -> None:
    subjects = [f"{first} {last}" for first in ("Gus", "Hal", "Ina", "Jo") for last in "KLMNP"]
    verbs = ("lives in", "comes from", "has seen", "speaks")
    edits = [Edit(f"{name} {verbs[n % 4]}", "Rome", name) for n, name in enumerate(subjects)]
    background = Background(BACKGROUND.texts, tuple(edits))
    editor = seen(background, threshold=None, false_positives=0.2)
    keys = editor.router.rows_of(editor._inputs_of([e.prompt for e in edits])).keys[:, 0]
    nearest = (keys @ keys.T / editor.router.n_rows).fill_diagonal_(0).amax(0)
    assert float((nearest > editor.router.least).float().mean()) == pytest.approx(0.2, abs=0.05)
    assert seen(Background(), threshold=None).router.least == 0.9


def test_released_options_are_the_codes() -> None:
    config = MEMOIRConfig(threshold=0.4)
    assert (config.lr, config.n_steps, config.early_stop, config.max_norm) == (1.0, 30, 0.02, 1.0)
    assert config.share == pytest.approx(4096 / 14336, abs=1e-3)
