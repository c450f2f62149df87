"""Editors that store facts in W_v as in a linear associative memory.

The state is the change of W_v at each edited layer, and hooks add it at inference.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from wise.editors.base import EditorBase, added, floats, live, prepared, summed
from wise.editors.key_value.covariance import Covariance
from wise.editors.key_value.facts import Corrupts, Facts, n_chunks
from wise.editors.key_value.keyvalue import KeyValueConfig, optimize, read
from wise.editors.key_value.restraint import most_changed, restrained
from wise.editors.options import Fraction, Lengths
from wise.edits import Edit, edits_of
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import model_prefixes
from wise.lm.tail import value_inputs

__all__ = [
    "AssociativeEditor", "KeyValueState", "SpreadConfig", "SpreadingEditor", "through_norm",
]  # fmt: skip

Config = TypeVar("Config", bound=KeyValueConfig)


@dataclass(frozen=True)
class KeyValueState:
    """The state after the edits so far: replaced as a whole, its tensors never written to."""

    edits: tuple[Edit, ...] = ()
    changes: Mapping[int, Float[Tensor, "M D"]] = field(default_factory=dict)  # of W_v, by layer
    keys: Mapping[int, Float[Tensor, "n M"]] = field(default_factory=dict)  # K_p, by layer


class AssociativeEditor(EditorBase[Config, KeyValueState]):
    """An editor of the W_v of some blocks; a family defines what a turn adds there."""

    empty = KeyValueState()
    keeps_keys: ClassVar[bool] = False
    site: ClassVar[str]  # of SITES: where values are optimised, in the highest edited block

    def __init__(self, *args: Any, corruption: Corrupts | None = None, **options: Any):
        super().__init__(*args, **options)
        self.layers = self._around(self._centre)
        self.covariance = Covariance(
            self.kept, self.layers, self.background, self.seed, self.config.n_texts,
            self.config.ridge,
        )  # fmt: skip
        self._corruption = corruption
        self._prepared: dict[Edit, Float[Tensor, "n D"]] = {}  # by chunk
        self._shown: tuple[KeyValueState, Mapping[int, Tensor]] = self.empty, {}

    def precompute(self, layers: Sequence[int]) -> None:
        """Keep C of all blocks that are edited about `layers`; see `wise.editor.Precomputes`."""
        self.covariance.keep(sorted({each for layer in layers for each in self._around(layer)}))

    def prepare(self, edits: Sequence[Edit]) -> None:
        """Optimise the values of single edits in batches; see `wise.editor.Prepares`."""
        n = max(1, self.config.batch_size // (1 + self.config.n_prefixes))  # so many rows a step
        with hooks.frozen(self.lm.model):
            self._prepared |= prepared(
                edits, lambda some: self._optimized(some).split(self.facts.n_chunks(some)), most=n,
                n_columns=lambda edit: self.facts.asked([edit], forced=True, bare=True).n_columns,
            )  # fmt: skip

    @abstractmethod
    def _edited(self, state: KeyValueState, edits: tuple[Edit, ...]) -> KeyValueState:
        """The state after a turn."""

    @property
    def _centre(self) -> int:
        layer = self.config.layer
        return round(self.config.depth * (self.lm.n_layers - 1)) if layer is None else layer

    def _around(self, layer: int) -> tuple[int, ...]:
        """The blocks that are edited about `layer`, from the lowest."""
        return (self.lm.check_layer(layer),)

    @cached_property
    def facts(self) -> Facts:
        """How edits become rows; the prefixes are drawn from the unedited model."""
        config = self.config
        prefixes = model_prefixes(
            self.lm, self.tokenizer, n=config.n_prefixes, length=config.prefix_lengths,
            starts=config.prefix_starts, seed=self.seed,
        )  # fmt: skip
        return Facts(
            self.lm, self.tokenizer, prefixes, config.prefix_share,
            append_eos=self._ends, fact_token=config.fact_token, corruption=self._corruption,
            chunk=self._chunk,
        )  # fmt: skip

    @property
    def _ends(self) -> bool:
        """Whether targets end with EOS."""
        return self.config.append_eos and self.config.objective == "raise"

    @property
    def _chunk(self) -> int | None:
        """Tokens of a target that share a key; None = all."""
        return None

    def _after(self, state: KeyValueState, edits: tuple[Edit, ...]) -> KeyValueState:
        self.facts.asked(edits, forced=True, bare=True)  # refuses bad text before any work
        return self._edited(state, edits)

    def _values(self, state: KeyValueState, edits: Sequence[Edit]) -> Float[Tensor, "N D"]:
        """v* of a turn's N chunks on the model as `state` has it, in float64."""
        if not state.changes and len(edits) == 1 and edits[0] in self._prepared:
            return self._prepared[edits[0]]
        with added(self.lm, state.changes):
            return self._optimized(edits)

    def _optimized(self, edits: Sequence[Edit]) -> Float[Tensor, "N D"]:
        """v* of each edit by itself, on the model as it is."""
        return optimize(self.facts, self.layers[-1], edits, self.config, site=self.site)

    def _weights(self, state: KeyValueState) -> Mapping[int, Float[Tensor, "M D"]]:
        base = self.config.restraint
        if base is None:
            return state.changes
        if self._shown[0] is not state:
            shown = {
                layer: restrained(change, sigma=self._norms[layer], base=base)
                for layer, change in state.changes.items()
            }
            self._shown = state, shown
        return self._shown[1]

    @cached_property
    def _norms(self) -> dict[int, float]:
        """The largest singular value of W_v at each edited block."""
        weights = {layer: self.lm.value_weight(layer).detach().float() for layer in self.layers}
        return {layer: float(torch.linalg.matrix_norm(W, 2)) for layer, W in weights.items()}

    def _weight_of(self, change: Float[Tensor, "M D"], layer: int, state: KeyValueState) -> Tensor:
        """The stored change of a layer with what is kept of `change` added, in float32."""
        share = self.config.kept_share
        if share < 1:
            earlier = state.changes.get(layer, torch.zeros(())).double()
            weight = self.lm.value_weight(layer).detach().double() + earlier
            change = most_changed(change, weight, share=share)
        return summed(state.changes, layer, change)

    def _kept(self, state: KeyValueState, edits: Sequence[Edit]) -> list[int]:
        """Indices of the keys of earlier edits whose prompts are not edited again."""
        asked, (each, _) = {edit.prompt for edit in edits}, self.facts.every_chunk(state.edits)
        return [i for i, edit in enumerate(each) if edit.prompt not in asked]

    def _tensors(self, state: KeyValueState) -> dict[str, Tensor]:
        groups = (("change", state.changes), ("key", state.keys))
        return {f"{name}.{layer}": part for name, group in groups for layer, part in group.items()}

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> KeyValueState:
        edits = edits_of(record["edits"])
        n_keys = sum(n_chunks(self.tokenizer, edits, self._chunk, append_eos=self._ends))
        changes, keys = {}, {}
        for layer in self.layers:
            inner, hidden = self.lm.value_weight(layer).shape
            changes[layer] = floats(tensors, f"change.{layer}", inner, hidden)
            if self.keeps_keys:
                keys[layer] = floats(tensors, f"key.{layer}", n_keys, inner)
        return KeyValueState(edits, changes, keys)


_RELEASED_SHARE = 5 / 32  # blocks 4-8 of 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadConfig(KeyValueConfig):
    """KeyValueConfig and over which blocks a value is spread; defaults are MEMIT's released ones.

    Five prefixes of 10 tokens begin with five words, and weigh as much as the bare prompt together
    (get_context_templates and compute_ks of MEMIT's released code, which AlphaEdit's keeps).

    n_layers: how many neighbouring blocks share the change, the centre at `layer`, cut off at the
        model's ends (Hase et al.); None = five of 32, at least one.
    chunk: tokens of a target, EOS one of them, that share a value (AnyEdit: 40): the first have
        that of `fact_token`, and each later chunk one of its own, whose key is the last token
        before it; None = all tokens (released).
    protects: the outputs of W_v at the other tokens of an edit's prompt and target are to stay
        (AnyEdit).
    """

    depth: Fraction = 0.19
    clamp: PositiveFloat = 0.75
    n_steps: PositiveInt = 25
    n_prefixes: NonNegativeInt = 5
    prefix_lengths: Lengths = (10,)
    prefix_starts: Sequence[str] = ("The", "Therefore", "Because", "I", "You")
    prefix_share: Fraction | None = 0.5
    n_layers: PositiveInt | None = None
    chunk: PositiveInt | None = None
    protects: bool = False


Spread = TypeVar("Spread", bound=SpreadConfig)


class SpreadingEditor(AssociativeEditor[Spread]):
    """Meets the values optimised behind the highest edited block by steps in every edited block."""

    site = "stream"

    def _around(self, layer: int) -> tuple[int, ...]:
        n = self.config.n_layers or max(1, round(_RELEASED_SHARE * self.lm.n_layers))
        return self.lm.around(layer, n)

    @property
    def _chunk(self) -> int | None:
        return self.config.chunk

    def _edited(self, state: KeyValueState, edits: tuple[Edit, ...]) -> KeyValueState:
        return KeyValueState(live(state.edits, edits), self._spread(state, edits))

    @abstractmethod
    def _change(
        self,
        layer: int,
        keys: Float[Tensor, "N M"],
        residual: Float[Tensor, "N D"],
        earlier: Float[Tensor, "n M"] | None,
    ) -> Float[Tensor, "M D"]:
        """What a block's W_v gets, so that its outputs at `keys` move by `residual`."""

    def _spread(self, state: KeyValueState, edits: tuple[Edit, ...]) -> dict[int, Tensor]:
        """The change of W_v at each block after a turn. Source: MEMIT algorithm 1."""
        top, changes, facts = self.layers[-1], dict(state.changes), self.facts
        kept = self._kept(state, edits)
        values = self._values(state, edits)
        for index, layer in enumerate(self.layers):
            with added(self.lm, changes):
                here, above = read(facts, (layer, top), edits)
                others = self._others(layer, edits) if self.config.protects else here.key[:0]
            step = (values - above.stream) / (len(self.layers) - index)
            residual = through_norm(self.lm, layer, here.value, step)
            earlier = state.keys[layer][kept].double() if layer in state.keys else None
            keys = torch.cat([here.key, others])
            residual = nn.functional.pad(residual, (0, 0, 0, len(others)))
            change = self._change(layer, keys, residual, earlier)
            changes[layer] = self._weight_of(change, layer, state)
        return changes

    def _others(self, layer: int, edits: Sequence[Edit]) -> Float[Tensor, "n M"]:
        """The inputs of W_v at the tokens whose outputs are to stay: AnyEdit's K_p, as released."""
        rows = self.facts.whole(edits)
        with self.facts.corrupted(rows):
            inputs = value_inputs(self.lm, layer, rows.batch)
        return inputs[rows.elsewhere].double()


def through_norm(
    lm: LanguageModel, layer: int, value: Float[Tensor, "N D"], step: Float[Tensor, "N D"]
) -> Float[Tensor, "N D"]:
    """The change of W_v's output that moves the stream by `step`, or as far as a norm allows.

    A norm between W_v and the stream, g v / rms(v), fixes the length of what it lets through.
    """
    if not lm.architecture.value_norm:
        return step
    dtype = lm.value_weight(layer).dtype
    gain = lm.value_norm(layer, torch.ones_like(value, dtype=dtype)).double()
    aim = (lm.value_norm(layer, value.to(dtype)).double() + step) / gain
    length = value.norm(dim=-1, keepdim=True) / aim.norm(dim=-1, keepdim=True)
    return aim * length - value
