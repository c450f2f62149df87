"""The effects of one fact's sites: exact by the sweep, or to first order by attribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wise.lm.architectures import LanguageModel
from wise.localization.attribution import attribute, differentiable
from wise.localization.corruption import Corruption
from wise.localization.known_facts import TracedQuestion
from wise.localization.model_runs import ModelRun, Target, run_rows
from wise.localization.records import TraceSettings
from wise.localization.sweep import sweep

__all__ = ["Effects", "measure"]


@dataclass(frozen=True)
class Effects:
    """By METRICS, the scores of the clean and corrupted runs, and the effect of each site."""

    clean: Float[Tensor, "1 3"]
    corrupted: Float[Tensor, "N 3"]
    effect: Float[Tensor, "W K N 3"]  # K tokens, from the subject's first to the prompt's last


@torch.no_grad()
def measure(
    lm: LanguageModel,
    question: TracedQuestion,
    corruption: Corruption,
    settings: TraceSettings,
    *,
    alternative: tuple[int, int] | None = None,
) -> Effects:
    """The effects of a question's sites, by the settings.

    The logit difference is against the token of `alternative` at a place of the target, or else
    against the likeliest other first token of the corrupted runs.
    """
    denoising, exact = settings.direction == "denoising", settings.method == "exact"
    if exact:
        run = run_rows(lm, corruption.after(question.input_ids), settings.site)
        clean, corrupted = run[:1], run[1:]
    else:  # the base alone needs gradients
        runs = (run_rows, differentiable)
        run_clean, run_corrupted = runs if denoising else reversed(runs)
        clean = run_clean(lm, question.input_ids[None], settings.site)
        corrupted = run_corrupted(lm, corruption, settings.site, behind=clean)
    target = _target(corrupted, question, alternative)
    before, after = (
        target.scores(lm.head(run.hidden[-1][:, question.places.to(lm.device)])).double()
        for run in (clean, corrupted)
    )
    base, source = (corrupted, clean) if denoising else (clean, corrupted)
    tokens = range(question.span[0], question.n_prompt)
    windows = [lm.window(l, settings.window) for l in settings.layers]
    if exact:
        swept = sweep(base, source, target, tokens=tokens, windows=windows)
        change = swept.double() - (after if denoising else before)
    else:
        change = attribute(
            base, source, question, target, tokens=tokens, windows=windows,
            logit_difference="logit-difference" in settings.metrics,
        ).double()  # fmt: skip
    return Effects(before, after, change if denoising else -change)


def _target(run: ModelRun, question: TracedQuestion, alternative: tuple[int, int] | None) -> Target:
    if alternative is not None:
        return Target(question.target_ids, *alternative)
    first_place = run.hidden[-1][:, int(question.places[0])]
    likely = run.lm.head(first_place).float().softmax(-1).mean(0)
    likely[question.target_ids[0]] = -1.0
    return Target(question.target_ids, 0, int(likely.argmax()))
