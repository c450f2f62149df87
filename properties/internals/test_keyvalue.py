"""Laws of what ROME, MEMIT and AlphaEdit share: places, keys, values and C."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import (
    BACKGROUND,
    EDITS,
    facts_of,
)
from wise.editors.kept import Kept
from wise.editors.key_value import covariance
from wise.editors.key_value.covariance import Covariance, second_moments
from wise.editors.key_value.keyvalue import KeyValueConfig, optimize, read
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.lm.digest import model_digest
from wise.lm.hooks import frozen
from wise.lm.tail import value_inputs
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma2"])
def test_a_key_is_the_mean_over_prefixes_at_the_subjects_last_token(model_type: str) -> None:
    facts = facts_of(model_type, prefixes=("Rivers run", "Why"))
    (found,) = read(facts, [1], EDITS)
    tokenizer = facts.tokenizer
    for edit, key in zip(EDITS, found.key, strict=True):
        alone = []
        for start in ("", "Rivers run. ", "Why. "):
            text = start + edit.prompt
            end = text.rfind(edit.subject) + len(edit.subject) if edit.subject else len(text)
            n = len(tokenizer(text[:end]).input_ids)
            batch = encode(tokenizer, [text])
            alone.append(value_inputs(facts.lm, 1, batch)[0, n - 1])
        torch.testing.assert_close(key.float(), torch.stack(alone).mean(0), atol=1e-5, rtol=1e-4)


def test_prefixes_of_a_share_weigh_as_much_in_a_key_however_many_they_are() -> None:
    prefixes = ("Rivers run", "Why")
    found = [
        read(facts_of("gpt2", prefixes=some, prefix_share=share), [1], EDITS)[0].key
        for some, share in ((prefixes, 0.5), (prefixes[:1], 1.0), (prefixes[1:], 1.0), ((), 0.5))
    ]
    wanted = (found[1] + found[2]) / 4 + found[3] / 2
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("site", ["value", "stream"])
def test_edits_of_a_turn_are_optimised_each_by_itself(site: str) -> None:
    facts, config = facts_of("llama"), KeyValueConfig(n_steps=4)
    with frozen(facts.lm.model):
        together = optimize(facts, 1, EDITS, config, site=site)
        one_by_one = optimize(facts, 1, EDITS, replace(config, batch_size=1), site=site)
    torch.testing.assert_close(together, one_by_one, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("site", ["value", "stream"])
def test_the_change_of_a_value_is_clamped(site: str) -> None:
    facts, config = facts_of("llama"), KeyValueConfig(n_steps=20, lr=1.0, clamp=0.25)
    with frozen(facts.lm.model):
        found = optimize(facts, 1, EDITS, config, site=site)
        (stood,) = read(facts, [1], EDITS)
    start = stood.value if site == "value" else stood.stream
    ratio = (found - start).norm(dim=-1) / start.norm(dim=-1)
    assert ratio.max() <= 0.25 + 1e-4
    assert ratio.max() > 0.2


def test_a_corruption_meets_the_subjects_tokens_alone_wherever_they_stand() -> None:
    seen = []

    def erase(embeddings: Tensor, subject: Tensor, edits: Sequence[Edit], _step: int) -> Tensor:
        seen.append((subject, tuple(edits)))
        return embeddings.masked_fill(subject[..., None], 0.0)

    facts = facts_of("llama", prefixes=("Why",), corruption=erase)
    rows = facts.asked(EDITS)
    (found,) = read(facts, [1], EDITS)
    (clean,) = read(facts_of("llama", prefixes=("Why",)), [1], EDITS)
    assert not found.key[:3].isclose(clean.key[:3]).all()
    subject, edits = seen[0]
    assert edits == EDITS * 2
    for row, edit in enumerate(edits):
        ids = rows.batch.input_ids[row][subject[row]]
        assert facts.tokenizer.decode(ids).strip() == edit.subject


def test_the_second_moment_is_the_mean_over_all_tokens() -> None:
    facts, texts = facts_of("gpt2"), (*BACKGROUND.texts, "word " * 100)
    total, n_tokens = torch.zeros(48, 48, dtype=torch.float64), 0
    for text in texts:
        ids = facts.tokenizer(text).input_ids[:64]
        batch = encode(facts.tokenizer, [text])
        cut = replace(batch, input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)))
        k = value_inputs(facts.lm, 1, cut)[0].double()
        total, n_tokens = total + k.T @ k, n_tokens + len(ids)
    C = second_moments(facts.lm, facts.tokenizer, [1], texts)[1]
    torch.testing.assert_close(C, total / n_tokens, atol=1e-6, rtol=1e-5)


def test_a_kept_second_moment_is_read_only_for_the_same_model_texts_layer_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(layer: int, background: Background = BACKGROUND, seed: int = 0) -> Tensor:
        lm = LanguageModel(tiny_model("gpt2", seed=seed))
        kept = Kept(lm, tiny_tokenizer(), tmp_path)
        return Covariance(kept, [layer], background, 0, 100, 0.0).at(layer)

    first = at(1)
    assert len(list(tmp_path.iterdir())) == 1
    assert at(1).equal(first)
    for other in (at(0), at(1, Background(("Why not?",))), at(1, seed=1)):
        assert not other.equal(first)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(inspect, "getsource", lambda module: f"# mended: {module.__name__}")
    assert at(1).equal(first)
    assert len(list(tmp_path.iterdir())) == 5


def test_what_follows_from_no_text_is_kept_too(tmp_path: Path) -> None:
    kept = Kept(LanguageModel(tiny_model("gpt2")), tiny_tokenizer(), tmp_path)
    first = kept.get("a number", (), lambda: {"n": torch.tensor(1.0)})
    assert kept.get("a number", (), lambda: {"n": torch.tensor(2.0)}) == first


@pytest.mark.parametrize("n_kept", [0, 1])
def test_one_pass_over_the_background_gives_c_at_every_layer(n_kept: int, tmp_path: Path) -> None:
    lm, layers = LanguageModel(tiny_model("gpt2", n_layers=4)), [1, 2, 3]
    kept = Kept(lm, tiny_tokenizer(), tmp_path)
    for layer in layers[:n_kept]:
        Covariance(kept, [layer], BACKGROUND, 0, 100, 0.0).at(layer)
    covariance, n_forwards = Covariance(kept, layers, BACKGROUND, 0, 100, 0.0), 0

    def count(*_: object) -> None:
        nonlocal n_forwards
        n_forwards += 1

    handle = lm.blocks[0].register_forward_hook(count)
    together = [covariance.at(layer) for layer in layers]
    n_together, n_forwards = n_forwards, 0
    for layer, C in zip(layers, together, strict=True):
        alone = second_moments(lm, tiny_tokenizer(), [layer], BACKGROUND.texts)[layer]
        torch.testing.assert_close(C, alone, atol=0.0, rtol=1e-5)
    handle.remove()
    assert n_forwards == len(layers) * n_together


def test_c_asked_for_again_takes_no_other_layer_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[int]] = []

    def seen(lm: LanguageModel, tokenizer: Any, layers: list[int], texts: Any) -> Any:
        taken.append(layers)
        return second_moments(lm, tokenizer, layers, texts)

    monkeypatch.setattr(covariance, "second_moments", seen)
    kept = Kept(LanguageModel(tiny_model("gpt2", n_layers=4)), tiny_tokenizer())
    asked = Covariance(kept, [1, 2, 3], BACKGROUND, 0, 100, 0.0)
    found = {layer: asked.at(layer) for layer in (1, 2, 3)}
    for layer in (2, 1):
        torch.testing.assert_close(asked.at(layer), found[layer])
    assert taken == [[1, 2, 3], [2], [1]]


def test_without_a_background_c_is_taken_over_the_models_own_text() -> None:
    lm = LanguageModel(tiny_model("gpt2"))
    kept = Kept(lm, tiny_tokenizer())
    C = [Covariance(kept, [1], Background(), 3, 100, 0.0).at(1) for _ in range(2)]
    assert C[0].equal(C[1])
    assert C[0].trace() > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(lr=0), "lr=0 is not allowed: it should be greater than 0"),
        (dict(n_steps=0), "n_steps=0 is not allowed"),
        (dict(kl=-1), "kl=-1 is not allowed"),
        (dict(objective="forget"), "it should be 'raise' or 'lower'"),
        (dict(fact_token="first"), "it should be 'subject-last' or 'last'"),
        (dict(depth=2), "depth=2 is not allowed: it should be less than or equal to 1"),
        (dict(prefix_lengths=[]), "prefix_lengths="),
        (dict(prefix_lengths=[5, 0]), "prefix_lengths="),
        (dict(prefix_starts="The"), "prefix_starts='The' is not allowed"),
        (dict(kept_share=0.0), "kept_share=0.0 is not allowed: it should be greater than 0"),
        (dict(restraint=1.0), "restraint=1.0 is not allowed"),
    ],
)
def test_a_bad_option_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyValueConfig(**option)


def test_models_that_differ_in_one_bit_or_setting_have_other_digests() -> None:
    models = [tiny_model("mistral") for _ in range(4)]
    digests = [model_digest(LanguageModel(model)) for model in models[:2]]
    assert digests[0] == digests[1]
    with torch.no_grad():
        LanguageModel(models[1]).value_weight(0)[-1, -1] += 1e-3
    models[2].config.sliding_window = 7
    others = [model_digest(LanguageModel(model)) for model in (*models[1:3], models[3].double())]
    assert len({digests[0], *others}) == 4
