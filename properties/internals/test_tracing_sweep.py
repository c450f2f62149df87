"""Laws of the sweep: all restored runs of a fact at once are the runs one by one."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tracing_reference import Reading, naive_trace
from wise.lm.architectures import ARCHITECTURES, LanguageModel
from wise.localization.corruption import Corruption, gaussian
from wise.localization.known_facts import KnownFact, TracedQuestion
from wise.localization.model_runs import Target, run_rows
from wise.localization.records import Site
from wise.localization.sweep import sweep

pytestmark = pytest.mark.internals

FACT = KnownFact("Is Bo Ra at sea", "Bo Ra", "in")
WINDOWS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
every_site = pytest.mark.parametrize("site", get_args(Site))
every_architecture = pytest.mark.parametrize("model_type", ARCHITECTURES)


def asked(
    model_type: str, fact: KnownFact = FACT
) -> tuple[LanguageModel, TracedQuestion, Corruption, Target]:
    """A tiny model in float64, a question of several target tokens, two corrupted readings.

    Gemma 2 stays in float32: transformers masks with numbers that float64 does not take for
    infinite.
    """
    model = tiny_model(model_type)
    lm = LanguageModel(model if model_type == "gemma2" else model.double())
    question = TracedQuestion.of(tiny_tokenizer(), fact)
    corruption = gaussian(lm, fact, question, sigma=1.0, n_noise=2, seed=0)
    return lm, question, corruption, Target(question.target_ids, 0, 7)


def readings(question: TracedQuestion, corruption: Corruption) -> tuple[Reading, Reading]:
    assert corruption.noise is not None
    n, _, width = corruption.noise.shape
    added = torch.zeros(n, len(question.input_ids), width)
    added[:, slice(*corruption.span)] = corruption.noise
    return Reading(question.input_ids.expand(n, -1)), Reading(corruption.input_ids, added)


def assert_same(one: Tensor, other: Tensor, lm: LanguageModel) -> None:
    """By METRICS. Some norms and rotations are float32 whatever the model is."""
    atol = 5e-5 if lm.model.dtype == torch.float32 else 1e-5
    one, other = torch.broadcast_tensors(one, other)
    torch.testing.assert_close(one[..., 1:], other[..., 1:], rtol=0, atol=atol)
    torch.testing.assert_close(one[..., 0], other[..., 0], rtol=5 * atol, atol=0)


def test_a_window_lies_about_its_layer_and_is_cut_off_at_the_ends() -> None:
    lm = LanguageModel(tiny_model("llama", n_layers=12))
    assert [lm.window(l, 1) for l in (0, 5, 11)] == [(0, 1), (5, 6), (11, 12)]
    assert [lm.window(l, 5) for l in (0, 5, 11)] == [(0, 3), (3, 8), (9, 12)]
    assert [lm.window(l, 10) for l in (0, 5, 11)] == [(0, 5), (0, 10), (6, 12)]


@pytest.mark.parametrize(("padding_side", "noising"), [("left", False), ("right", True)])
@every_site
@every_architecture
def test_the_sweep_is_the_naive_loop(
    model_type: str, site: Site, padding_side: str, noising: bool
) -> None:
    lm, question, corruption, target = asked(model_type)
    runs = [run_rows(lm, rows, site) for rows in (corruption, question.input_ids[None])]
    clean, corrupted = readings(question, corruption)
    pair = (clean, corrupted) if noising else (corrupted, clean)
    base, source = reversed(runs) if noising else runs
    tokens = range(question.n_prompt)
    swept = sweep(base, source, target, tokens=tokens, windows=WINDOWS)
    naive = naive_trace(
        lm, *pair, target_ids=target.ids.tolist(), alternative=7, place=0, tokens=tokens,
        windows=WINDOWS, site=site, n_padding=2, padding_side=padding_side,
    )  # fmt: skip
    assert len(target.ids) > 1
    assert naive[..., 1].max() - naive[..., 1].min() > 1e-3
    assert_same(swept, naive, lm)


@every_site
@every_architecture
def test_how_a_sweep_is_cut_into_calls_does_not_matter(model_type: str, site: Site) -> None:
    lm, question, corruption, target = asked(model_type)
    noised, clean = (run_rows(lm, rows, site) for rows in (corruption, question.input_ids[None]))
    tokens = range(question.n_prompt)
    whole, cut = (
        sweep(noised, clean, target, tokens=tokens, windows=WINDOWS, max_tokens=size)
        for size in (9999, 1)
    )
    assert_same(whole, cut, lm)


@every_site
@every_architecture
def test_restoring_nothing_new_is_the_corrupted_run(model_type: str, site: Site) -> None:
    lm, question, corruption, target = asked(model_type)
    run = run_rows(lm, corruption, site)
    scores = target.scores(lm.head(run.hidden[-1][:, question.places]))
    swept = sweep(run, run, target, tokens=range(question.n_prompt), windows=WINDOWS)
    assert_same(swept, scores, lm)


@every_architecture
def test_restoring_all_that_the_answer_reads_is_the_clean_run(model_type: str) -> None:
    lm, question, corruption, _ = asked(model_type, KnownFact("Is Bo Ra at sea", "Bo Ra", "a"))
    target = Target(question.target_ids[:1], 0, 7)
    clean, corrupted = (run_rows(lm, x, "hidden") for x in (question.input_ids[None], corruption))
    last, n_layers = len(question.input_ids) - 1, lm.n_layers
    scores = target.scores(lm.head(clean.hidden[-1][:, [last]]))
    (restored,) = sweep(corrupted, clean, target, tokens=[last], windows=[(n_layers - 1, n_layers)])
    assert_same(restored, scores, lm)


@every_site
@every_architecture
def test_restoring_before_the_subject_changes_nothing(model_type: str, site: Site) -> None:
    lm, question, corruption, target = asked(model_type)
    corrupted, clean = (run_rows(lm, x, site) for x in (corruption, question.input_ids[None]))
    scores = target.scores(lm.head(corrupted.hidden[-1][:, question.places]))
    before = range(question.span[0])
    swept = sweep(corrupted, clean, target, tokens=before, windows=WINDOWS)
    assert len(before) > 0
    assert_same(swept, scores, lm)


def test_a_sweep_calls_each_block_at_most_thrice_for_all_sites_and_leaves_no_hook() -> None:
    lm, question, corruption, target = asked("llama")
    corrupted, clean = (run_rows(lm, x, "mlp") for x in (corruption, question.input_ids[None]))
    called: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: called.append(layer))
        for layer, block in enumerate(lm.blocks)
    ]
    tokens = range(*question.span)
    sweep(corrupted, clean, target, tokens=tokens, windows=WINDOWS, max_tokens=9999)
    for handle in handles:
        handle.remove()
    # Where windows begin; runs under way that are restored in the block, and that are not.
    assert called == [0, 1, 1, 1, 2, 2, 2]
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in lm.model.modules()]
    assert not any(after or before for after, before in hooks)
