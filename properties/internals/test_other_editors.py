"""Laws of `wise.editors.base`, which every editor on it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import wise.editors.saved
from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import (
    BACKGROUND,
    EDITS,
    KINDS,
    LEARNING,
    NEAR,
    TEXTS,
    asked,
    bits,
    log_p,
    logits_of,
    losing,
    make,
    tiny,
)
from properties.internals.tiny_wise import is_same
from wise.editor import Editor, Generates, Persistent, load_editor
from wise.edits import Edit
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import Unedited

pytestmark = pytest.mark.internals

UNRAISED = {
    ("mend", "gemma2"): "behind a soft cap, a gradient may be far below those it is normalised by",
    ("ke", "gemma2"): "behind a soft cap, a gradient may be far below those it is scaled for",
    ("defer", "phi3"): "inputs of W_v are so large that a first step shuts the gate for good",
}
WITH_TENSORS = (
    *LEARNING, "serac", "spalm-lite", "memllm-lite", "memoria-lite", "memoryllm-lite",
)  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)
# Conv1D; rows and tokens flattened; a norm between W_v and the stream.
three_architectures = pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma2"])


@every_kind
def test_every_editor_generates_and_is_persistent(kind: str) -> None:
    editor = make(kind)
    for capability in (Editor, Generates, Persistent):
        assert isinstance(editor, capability)


@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("wise", "wise.editors.routing_inputs.prompt_inputs"),
        ("grace", "wise.editors.routing_inputs.prompt_inputs"),
        ("ft-ewc", "wise.editors.finetune.fisher"),
    ],
)
def test_what_follows_from_the_model_is_computed_once_a_folder(
    name: str, computed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = load_editor(name)

    def edited(**options: Any) -> Editor:
        editor = tiny(factory, background=BACKGROUND, **options)
        editor.edit(EDITS[:1])
        return editor

    alone = edited()
    edited(cache=tmp_path)
    monkeypatch.setattr(computed, None)
    second = edited(cache=tmp_path)
    assert logits_of(second).equal(logits_of(alone))


@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_edit_raises_its_targets_probability(
    kind: str, model_type: str, request: pytest.FixtureRequest
) -> None:
    if (kind, model_type) in UNRAISED:
        reason = UNRAISED[kind, model_type]
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    editor = make(kind, model_type, layer=2, append_eos=False)
    bare = Unedited(editor.lm.model, tiny_tokenizer())
    for edit in (NEAR, EDITS[3]):  # with a subject, and without one
        editor.reset()
        editor.edit([edit])
        assert log_p(editor, [edit])[0] > log_p(bare, [edit])[0] + 0.5


@every_kind
@three_architectures
def test_editing_changes_no_bit_of_the_model_and_reset_forgets_all(
    kind: str, model_type: str
) -> None:
    model = tiny_model(model_type).train()  # flags of both kinds, to be found as they were
    next(model.parameters()).requires_grad_(False)
    before, base = bits(model), logits_of(Unedited(model, tiny_tokenizer()))
    editor = make(kind, model)
    assert logits_of(editor).equal(base)
    editor.edit(EDITS[:2])
    editor.edit(EDITS[2:3])
    edited = logits_of(editor)
    assert logits_of(editor).equal(edited)
    assert not edited.equal(base)
    assert is_same(bits(model), before)
    editor.reset()
    assert logits_of(editor).equal(base)
    assert (editor.edits, editor.n_bytes) == ((), 0)


@every_kind
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(
    kind: str, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    editor = make(kind)
    with mode():
        editor.edit(EDITS[:1])
    editor.edit(EDITS[1:2])
    plain = make(kind, edits=EDITS[:1])
    plain.edit(EDITS[1:2])
    assert logits_of(editor).equal(logits_of(plain))


@every_kind
@three_architectures
def test_two_editors_of_one_model_do_not_know_of_each_other(kind: str, model_type: str) -> None:
    model = tiny_model(model_type)
    one = make(kind, model, edits=EDITS[:1])
    alone = logits_of(one)
    other = make(kind, model, edits=EDITS[1:2])
    assert logits_of(one).equal(alone)
    assert is_same(other._state, make(kind, model_type, edits=EDITS[1:2])._state)


@every_kind
@three_architectures
def test_the_same_seed_gives_the_same_state_and_no_global_draw(kind: str, model_type: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make(kind, model_type, edits=EDITS[:2], seed=3)._state
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert is_same(make(kind, model_type, edits=EDITS[:2], seed=3)._state, one)


@every_kind
@three_architectures
def test_neither_padding_nor_batch_mates_change_a_row(kind: str, model_type: str) -> None:
    editor = make(kind, model_type, edits=EDITS[:3])
    for padding_side in ("left", "right"):
        batch = asked(padding_side=padding_side)
        together = logits_of(editor, batch)
        for row, text in enumerate(TEXTS):
            alone = logits_of(editor, asked([text]))[0]
            own = together[row][batch.attention_mask[row].bool()]
            torch.testing.assert_close(own, alone, atol=1e-3, rtol=1e-3)


@every_kind
@three_architectures
def test_cached_decoding_is_uncached(kind: str, model_type: str) -> None:
    editor, batch = make(kind, model_type, edits=EDITS[:3]), asked()
    arguments = batch.input_ids, batch.attention_mask, 6
    cached = editor.generate(*arguments)
    assert cached.equal(editor.generate(*arguments, use_cache=False))
    assert not cached.equal(Unedited(editor.lm.model, tiny_tokenizer()).generate(*arguments))


@every_kind
@three_architectures
def test_the_last_write_of_a_prompt_wins(kind: str, model_type: str) -> None:
    again = replace(EDITS[0], target="Bonn")
    editor = make(kind, model_type, edits=[*EDITS[:2], again])
    assert editor.edits == (EDITS[1], again)
    if kind in LEARNING:
        new, old = log_p(editor, [again, EDITS[0]])
        assert new > old


@every_kind
@three_architectures
def test_an_error_in_the_last_forward_leaves_all_as_it_was(kind: str, model_type: str) -> None:
    editor, twin = (make(kind, model_type, edits=EDITS[:1]) for _ in range(2))
    with losing(twin) as calls:
        twin.edit([EDITS[1]])
    state, before = editor._state, bits(editor.lm.model)
    with losing(editor, len(calls)), pytest.raises(RuntimeError, match="lost the device"):
        editor.edit([EDITS[1]])
    assert editor._state is state
    assert is_same(bits(editor.lm.model), before)


@every_kind
@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "edits=.. is empty"),
        ([EDITS[0], replace(EDITS[0], target="Bonn")], "the same prompt twice"),
        ([EDITS[0], Edit("word " * 80, "Oslo")], "the model reads at most 64"),
        ([EDITS[0], Edit("Ada lives in", "\u200b" * 70)], "the model reads at most 64"),
    ],
)
def test_a_bad_turn_is_refused_and_changes_nothing(
    kind: str, edits: list[Edit], message: str
) -> None:
    editor = make(kind, edits=EDITS[2:3])
    state = editor._state
    with pytest.raises(ValueError, match=message):
        editor.edit(edits)
    assert editor._state is state


@every_kind
@three_architectures
def test_weights_that_are_not_finite_are_refused(kind: str, model_type: str) -> None:
    editor = make(kind, model_type, edits=EDITS[:1])
    state = editor._state
    with torch.no_grad():
        editor.lm.value_weight(1)[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"nan|finite"):
        editor.edit([EDITS[1]])
    assert editor._state is state


@every_kind
@three_architectures
def test_saving_loading_and_going_on_is_the_stream_without_the_stop(
    kind: str, model_type: str, tmp_path: Path
) -> None:
    whole, fresh = make(kind, model_type, edits=EDITS[:2]), make(kind, model_type)
    whole.save(tmp_path)
    fresh.load(tmp_path)
    assert is_same(fresh._state, whole._state)
    for editor in (whole, fresh):
        editor.edit(EDITS[2:])
    assert is_same(fresh._state, whole._state)
    assert logits_of(fresh).equal(logits_of(whole))


@every_kind
def test_an_empty_state_comes_back_empty(kind: str, tmp_path: Path) -> None:
    make(kind).save(tmp_path)
    editor = make(kind, edits=EDITS[:1])
    editor.load(tmp_path)
    assert is_same(editor._state, make(kind)._state)


@every_kind
def test_the_state_of_another_editor_is_refused_by_what_differs(kind: str, tmp_path: Path) -> None:
    make(kind, edits=EDITS[:1]).save(tmp_path)
    strangers = {
        "seed is 0; this editor has 1": make(kind, seed=1),
        "model has model_type='gpt2'; this editor has 'opt'": make(kind, "opt"),
        "model has sha256=": make(kind, tiny_model("gpt2", seed=1)),
        "editor is": make("ike" if kind == "rome" else "rome"),
    }
    for named, stranger in strangers.items():
        with pytest.raises(ValueError, match=named):
            stranger.load(tmp_path)
        assert stranger.edits == ()


@pytest.mark.parametrize("kind", WITH_TENSORS)
def test_tensors_that_fit_no_state_of_the_model_are_refused(kind: str, tmp_path: Path) -> None:
    editor = make(kind, edits=EDITS[:2])
    state, tensors = editor._state, editor._tensors(editor._state)
    editor.save(tmp_path)
    record = editor._record(state)
    for name, part in tensors.items():
        wrong = [part[:-1], part.double() if part.is_floating_point() else part + 9]
        for replaced in (*wrong, None):
            other = {**tensors, name: replaced}
            kept = {name: part for name, part in other.items() if part is not None}
            wise.editors.saved.write(tmp_path, editor._identity(), record, kept)
            with pytest.raises(ValueError, match="does not hold its state"):
                editor.load(tmp_path)
    assert editor._state is state


@every_kind
def test_an_unknown_preset_or_option_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"preset='best' is none of .*embedded"):
        make(kind, preset="best")
    with pytest.raises(ValueError, match="there is no option 'rate'; there are "):
        make(kind, rate=1)


@pytest.mark.parametrize("kind", LEARNING)
def test_a_layer_outside_the_model_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"layer=3 is outside the model's 0\.\.2"):
        make(kind, layer=3)


@pytest.mark.parametrize("kind", ["rome", "memit", "alphaedit", "ft-m", "locft-bf"])
def test_embeddings_are_corrupted_anew_at_every_step_of_learning(kind: str) -> None:
    steps: list[int] = []

    def corruption(
        embeddings: Tensor, subject: Tensor, edits: Sequence[Edit], step: int = 0
    ) -> Tensor:
        steps.append(step)
        return embeddings + 0.01 * step * subject[..., None]

    make(kind, edits=EDITS[:1], early_stop=0.0, corruption=corruption)
    assert set(steps) >= set(range(6))


def tensors_of(state: object) -> list[Tensor]:
    """Every tensor that a state holds."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, Mapping):
        return [tensor for part in state.values() for tensor in tensors_of(part)]
    if isinstance(state, tuple | list):
        return [tensor for part in state for tensor in tensors_of(part)]
    if is_dataclass(state):
        return tensors_of([getattr(state, field.name) for field in fields(state)])
    return []


@pytest.mark.parametrize("kind", WITH_TENSORS)
def test_n_bytes_counts_every_tensor_that_the_state_holds(kind: str) -> None:
    editor = make(kind, edits=EDITS[:3])
    counted = {tensor.data_ptr() for tensor in editor._tensors(editor._state).values()}
    held = tensors_of(editor._state)
    assert held
    assert all(tensor.data_ptr() in counted for tensor in held)
    assert editor.n_bytes >= sum(tensor.nbytes for tensor in held)
