"""One turn of WISE on a shard: gradient descent on its side memory alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from wise.editors.kept import Kept
from wise.editors.router import Router, RouterBase, RoutingInputs, epsilon, margin_loss, stack
from wise.editors.routing_inputs import background_inputs, prompt_inputs, readable
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.matcher import Matcher
from wise.editors.wise.memory import Change, Memory, Shard, Turn, sample_mask
from wise.editors.wise.references import References
from wise.edits import Background, Edit
from wise.lm.sampling import background_prefixes, fitting_starts, model_prefixes, own_texts
from wise.lm.tail import Tail, inputs_seen
from wise.lm.tokens import IGNORED, Batch, encode, last_column
from wise.seeds import seeded, shuffled

__all__ = ["Answers", "Learner", "Margin", "TurnLoss", "descend"]

_LONGEST_CONTEXT = 32  # tokens
_LONG = 16  # tokens of a target; of a longer one, so many are learned after other prompts


@dataclass(frozen=True)
class Answers:
    """-log P(y_e | x_e) of some rows, by A(x) tau."""

    tail: Tail
    at: Int[Tensor, "B T"]  # which of the inputs a token has; -1 where nothing is added
    weights: Float[Tensor, " N"]  # of the labels

    @classmethod
    def of(
        cls, tail: Tail, at: Int[Tensor, "B T"], *, at_most: int | None = None, later: float = 1.0
    ) -> Answers:
        """Each row counts 1; one of more than `at_most` labels more, so that each of them counts
        as one of so many: in a mean it would be learned the slower, the more others there are.
        Those after so many count `later` times as much."""
        n_labels = torch.bincount(tail.rows, minlength=len(at))
        firsts = n_labels.cumsum(0) - n_labels
        place = torch.arange(len(tail.rows), device=at.device) - firsts[tail.rows]
        at_most = len(place) if at_most is None else at_most
        shares = 1.0 / n_labels.clamp(min=1, max=at_most)[tail.rows]
        return cls(tail, at, torch.where(place < at_most, shares, later * shares))

    def balanced(self, n_new: int, n_edits: int) -> Answers:
        """The sum over rows is of two means: of `n_new` of the edits, and of the others.

        Rows hold all edits over and over, the new ones first; both means count as often as there
        are rows.
        """
        is_new = self.tail.rows % n_edits < n_new
        scales = torch.where(is_new, n_edits / n_new, n_edits / (n_edits - n_new))
        return replace(self, weights=self.weights * scales)

    def __call__(self, outputs: Float[Tensor, "R D"]) -> Float[Tensor, ""]:
        """The sum over rows."""
        return (self.losses(outputs) * self.weights).sum()

    def losses(self, outputs: Float[Tensor, "R D"]) -> Float[Tensor, " N"]:
        """That of each label."""
        added = _placed(outputs, self.at).to(self.tail.value.dtype)
        return self.tail.loss(self.tail.value + added, "none")


@dataclass(frozen=True)
class Margin:
    """L_a of a turn's rows, by A(x) tau at their routing tokens. Source: WISE eq. 5."""

    router: Router
    config: WISEConfig
    unit: float
    edited: RoutingInputs  # A(x_e) of every row
    irrelevant: RoutingInputs | None  # A(x_i)
    replayed: RoutingInputs | None  # A(x_m)

    @cached_property
    def rows(self) -> RoutingInputs:
        """All of them, in this order."""
        return stack([*filter(None, [self.edited, self.irrelevant, self.replayed])])

    @cached_property
    def inputs(self) -> Float[Tensor, "R M"]:
        """The inputs of W_v that it depends on."""
        return self.rows.keys[self.rows.mask]

    @cached_property
    def _at(self) -> Int[Tensor, "N S"]:
        return _numbered(self.rows.mask)

    @cached_property
    def _value(self) -> Float[Tensor, "N S D"] | None:
        return self.router.value(self.rows)

    def __call__(self, outputs: Float[Tensor, "R D"]) -> Float[Tensor, ""]:
        change = _placed(outputs, self._at)
        delta = self.router.delta(self.rows, change, self._value) / self.unit
        parts = [self.edited, self.irrelevant, self.replayed]
        edited, irrelevant, replayed = delta.split([len(part or ()) for part in parts])
        return margin_loss(
            edited,
            irrelevant,
            replayed if self.replayed else None,
            alpha=self.config.alpha,
            beta=self.config.beta,
            gamma=self.config.gamma,
            reduction=self.config.margin_reduction,
        )


@dataclass(frozen=True)
class TurnLoss:
    """L_edit = -log P(y_e | x_e) + L_a on fixed rows, by the outputs A(x) tau of `inputs`.

    Source: WISE section 2.2; appendix B.3 for replay.
    """

    answers: tuple[Answers, ...]
    read: Float[Tensor, "R M"]  # the inputs that these have
    margin: Margin | None = None
    n_edits: int = 1  # the edits' own rows, the first of the first answers

    @cached_property
    def inputs(self) -> Float[Tensor, "R M"]:
        """All inputs of W_v that the loss depends on."""
        routing = self.read[:0] if self.margin is None else self.margin.inputs
        return torch.cat([self.read, routing]).float()

    def __call__(self, outputs: Float[Tensor, "R D"]) -> Float[Tensor, ""]:
        read, routing = outputs.tensor_split([len(self.read)])
        n_rows = sum(len(each.at) for each in self.answers)
        loss = torch.stack([each(read) for each in self.answers]).sum() / n_rows
        return loss if self.margin is None else loss + self.margin(routing)

    @torch.no_grad()
    def is_likely(self, outputs: Float[Tensor, "R D"]) -> bool:
        """Whether each token of the edits' targets is likelier than not after their own prompts."""
        own = self.answers[0]
        losses = own.losses(outputs[: len(self.read)])[own.tail.rows < self.n_edits]
        return bool((losses < math.log(2)).all())


def _numbered(mask: Bool[Tensor, "N T"], first: int = 0) -> Int[Tensor, "N T"]:
    """The tokens of a mask counted from `first` on; -1 elsewhere."""
    return torch.where(mask, mask.flatten().cumsum(0).view(mask.shape) + (first - 1), -1)


def _placed(outputs: Float[Tensor, "R D"], at: Int[Tensor, "N T"]) -> Float[Tensor, "N T D"]:
    """`outputs` by their numbers; 0 at -1."""
    return nn.functional.pad(outputs, (0, 0, 0, 1))[at]


def descend(
    objective: TurnLoss,
    tau: Float[Tensor, "M D"],
    mask: Bool[Tensor, "M D"] | None,
    config: WISEConfig,
    *,
    lr: float,
) -> Change:
    """`tau` after masked gradient descent. The argument is not written to.

    The loss depends on tau by its outputs Y = X tau alone, so that its gradient is X^T G. Where
    nothing binds single entries, a step is Y - lr (X X^T) G, and tau is needed only at the end; of
    a tau that was 0, X and the sum of the steps are kept. `mask` None stands for all ones; entries
    outside the mask keep their bits. Raises ValueError where the loss is non-finite. Source: WISE
    eq. 7.
    """
    inputs = objective.inputs
    outputs = inputs @ tau  # R D
    is_free = mask is None and config.norm_constraint == math.inf
    is_kept = is_free and objective.margin is None and not tau.any()  # by its inputs
    is_fewer = is_free and len(inputs) <= len(tau)
    gram = inputs @ inputs.T if is_kept or is_fewer else None
    steps = torch.zeros_like(outputs)
    tau = tau.clone()
    for step in range(config.n_steps + config.n_more_steps):
        with torch.enable_grad():
            variable = outputs.requires_grad_()
            loss = objective(variable)
        found = loss.item()
        if not math.isfinite(found):
            raise ValueError(f"loss={found} after {step} steps at lr={config.lr}; lower lr")
        is_enough = found <= config.early_stop or step >= config.n_steps
        if is_enough and (not config.n_more_steps or objective.is_likely(outputs)):
            break
        (gradient,) = torch.autograd.grad(loss, variable)
        gradient *= -lr
        if gram is not None:
            steps += gradient
            outputs = torch.addmm(outputs.detach(), gram, gradient)
            continue
        change = inputs.T @ gradient
        tau += change if mask is None else change.mul_(mask)
        tau.clamp_(-config.norm_constraint, config.norm_constraint)
        outputs = inputs @ tau
    if is_kept:
        return Change(steps, inputs)
    return Change(tau if gram is None else tau.addmm_(inputs.T, steps))


def _answers(
    tail: Tail, batch: Batch, own: Float[Tensor, " M"] | None, n_read: int, n_copies: float
) -> tuple[Answers, Float[Tensor, "R M"]]:
    """The loss of a batch's answers, and the inputs that it reads behind `n_read` others.

    With `own` answers alone are changed, and a row's last prompt token, whose output is the
    answer's first, has `own`, which is the first input of all, in place of its own. A target's
    beginning is learned in `n_copies` rows, which help each other in part; the rest, in one alone,
    counts by the root of so many.
    """
    width = tail.inputs.shape[1]
    if own is None:
        read = batch.attention_mask.bool()[:, -width:]
        return Answers.of(tail, _numbered(read, n_read)), tail.inputs[read]
    last = last_column(batch.prompt_mask[:, -width:])[:, None]
    asked = last == torch.arange(width, device=last.device)
    read = (batch.labels != IGNORED)[:, -width:] & ~asked
    at = _numbered(read, n_read).masked_fill(asked, 0)
    return Answers.of(tail, at, at_most=_LONG, later=n_copies**0.5), tail.inputs[read]


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
        learned = replace(turn, edits=turn.edits + self._rehearsed(shard, turn))
        batches = [each.to(self.lm.device) for each in self._batches(learned)]
        with inputs_seen(self.lm, self.layers, batches[0]) as inputs:
            tails = [self._tail(batches[0])]
        tails += [self._tail(each) for each in batches[1:]]
        prompts = batches[0].prompt_mask
        rows = self.router.select(inputs, prompts)
        own = inputs[-1][0, last_column(prompts)[0]] if config.span == "answer" else None  # A(x_e)
        answers: list[Answers] = []
        read = inputs[-1].new_zeros(0, len(self.weight)) if own is None else own[None]
        n_copies = sum(len(each.labels) for each in batches) / len(batches[0].labels)
        for tail, batch in zip(tails, batches, strict=True):
            answer, more = _answers(tail, batch, own, len(read), n_copies)
            answers, read = [*answers, answer], torch.cat([read, more])
        n_edits = len(turn.edits)
        if len(learned.edits) > n_edits:
            answers[0] = answers[0].balanced(n_edits, len(learned.edits))
        margin = self._margin(shard, turn, rows, earlier)
        change = descend(
            TurnLoss(tuple(answers), read, margin, n_edits), shard.change.dense(),
            self._mask(shard.number), config, lr=config.lr * self._scales[1],
        )  # fmt: skip
        routing = stack([shard.routing, self.router.remembered(rows[:n_edits])])
        activations = self._activations(routing, change)
        if config.threshold == "running":
            activations = (*shard.activations, *activations[len(shard.activations) :])
        return Shard(shard.number, (*shard.turns, turn), change, routing, activations)

    def _tail(self, batch: Batch) -> Tail:
        """The blocks above W_v on a batch, from the first column on that a memory changes."""
        is_answer = self.config.span == "answer"
        first = int(last_column(batch.prompt_mask).min()) if is_answer else 0
        return Tail.capture(self.lm, self.layer, batch, first=first)

    def _margin(
        self, shard: Shard, turn: Turn, edited: RoutingInputs, earlier: Sequence[Edit]
    ) -> Margin | None:
        """L_a of a turn; None where no margin is learned."""
        if not isinstance(self.router, Router):
            return None
        generator = seeded(self.seed, "irrelevant", turn.number)
        irrelevant = self._irrelevant(shard.change, generator)
        replayed = self._replayed(earlier, generator)
        unit, _ = self._scales
        return Margin(self.router, self.config, unit, edited, irrelevant, replayed)

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
        return [batch[rows[0]], batch.columns(slice(-n_left_out))[rows[1]]]

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
        chosen = shuffled(texts, seeded(self.seed, "contexts", turn))[: self.config.n_contexts]
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
                inputs = self._inputs_of(own_texts(self.lm, self.tokenizer, seed=self.seed))
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

    def _rehearsed(self, shard: Shard, turn: Turn) -> tuple[Edit, ...]:
        """Earlier edits of the shard that a turn learns again."""
        generator = seeded(self.seed, "rehearsal", turn.number)
        return tuple(shuffled(shard.edits, generator)[: self.config.rehearsal])

    def _replayed(self, earlier: Sequence[Edit], generator: Generator) -> RoutingInputs | None:
        """x_m of a turn: prompts of earlier shards."""
        if not self.config.replay or not earlier:
            return None
        chosen = shuffled(earlier, generator)[: self.config.replay]
        return self._inputs_of([edit.prompt for edit in chosen])
