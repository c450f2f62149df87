"""Attribution patching: the effect of every restoration to first order, by a backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from wise.lm.architectures import LanguageModel
from wise.localization.corruption import Corruption
from wise.localization.known_facts import TracedQuestion
from wise.localization.model_runs import ModelRun, Target, run_rows
from wise.localization.records import Site, Trace

__all__ = ["attribute", "differentiable", "rank_correlations"]


def differentiable(
    lm: LanguageModel, rows: Tensor | Corruption, site: Site, behind: ModelRun | None = None
) -> ModelRun:
    """A run whose states have gradients; the model's weights need none."""
    with torch.enable_grad():
        return run_rows(
            lm, rows, site, behind=behind,
            change_embedded=lambda embedded: embedded.detach().requires_grad_(),
        )  # fmt: skip


def attribute(
    base: ModelRun,
    source: ModelRun,
    question: TracedQuestion,
    target: Target,
    *,
    tokens: Sequence[int],
    windows: Sequence[tuple[int, int]],
    logit_difference: bool = True,
) -> Float[Tensor, "W K N 3"]:
    """By how much the source's states at one token and window should change the base's scores.

    Change = (a_source - a_base) . d score / d a_base, summed over a window's layers, as if a
    restored layer did not affect the next; the base is `differentiable`. Log p and the logit
    difference take a backward pass each, which stops at the lowest requested layer. Without
    `logit_difference` the second is skipped, and its changes are zeros.
    Source: Nanda 2023; Kramar et al. 2024 (AtP*), section 2.
    """
    first = min(begin for begin, _ in windows)
    states, theirs = base.states[first:], source.states[first:]
    sites = torch.tensor(list(tokens), device=states[0].device)
    sites -= len(question.input_ids)  # counted from the end, where both runs have columns
    with torch.enable_grad():
        places = question.places.to(sites.device)
        scores = target.scores(base.lm.head(base.hidden[-1][:, places]))  # N 3
        probability, *others = scores.unbind(-1)
        wanted = others if logit_difference else others[:1]
        slopes = [
            torch.autograd.grad(score.sum(), states, retain_graph=score is not wanted[-1])
            for score in wanted
        ]
    n_rows = max(len(states[0]), len(theirs[0]))
    changes = torch.zeros(len(base.states), len(sites), n_rows, 3).to(scores.detach())
    for layer in range(first, len(base.states)):
        own, other = states[layer - first].detach(), theirs[layer - first].detach()
        step = other[:, sites] - own[:, sites]  # N K D
        for index, slope in enumerate(slopes, start=1):
            product = step * slope[layer - first][:, sites]
            changes[layer, :, :, index] = product.to(changes.dtype).sum(-1).T  # K N
    changes[..., 0] = probability.detach() * changes[..., 1]  # d p = p d log p
    return torch.stack([changes[begin:end].sum(0) for begin, end in windows])


def rank_correlations(exact: Trace, approximate: Trace, metric: str) -> dict[str, float]:
    """By fact, Spearman's rank correlation of two traces' effects over its sites.

    Over the tokens from the subject on, as the effect of earlier ones is zero by causality. A fact
    that either trace excludes, or whose effects are all equal, has none. Raises ValueError for
    traces of different sites or directions.
    """
    for field in ("model", "site", "window", "layers", "direction"):
        one, other = (getattr(trace.settings, field) for trace in (exact, approximate))
        if one != other:
            raise ValueError(f"{field}={other!r} of one trace is not the other's {one!r}")
    found = {}
    theirs = {fact.sha256: fact for fact in approximate.traced}
    for fact in exact.traced:
        if fact.sha256 in theirs:
            pair = [
                [value for row in trace.effects(metric) for value in row[fact.span[0] :]]
                for trace in (fact, theirs[fact.sha256])
            ]
            if all(min(values) < max(values) for values in pair):
                found[fact.fact] = float(stats.spearmanr(*pair).statistic)
    return found
