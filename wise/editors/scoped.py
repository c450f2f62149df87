"""Editors with a trained scope: in it a row gets another answer, out of it the model's own.

SERAC (Mitchell et al., ICML 2022, arXiv 2206.06520, section 3) trains a classifier beforehand, and
the model is told the edit that it finds: the counterfactual model is the unedited one with the edit
before the prompt, as no smaller one of its family is at hand (released: freeze_cntr). DEFER
(Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031, as a baseline of GRACE) trains a gate and a
value at one W_v on each edit alone, so that nothing ever teaches the gate to close.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn, where

from wise.editors.base import factory, floats, live
from wise.editors.gated import Read, SubstitutingBase
from wise.editors.grace import nearest
from wise.editors.incontext import ContextConfig, ErasableContextBase
from wise.editors.memoir import mean_of
from wise.editors.options import Checked, Fraction, Share
from wise.editors.router import select
from wise.editors.routing_inputs import read_in_batches
from wise.editors.trained import lessons, trained
from wise.edits import Edit, edits_of
from wise.lm import hooks
from wise.lm.decoding import require_readable
from wise.lm.tail import Tail, block_states
from wise.lm.tokens import Batch, last_column
from wise.seeds import seeded

__all__ = [
    "DEFER", "DEFER_PRESETS", "SERAC", "SERAC_PRESETS", "DEFERConfig", "SERACConfig", "deferral",
    "make_defer", "make_serac", "scope_loss", "squared_distances", "with_one",
]  # fmt: skip

_FAR = 4.0  # the mean squared distance of two prompts before training; exp(-4) is out of scope
_LEAST_SPREAD = 1e-3  # of the largest one


@dataclass(frozen=True, slots=True, kw_only=True)
class SERACConfig(ContextConfig):
    """How SERAC finds an edit, and tells it. Raises as ContextConfig.

    depth: the share of the blocks below the one whose outputs are read (released: an encoder of its
        own).
    tokens: of a prompt, the "last" one is read (released: the encoder's [CLS]), or their "mean".
    n_dims: of the space into which they are mapped.
    threshold: exp(-squared distance) above which a prompt is in an edit's scope (released: .5).
    n_background: at most so many edits of the background, each with one of its paraphrases, train
        the map, and half as many texts.
    lr, n_steps: Adam on the map; lr is in units of the size of its first entries.

    An edit is found by its prompt alone; the released key holds its target, too.
    """

    depth: Share = 0.95
    tokens: Literal["last", "mean"] = "last"
    n_dims: PositiveInt = 128
    threshold: Fraction = 0.5
    n_background: PositiveInt = 400
    lr: PositiveFloat = 0.05
    n_steps: NonNegativeInt = 50


# An encoder and its training have no published options that fit a linear map: both are the same.
SERAC_PRESETS: Mapping[str, Mapping[str, Any]] = {"released": {}, "embedded": {}}


@dataclass(frozen=True)
class _Memory:
    """The edits in force, where their prompts lie, and the map that says so; None before them."""

    edits: tuple[Edit, ...] = ()
    keys: Float[Tensor, "E k"] | None = None
    classifier: Float[Tensor, "D k"] | None = None


class SERAC(ErasableContextBase[SERACConfig, _Memory]):
    """Tells a prompt the edit in whose scope it is, and is the unedited model out of every scope.

    It is Generates, Routed, Retrieves, Growing, Persistent and Erasable. The scope is decided once,
    on the prompt.
    """

    empty = _Memory()

    @property
    def growth_per_edit(self) -> float:
        """A prompt is compared with each edit's."""
        return 2 * self.config.n_dims / self.lm.model.num_parameters()

    @property
    def threshold(self) -> float:
        """The log-similarity above which a prompt is in scope; infinite before the first edit."""
        least = self.config.threshold
        return math.inf if not self.edits else math.log(least) if least else -math.inf

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The largest log-similarity with an edit: minus the squared distance; 0 before the first.

        Source: section 3.2 and the released classifier "embedding".
        """
        found = self._nearest(input_ids, attention_mask)
        return torch.zeros(len(input_ids), device=input_ids.device) if found is None else found[0]

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edit in whose scope each prompt is; none where it is in none."""
        found = self._nearest(input_ids, attention_mask)
        if found is None:
            return [()] * len(input_ids)
        similarity, index = found
        opened = where(similarity > self.threshold, index, -1).tolist()
        return [(self.edits[n],) if n >= 0 else () for n in opened]

    def _shown(self, input_ids: Tensor, prompt_mask: Tensor) -> Sequence[Sequence[Edit]]:
        return self.retrieved(input_ids, prompt_mask)

    def _nearest(
        self, input_ids: Tensor, mask: Tensor
    ) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]] | None:
        """The log-similarity with the nearest edit, of equal ones the newest, and which it is."""
        state = self._state
        if state.keys is None or state.classifier is None:
            return None
        queries = self._features(input_ids, mask) @ state.classifier
        distance, place = nearest(state.keys.flip(0), queries)
        return -distance.square(), len(state.edits) - 1 - place

    def _features(self, input_ids: Tensor, mask: Tensor) -> Float[Tensor, "B D"]:
        """The outputs of the block at the tokens that are read, as one vector for each prompt."""
        require_readable(self.lm.model, mask)
        batch = Batch.of_prompts(input_ids, mask.bool())
        with hooks.frozen(self.lm.model):
            [states] = block_states(self.lm, [self._layer], batch)
        return mean_of(select(states.stream, batch.prompt_mask, self.config.tokens))

    @property
    def _layer(self) -> int:
        n_layers = self.lm.n_layers
        return min(int(self.config.depth * n_layers), n_layers - 1)

    def _of_texts(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """The features of texts."""

        def read(batch: Batch) -> Float[Tensor, "n D"]:
            return self._features(batch.input_ids, batch.attention_mask)

        return read_in_batches(self.lm, self.tokenizer, texts, read)

    @cached_property
    def _trained(self) -> Float[Tensor, "D k"]:
        """The classifier of the background."""
        most = self.config.n_background
        seen = lessons(self.lm, self.tokenizer, self.background, n=most, seed=self.seed)
        prompts = {edit.prompt: edit.paraphrases for edit in seen.edits}
        generator = seeded(self.seed, "outer prompts")
        pairs = [
            (texts[int(torch.randint(len(texts), (), generator=generator))], n)
            for n, texts in enumerate(prompts.values()) if texts
        ]  # fmt: skip
        asked = [*prompts, *(text for text, _ in pairs)]
        owners = [*range(len(prompts)), *(n for _, n in pairs)]
        known = {*asked}
        others = [text for text, _ in seen.texts if text not in known]
        texts = [*asked, *others[: most // 2]]

        def compute() -> dict[str, Tensor]:
            return self._fitted(self._of_texts(texts), torch.tensor(owners))

        what = f"classifier of scopes {self.config} {self.seed} {owners}"
        return self.kept.get(what, texts, compute)["classifier"]

    def _fitted(
        self, features: Float[Tensor, "N D"], owners: Int[Tensor, " M"]
    ) -> dict[str, Tensor]:
        """A linear map under which paraphrases, and nothing else, lie near their edits.

        features: of edits, their paraphrases, and texts of no edit; `owners`: the edit of each but
        the last. They are learned from each divided by its spread.
        """
        config, n_edits = self.config, int(owners.max()) + 1
        spread = features.std(0, correction=0)
        spread = spread.clamp(min=_LEAST_SPREAD * float(spread.max()) or 1.0)
        scaled, width = features / spread, (features.shape[1], config.n_dims)
        drawn = torch.randn(width, generator=seeded(self.seed, "classifier")).to(features)
        apart = squared_distances(scaled @ drawn, scaled @ drawn).mean()
        unit = float((_FAR / apart).sqrt())
        is_own = torch.zeros(len(features), n_edits, dtype=torch.bool)
        is_own[torch.arange(len(owners)), owners] = True
        is_own = is_own.to(features.device)
        is_in_scope = is_own.clone()
        is_in_scope[:n_edits] = False  # that an edit is in its own scope need not be learned

        def loss_of(learned: Mapping[str, Tensor], _step: int) -> Tensor:
            mapped = scaled @ learned["classifier"]
            distances = squared_distances(mapped, mapped[:n_edits])
            return scope_loss(distances[is_in_scope], distances[~is_own])

        found = trained(
            {"classifier": unit * drawn}, loss_of, lr={"classifier": config.lr * unit},
            n_steps=config.n_steps, clip=math.inf, name="SERAC",
        )  # fmt: skip
        return {"classifier": found["classifier"] / spread[:, None]}

    def _of(self, edits: tuple[Edit, ...], state: _Memory) -> _Memory:
        if not edits:
            return self.empty
        classifier = self._trained if state.classifier is None else state.classifier
        known = dict[str, Tensor]()
        if state.keys is not None:
            known = dict(zip((edit.prompt for edit in state.edits), state.keys, strict=True))
        keys = [known[edit.prompt] if edit.prompt in known
                else (self._of_texts([edit.prompt]) @ classifier)[0] for edit in edits]  # fmt: skip
        return _Memory(edits, torch.stack(keys), classifier)

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Memory:
        edits, n_dims = edits_of(record["edits"]), self.config.n_dims
        keys = floats(tensors, "keys", len(edits), n_dims)
        hidden = self.lm.value_weight(self._layer).shape[1]
        return _Memory(edits, keys, floats(tensors, "classifier", hidden, n_dims))


def squared_distances(
    one: Float[Tensor, "N k"], other: Float[Tensor, "E k"]
) -> Float[Tensor, "N E"]:
    """The squared Euclidean distance of each of `one` to each of `other`, a little above 0."""
    norms = one.square().sum(-1)[:, None] + other.square().sum(-1)
    return (norms - 2 * one @ other.T).clamp(min=1e-6)


def scope_loss(inside: Float[Tensor, " N"], outside: Float[Tensor, " O"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of exp(-squared distance), balanced between pairs in scope and others.

    Source: section 3.3.
    """
    others = -torch.log(-torch.expm1(-outside))
    means = [each.sum() / max(1, len(each)) for each in (inside, others)]
    return torch.stack(means).mean()


make_serac = factory(SERAC, SERACConfig, SERAC_PRESETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class DEFERConfig(Checked):
    """How DEFER edits. Raises ValueError naming the field, its value and what is allowed.

    layer, depth: the block of W_v; without `layer`, at that share of the blocks.
    lr, n_steps: Adam on gate and value, anew for each edit (released: .1, 100 steps).
    append_eos: the target ends with EOS, so that free-run answers stop.
    """

    layer: int | None = None
    depth: Share = 0.75
    lr: NonNegativeFloat = 0.1
    n_steps: PositiveInt = 100
    append_eos: bool = True


DEFER_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": {},
    # Chosen on tuning streams.
    "embedded": dict(lr=0.005),
}
_LEAST = 0.5  # of the gate (released)


@dataclass(frozen=True)
class _Heads:
    """The edits made, and w and W_v of DEFER, each with its bias last; None before the first."""

    edits: tuple[Edit, ...] = ()
    gate: Float[Tensor, " M+1"] | None = None
    value: Float[Tensor, "M+1 D"] | None = None


class DEFER(SubstitutingBase[DEFERConfig, _Heads]):
    """Online editor with one gate and one value head for all edits; a turn's are made one by one.

    It is Generates, Routed and Persistent. Before the first edit it is bypassed.
    """

    empty = _Heads()
    span = "answer"

    @property
    def threshold(self) -> float:
        """What the gate must exceed; infinite before the first edit."""
        return _LEAST if self.edits else math.inf

    def _reader(self, state: _Heads) -> Read[Float[Tensor, "B D"]] | None:
        """By the gate."""
        gate, value = state.gate, state.value
        if gate is None or value is None:
            return None

        def read(queries: Tensor) -> tuple[Tensor, Tensor]:
            return deferral(queries, gate), with_one(queries) @ value

        return read

    def _after(self, state: _Heads, edits: tuple[Edit, ...]) -> _Heads:
        gate, value = state.gate, state.value
        if gate is None or value is None:
            gate, value = self._drawn()
        for edit in edits:
            gate, value = self._learned(edit, gate, value)
        return _Heads(live(state.edits, edits), gate, value)

    def _drawn(self) -> tuple[Float[Tensor, " M+1"], Float[Tensor, "M+1 D"]]:
        """The first gate and head: uniform, as torch draws linear layers."""
        inner, hidden = self._weight.shape
        drawn = torch.rand(inner + 1, 1 + hidden, generator=seeded(self.seed, "heads"))
        heads = ((2 * drawn - 1) / math.sqrt(inner)).to(self.lm.device)
        return heads[:, 0].contiguous(), heads[:, 1:].contiguous()

    def _learned(
        self, edit: Edit, gate: Float[Tensor, " M+1"], value: Float[Tensor, "M+1 D"]
    ) -> tuple[Float[Tensor, " M+1"], Float[Tensor, "M+1 D"]]:
        """Both after Adam on the loss of a row whose W_v gives g v + (1 - g) times its output."""
        config = self.config
        batch = self._encoded([edit], append_eos=config.append_eos)
        tail = Tail.capture(self.lm, self.layer, batch, first=int(last_column(batch.prompt_mask)))
        query, output = tail.inputs[:, 0], tail.value.float()  # 1 M; 1 T D
        heads = [each.clone().requires_grad_() for each in (gate, value)]
        optimizer = torch.optim.Adam(heads, lr=config.lr)
        for _ in range(config.n_steps):
            with torch.enable_grad():
                g, v = deferral(query, heads[0]), with_one(query) @ heads[1]
                loss = tail.loss((g * v + (1 - g) * output).to(tail.value.dtype))
            if not torch.isfinite(loss):
                raise ValueError(f"loss={loss.item()} at lr={config.lr}; lower lr")
            for each, gradient in zip(heads, torch.autograd.grad(loss, heads), strict=True):
                each.grad = gradient
            optimizer.step()
        if not all(each.isfinite().all() for each in heads):
            raise ValueError(f"lr={config.lr} made a non-finite gate or value; lower lr")
        return heads[0].detach(), heads[1].detach()

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Heads:
        edits = edits_of(record["edits"])
        inner, hidden = self._weight.shape
        gate = floats(tensors, "gate", inner + 1)
        return _Heads(edits, gate, floats(tensors, "value", inner + 1, hidden))


def with_one(queries: Float[Tensor, "B M"]) -> Float[Tensor, "B M+1"]:
    """Queries in float32 with a 1 behind them, which a bias multiplies."""
    return nn.functional.pad(queries.float(), (0, 1), value=1.0)


def deferral(queries: Float[Tensor, "B M"], gate: Float[Tensor, " M+1"]) -> Float[Tensor, " B"]:
    """g = sigmoid(w q + b) of each prompt."""
    return torch.sigmoid(with_one(queries) @ gate)


make_defer = factory(DEFER, DEFERConfig, DEFER_PRESETS)
