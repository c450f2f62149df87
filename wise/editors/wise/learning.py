"""One turn of WISE on a shard: gradient descent on its side memory alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from wise.editors.kept import Kept
from wise.editors.router import Router, RouterBase, RoutingInputs, epsilon, margin_loss, stack
from wise.editors.routing_inputs import background_inputs, prompt_inputs, readable
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.matcher import Matcher
from wise.editors.wise.memory import Change, Memory, Shard, Turn, sample_mask
from wise.editors.wise.references import References
from wise.edits import Background, Edit
from wise.lm.sampling import background_prefixes, fitting_starts, model_prefixes
from wise.lm.tail import Tail, inputs_seen
from wise.lm.tokens import IGNORED, Batch, encode, last_column
from wise.seeds import seeded

__all__ = ["Learner", "TurnLoss", "descend"]

_LONGEST_CONTEXT = 32  # tokens
_LONG = 16  # tokens of a target; of a longer one, so many are learned after other prompts


@dataclass(frozen=True)
class TurnLoss:
    """L_edit = -log P(y_e | x_e) + L_a as a function of tau, on fixed rows.

    Source: WISE section 2.2; appendix B.3 for replay.
    """

    tail: Tail
    router: RouterBase
    config: WISEConfig
    unit: float = 1.0  # of the margins
    edited: RoutingInputs | None = None  # A(x_e) of every row; None = without L_a
    irrelevant: RoutingInputs | None = None  # A(x_i)
    replayed: RoutingInputs | None = None  # A(x_m)
    changed: Bool[Tensor, "B T"] | None = None  # the tokens that the memory changes; None = all
    beside: TurnLoss | None = None  # of the turn's rows of another length

    def __call__(self, tau: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
        change = self.tail.inputs.float() @ tau  # B T D
        if self.changed is not None:
            change = change * self.changed[..., None]
        logits = self.tail.logits(self.tail.value + change.to(self.tail.value.dtype))
        loss = self.negative_log_likelihood(logits)
        if self.beside is not None:
            n_rows, n_beside = len(self.tail.inputs), len(self.beside.tail.inputs)
            loss = (n_rows * loss + n_beside * self.beside(tau)) / (n_rows + n_beside)
        return loss if self.edited is None else loss + self._margin(tau, self.edited)

    def negative_log_likelihood(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, ""]:
        """Mean over a row's target tokens, then over rows.

        Where the answer alone is changed, each token of a long target counts as much as one of 16:
        in a mean it would be learned the slower, the more others there are.
        """
        losses = nn.functional.cross_entropy(logits.float(), self.tail.labels, reduction="none")
        return (losses * self._per_token).sum() / len(self.tail.inputs)

    @cached_property
    def _per_token(self) -> Float[Tensor, " N"]:
        rows = self.tail.rows
        n_tokens = torch.bincount(rows, minlength=len(self.tail.inputs))
        return 1.0 / (n_tokens if self.changed is None else n_tokens.clamp(max=_LONG))[rows]

    def _margin(self, tau: Float[Tensor, "M D"], rows: RoutingInputs) -> Float[Tensor, ""]:
        def deltas(rows: RoutingInputs) -> Tensor:
            return self.router.own(rows, Change(tau)) / self.unit

        edited = deltas(rows)
        return margin_loss(
            edited,
            edited[:0] if self.irrelevant is None else deltas(self.irrelevant),
            None if self.replayed is None else deltas(self.replayed),
            alpha=self.config.alpha,
            beta=self.config.beta,
            gamma=self.config.gamma,
            reduction=self.config.margin_reduction,
        )


def descend(
    objective: TurnLoss, tau: Float[Tensor, "M D"], mask: Bool[Tensor, "M D"] | None, *, lr: float
) -> Float[Tensor, "M D"]:
    """`tau` after masked gradient descent. The argument is not written to.

    `mask` None stands for all ones. Entries outside the mask keep their bits. Raises ValueError
    where the loss is non-finite. Source: WISE eq. 7.
    """
    config = objective.config
    tau = tau.clone()
    for step in range(config.n_steps):
        with torch.enable_grad():
            variable = tau.detach().requires_grad_()
            loss = objective(variable)
        found = loss.item()
        if not math.isfinite(found):
            raise ValueError(f"loss={found} after {step} steps at lr={config.lr}; lower lr")
        if found <= config.early_stop:
            break
        (gradient,) = torch.autograd.grad(loss, variable)
        if mask is not None:
            gradient *= mask
        tau -= gradient.mul_(lr)
        if config.norm_constraint < float("inf"):
            tau.clamp_(-config.norm_constraint, config.norm_constraint)
    return tau


def _of_answers(
    objective: TurnLoss, batch: Batch, own: Float[Tensor, " M"]
) -> tuple[TurnLoss, Float[Tensor, "N M"]]:
    """The loss where only answers are changed, and the inputs of W_v that its gradient spans.

    Each row's last prompt token, whose output is the answer's first, has the input `own`.
    """
    tail = objective.tail
    width = tail.inputs.shape[1]
    changed = (batch.labels != IGNORED)[:, -width:]
    last = last_column(batch.prompt_mask[:, -width:])[:, None]
    asked = last == torch.arange(width, device=last.device)
    inputs = torch.where(asked[..., None], own, tail.inputs)
    span = torch.cat([own[None], tail.inputs[changed & ~asked]])
    return replace(objective, tail=replace(tail, inputs=inputs), changed=changed), span


@dataclass
class Learner:
    """Learns turns into shards; its own state follows from model, background and seed."""

    kept: Kept
    background: Background
    config: WISEConfig
    layer: int
    seed: int
    _masks: dict[int, Bool[Tensor, "M D"]] = field(default_factory=dict)  # the live shard's

    def __post_init__(self) -> None:
        self.lm, self.tokenizer = self.kept.lm, self.kept.tokenizer
        low = self.config.match_layer
        if self.config.routing == "match" and low > self.layer:
            raise ValueError(f"match_layer={low} lies above the edited block, layer={self.layer}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks whose inputs of W_v decide a route, ascending."""
        if self.config.routing == "activation" or self.config.match_layer == self.layer:
            return (self.layer,)
        return (self.config.match_layer, self.layer)

    @cached_property
    def weight(self) -> Float[Tensor, "M D"]:
        """W_v."""
        return self.lm.value_weight(self.layer).detach()

    @cached_property
    def router(self) -> RouterBase:
        """How prompts are routed, in learning as at inference."""
        config = self.config
        if config.routing == "match":
            return Matcher(
                self.kept, self.layers, self._references, weights=config.match_weights,
                false_positives=config.false_positives,
            )  # fmt: skip
        return Router(
            tokens=config.routing_tokens,
            weight=self.weight,
            activation=self.lm.activation if config.routing_activation == "activated" else None,
            threshold_scale=config.threshold_scale,
            thresholds=config.thresholds,
        )

    def new_shard(self, number: int) -> Shard:
        """An empty shard: W_v' = W_v."""
        inner, hidden = self.weight.shape
        nothing = RoutingInputs.none(inner, device=self.lm.device, dtype=self.weight.dtype)
        tau = torch.zeros(inner, hidden, device=self.lm.device)  # float32 in any model
        return Shard(number, (), Change(tau), nothing, ())

    def learn(self, shard: Shard, turn: Turn, earlier: Sequence[Edit]) -> Shard:
        """`shard` after one turn; `earlier` are the edits of the shards before it."""
        config = self.config
        batch, *others = (each.to(self.lm.device) for each in self._batches(turn))
        last = last_column(batch.prompt_mask)
        first = int(last.min()) if config.span == "answer" else 0
        with inputs_seen(self.lm, self.layers, batch) as inputs:
            tail = Tail.capture(self.lm, self.layer, batch, first=first)
        rows = self.router.select(inputs, batch.prompt_mask)
        unit, lr_factor = self._scales
        objective = TurnLoss(tail, self.router, config, unit)
        if config.routing == "activation":
            generator = seeded(self.seed, "irrelevant", turn.number)
            irrelevant = self._irrelevant(shard.change, generator)
            replayed = self._replayed(earlier, generator)
            objective = replace(objective, edited=rows, irrelevant=irrelevant, replayed=replayed)
        span = tail.inputs[batch.attention_mask.bool()[:, first:]]
        if config.span == "answer":
            own = inputs[-1][0, last[0]]  # A(x_e)
            objective, span = _of_answers(objective, batch, own)
            for other in others:
                first = int(last_column(other.prompt_mask).min())
                tail = Tail.capture(self.lm, self.layer, other, first=first)
                beside, more = _of_answers(replace(objective, tail=tail), other, own)
                objective, span = replace(objective, beside=beside), torch.cat([span, more[1:]])
        mask = self._mask(shard.number)
        tau = descend(objective, shard.change.dense(), mask, lr=config.lr * lr_factor)
        is_free = mask is None and config.norm_constraint == math.inf
        is_new = objective.edited is None and not shard.edits
        change = Change.spanned(tau, span) if is_free and is_new else Change(tau)
        bare = rows[torch.arange(len(turn.edits), device=self.lm.device)]
        routing = stack([shard.routing, self.router.remembered(bare)])
        activations = self._activations(routing, change)
        if config.threshold == "running":
            activations = (*shard.activations, *activations[len(shard.activations) :])
        return Shard(shard.number, (*shard.turns, turn), change, routing, activations)

    def routing_of(self, shards: Sequence[Shard | Memory]) -> RoutingInputs:
        """What a memory of these shards keeps of its edits' A(x_e): all, or none, as routed."""
        if self.config.routing == "match":
            return stack([shard.routing for shard in shards])
        return RoutingInputs.none(len(self.weight), device=self.lm.device)

    def epsilon(self, memory: Memory) -> float:
        """The smallest activation of the memory's edits as it is now."""
        inputs = memory.routing
        if not len(inputs):
            inputs = self._inputs_of([edit.prompt for edit in memory.edits])
        return epsilon(self._activations(inputs, memory.change))

    @torch.no_grad()
    def _activations(self, rows: RoutingInputs, change: Change) -> tuple[float, ...]:
        """Delta_act of each row. Raises ValueError where one is non-finite."""
        delta = self.router.own(rows, change)
        if not delta.isfinite().all():
            raise ValueError(f"lr={self.config.lr} made a non-finite activation; lower lr")
        return tuple(delta.tolist())

    def _inputs_of(self, prompts: Sequence[str]) -> RoutingInputs:
        how = self.config.routing_tokens
        return prompt_inputs(self.lm, self.tokenizer, self.layer, prompts, how)

    def _mask(self, shard: int) -> Bool[Tensor, "M D"] | None:
        """M of a shard, by its number; None where every entry may change. The last is cached."""
        if self.config.mask_ratio == 1.0:
            return None
        if shard not in self._masks:
            inner, hidden = self.weight.shape
            generator = seeded(self.seed, "mask", shard)
            mask = sample_mask((inner, hidden), self.config.mask_ratio, generator)
            self._masks = {shard: mask.to(self.lm.device)}
        return self._masks[shard]

    def _batches(self, turn: Turn) -> list[Batch]:
        """What a turn learns: the rows of its edits, and its target after other prompts.

        Of a long target only the beginning is learned after these, in a batch of its own.
        """
        starts = self._starts(turn)
        prompts = [start + edit.prompt for start in starts for edit in turn.edits]
        targets = [edit.target for edit in turn.edits] * len(starts)
        contexts: list[str] = []
        if self.config.span == "answer":  # of one edit
            contexts = self._contexts(turn.number, targets[0])
        batch = encode(
            self.tokenizer, [*prompts, *contexts], targets + targets[:1] * len(contexts),
            append_eos=self.config.append_eos, max_length=self.lm.context_length,
        )  # fmt: skip
        n_left_out = int((batch.labels != IGNORED).sum(1).min()) - _LONG
        if n_left_out <= 0 or not contexts:
            return [batch]
        rows = torch.arange(len(batch.labels)).split([len(prompts), len(contexts)])
        return [batch[rows[0]], batch.without_last(n_left_out)[rows[1]]]

    def _starts(self, turn: Turn) -> list[str]:
        """What a turn's prompts begin with: nothing, and each prefix that all of them have room
        for."""
        prefixes = (
            self._model_prefixes
            if self.config.prefixes == "model"
            else background_prefixes(
                self.background, n=self.config.n_prefixes, seed=self.seed, turn=turn.number
            )
        )
        starts = [prefix and f"{prefix} " for prefix in prefixes]
        rows = [f"{edit.prompt} {edit.target}" for edit in turn.edits]
        return ["", *fitting_starts(self.lm, self.tokenizer, starts, rows)]

    def _contexts(self, turn: int, target: str) -> list[str]:
        """Background prompts that a turn's target is learned after, too; long ones are cut."""
        limit = _LONGEST_CONTEXT
        if self.lm.context_length is not None:
            n_target = len(self.tokenizer(f" {target}").input_ids) + 1  # with EOS
            limit = min(limit, self.lm.context_length - n_target)
        texts = self._references.common.texts
        order = torch.randperm(len(texts), generator=seeded(self.seed, "contexts", turn)).tolist()
        chosen = [texts[index] for index in order[: self.config.n_contexts]]
        return [*filter(None, readable(self.lm, self.tokenizer, chosen, at_most=limit))]

    @cached_property
    def _model_prefixes(self) -> tuple[str, ...]:
        return model_prefixes(
            self.lm, self.tokenizer,
            n=self.config.n_prefixes, length=self.config.prefix_length, seed=self.seed,
        )  # fmt: skip

    @cached_property
    def _background(self) -> RoutingInputs | None:
        """Routing inputs of background prompts, computed when first needed."""
        return background_inputs(
            self.kept, self.layer, self.background, self.config.routing_tokens,
            n=self.config.n_background, seed=self.seed,
        )  # fmt: skip

    @cached_property
    def _references(self) -> References:
        """Background prompts as they are matched, computed when first needed."""
        return References.of(
            self.kept, self.layers, self.background, n=self.config.n_background, seed=self.seed
        )

    @cached_property
    def _scales(self) -> tuple[float, float]:
        """Unit of the margins and factor of lr, from the background or else from own text."""
        if self.config.units == "absolute":
            return 1.0, 1.0
        if self.config.routing == "match":
            keys = self._references.common_read.pooled[:, 1]  # C M
        else:
            inputs = self._background
            if inputs is None:
                own = model_prefixes(self.lm, self.tokenizer, n=32, length=10, seed=self.seed)
                inputs = self._inputs_of([text for text in own if text])
            keys = inputs.keys[inputs.mask].float()
        unit = float((keys @ self.weight.float()).norm(dim=-1).median())
        return unit, unit**2 / float(keys.square().sum(-1).mean())

    def _irrelevant(self, change: Change, generator: Generator) -> RoutingInputs | None:
        """x_i of a turn: background prompts, random or the most activated."""
        if self._background is None or not self.config.n_irrelevant:
            return None
        order = torch.randperm(len(self._background), generator=generator).to(self.lm.device)
        if self.config.negatives == "hardest":
            delta = self.router.own(self._background, change)
            order = order[delta[order].argsort(descending=True, stable=True)]
        return self._background[order[: self.config.n_irrelevant]]

    def _replayed(self, earlier: Sequence[Edit], generator: Generator) -> RoutingInputs | None:
        """x_m of a turn: prompts of earlier shards."""
        if not self.config.replay or not earlier:
            return None
        chosen = torch.randperm(len(earlier), generator=generator)[: self.config.replay]
        return self._inputs_of([earlier[index].prompt for index in chosen])
