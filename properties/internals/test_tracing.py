"""Laws of causal tracing: what its numbers mean, and that a trace goes on where it ended."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from fixtures.models import LoadedModel, load_model
from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_traces import FACTS, traced
from properties.internals.tracing_reference import Reading, naive_trace
from wise.lm.architectures import ARCHITECTURES, LanguageModel
from wise.lm.decoding import Reader, Unedited
from wise.localization.attribution import rank_correlations
from wise.localization.corruption import embedding_deviation, gaussian, replacement
from wise.localization.known_facts import KnownFact, TracedQuestion, fact_of
from wise.localization.records import Trace
from wise.localization.tracing import causal_trace

pytestmark = pytest.mark.internals


@cache
def loaded(name: str) -> LoadedModel:
    return load_model(name)


def known_facts(name: str, n: int) -> list[KnownFact]:
    world = loaded(name).world
    assert world is not None
    return [fact_of(edit) for edit in world.stream(0, n, split="tuning").edits]


def naive_effects(
    lm: LanguageModel, question: TracedQuestion, fact: KnownFact, trace: Trace
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean effects on the probability and their standard errors, one forward per site."""
    settings = trace.settings
    corruption = gaussian(
        lm, fact, question, sigma=settings.sigma, n_noise=settings.n_noise, seed=settings.seed
    )
    assert corruption.noise is not None
    added = torch.zeros(*corruption.input_ids.shape, corruption.noise.shape[-1])
    added[:, slice(*question.span)] = corruption.noise
    corrupted, clean = Reading(corruption.input_ids, added), Reading(question.input_ids[None])
    common = dict(target_ids=question.target_ids.tolist(), alternative=0, place=0, site="mlp")
    windows = [lm.window(l, settings.window) for l in settings.layers]
    restored = naive_trace(
        lm, corrupted, clean, tokens=range(question.n_prompt), windows=windows, **common
    )
    unrestored = naive_trace(lm, corrupted, corrupted, tokens=[0], windows=[(0, 1)], **common)
    effect = (restored - unrestored)[..., 0].double()  # W K N
    return effect.mean(-1), effect.std(-1) / settings.n_noise**0.5


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "mistral"])
def test_a_trained_models_effects_are_those_of_the_naive_loop(family: str) -> None:
    model, tokenizer = loaded(family).model, loaded(family).tokenizer
    [fact] = known_facts(family, 1)
    trace = causal_trace(model, tokenizer, [fact], n_noise=4)
    lm, question = LanguageModel(model), TracedQuestion.of(tokenizer, fact)
    mean, error = naive_effects(lm, question, fact, trace)
    [found] = trace.facts
    assert found.standard_error is not None
    assert mean.max() > 0.2
    torch.testing.assert_close(torch.tensor(found.effects("probability")).double(), mean,
                               rtol=0, atol=1e-6)  # fmt: skip
    torch.testing.assert_close(
        torch.tensor(found.standard_error["probability"]).double(), error, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("method", ["exact", "attribution"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_without_noise_every_run_is_the_clean_run(method: str, direction: str) -> None:
    for fact in traced(sigma=0.0, method=method, direction=direction).facts:
        for metric in ("probability", "log-probability", "logit-difference"):
            assert fact.total(metric) == pytest.approx(0.0, abs=1e-4)
            assert max(abs(x) for row in fact.effects(metric) for x in row) < 1e-4


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_changing_all_that_the_answer_reads_is_the_total_effect(direction: str) -> None:
    fact = KnownFact("Is B at sea", "B", "s", id="one token")
    [trace] = traced(facts=[fact], site="hidden", direction=direction).facts
    for metric in ("probability", "log-probability", "logit-difference"):
        assert trace.total(metric) != 0.0
        assert trace.effects(metric)[-1][-1] == pytest.approx(
            trace.total(metric), rel=1e-3, abs=0.0
        )


def test_effects_before_the_subject_are_zero_and_the_rest_is_not() -> None:
    fact = traced().facts[1]
    begin, _ = fact.span
    rows = fact.effects("log-probability")
    assert begin > 0
    assert all(value == 0.0 for row in rows for value in row[:begin])
    assert all(len(row) == len(fact.tokens) for row in rows)
    assert all(value != 0.0 for value in rows[0][begin:])


def test_the_clean_log_probability_is_that_of_the_whole_target_teacher_forced() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    prompts, targets = [f.prompt for f in FACTS], [f.target for f in FACTS]
    answers = Reader(tokenizer).forced(Unedited(model, tokenizer), prompts, targets)
    for fact, answer in zip(traced("gpt2").facts, answers, strict=True):
        assert len(answer.target_ids) > 1
        assert fact.clean is not None
        assert fact.clean["log-probability"] == pytest.approx(answer.log_probability, abs=1e-4)


def test_noise_is_a_facts_own_whatever_it_is_traced_with() -> None:
    together = {fact.fact: fact for fact in traced().facts}
    for fact in FACTS:
        [alone] = traced(facts=[fact]).facts
        assert alone == together[fact.id]


def test_another_seed_draws_other_noise_and_the_same_seed_the_same() -> None:
    one, again, other = traced(), traced(), traced(seed=1)
    assert one == again
    assert all(a.corrupted != b.corrupted for a, b in zip(one.facts, other.facts, strict=True))


def test_neither_the_padding_side_of_the_tokenizer_nor_the_global_seed_matters() -> None:
    state = torch.get_rng_state()
    right = tiny_tokenizer()
    before, right.padding_side = right.padding_side, "right"
    try:
        one = traced()
        right.padding_side = "left"
        assert traced() == one
    finally:
        right.padding_side = before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["exact", "attribution"])
def test_the_model_is_left_as_it_was(method: str) -> None:
    model = tiny_model("opt").train()
    for number, weight in enumerate(model.parameters()):
        weight.requires_grad_(number % 2 == 0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    causal_trace(model, tiny_tokenizer(), FACTS, sigma=1.0, n_noise=2, method=method)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(module.training for module in model.modules())
    flags = [weight.requires_grad for weight in model.parameters()]
    assert flags == [number % 2 == 0 for number in range(len(flags))]
    assert all(weight.grad is None for weight in model.parameters())
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert not any(after or before for after, before in hooks)


# A step must drown the rounding of norms in float32 (all of Gemma 2 is), but not curve.
STEPS = {"gemma2": 1e-2, "gemma3_text": 1e-2, "phi3": 1e-4, "gpt_neox": 1e-6}


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["hidden", "mlp", "attention"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_attribution_is_exact_to_first_order(model_type: str, site: str, direction: str) -> None:
    model = tiny_model(model_type)
    sigma = STEPS.get(model_type, 1e-3)
    model = model if model_type == "gemma2" else model.double()
    options: dict[str, Any] = dict(site=site, direction=direction, window=1, n_noise=2, sigma=sigma)
    exact, fast = (
        causal_trace(model, tiny_tokenizer(), FACTS[1:2], method=method, **options).facts[0]
        for method in ("exact", "attribution")
    )
    for metric in ("probability", "log-probability", "logit-difference"):
        one, other = (
            torch.tensor(fact.effects(metric), dtype=torch.float64) for fact in (exact, fast)
        )
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=0, atol=0.05 * float(one.abs().max()))


def test_attribution_ranks_a_trained_models_sites_much_as_exact_tracing_does() -> None:
    model, tokenizer, facts = loaded("gpt2").model, loaded("gpt2").tokenizer, known_facts("gpt2", 8)
    exact, fast = (
        causal_trace(model, tokenizer, facts, window=1, n_noise=4, method=method)
        for method in ("exact", "attribution")
    )
    found = list(rank_correlations(exact, fast, "log-probability").values())
    assert len(found) == 8
    assert sum(found) / 8 > 0.7


def test_the_logit_difference_is_against_the_alternative_where_the_two_part() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    fact = KnownFact("Bo Ra lives at", "Bo Ra", "sea", alternative="seen")
    question = TracedQuestion.of(tokenizer, fact)
    other = TracedQuestion.of(tokenizer, replace(fact, target="seen"))
    pairs = zip(question.target_ids.tolist(), other.target_ids.tolist(), strict=False)
    place = next(index for index, (a, b) in enumerate(pairs) if a != b)
    assert place > 0
    [trace] = traced(facts=[fact]).facts
    with torch.no_grad():
        logits = model(question.input_ids[None]).logits[0, question.n_prompt - 1 + place]
    expected = logits[question.target_ids[place]] - logits[other.target_ids[place]]
    assert trace.clean is not None
    assert trace.clean["logit-difference"] == pytest.approx(float(expected), abs=1e-4)


def test_a_replaced_subject_changes_its_own_tokens_alone() -> None:
    tokenizer = tiny_tokenizer()
    question = TracedQuestion.of(tokenizer, FACTS[0])
    corruption = replacement(tokenizer, FACTS[0], question, others=FACTS, n_noise=5, seed=0)
    changed = corruption.input_ids != question.input_ids
    begin, end = question.span
    assert corruption.noise is None
    assert len(corruption.input_ids) == 1  # only Bo Re is as long
    assert changed[:, begin:end].any()
    assert not changed[:, :begin].any()
    assert not changed[:, end:].any()


def test_a_fact_that_cannot_be_traced_is_in_the_trace_with_the_reason() -> None:
    long = KnownFact("Bo Ra " * 40 + "lives at", "Bo Ra", "sea", id="long")
    same = KnownFact("Bo Ra lives at", "Bo Ra", "sea", alternative="sea side", id="same")
    one, two, three = traced(facts=[FACTS[0], long, same]).facts
    assert not one.excluded
    assert "the model reads at most 64" in two.excluded
    assert "differ at no token" in three.excluded
    alone = traced(facts=[FACTS[1]], corruption="replacement").facts[0]
    assert "none of 0 other subjects has as many" in alone.excluded
    with pytest.raises(ValueError, match="fact 'two' was not traced"):
        alone.effects("probability")


def test_sigma_is_a_multiple_of_the_deviation_of_the_embeddings_that_get_the_noise() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    trace = causal_trace(model, tokenizer, FACTS, noise=2.0, n_noise=2)
    ids = [tokenizer(fact.prompt).input_ids[slice(*t.span)]
           for fact, t in zip(FACTS, trace.facts, strict=True)]  # fmt: skip
    rows = model.get_input_embeddings().weight.detach()[[token for row in ids for token in row]]
    assert trace.settings.sigma == pytest.approx(2.0 * float(rows.std()), rel=1e-6)
    deviation = embedding_deviation(LanguageModel(model), tokenizer, FACTS)
    assert deviation == pytest.approx(float(rows.std()), rel=1e-6)


def test_attribution_has_no_window_of_hidden_states() -> None:
    options: dict[str, Any] = dict(method="attribution", site="hidden", window=3)
    with pytest.raises(ValueError, match="window=3 must be 1 for attribution at site='hidden'"):
        causal_trace(tiny_model("gpt2"), tiny_tokenizer(), FACTS[:1], **options)
