"""HoReN: a codebook beside one W_v that is read by angle, after one step of a Hopfield network.

Source: its released configuration. A key is the direction of W_v's inputs over the end of an edit's
prompt; a prompt that points the same way gets the edit's value at its last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from wise.editors.base import ErasableBase, factory, floats, live, without
from wise.editors.gated import GatedBase, OneEdit, threshold_among
from wise.editors.grace import descended
from wise.editors.options import Checked, Fraction, Share
from wise.editors.router import RouterBase, RoutingInputs, SideMemory
from wise.editors.routing_inputs import of_different_subjects
from wise.edits import Edit, edits_of
from wise.lm.tail import Tail
from wise.lm.tokens import last_column
from wise.seeds import seeded

__all__ = ["PRESETS", "Angle", "HoReN", "HoReNConfig", "make"]

_UNCALIBRATED = 0.9  # the threshold where the background has no two subjects


@dataclass(frozen=True, slots=True, kw_only=True)
class HoReNConfig(Checked):
    """How HoReN edits. Raises ValueError naming the field, its value and what is allowed.

    layer, depth: the block of W_v; without `layer`, at that share of the blocks (released: 29 of
        32).
    share: of a prompt's tokens, its last ones, whose mean input of W_v is its key (released: .5
        to .6).
    sharpness, pull: a key is moved by `pull` towards the keys stored, weighted by the softmax of
        `sharpness` times its cosines with them.
    threshold: the cosine above which a prompt gets an edit's value (released: .55 to .85, a model).
        None = what `false_positives` of the background's prompts exceed with another subject's.
    lr, n_steps, early_stop: Adam on the value (released: 1.0, 50 steps), until the loss is below.
        Values, first drawn from [0, 1), and lr are in units of the size of an entry of the output
        that they are added to.
    n_background: prompts of different subjects for the threshold.
    append_eos: the target ends with EOS, so that free-run answers stop.

    The released code keeps one value for edits of like labels; here each edit has its own, so that
    it can be taken back.
    """

    layer: int | None = None
    depth: Share = 0.9
    share: Share = 0.55
    sharpness: NonNegativeFloat = 20.0
    pull: Fraction = 0.1
    threshold: Fraction | None = None
    false_positives: Share = 0.05
    lr: NonNegativeFloat = 1.0
    n_steps: PositiveInt = 50
    early_stop: NonNegativeFloat = 0.01
    n_background: PositiveInt = 100
    append_eos: bool = True


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": dict(threshold=0.85),
    # Chosen on tuning streams, where the last token alone tells what is asked.
    "embedded": dict(depth=0.75, share=0.05, threshold=0.7, lr=0.5, n_steps=200),
}


@dataclass(frozen=True)
class Angle(RouterBase):
    """Routes a prompt to the edit whose key it is nearest to by angle."""

    share: float
    sharpness: float
    pull: float
    least: float

    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """The direction of each prompt's mean input over its last tokens."""
        rank = prompt_mask.long().cumsum(-1)  # 1 at a prompt's first token
        n_last = (self.share * rank[:, -1:]).ceil()
        is_read = prompt_mask & (rank > rank[:, -1:] - n_last)
        keys = (inputs[-1].float() * is_read[..., None]).sum(1)
        return RoutingInputs(
            nn.functional.normalize(keys, dim=-1)[:, None], prompt_mask.any(-1, keepdim=True)
        )

    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """The cosine of each prompt with each edit's key, once it is moved towards the keys."""
        stored = torch.cat([memory.routing.keys[:, 0] for memory in memories])  # K M
        return stored @ self.moved(rows.keys[:, 0], stored).T

    def moved(
        self, keys: Float[Tensor, "N M"], stored: Float[Tensor, "K M"]
    ) -> Float[Tensor, "N M"]:
        """`keys` after one step towards those `stored`; all are of length 1."""
        weights = (self.sharpness * keys @ stored.T).softmax(-1)
        recalled = nn.functional.normalize(weights @ stored, dim=-1)
        return nn.functional.normalize((1 - self.pull) * keys + self.pull * recalled, dim=-1)

    def threshold(self, memories: Sequence[SideMemory]) -> float:
        return self.least


@dataclass(frozen=True)
class _Value:
    """A ValueChange: the same vector whatever the input."""

    value: Float[Tensor, " D"]

    def __call__(self, inputs: Float[Tensor, "... M"]) -> Float[Tensor, "... D"]:
        return self.value.expand(*inputs.shape[:-1], -1)

    @property
    def recalled(self) -> Float[Tensor, " D"]:
        return self.value


@dataclass(frozen=True)
class _State:
    """The edits in force with their keys and values; None before the first."""

    edits: tuple[Edit, ...] = ()
    keys: Float[Tensor, "E M"] | None = None
    values: Float[Tensor, "E D"] | None = None

    @cached_property
    def entries(self) -> tuple[OneEdit[_Value], ...]:
        """The newest first: where two keys are the same, the last write wins."""
        if self.keys is None or self.values is None:
            return ()
        is_read = torch.ones(1, 1, dtype=torch.bool, device=self.keys.device)
        found = zip(self.edits, self.keys, self.values, strict=True)
        return tuple(
            OneEdit(_Value(value), (edit,), RoutingInputs(key[None, None], is_read))
            for edit, key, value in found
        )[::-1]


class HoReN(GatedBase[HoReNConfig, _State], ErasableBase[HoReNConfig, _State]):
    """Online editor with a codebook of directions; a turn's edits are made one by one.

    It is Generates, Routed, Retrieves, Growing, Persistent and Erasable. An entry depends only on
    its own edit, the model and the seed.
    """

    empty = _State()
    span = "last"

    @property
    def growth_per_edit(self) -> float:
        """A prompt's direction is compared with each edit's, and moved by it."""
        return 3 * len(self._weight) / self.lm.model.num_parameters()

    @cached_property
    def router(self) -> Angle:
        """With the threshold of the options, or that of the background."""
        config = self.config
        router = Angle(config.share, config.sharpness, config.pull, _UNCALIBRATED)
        if config.threshold is not None:
            return replace(router, least=config.threshold)
        prompts = of_different_subjects(self.background, config.n_background)
        if len(prompts) < 2:
            return router
        keys = self._keys(router, prompts)
        likeness = keys @ keys.T
        for n, key in enumerate(keys):
            others = torch.arange(len(keys), device=keys.device) != n
            likeness[others, n] = keys[others] @ router.moved(key[None], keys[others])[0]
        least = threshold_among(likeness, false_positives=config.false_positives)
        return replace(router, least=least)

    def _keys(self, router: Angle, prompts: Sequence[str]) -> Float[Tensor, "N M"]:
        found = self._inputs_of(prompts)
        return router.select([found.keys], found.mask).keys[:, 0]

    def _memories(self, state: _State) -> tuple[OneEdit[_Value], ...]:
        return state.entries

    def _after(self, state: _State, edits: tuple[Edit, ...]) -> _State:
        learned = {edit: (self._keys(self.router, [edit.prompt])[0], self._value(edit))
                   for edit in edits}  # fmt: skip
        return self._of(live(state.edits, edits), state, learned)

    def _without(self, state: _State, prompts: frozenset[str]) -> _State:
        return self._of(without(state.edits, prompts), state, {})

    def _of(
        self, edits: tuple[Edit, ...], state: _State, learned: Mapping[Edit, tuple[Tensor, Tensor]]
    ) -> _State:
        """The state of these edits, with the entries that `state` has of them, or those learned."""
        if not edits:
            return self.empty
        known = {entry.edits[0]: (entry.routing.keys[0, 0], entry.change.value)
                 for entry in state.entries} | dict(learned)  # fmt: skip
        keys, values = zip(*[known[edit] for edit in edits], strict=True)
        return _State(edits, torch.stack(keys), torch.stack(values))

    def _value(self, edit: Edit) -> Float[Tensor, " D"]:
        """What, added to W_v's output at the last prompt token, gives the edit's target."""
        config = self.config
        batch = self._encoded([edit], append_eos=config.append_eos)
        first = int(last_column(batch.prompt_mask))
        tail = Tail.capture(self.lm, self.layer, batch, first=first)
        unedited = tail.value[0, 0].float()
        unit = float(unedited.square().mean().sqrt())
        drawn = torch.rand(len(unedited), generator=seeded(self.seed, "value", edit.prompt))
        at_last = (torch.arange(tail.value.shape[1], device=self.lm.device) == 0)[None, :, None]
        found = descended(
            tail, at_last, unedited + drawn.to(self.lm.device) * unit,
            lr=config.lr * unit, n_steps=config.n_steps, early_stop=config.early_stop,
        )  # fmt: skip
        return found - unedited

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _State:
        edits = edits_of(record["edits"])
        inner, hidden = self._weight.shape
        n = len(edits)
        keys, values = floats(tensors, "keys", n, inner), floats(tensors, "values", n, hidden)
        return _State(edits, keys, values)


make = factory(HoReN, HoReNConfig, PRESETS)
