"""Causal tracing on the model under test: laws that hold whatever the model has learned."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fixtures.models import LoadedModel
from properties.internals.tracing_reference import Reading, naive_trace
from properties.session import Session
from wise.lm.architectures import LanguageModel
from wise.lm.hooks import frozen
from wise.localization.corruption import Corruption, embedding_deviation, gaussian
from wise.localization.known_facts import KnownFact, TracedQuestion, fact_of, known
from wise.localization.model_runs import ModelRun, Target, run_rows
from wise.localization.sweep import sweep
from wise.localization.tracing import causal_trace

pytestmark = pytest.mark.localization

_N_FACTS, _N_NOISE, _DEVIATIONS = 3, 4, 3.0


@dataclass(frozen=True)
class Known:
    """The model under test, and facts that it knows."""

    loaded: LoadedModel
    facts: tuple[KnownFact, ...]


@pytest.fixture(scope="module")
def model_knows(session: Session) -> Iterator[Known]:
    """No fact's subject is at the very beginning of its prompt; the model is in float32."""
    stream = session.scene(0).stream
    loaded = session.loaded
    if loaded.model.dtype in (torch.bfloat16, torch.float16):
        loaded = replace(loaded, model=copy.deepcopy(loaded.model).float())
    edits = [edit for edit in stream.edits if edit.subject and edit.ground_truth]
    asked = [
        replace(fact_of(edit), prompt=f"It is so: {edit.prompt}") for edit in edits[: 10 * _N_FACTS]
    ]
    facts = known(loaded.model, loaded.tokenizer, asked, most=_N_FACTS)
    if not facts:
        pytest.skip(f"the model knows none of the stream's first {len(asked)} facts")
    with frozen(loaded.model):
        yield Known(loaded, tuple(facts))


@dataclass(frozen=True)
class AskedFact:
    """A fact in tokens, with corrupted readings of it."""

    lm: LanguageModel
    question: TracedQuestion
    corruption: Corruption
    target: Target

    @classmethod
    def of(cls, have: Known, fact: KnownFact) -> AskedFact:
        lm, tokenizer = LanguageModel(have.loaded.model), have.loaded.tokenizer
        question = TracedQuestion.of(tokenizer, fact)
        sigma = _DEVIATIONS * embedding_deviation(lm, tokenizer, have.facts)
        corruption = gaussian(lm, fact, question, sigma=sigma, n_noise=_N_NOISE, seed=0)
        return cls(lm, question, corruption, Target(question.target_ids, 0, 0))

    def clean(self) -> ModelRun:
        return run_rows(self.lm, self.question.input_ids[None], "mlp")

    def corrupted(self) -> ModelRun:
        return run_rows(self.lm, self.corruption, "mlp")

    def scores(self, run: ModelRun) -> Tensor:
        places = self.question.places.to(self.lm.device)
        return self.target.scores(self.lm.head(run.hidden[-1][:, places]))

    def windows(self, width: int) -> list[tuple[int, int]]:
        return [self.lm.window(l, width) for l in range(self.lm.n_layers)]


def close(one: Tensor, other: Tensor) -> None:
    """Probabilities to 1e-5, in float32 or better."""
    torch.testing.assert_close(*torch.broadcast_tensors(one[..., 0], other[..., 0]),
                               rtol=0, atol=1e-5)  # fmt: skip


def test_restoring_what_is_there_already_is_the_corrupted_run(model_knows: Known) -> None:
    for fact in model_knows.facts:
        asked = AskedFact.of(model_knows, fact)
        corrupted = asked.corrupted()
        tokens = range(asked.question.n_prompt)
        restored = sweep(
            corrupted, corrupted, asked.target, tokens=tokens, windows=asked.windows(5)
        )
        close(restored, asked.scores(corrupted))


def test_restoring_all_that_the_answer_reads_is_the_clean_run(model_knows: Known) -> None:
    """The last block's output at the prompt's last token decides an answer of one token."""
    tokenizer = model_knows.loaded.tokenizer
    for fact in model_knows.facts:
        first = str(tokenizer.decode(TracedQuestion.of(tokenizer, fact).target_ids[:1])).strip()
        if not first:
            continue
        one = replace(fact, target=first, alternative="")
        if len(TracedQuestion.of(tokenizer, one).target_ids) > 1:
            continue
        trace = causal_trace(model_knows.loaded.model, tokenizer, [one], site="hidden", window=1,
                             n_noise=_N_NOISE, noise=_DEVIATIONS)  # fmt: skip
        [found] = trace.traced
        assert found.effects("probability")[-1][-1] == pytest.approx(found.total(), abs=1e-5)
        return
    pytest.skip("no fact's first token can be an answer by itself")


def test_effects_before_the_subject_are_zero(model_knows: Known) -> None:
    model, tokenizer = model_knows.loaded.model, model_knows.loaded.tokenizer
    for fact in causal_trace(model, tokenizer, model_knows.facts, n_noise=_N_NOISE).traced:
        begin, _ = fact.span
        assert begin > 0
        assert all(value == 0.0 for row in fact.effects("probability") for value in row[:begin])


def test_and_the_naive_loop_finds_them_zero_too(model_knows: Known) -> None:
    asked = AskedFact.of(model_knows, model_knows.facts[0])
    found = naive(asked, tokens=range(asked.question.span[0]), width=5)
    close(found, asked.scores(asked.corrupted()))


def test_without_noise_every_run_is_the_clean_run(model_knows: Known) -> None:
    model, tokenizer = model_knows.loaded.model, model_knows.loaded.tokenizer
    for fact in causal_trace(model, tokenizer, model_knows.facts, noise=0.0, n_noise=1).traced:
        assert fact.total() == pytest.approx(0.0, abs=1e-5)
        assert max(abs(x) for row in fact.effects("probability") for x in row) < 1e-5


@pytest.mark.parametrize("width", [1, 5])
def test_the_exact_sweep_is_the_naive_loop(model_knows: Known, width: int) -> None:
    asked = AskedFact.of(model_knows, model_knows.facts[0])
    tokens = range(asked.question.n_prompt)
    swept = sweep(
        asked.corrupted(), asked.clean(), asked.target, tokens=tokens, windows=asked.windows(width)
    )
    close(swept, naive(asked, tokens=tokens, width=width))


def naive(asked: AskedFact, *, tokens: range, width: int) -> Tensor:
    """One forward of the whole model for each restored window and token."""
    corruption, question = asked.corruption, asked.question
    assert corruption.noise is not None
    added = torch.zeros(*corruption.input_ids.shape, corruption.noise.shape[-1])
    added[:, slice(*question.span)] = corruption.noise
    device = asked.lm.device
    corrupted = Reading(corruption.input_ids.to(device), added.to(device))
    return naive_trace(
        asked.lm, corrupted, Reading(question.input_ids[None].to(device)), tokens=tokens,
        target_ids=question.target_ids.tolist(), alternative=0, place=0, site="mlp",
        windows=asked.windows(width),
    )  # fmt: skip


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_what_can_be_in_one_layer_alone_is_found_there(model_knows: Known, depth: float) -> None:
    """Where every other W_v is zero, only one layer's MLP can know the fact."""
    model = copy.deepcopy(model_knows.loaded.model)
    lm = LanguageModel(model)
    only = round(depth * (lm.n_layers - 1))
    for layer in range(lm.n_layers):
        lm.value_weight(layer).mul_(layer == only)
    trace = causal_trace(
        model, model_knows.loaded.tokenizer, model_knows.facts, window=1, n_noise=_N_NOISE,
        noise=_DEVIATIONS,
    )  # fmt: skip
    effects = torch.tensor(
        [[max(map(abs, row)) for row in fact.effects("log-probability")] for fact in trace.traced]
    )  # facts L
    assert effects[:, only].max() > 0.1
    effects[:, only] = 0.0
    assert effects.max() < 1e-4
