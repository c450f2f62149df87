"""Causal tracing by pyvene, an independent tool that restores what a configuration names.

An `IntervenableModel` for each window, a clean and a noised run for each token. A window's layers
are one group; in pyvene's tutorial each of them costs a clean run. It does not support GPT-J.
"""

from __future__ import annotations

import logging

import pyvene
import torch
from torch import Tensor

from fixtures.models import LoadedModel
from wise.lm.architectures import LanguageModel
from wise.localization.corruption import gaussian
from wise.localization.known_facts import KnownFact, TracedQuestion
from wise.localization.model_runs import Target
from wise.localization.records import TraceSettings

__all__ = ["trace"]

_COMPONENTS = {"hidden": "block_output", "mlp": "mlp_output", "attention": "attention_output"}
logging.getLogger().setLevel(
    logging.ERROR
)  # pyvene logs warnings about its defaults to the root logger


class _Noise(pyvene.ConstantSourceIntervention, pyvene.LocalistRepresentationIntervention):
    """Adds `noise` [N, S, D] to the subject's embeddings."""

    def __init__(self, noise: Tensor):
        super().__init__()
        self.noise = noise

    def forward(self, base: Tensor, source: object = None, subspaces: object = None) -> Tensor:
        return base + self.noise


@torch.no_grad()
def trace(loaded: LoadedModel, fact: KnownFact, settings: TraceSettings) -> Tensor:
    """Mean effects on the probability [L, K], K tokens from the subject on."""
    model, question = loaded.model, TracedQuestion.of(loaded.tokenizer, fact)
    lm, N, (begin, end) = LanguageModel(model), settings.n_noise, question.span
    corruption = gaussian(
        lm, fact, question, sigma=settings.sigma, n_noise=N, seed=settings.seed
    )  # fmt: skip
    target = Target(question.target_ids, 0, 0)
    assert corruption.noise is not None  # it is Gaussian
    rows = {"input_ids": corruption.input_ids}
    subject = [list(range(begin, end))] * N

    def probability(window: range, token: int) -> Tensor:
        """The mean p of the target with the window's states restored at a token."""
        places = [[token]] * N
        _, output = restored[window](
            rows, [None] + [rows] * bool(window),
            {"sources->base": ([None] + [places] * len(window),
                               [subject] + [places] * len(window))},
        )  # fmt: skip
        return target.scores(output.logits[:, question.places])[:, 0].double().mean()

    windows = [range(*lm.window(l, settings.window)) for l in settings.layers]
    noise = {"layer": 0, "component": "block_input", "group_key": 0,
             "intervention": _Noise(corruption.noise)}  # fmt: skip
    site = {"component": _COMPONENTS[settings.site], "group_key": 1}
    restored = {
        window: pyvene.IntervenableModel(
            [noise, *({"layer": layer, "intervention": pyvene.VanillaIntervention(), **site}
                      for layer in window)],
            model,
        )
        for window in {*windows, range(0)}
    }  # fmt: skip
    corrupted = probability(range(0), 0)
    effects = [[probability(window, token) - corrupted for token in range(begin, question.n_prompt)]
               for window in windows]  # fmt: skip
    return torch.tensor(effects)
