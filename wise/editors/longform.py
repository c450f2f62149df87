"""UnKE: one block is retrained, so that it maps the end of a prompt to a state that brings about a
whole answer.

Deng et al., ICLR 2025, arXiv 2405.15349. With `chunk`, each part of a long answer has a state of
its own, as in AnyEdit (Jiang et al., ICML 2025, arXiv 2502.05628); the other forms of AnyEdit are
the options `chunk` and `protects` of MEMIT and AlphaEdit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from wise.editors.base import ValueEditorBase, factory, floats, live
from wise.editors.finetune import weight_scale
from wise.editors.key_value.facts import Facts
from wise.editors.key_value.keyvalue import ValueConfig, optimize
from wise.editors.options import Fraction, Units
from wise.editors.routing_inputs import readable
from wise.edits import Edit, edits_of
from wise.lm import hooks
from wise.lm.sampling import background_texts, own_texts
from wise.lm.tail import block_call, first_tensor
from wise.lm.tokens import Batch, encode, of_like_length, prompt_tokens
from wise.seeds import seeded

__all__ = ["PRESETS", "Lesson", "Retrained", "UnKE", "UnKEConfig", "make_unke", "mean_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnKEConfig(ValueConfig):
    """ValueConfig, for the state behind the block, and how the block is retrained.

    Defaults are the released ones.

    layer: the block that is retrained; None = at the share `depth` of the blocks (released: block 7
        of 32).
    chunk: tokens of a target, EOS one of them, that share a state (AnyEdit: 40): that of the last
        token before them; None = all tokens (UnKE).
    n_epochs, block_lr, block_decay: steps, learning rate and weight decay of AdamW on all
        parameters of the block (the decay is torch's own, which no released setting changes).
    n_texts: background texts, drawn anew for each turn, whose outputs of the block are preserved.
    units: block_lr "absolute" (released), or in units of the "model": times the root mean square of
        W_v's entries / .02, where .02 is that of the models it was released for.
    """

    layer: int | None = None
    depth: Fraction = 7 / 32
    chunk: PositiveInt | None = None
    n_steps: PositiveInt = 25
    kl: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 1e-3
    early_stop: NonNegativeFloat = 0.0
    n_epochs: NonNegativeInt = 50
    block_lr: PositiveFloat = 2e-4
    block_decay: NonNegativeFloat = 0.01
    n_texts: NonNegativeInt = 20
    units: Units = "model"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Chosen on tuning streams: a quarter of the steps, each twice as long.
    "embedded": dict(depth=0.5, n_epochs=12, block_lr=4e-4),
    "released": {},
}


@dataclass(frozen=True)
class Retrained:
    """The state: the block's parameters by name in float32, none before the first turn."""

    edits: tuple[Edit, ...] = ()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    n_turns: int = 0


@dataclass(frozen=True)
class Lesson:
    """A call of a block on fixed rows, and the outputs that it is to give at their own tokens."""

    arguments: Mapping[str, Any]
    own: Bool[Tensor, "B T"]
    outputs: Float[Tensor, "n D"]

    def in_float32(self) -> Lesson:
        return replace(self, arguments=_in_float32(self.arguments), outputs=self.outputs.float())


def _in_float32(arguments: Any) -> Any:
    """Arguments of a block, also within tuples and dicts, with all real numbers in float32."""
    if isinstance(arguments, Mapping):
        return {name: _in_float32(each) for name, each in arguments.items()}
    if isinstance(arguments, tuple):
        return tuple(map(_in_float32, arguments))
    is_real = isinstance(arguments, Tensor) and arguments.is_floating_point()
    return arguments.float() if is_real else arguments


def mean_error(block: nn.Module, lessons: Sequence[Lesson]) -> Float[Tensor, ""]:
    """The mean squared error of a block's outputs at all own tokens of the lessons, in float32."""
    found = [first_tensor(block(**lesson.arguments))[lesson.own].float() for lesson in lessons]
    wanted = [lesson.outputs.float() for lesson in lessons]
    return nn.functional.mse_loss(torch.cat(found), torch.cat(wanted))


class UnKE(ValueEditorBase[UnKEConfig, Retrained]):
    """Retrains all parameters of one block at each turn, from where the last one left them.

    It is a Layered, Generates, Persistent and Exports. What deviates for a lifelong stream: edits
    stay (released: the weights go back after each); a turn of several edits is trained as one; the
    outputs on the background are preserved as the unedited block gives them; no chat template.
    """

    empty = Retrained()

    @cached_property
    def facts(self) -> Facts:
        """How edits become rows; the first state is that of the last token of the prompt."""
        ends = self.config.append_eos and self.config.objective == "raise"
        return Facts(
            self.lm, self.tokenizer, append_eos=ends, fact_token="last", chunk=self.config.chunk
        )

    @property
    def _block(self) -> nn.Module:
        return self.lm.blocks[self.layer]

    @property
    def _own(self) -> dict[str, Float[Tensor, "..."]]:
        """The parameters of the unedited block, in float32."""
        return {name: w.detach().float() for name, w in self._block.named_parameters()}

    def _put(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """The model with these parameters of the block, in its precision."""
        dtype = self.lm.value_weight(self.layer).dtype
        return hooks.reparametrized(self._block, {name: w.to(dtype) for name, w in weights.items()})

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        return self._put(self._state.weights)

    def _new_weights(self, state: Retrained) -> Mapping[str, Tensor]:
        dtype, start = self.lm.value_weight(self.layer).dtype, self.lm.block_name(self.layer)
        return {f"{start}.{name}": w.to(dtype) for name, w in state.weights.items()}

    def _after(self, state: Retrained, edits: tuple[Edit, ...]) -> Retrained:
        self.facts.asked(edits, forced=True)  # refuses bad text before any work
        with self._put(state.weights):
            new = self._new(edits)
        terms = [terms for terms in ([new], self._old(state.n_turns)) if terms]
        weights = self._retrained(state.weights or self._own, terms)
        return Retrained(live(state.edits, edits), weights, state.n_turns + 1)

    def _new(self, edits: Sequence[Edit]) -> Lesson:
        """The outputs of the block as it is, but for the states, up to that of the last chunk."""
        states = optimize(self.facts, self.layer, edits, self.config, site="stream")  # N D
        rows = self.facts.whole(edits, forced=False)
        lesson = self._lesson(rows.batch)
        outputs = lesson.outputs.clone()
        outputs[~rows.elsewhere[lesson.own]] = states.to(outputs.dtype)
        return replace(lesson, outputs=outputs)

    def _old(self, turn: int) -> list[Lesson]:
        """What the block gives on a turn's texts, those of like length together."""
        texts = self._texts(turn)
        if not texts:
            return []
        lengths = torch.tensor([len(ids) for ids in prompt_tokens(self.tokenizer, texts)])
        batches = [[texts[row] for row in rows] for rows in of_like_length(lengths, len(texts))]
        return [self._lesson(encode(self.tokenizer, some).to(self.lm.device)) for some in batches]

    @torch.no_grad()
    def _lesson(self, batch: Batch) -> Lesson:
        """What the block gives as it is."""
        arguments, own = block_call(self.lm, self.layer, batch), batch.attention_mask.bool()
        return Lesson(arguments, own, first_tensor(self._block(**arguments))[own])

    def _texts(self, turn: int) -> list[str]:
        """The background texts of a turn or, without background, texts that the model draws."""
        n, generator = self.config.n_texts, seeded(self.seed, "texts", turn)
        texts = background_texts(self.background, n=n, generator=generator)
        if not texts and n:
            texts = own_texts(self.lm, self.tokenizer, n=n, seed=self.seed)
        return readable(self.lm, self.tokenizer, texts)

    def _retrained(
        self, weights: Mapping[str, Tensor], terms: Sequence[Sequence[Lesson]]
    ) -> dict[str, Tensor]:
        """The parameters after AdamW on the sum of the terms' mean errors.

        The block runs in float32: gradients of small errors are 0 in half precision.
        """
        config = self.config
        terms = [[lesson.in_float32() for lesson in term] for term in terms]
        unit = weight_scale(self.lm, self.layers) if config.units == "model" else 1.0
        learned = {name: w.clone().requires_grad_() for name, w in weights.items()}
        optimizer = torch.optim.AdamW(
            [*learned.values()], lr=config.block_lr * unit, weight_decay=config.block_decay
        )
        for step in range(config.n_epochs):
            with hooks.reparametrized(self._block, learned), torch.enable_grad():
                loss = torch.stack([mean_error(self._block, term) for term in terms]).sum()
            if not bool(loss.isfinite()):
                raise ValueError(
                    f"loss={float(loss.detach())} after {step} steps at block_lr={config.block_lr}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = {name: w.detach() for name, w in learned.items()}
        for name, w in found.items():
            if not bool(w.isfinite().all()):
                raise ValueError(f"block_lr={config.block_lr} made {name} non-finite; lower it")
        return found

    def _record(self, state: Retrained) -> dict[str, Any]:
        return {**super()._record(state), "n_turns": state.n_turns}

    def _tensors(self, state: Retrained) -> dict[str, Tensor]:
        return dict(state.weights)

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Retrained:
        edits = edits_of(record["edits"])
        weights = {name: floats(tensors, name, *w.shape) for name, w in self._own.items()}
        return Retrained(edits, weights, int(record["n_turns"]))


make_unke = factory(UnKE, UnKEConfig, PRESETS)
