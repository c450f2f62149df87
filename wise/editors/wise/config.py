"""Hyper-parameters of WISE and presets with their source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from transformers import PreTrainedModel

from wise.editors.options import Checked, Share, Units, configured, is_large
from wise.editors.wise.merge import Merge

__all__ = ["PRESETS", "WISEConfig", "default_preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WISEConfig(Checked):
    """All options of WISE, with the paper's values as defaults.

    Where the paper (arXiv 2405.14768) and its released code differ, or the paper does not say, the
    choice is an option here. Raises ValueError naming the field, its value and what is allowed.

    layer, depth: the block whose W_v is copied; without `layer`, at that share of the blocks.
    mask_ratio (rho), n_shards (k), edits_per_shard: knowledge sharding; n edits in k subspaces
        (eq. 7, Table 10). A mass turn fills several; every k full shards become one side memory.
    merge, density: how shards are merged (eq. 8) and the share that TIES keeps (released: .53).
    memory: "merge" keeps one side memory and merges later ones into it; "retrieve" keeps them all
        and takes the one with the largest activation (Algorithm 2).
    earlier_weight: share of the earlier memory in a later merge (not in the paper; released: .6).
    alpha, beta, gamma: margins of L_a (eq. 5).
    margin_reduction: hinges averaged over all "rows" (paper) or the "violating" ones (released).
    routing_tokens: tokens that decide a route (not in the paper; released: "mean"). "last" = the
        last prompt token.
    routing_activation: the norm of the change itself, "linear" (eq. 3), or that of the "activated"
        outputs (released).
    threshold: eps as the "running" minimum of the edits' activations when each was learned
        (Algorithm 1), or "recomputed" after every turn and merge, which may have lowered them.
    threshold_scale: factor on eps (paper: 1; released: .88, named act_ratio).
    thresholds: one eps "shared" by all memories (Algorithm 2) or one "per-memory" (released), where
        memories are compared by activation over threshold.
    lr, n_steps, early_stop: SGD; a turn ends when its loss is below `early_stop` (released: .02).
    n_more_steps: further ones that a turn takes at most, while some token of a target is less
        likely than all others together after its edit's own prompt (paper: 0). In the mean of a
        long target, or among many rows, its end may be learned last.
    norm_constraint: bound on every entry of W_v' - W_v (released: 1.0; not in the paper).
    n_irrelevant: background prompts x_i in the loss of a turn (released: 1); `n_background` of the
        background's texts are kept ready, as routing inputs.
    negatives: x_i drawn at "random" (paper) or the "hardest" (most activated) of those kept ready.
    n_prefixes, prefix_length, prefixes: token sequences before the prompt (3.1: ten of length 10),
        written by the "model" (paper) or taken from the "background".
    routing: "activation" (eq. 3 and 5), or "match": by the nearest edit's prompt (Matcher; not in
        the paper). With "match" no margin is learned: alpha to gamma, the options of x_i, x_m and
        of thresholds, and routing_tokens are not used.
    match_layer, match_weights, false_positives: the layer at which the subject is looked for; the
        powers of the relation's and the last token's cosines, None = fitted on the background; the
        share of background prompts that may open a memory, or of paraphrases that may open none.
    span: what an open memory changes: every token of its "row" (paper), or the "answer" alone, from
        the last prompt token on. Of this token it takes A(x_e), not A(x): a prompt that matches is
        answered as the edit's own. So it needs routing="match" and one edit a memory.
    n_contexts: background prompts that learn the target with the edit's own, so that its answer
        holds after other words, too, up to its 16th token; for span="answer".
    append_eos: the target ends with EOS, so that free-run answers stop.
    replay: prompts x_m of earlier shards per turn that must stay below alpha (appendix B.3).
    rehearsal: earlier edits of its own shard that a turn learns again, at random, beside its own:
        the mean of theirs counts as much (paper: 0).
    units: margins and learning rate "absolute" (paper) or in units of the "model": margins times
        the median norm u of W_v's outputs, learning rate times u^2 / mean ||a||^2. One preset
        then fits models of any scale.
    """

    layer: int | None = None
    depth: Share = 0.75
    mask_ratio: Share = 0.2
    n_shards: PositiveInt = 2
    edits_per_shard: PositiveInt = 500
    merge: Merge = "ties"
    density: Share = 0.53
    memory: Literal["merge", "retrieve"] = "merge"
    earlier_weight: Share = 0.6
    alpha: NonNegativeFloat = 5.0
    beta: NonNegativeFloat = 20.0
    gamma: NonNegativeFloat = 10.0
    margin_reduction: Literal["rows", "violating"] = "rows"
    routing_tokens: Literal["last", "mean", "max"] = "last"
    routing_activation: Literal["linear", "activated"] = "linear"
    threshold: Literal["running", "recomputed"] = "running"
    threshold_scale: NonNegativeFloat = 1.0
    thresholds: Literal["shared", "per-memory"] = "shared"
    lr: NonNegativeFloat = 1.0
    n_steps: PositiveInt = 70
    n_more_steps: NonNegativeInt = 0
    early_stop: NonNegativeFloat = 0.02
    norm_constraint: NonNegativeFloat = math.inf
    n_irrelevant: NonNegativeInt = 1
    n_background: NonNegativeInt = 512
    negatives: Literal["random", "hardest"] = "random"
    n_prefixes: NonNegativeInt = 10
    prefix_length: PositiveInt = 10
    prefixes: Literal["model", "background"] = "model"
    routing: Literal["activation", "match"] = "activation"
    match_layer: NonNegativeInt = 0
    match_weights: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    false_positives: Share = 0.05
    span: Literal["row", "answer"] = "row"
    n_contexts: NonNegativeInt = 0
    append_eos: bool = True
    replay: NonNegativeInt = 0
    rehearsal: NonNegativeInt = 0
    units: Units = "absolute"

    def __post_init__(self) -> None:
        super(WISEConfig, self).__post_init__()
        if self.thresholds == "per-memory" and not self.threshold_scale:
            raise ValueError(
                f"threshold_scale={self.threshold_scale!r} is not allowed: "
                "with thresholds='per-memory' it should be greater than 0"
            )

        one_each = self.edits_per_shard == self.n_shards == self.mask_ratio == 1
        is_free = one_each and self.norm_constraint == math.inf
        if self.span == "answer" and not (self.routing == "match" and is_free):
            raise ValueError(
                "span='answer' is not allowed: it needs routing='match', edits_per_shard=1, "
                "n_shards=1, mask_ratio=1.0 and norm_constraint=inf"
            )

    @classmethod
    def of(cls, preset: str = "embedded", **options: Any) -> WISEConfig:
        """A preset with some fields changed. ValueError lists the presets, or the fields."""
        return configured(cls, PRESETS, preset, options)


_PAPER = dict(mask_ratio=0.2, n_shards=2, alpha=5.0, beta=20.0, gamma=10.0, lr=1.0)  # Table 10

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Chosen on tuning streams; benchmarks/search.py searches around it.
    "embedded": dict(
        units="model", memory="retrieve", mask_ratio=1.0, n_shards=1, edits_per_shard=25,
        alpha=0.5, beta=2.0, gamma=1.0, lr=0.3, n_steps=30, n_irrelevant=64,
        n_prefixes=0, threshold="recomputed", threshold_scale=0.8,
    ),
    # One edit a memory, found by its prompt; chosen on a real model's tuning streams.
    "match": dict(
        units="model", depth=0.77, routing="match", span="answer", memory="retrieve",
        mask_ratio=1.0, n_shards=1, edits_per_shard=1, lr=0.3, n_steps=30, n_more_steps=30,
        n_prefixes=0, n_background=768, n_contexts=8,
    ),
    # Table 10 and appendix A.3; steps and threshold scale from the released configuration.
    "paper-llama-2-7b": dict(**_PAPER, layer=27, n_steps=70, threshold_scale=0.88),
    "paper-mistral-7b": dict(**_PAPER, layer=27, n_steps=70, threshold_scale=0.88),
    "paper-gpt-j-6b": dict(
        _PAPER, layer=21, n_steps=70, threshold_scale=0.88, alpha=15.0, beta=40.0, gamma=20.0
    ),
}  # fmt: skip


def default_preset(model: PreTrainedModel) -> str:
    """The preset of a model for which none is given: "match" from 50 million parameters on.

    Each of the two was chosen on tuning streams of models on its side of that size.
    """
    return "match" if is_large(model) else "embedded"
