"""Laws of `wise.editors.key_value.associative`, which every key-value editor keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.models import load_model
from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_editors import (
    BACKGROUND,
    EDITS,
    KEY_VALUE,
    KINDS,
    NEAR,
    asked,
    likeliest,
    log_p,
    logits_of,
    make,
    tiny,
    undecided,
)
from properties.internals.tiny_wise import is_same
from wise.editor import load_editor, with_cache
from wise.editors.key_value import associative, covariance
from wise.editors.key_value.facts import Facts
from wise.editors.key_value.keyvalue import optimize
from wise.edits import Background, Edit
from wise.lm.decoding import Reader, Unedited

pytestmark = pytest.mark.internals

every_editor = pytest.mark.parametrize("kind", KEY_VALUE)


@every_editor
def test_an_objective_to_lower_a_target_lowers_it(kind: str) -> None:
    model = undecided()
    editor = make(kind, model, layer=2, objective="lower", append_eos=False, kl=0.0)
    bare, edit = Unedited(model, tiny_tokenizer()), likeliest(model)
    editor.edit([edit])
    assert log_p(editor, [edit])[0] < log_p(bare, [edit])[0] - 0.1


@every_editor
def test_a_trained_model_gives_the_new_answer_in_free_run_and_stops(kind: str) -> None:
    loaded = load_model("gpt2")
    assert loaded.world is not None
    (edit,) = loaded.world.stream(0, 1, split="tuning").edits
    background = loaded.world.background()
    editor = load_editor(kind)(loaded.model, loaded.tokenizer, background, seed=0, n_texts=200)
    editor.edit([edit])
    (answer,) = Reader(loaded.tokenizer).free(editor, [edit.prompt])
    assert answer.is_exactly(edit.target, loaded.tokenizer)


def test_released_prefixes_are_those_of_each_released_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """ROME's hparams: ten of 5 tokens and ten of 10. MEMIT and AlphaEdit: five words, 10 each."""
    rows: list[list[int]] = []
    decode = type(tiny_tokenizer()).batch_decode

    def seen(tokenizer: Any, ids: Any, **options: Any) -> list[str]:
        rows[:] = ids
        return decode(tokenizer, ids, **options)

    monkeypatch.setattr(type(tiny_tokenizer()), "batch_decode", seen)
    for kind, lengths, share in (
        ("rome", [5] * 10 + [10] * 10, None), ("memit", [10] * 5, 0.5), ("alphaedit", [10] * 5, 0.5)
    ):  # fmt: skip
        facts = tiny(load_editor(kind), preset="released").facts
        assert sorted(map(len, rows)) == lengths
        assert facts.prefix_share == share
        if kind != "rome":
            words = ("The", "Therefore", "Because", "I", "You")
            assert all(map(str.startswith, facts.prefixes, words))


@every_editor
def test_a_prompt_without_room_for_prefixes_is_edited(kind: str) -> None:
    editor, edit = make(kind, n_prefixes=2), EDITS[0]
    while True:
        longer = replace(edit, prompt=f"a {edit.prompt}")
        n_tokens = len(tiny_tokenizer()(f"{longer.prompt} {edit.target}").input_ids) + 1
        if n_tokens > editor.lm.context_length:
            break
        edit = longer
    editor.edit([edit])
    assert editor._state.edits == (edit,)


@every_editor
def test_another_seed_draws_other_prefixes(kind: str) -> None:
    one, other = (make(kind, edits=EDITS[:1], seed=seed)._state for seed in (3, 4))
    assert not is_same(one, other)


@every_editor
def test_editors_that_share_a_folder_compute_what_they_share_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, quick = KINDS[kind]
    factory = with_cache(load_editor(name), tmp_path)
    alone = make(kind, edits=EDITS[:2])
    first = tiny(factory, "gpt2", background=BACKGROUND, **quick)
    first.edit([EDITS[0]])
    monkeypatch.setattr(covariance, "second_moments", None)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    second = tiny(factory, "gpt2", background=BACKGROUND, **quick)
    for edit in EDITS[:2]:
        second.edit([edit])
    assert is_same(second._state, alone._state)


@every_editor
def test_one_pass_over_the_background_serves_editors_at_all_layers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [make(kind, edits=EDITS[:1], layer=layer)._state for layer in range(2)]
    n_passes, second_moments = [], covariance.second_moments

    def counted(*args: Any) -> Any:
        n_passes.append(1)
        return second_moments(*args)

    monkeypatch.setattr(covariance, "second_moments", counted)
    for layer, wanted in enumerate(alone):
        editor = make(kind, layer=layer, cache=tmp_path)
        editor.precompute(range(2))
        editor.edit(EDITS[:1])
        for each, change in wanted.changes.items():
            torch.testing.assert_close(editor._state.changes[each], change, atol=1e-5, rtol=1e-4)
    assert len(n_passes) == 1


def test_nothing_is_precomputed_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariance, "second_moments", None)
    make("rome").precompute([0, 1])


@every_editor
@pytest.mark.parametrize("options", [{}, {"objective": "lower", "fact_token": "last"}])
def test_an_edit_prepared_beside_others_is_the_edit_made_alone(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = undecided()
    editor = make(kind, model, **options)
    untouched = logits_of(editor, asked([NEAR.prompt]))
    editor.prepare(EDITS)
    assert editor.edits == ()
    assert torch.equal(logits_of(editor, asked([NEAR.prompt])), untouched)
    alone = [make(kind, model, edits=[edit], **options)._state for edit in EDITS]
    monkeypatch.setattr(associative, "optimize", None)
    for edit, wanted in zip(EDITS, alone, strict=True):
        editor.edit([edit])
        for layer, change in wanted.changes.items():
            size = float(change.norm())
            assert float((editor._state.changes[layer] - change).norm()) < 1e-4 * size
        editor.reset()


def test_what_is_prepared_is_parted_by_rows_and_leaves_repeated_prompts_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = make("rome", n_prefixes=2, batch_size=6)
    sizes: list[int] = []

    def counted(facts: Facts, layer: int, edits: Sequence[Edit], *more: Any, site: Any) -> Any:
        sizes.append(len(edits))
        return optimize(facts, layer, edits, *more, site=site)

    monkeypatch.setattr(associative, "optimize", counted)
    editor.prepare([*EDITS, replace(EDITS[0], target="soup")])
    assert sizes == [1, 2]
    assert set(editor._prepared) == set(EDITS[1:])


def test_edits_prepared_together_are_about_as_long_from_the_key_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = make("rome", n_prefixes=2, batch_size=300, fact_token="subject-last")
    lengths: list[list[int]] = []

    def seen(facts: Facts, layer: int, edits: Sequence[Edit], *more: Any, site: Any) -> Any:
        lengths.append([facts.asked([edit], forced=True).n_columns for edit in edits])
        return optimize(facts, layer, edits, *more, site=site)

    monkeypatch.setattr(associative, "optimize", seen)
    short = replace(EDITS[0], target="Oslo")
    longer = [replace(short, prompt=f"{short.prompt}{' word' * n}") for n in (4, 0, 5)]
    editor.prepare(longer)
    assert [max(each) <= 1.25 * min(each) for each in lengths] == [True, True]
    assert sorted(map(len, lengths)) == [1, 2]
    assert set(editor._prepared) == set(longer)


@every_editor
def test_what_was_prepared_serves_the_unedited_model_alone(kind: str) -> None:
    editor = make(kind)
    editor.prepare(EDITS)
    for edit in EDITS[:2]:
        editor.edit([edit])
    plain = make(kind, edits=EDITS[:2])
    for layer, change in plain._state.changes.items():
        off = float((editor._state.changes[layer] - change).norm())
        assert off < 1e-4 * float(change.norm())


@every_editor
def test_an_edit_that_a_turn_would_refuse_is_not_prepared(kind: str) -> None:
    editor = make(kind, batch_size=1)
    editor.prepare([EDITS[0], Edit("word " * 80, "Oslo")])
    assert list(editor._prepared) == [EDITS[0]]


def test_an_editor_given_too_little_text_for_its_model_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    factory, options = load_editor("rome"), KINDS["rome"][1]
    for n_times, is_told in ((1, True), (100, False)):
        caplog.clear()
        background = Background(BACKGROUND.texts * n_times)
        tiny(factory, "gpt2", background=background, **options).edit(EDITS[:1])
        assert ("inner units of the model" in caplog.text) == is_told
