"""Hyper-parameters of WISE and presets with their source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wise.editors.options import (
    check_field,
    check_flags,
    check_numbers,
    check_one_of,
    check_whole,
    configured,
)
from wise.editors.router import REDUCTIONS, ROUTING_TOKENS
from wise.editors.wise.merge import MERGES

__all__ = ["PRESETS", "WISEConfig"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "memory": ("merge", "retrieve"),
    "merge": tuple(MERGES),
    "units": ("absolute", "model"),
    "routing_tokens": tuple(ROUTING_TOKENS),
    "routing_activation": ("linear", "activated"),
    "margin_reduction": tuple(REDUCTIONS),
    "threshold": ("running", "recomputed"),
    "thresholds": ("shared", "per-memory"),
    "negatives": ("random", "hardest"),
    "prefixes": ("model", "background"),
}
_SHARES = ("mask_ratio", "density", "earlier_weight")
_AT_LEAST: Mapping[str, int] = {
    "n_shards": 1,
    "edits_per_shard": 1,
    "n_steps": 1,
    "n_irrelevant": 0,
    "n_background": 0,
    "n_prefixes": 0,
    "prefix_length": 1,
    "replay": 0,
}
_NOT_NEGATIVE = ("alpha", "beta", "gamma", "lr", "threshold_scale", "norm_constraint", "early_stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class WISEConfig:
    """Everything that WISE can be told, the paper's values as defaults.

    Where the paper (arXiv 2405.14768) and its released code differ, or the paper is silent, the
    choice has a name here. Raises ValueError naming the field, its value and what is allowed.

    layer: the block whose W_v is copied; None = at three quarters of the depth.
    mask_ratio (rho), n_shards (k), edits_per_shard: knowledge sharding; n edits in k subspaces
        (eq. 7, Table 10). Every k full shards are merged into one side memory.
    merge, density: how shards are merged (eq. 8) and the share that TIES keeps (released: .53).
    memory: "merge" keeps one side memory and merges later ones into it; "retrieve" keeps them all
        and takes the one with the largest activation (Algorithm 2).
    earlier_weight: share of the earlier memory in a later merge (paper: silent; released: .6).
    alpha, beta, gamma: margins of L_a (eq. 5).
    margin_reduction: hinges averaged over all "rows" (paper) or the "violating" ones (released).
    routing_tokens: tokens that decide a route (paper: silent; released: "mean"). "last" = the last
        prompt token.
    routing_activation: the norm of the change itself, "linear" (eq. 3), or that of the "activated"
        outputs (released).
    threshold: eps as the "running" minimum of the edits' activations when each was learned
        (Algorithm 1), or "recomputed" after every turn and merge, when later edits have worn them.
    threshold_scale: factor on eps (paper: 1; released: .88, named act_ratio).
    thresholds: one eps "shared" by all memories (Algorithm 2) or one "per-memory" (released), where
        memories are compared by activation over threshold.
    lr, n_steps, early_stop: SGD; a turn ends when its loss is below `early_stop` (released: .02).
    norm_constraint: bound on every entry of W_v' - W_v (released: 1.0; not in the paper).
    n_irrelevant: background prompts x_i in the loss of a turn (released: 1); `n_background` of the
        background's texts are held ready, as routing inputs.
    negatives: x_i drawn at "random" (paper) or the "hardest" (most activated) of those held ready.
    n_prefixes, prefix_length, prefixes: token sequences before the prompt (3.1: ten of length 10),
        written by the "model" (paper) or taken from the "background".
    append_eos: the target ends with the end of sequence, so that free-run answers stop.
    replay: prompts of earlier memories per turn that must stay below alpha (appendix B.3).
    units: margins and learning rate "absolute" (paper) or in units of the "model": margins times
        the median norm u of W_v's outputs, learning rate times u^2 / mean ||a||^2. One preset
        then serves models of any scale.
    """

    layer: int | None = None
    mask_ratio: float = 0.2
    n_shards: int = 2
    edits_per_shard: int = 500
    merge: str = "ties"
    density: float = 0.53
    memory: str = "merge"
    earlier_weight: float = 0.6
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0
    margin_reduction: str = "rows"
    routing_tokens: str = "last"
    routing_activation: str = "linear"
    threshold: str = "running"
    threshold_scale: float = 1.0
    thresholds: str = "shared"
    lr: float = 1.0
    n_steps: int = 70
    early_stop: float = 0.02
    norm_constraint: float = math.inf
    n_irrelevant: int = 1
    n_background: int = 512
    negatives: str = "random"
    n_prefixes: int = 10
    prefix_length: int = 10
    prefixes: str = "model"
    append_eos: bool = True
    replay: int = 0
    units: str = "absolute"

    def __post_init__(self) -> None:
        check_one_of(self, **_CHOICES)
        check_whole(self, **_AT_LEAST)
        check_numbers(self, *_NOT_NEGATIVE)
        check_flags(self, "append_eos")
        for name in _SHARES:
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            check_field(self, name, is_number and 0 < value <= 1, "in (0.0, 1.0]")
        holds = self.thresholds == "shared" or self.threshold_scale > 0
        check_field(self, "threshold_scale", holds, "a number > 0 with thresholds='per-memory'")
        is_whole = type(self.layer) is int
        check_field(self, "layer", self.layer is None or is_whole, "a whole number or none")

    @classmethod
    def of(cls, preset: str = "embedded", **options: Any) -> WISEConfig:
        """A preset with some fields changed. ValueError lists the presets, or fields, there are."""
        return configured(cls, PRESETS, preset, options)


_PAPER = dict(mask_ratio=0.2, n_shards=2, alpha=5.0, beta=20.0, gamma=10.0, lr=1.0)  # Table 10

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Chosen on tuning streams; benchmarks/search.py searches around it.
    "embedded": dict(
        units="model", memory="retrieve", mask_ratio=1.0, n_shards=1, edits_per_shard=25,
        alpha=0.5, beta=2.0, gamma=1.0, lr=0.3, n_steps=30, n_irrelevant=64,
        n_prefixes=0, threshold="recomputed", threshold_scale=0.8,
    ),
    # Table 10 and appendix A.3; steps and threshold scale from the released configuration.
    "paper-llama-2-7b": dict(**_PAPER, layer=27, n_steps=70, threshold_scale=0.88),
    "paper-mistral-7b": dict(**_PAPER, layer=27, n_steps=70, threshold_scale=0.88),
    "paper-gpt-j-6b": dict(
        _PAPER, layer=21, n_steps=70, threshold_scale=0.88, alpha=15.0, beta=40.0, gamma=20.0
    ),
}  # fmt: skip
