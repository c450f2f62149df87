"""Laws of fine-tuning: FT-L, FT-M, FT-EWC, LocFT-BF, the Fisher information and its penalty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import asked, likeliest, log_p, logits_of, tiny, undecided
from properties.internals.tiny_wise import BACKGROUND, EDITS
from wise.editors import finetune
from wise.editors.finetune import (
    fisher,
    make_ft_ewc,
    make_ft_l,
    make_ft_m,
    make_locft_bf,
    penalty,
)  # fmt: skip
from wise.edits import Background, Edit
from wise.lm.architectures import ARCHITECTURES, LanguageModel
from wise.lm.tokens import IGNORED, encode
from wise.localization.problems import SubjectNoise

pytestmark = pytest.mark.internals

METHODS: dict[str, Any] = {
    "ft-l": make_ft_l, "ft-m": make_ft_m, "ft-ewc": make_ft_ewc, "locft-bf": make_locft_bf,
}  # fmt: skip
QUICK: dict[str, Any] = dict(lr=2e-3, n_epochs=8, layer=1, norm_constraint=1.0)
TEXTS = ("Rivers run into the sea.", "Nobody knows why.", "It rains")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_fisher_information_is_that_of_autograd_in_double_precision(model_type: str) -> None:
    found = fisher(LanguageModel(tiny_model(model_type)), tiny_tokenizer(), 1, TEXTS, batch_size=2)
    model = tiny_model(model_type).double()
    lm, expected = LanguageModel(model), torch.zeros(found.shape, dtype=torch.double)
    for text in TEXTS:
        ids = torch.tensor([tiny_tokenizer()(text).input_ids])
        log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        score = log_p.gather(-1, ids[0, 1:, None]).sum()
        weight = lm.part(1, "value").weight
        (gradient,) = torch.autograd.grad(score, weight)
        expected += (gradient.T if gradient.shape != found.shape else gradient).square()
    expected /= len(TEXTS)
    atol = 1e-4 * float(expected.max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=atol)


def test_the_penalty_grows_by_the_fisher_information_times_tau() -> None:
    generator = torch.Generator().manual_seed(0)
    information, tau = (torch.rand(5, 3, generator=generator, dtype=torch.double) for _ in range(2))
    tau.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: penalty(information, t), tau)
    (gradient,) = torch.autograd.grad(penalty(information, tau), tau)
    torch.testing.assert_close(gradient, information * tau)


def test_a_penalty_keeps_tau_small_where_the_background_needs_the_weight() -> None:
    free, held = (tiny(make_ft_ewc, **QUICK, replay=0, ewc=weight) for weight in (0.0, 1e4))
    costs = []
    for editor in (free, held):
        editor.edit(EDITS[:1])
        costs.append(float(penalty(held._fisher, editor._state.tau)))
    assert costs[1] < costs[0] / 2


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_neighbouring_layers_take_the_step_of_their_own_gradients_together(model_type: str) -> None:
    model = tiny_model(model_type)
    editor = tiny(make_ft_m, model, layer=1, n_layers=2, n_epochs=1, lr=1e-3)
    assert editor.layers == (0, 1)
    editor.edit(EDITS[:2])
    both = EDITS[:2]
    batch = encode(tiny_tokenizer(), [e.prompt for e in both], [e.target for e in both])
    weights = [editor.lm.part(layer, "value").weight.requires_grad_() for layer in (0, 1)]
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    ).logits  # fmt: skip
    log_p = logits.log_softmax(-1).gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    labelled = batch.labels != IGNORED
    objective = ((log_p * labelled).sum(-1) / labelled.sum(-1)).mean()
    for tau, gradient in zip(
        editor._state.tau, torch.autograd.grad(objective, weights), strict=True
    ):
        uphill = gradient.T if gradient.shape != tau.shape else gradient
        clear = uphill.abs() > 1e-2 * uphill.abs().max()
        assert (tau.sign() == uphill.sign())[clear].all()


@pytest.mark.parametrize("preset", ["embedded", "released"])
def test_no_entry_leaves_the_bound_of_a_turn(preset: str) -> None:
    editor = tiny(make_ft_l, preset=preset, norm_constraint=1e-3, units="absolute")
    editor.edit(EDITS[:2])
    first = editor._state.tau
    assert first.abs().max() == torch.tensor(1e-3)
    editor.edit(EDITS[2:3])
    step = (editor._state.tau - first).abs().max()
    assert 0 < step <= 1e-3 * (1 + 1e-4)


def test_the_released_loss_stands_at_the_last_prompt_token_and_has_no_end() -> None:
    editor = tiny(make_ft_l, preset="released", layer=1)
    batch = asked([edit.prompt for edit in EDITS[:2]])
    tail = editor._capture(list(EDITS[:2]))
    targets = [tiny_tokenizer()(" " + edit.target).input_ids for edit in EDITS[:2]]
    assert tail.labels.tolist() == [token for target in targets for token in target]
    longest = max(len(target) for target in targets)
    assert tail.rows.bincount().tolist() == [len(target) for target in targets]
    ends = {
        (row, column) for row, column in zip(tail.rows.tolist(), tail.columns.tolist(), strict=True)
    }
    assert len(ends) == len(batch.input_ids)
    assert longest > 1


def test_lowering_a_target_makes_it_less_likely() -> None:
    model = undecided("llama")
    edits = [likeliest(model)]
    low, base, high = (tiny(make_ft_m, model, **QUICK, **more)
                       for more in (dict(objective="lower", early_stop=0.0), {}, {}))  # fmt: skip
    low.edit(edits)
    high.edit(edits)
    (lowered,), (before,), (raised,) = (log_p(editor, edits) for editor in (low, base, high))
    assert lowered < before - 0.1
    assert before < raised


def test_what_is_lowered_is_the_probability_of_whole_targets() -> None:
    editor = tiny(make_ft_m, undecided("llama"), **QUICK, objective="lower")
    tail = editor._capture(list(EDITS[:3]))
    (loss,) = finetune._losses(tail.logits(tail.value), tail, 1, "lower")
    wanted = statistics.mean(math.exp(found) for found in log_p(editor, EDITS[:3]))
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    assert len(tail.labels) > 3  # a target of several tokens is there


def test_a_corruption_sees_the_subjects_alone_and_changes_what_is_learned() -> None:
    edits = [replace(EDITS[0], prompt="Ada Lorn lives in", subject="Ada Lorn"),
             replace(EDITS[1], prompt="The home of Bo is", subject="Bo"), EDITS[2]]  # fmt: skip
    vocabulary = tiny_model("llama").get_input_embeddings().weight.detach()
    seen: list[tuple[str, ...]] = []

    def corruption(
        embeddings: Tensor, subject: Tensor, edits: Sequence[Edit], step: int = 0
    ) -> Tensor:
        ids = torch.cdist(embeddings, vocabulary).argmin(-1)
        rows = zip(ids, subject, strict=True)
        seen.append(tuple(tiny_tokenizer().decode(row[mask]).strip() for row, mask in rows))
        return embeddings + 3.0 * subject[..., None]

    taus = []
    for given in (None, corruption):
        editor = tiny(make_ft_m, **QUICK, corruption=given, n_draws=2)
        editor.edit(edits)
        taus.append(editor._state.tau)
    assert set(seen) == {("Ada Lorn", "Ada Lorn", "Bo", "Bo", "", "")}
    assert not torch.allclose(*taus)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(n_layers=2),
        dict(objective="lower", early_stop=0.0),
        dict(early_stop=1.0, n_epochs=20),
    ],
)
def test_an_edit_tuned_beside_others_is_the_edit_made_alone(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    factory, model = METHODS[method], undecided("llama")
    alone = [tiny(factory, model, **{**QUICK, **options}) for _ in EDITS]
    for editor, edit in zip(alone, EDITS, strict=True):
        editor.edit([edit])
    beside = tiny(factory, model, **{**QUICK, **options})
    untouched = logits_of(beside, asked([EDITS[0].prompt]))
    beside.prepare(EDITS)
    assert beside.edits == ()
    assert torch.equal(logits_of(beside, asked([EDITS[0].prompt])), untouched)
    monkeypatch.setattr(beside, "_learned", None)
    for editor, edit in zip(alone, EDITS, strict=True):
        beside.edit([edit])
        tau, wanted = beside._state.tau, editor._state.tau
        assert float((tau - wanted).norm()) < 1e-3 * float(wanted.norm())
        beside.reset()


def test_noise_is_each_edits_own_where_several_are_tuned_side_by_side() -> None:
    options: dict[str, Any] = dict(QUICK, n_draws=3, corruption=SubjectNoise(0.1))
    alone, beside = (tiny(make_ft_m, undecided("llama"), **options) for _ in range(2))
    beside.prepare(EDITS)
    for edit in EDITS:
        for editor in (alone, beside):
            editor.edit([edit])
        wanted = alone._state.tau
        assert float((beside._state.tau - wanted).norm()) < 1e-3 * float(wanted.norm())
        for editor in (alone, beside):
            editor.reset()


def test_nothing_is_tuned_side_by_side_that_would_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = tiny(make_ft_m, **QUICK)
    monkeypatch.setattr(finetune, "_MOST_NUMBERS", 2 * math.prod(editor._shape) - 1)
    editor.prepare(EDITS)
    assert not editor._prepared


def test_mini_batches_visit_every_edit_in_an_epoch() -> None:
    editor = tiny(make_locft_bf, lr=2e-3, n_epochs=25, batch_size=2, layer=1)
    before = log_p(editor, EDITS)
    editor.edit(EDITS)
    assert all(new > old for new, old in zip(log_p(editor, EDITS), before, strict=True))


def test_earlier_edits_are_learned_again() -> None:
    kept = []
    for replay in (0, 4):
        editor = tiny(make_ft_m, lr=5e-3, n_epochs=15, layer=1, replay=replay)
        for edit in EDITS[:4]:
            editor.edit([edit])
        kept.append(sum(log_p(editor, EDITS[:3])))
    assert kept[1] > kept[0]


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_background_is_enough(method: str) -> None:
    editor = METHODS[method](
        tiny_model("llama"), tiny_tokenizer(), Background(), seed=0, n_epochs=2
    )
    editor.edit(EDITS[:1])
    assert editor._state.tau.abs().max() > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(layer=12), r"layer=12 is outside the model's 0\.\.2"),
        (
            dict(loss="x"),
            "loss='x' is not allowed: it should be 'target' or 'prompt-last'",
        ),
        (
            dict(objective="x"),
            "objective='x' is not allowed: it should be 'raise' or 'lower'",
        ),
        (dict(n_epochs=0), "n_epochs=0 is not allowed"),
        (dict(lr=-1.0), "lr=-1.0 is not allowed: it should be greater than or equal to 0"),
        (dict(preset="x"), "preset='x' is none of released, embedded"),
        (dict(steps=1), "there is no option 'steps'; there are layer"),
    ],
)
def test_a_bad_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ft_m(tiny_model("llama"), tiny_tokenizer(), BACKGROUND, seed=0, **option)


def test_erasing_a_target_spares_its_end() -> None:
    editor, edits = tiny(make_ft_m, **QUICK, objective="lower"), list(EDITS[:1])
    erased = editor._capture(edits).labels.tolist()
    assert erased == tiny(make_ft_m, **QUICK)._capture(edits).labels.tolist()[:-1]


def test_a_loaded_editor_of_several_layers_goes_on_with_the_same_fisher(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(layer=1, n_layers=2, n_epochs=4, lr=2e-3, ewc=100.0, replay=0)
    first, second = (tiny(make_ft_ewc, **options) for _ in range(2))
    first.edit(EDITS[:1])
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    for editor in (first, second):
        editor.edit(EDITS[1:2])
    assert second._state.tau.equal(first._state.tau)
