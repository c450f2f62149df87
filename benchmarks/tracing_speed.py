"""Causal tracing against the loop of the papers' code, at equal numbers in one run.

`python -m benchmarks.tracing_speed` traces facts of a model by the sweep, by attribution
and by one forward of the whole model per restored state: the least that gives the same numbers, and
as in the published code, for all tokens and with a clean row in every batch. `--pyvene` adds
pyvene.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from benchmarks import arguments
from fixtures.models import LoadedModel, load_model
from properties.internals.tracing_reference import Reading, naive_trace
from wise.lm.architectures import LanguageModel
from wise.lm.hooks import frozen
from wise.localization.attribution import rank_correlations
from wise.localization.corruption import gaussian
from wise.localization.known_facts import KnownFact, TracedQuestion, fact_of, known
from wise.localization.model_runs import METRICS
from wise.localization.records import Site, Trace, TraceSettings
from wise.localization.tracing import causal_trace

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work` and its seconds of processor time, free of other load."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def loop(
    loaded: LoadedModel, fact: KnownFact, settings: TraceSettings, *, published: bool = False
) -> torch.Tensor:
    """Mean effects on the probability [L, K], one forward for each layer and token.

    Tokens from the subject on. With `published`, all tokens, and a clean row in every batch.
    """
    lm, question = LanguageModel(loaded.model), TracedQuestion.of(loaded.tokenizer, fact)
    begin, end = question.span
    corruption = gaussian(
        lm, fact, question, sigma=settings.sigma, n_noise=settings.n_noise, seed=settings.seed
    )
    if published:
        corruption = corruption.after(question.input_ids)
    assert corruption.noise is not None  # it is Gaussian
    added = torch.zeros(*corruption.input_ids.shape, corruption.noise.shape[-1])
    added[:, begin:end] = corruption.noise
    base, source = Reading(corruption.input_ids, added), Reading(question.input_ids[None])
    scores = partial(
        naive_trace, lm, base, target_ids=question.target_ids.tolist(), alternative=0, place=0
    )
    windows = [lm.window(l, settings.window) for l in settings.layers]
    tokens = range(0 if published else begin, question.n_prompt)
    with frozen(loaded.model):
        restored = scores(source, tokens=tokens, windows=windows, site=settings.site)
        plain = scores(base, tokens=[0], windows=[(0, 1)], site="mlp")
    return (restored - plain)[..., -settings.n_noise :, 0].double().mean(-1)


def compare(
    loaded: LoadedModel, *, n_facts: int, n_noise: int, window: int, site: Site, with_pyvene: bool
) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    stream = loaded.own_world.stream(0, 2 * n_facts, split="tuning")
    facts = [fact_of(edit) for edit in stream.edits]
    facts = known(model, tokenizer, facts, most=n_facts)

    def trace(**options: Any) -> Trace:
        return causal_trace(
            model, tokenizer, facts, window=window, site=site, n_noise=n_noise, **options
        )

    ways: dict[str, dict[str, Any]] = {
        "sweep": dict(),
        "attribution, probability and its logarithm": dict(
            method="attribution", metrics=("probability", "log-probability")
        ),
        "attribution, logit difference too": dict(method="attribution"),
    }
    traces = {name: trace(**options) for name, options in ways.items()}
    times = {name: timed(partial(trace, **options))[1] for name, options in ways.items()}
    exact = traces["sweep"]
    others: dict[str, Callable[..., torch.Tensor]] = {
        "loop": loop, "published loop": partial(loop, published=True)
    }  # fmt: skip
    if with_pyvene:
        from benchmarks.tracing_pyvene import trace as by_pyvene

        others["pyvene"] = by_pyvene
    print(f"{loaded.name}: {len(facts)} facts, {site}, window {window}, {n_noise} draws of noise")
    slower: dict[str, float] = {}
    for name, other in others.items():
        effects_of = partial(other, loaded, settings=exact.settings)
        found: list[torch.Tensor]
        found, slower[name] = timed(partial(list, map(effects_of, facts)))
        difference = max(
            float((torch.tensor(traced.effects("probability"))[:, begin:] - effects).abs().max())
            for traced, effects in zip(exact.facts, found, strict=True)
            for begin in [len(traced.tokens) - effects.shape[1]]
        )
        print(f"  largest difference of an effect between sweep and {name}: {difference:.1e}")
    print(f"  {'times as fast as':44}" + "".join(f"{name:>16}" for name in slower))
    for name, taken in times.items():
        print(f"  {name:44}" + "".join(f"{time_ / taken:16.1f}" for time_ in slower.values()))
    fast = traces["attribution, logit difference too"]
    for metric in METRICS:
        ranks = list(rank_correlations(exact, fast, metric).values())
        print(
            f"  rank correlation of attribution over a fact's sites, {metric}: "
            f"median {statistics.median(ranks):.2f}, from {min(ranks):.2f} to {max(ranks):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=arguments.model, action="append")
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--noise", type=int, default=10)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--site", choices=("hidden", "mlp", "attention"), default="mlp")
    parser.add_argument(
        "--pyvene",
        action="store_true",
        help="compare with pyvene too; needs the extra `comparison`",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    for family in options.model or ("llama", "gpt2"):
        compare(
            load_model(family), n_facts=options.facts, n_noise=options.noise,
            window=options.window, site=options.site, with_pyvene=options.pyvene,
        )  # fmt: skip


if __name__ == "__main__":
    main()
