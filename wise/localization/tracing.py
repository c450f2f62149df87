"""Causal tracing: how much of a fact comes back when one state of a corrupted run is restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.lm.architectures import LanguageModel
from wise.lm.digest import model_digest
from wise.lm.hooks import frozen
from wise.localization.corruption import embedding_deviation, gaussian, replacement
from wise.localization.effects import Effects, measure
from wise.localization.known_facts import KnownFact, TracedQuestion, alternative
from wise.localization.model_runs import METRICS
from wise.localization.records import (
    CorruptionKind,
    Direction,
    FactTrace,
    Method,
    Site,
    Trace,
    TraceFile,
    TraceSettings,
)  # fmt: skip

__all__ = ["causal_trace"]

_CHOICES = dict(site=Site, method=Method, direction=Direction, corruption=CorruptionKind)


def causal_trace(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[KnownFact],
    *,
    site: Site = "mlp",
    window: int = 5,
    noise: float = 3.0,
    n_noise: int = 10,
    layers: Sequence[int] | None = None,
    method: Method = "exact",
    direction: Direction = "denoising",
    corruption: CorruptionKind = "gaussian",
    metrics: Sequence[str] = METRICS,
    sigma: float | None = None,
    seed: int = 0,
    path: Path | str | None = None,
    progress: bool = False,
) -> Trace:
    """The effect of each token's states at `site`, over `window` layers about each of `layers`.

    `noise` is in standard deviations of the subjects' embeddings, measured over `facts`, unless
    `sigma` gives the noise in units of the embedding. A fact's noise depends only on `seed` and the
    fact, so it is the same at every site, window and direction; a replacement is drawn from the
    subjects of `facts`. A target of several tokens counts as a whole, without EOS. With `path`,
    each fact's effects are written at once, and facts in the file are not traced again. A fact that
    cannot be traced is in the result with the reason. The model is left as it was. Raises
    ValueError for a setting outside its range, and for a file of other settings.
    Source: ROME section 2.1; Hase et al. 2023 section 3; Zhang and Nanda 2024 (replacement).
    """
    lm = LanguageModel(model)
    layers = range(lm.n_layers) if layers is None else layers
    if not facts:
        raise ValueError("facts=[] holds nothing to trace")
    with frozen(model):
        if sigma is None:
            sigma = noise * embedding_deviation(lm, tokenizer, facts)
        settings = TraceSettings(
            model_digest(lm), str(model.dtype).removeprefix("torch."), site, window,
            tuple(layers), method, direction, corruption, float(noise), sigma, n_noise,
            tuple(metrics), seed,
        )  # fmt: skip
        _check(settings, lm)
        trace = partial(_trace, lm, tokenizer, facts=facts, settings=settings)
        if path is None:
            shown = tqdm(facts, desc="tracing", unit="fact", disable=not progress)
            return Trace(settings, tuple(trace(fact) for fact in shown))
        with TraceFile(path, settings) as file:
            missing = {fact.sha256: fact for fact in facts if fact.sha256 not in file.done}
            shown = tqdm(missing.values(), desc="tracing", unit="fact", disable=not progress)
            for fact in shown:
                file.write(trace(fact))
            return Trace(settings, tuple(file.done[fact.sha256] for fact in facts))


def _check(settings: TraceSettings, lm: LanguageModel) -> None:
    attention = getattr(lm.model.config, "_attn_implementation", "eager")
    if attention not in ("eager", "sdpa"):
        raise ValueError(
            f"attn_implementation={attention!r} takes no 4-D mask; load with sdpa or eager"
        )
    for name, kind in _CHOICES.items():
        value = getattr(settings, name)
        if value not in get_args(kind):
            raise ValueError(f"{name}={value!r} is none of {', '.join(get_args(kind))}")
    for layer in settings.layers:
        lm.check_layer(layer)
    if not settings.layers or len(set(settings.layers)) < len(settings.layers):
        raise ValueError(f"layers={settings.layers} must name at least one layer, each once")
    if settings.method == "attribution" and settings.site == "hidden" and settings.window > 1:
        raise ValueError(
            f"window={settings.window} must be 1 for attribution at site='hidden': a state that is "
            "restored at a layer stays restored above it, and a sum of slopes would count it twice"
        )
    if not settings.metrics or not set(settings.metrics) <= set(METRICS):
        raise ValueError(f"metrics={settings.metrics} must be some of {', '.join(METRICS)}")
    for name, least in (("window", 1), ("n_noise", 1), ("noise", 0), ("sigma", 0)):
        if not getattr(settings, name) >= least:
            raise ValueError(f"{name}={getattr(settings, name)!r} is below {least}")


def _trace(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    fact: KnownFact,
    *,
    facts: Sequence[KnownFact],
    settings: TraceSettings,
) -> FactTrace:
    """The fact's effects, or the reason why it has none."""
    said: dict[str, Any] = dict(
        fact=fact.id or fact.prompt, sha256=fact.sha256, prompt=fact.prompt,
        subject=fact.subject, target=fact.target,
    )  # fmt: skip
    draws = {"n_noise": settings.n_noise, "seed": settings.seed}
    try:
        question = TracedQuestion.of(tokenizer, fact, max_length=lm.context_length)
        against = alternative(tokenizer, fact, question)
        corruption = (
            gaussian(lm, fact, question, sigma=settings.sigma, **draws)
            if settings.corruption == "gaussian"
            else replacement(tokenizer, fact, question, others=facts, **draws)
        )
    except ValueError as error:
        return FactTrace(**said, excluded=str(error))
    effects = measure(lm, question, corruption, settings, alternative=against)
    if not bool(effects.effect.isfinite().all()):
        return FactTrace(**said, excluded="an effect is not a finite number")
    prompt: list[int] = question.input_ids[: question.n_prompt].tolist()
    numbers = _summarized(effects, settings.metrics, n_before=question.span[0])
    return FactTrace(
        **said,
        tokens=tuple(cast(str, tokenizer.decode([token])) for token in prompt),
        span=question.span,
        layers=settings.layers,
        n_noise=len(corruption.input_ids),
        **numbers,
    )


def _summarized(effects: Effects, metrics: Sequence[str], *, n_before: int) -> dict[str, Any]:
    """Means over noise and their standard errors, by metric; zeros before the subject."""
    n_noise = effects.effect.shape[2]
    mean = effects.effect.mean(2)  # W K 3
    error = effects.effect.std(2) / n_noise**0.5 if n_noise > 1 else None

    def by_metric(values: Tensor, of: Callable[[Tensor], object]) -> dict[str, object]:
        return {metric: of(values[..., METRICS.index(metric)]) for metric in metrics}

    def table(values: Float[Tensor, "W K"]) -> list[list[float]]:
        return [[0.0] * n_before + row for row in values.tolist()]

    return dict(
        clean=by_metric(effects.clean.mean(0), float),
        corrupted=by_metric(effects.corrupted.mean(0), float),
        effect=by_metric(mean, table),
        standard_error=None if error is None else by_metric(error, table),
    )
