"""MEMOIR: one residual memory beside one W_v, of which each edit writes and reads a few rows.

Wang et al. 2025, arXiv 2506.07899. An edit's rows follow from the entries of W_v's input that stand
out in its prompt. A prompt whose own rows overlap enough with an edit's reads that edit's rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from wise.editors.base import factory, floats, live
from wise.editors.gated import GatedBase, OneEdit, threshold_among
from wise.editors.options import Checked, Fraction, Share
from wise.editors.router import RouterBase, RoutingInputs, SideMemory, select
from wise.editors.routing_inputs import background_inputs, of_different_subjects
from wise.edits import Edit, edits_of
from wise.lm.sampling import fitting_starts, model_prefixes, own_texts
from wise.lm.tail import Tail
from wise.lm.tokens import encode
from wise.seeds import seeded

__all__ = ["MEMOIR", "PRESETS", "MEMOIRConfig", "Overlap", "make"]

_STEADY = 1e-4  # a loss that changes by no more has settled (released)
_UNCALIBRATED = 0.9  # the threshold where the background has no two subjects


@dataclass(frozen=True, slots=True, kw_only=True)
class MEMOIRConfig(Checked):
    """How MEMOIR edits. Raises ValueError naming the field, its value and what is allowed.

    layer, depth: the block of W_v; without `layer`, at that share of the blocks (released: 27 of
        32).
    share: of the memory's rows that an edit writes (released: 4,096 of 14,336).
    threshold: the share of its rows that a prompt must have in common with an edit's, and more
        (released: .4 for ZsRE, .9 for hallucination). None = what `false_positives` of the
        background's prompts exceed with those of another subject.
    lr, n_steps, early_stop, max_norm: SGD with gradients cut to a norm, until the loss is below and
        has settled.
    n_prefixes, prefix_length: token sequences that the model writes before the prompt.
    n_background: texts whose mean feature is taken off (released: 100), and prompts of different
        subjects for the threshold.
    append_eos: the target ends with EOS, so that free-run answers stop.

    The released code decays all of the memory at every step, though only an edit's rows are to
    change; here nothing does.
    """

    layer: int | None = None
    depth: Share = 0.85
    share: Share = 0.286
    threshold: Fraction | None = None
    false_positives: Share = 0.05
    lr: NonNegativeFloat = 1.0
    n_steps: PositiveInt = 30
    early_stop: NonNegativeFloat = 0.02
    max_norm: NonNegativeFloat = 1.0
    n_prefixes: NonNegativeInt = 10
    prefix_length: PositiveInt = 10
    n_background: PositiveInt = 100
    append_eos: bool = True


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": dict(threshold=0.4),
    # Chosen on tuning streams.
    "embedded": dict(share=0.7, threshold=0.8, lr=5.0, max_norm=20.0, early_stop=0.005),
}


@dataclass(frozen=True)
class Overlap(RouterBase):
    """Routes a prompt to the edit with which it has most rows in common.

    mean: of the features of the background. order: a permutation of the rows, so that neighbouring
    entries, and those that stand out in every prompt, do not share theirs.
    """

    mean: Float[Tensor, " M"]
    order: Int[Tensor, " M"]
    n_rows: int
    least: float = math.inf

    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """1 at each prompt's rows: those of the largest entries of its mean input, by size."""
        return self.rows_of(select(inputs[-1], prompt_mask, "mean"))

    def rows_of(self, prompts: RoutingInputs) -> RoutingInputs:
        """The same of prompts whose tokens are selected."""
        features = mean_of(prompts) - self.mean  # N M
        rows = self.order[features.abs().topk(self.n_rows).indices]
        keys = torch.zeros_like(features).scatter(1, rows, 1.0)
        is_read = prompts.mask.any(-1, keepdim=True)
        return RoutingInputs((keys * is_read)[:, None], is_read)

    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """The share of rows that each prompt has in common with each edit."""
        stored = torch.cat([memory.routing.keys[:, 0] for memory in memories])  # K M
        return stored @ rows.keys[:, 0].T / self.n_rows

    def threshold(self, memories: Sequence[SideMemory]) -> float:
        return self.least


def mean_of(prompts: RoutingInputs) -> Float[Tensor, "N M"]:
    """The mean over each prompt's tokens, in float32."""
    n_tokens = prompts.mask.sum(-1, keepdim=True).clamp(min=1)
    return (prompts.keys.float() * prompts.mask[..., None]).sum(1) / n_tokens


@dataclass(frozen=True)
class _Rows:
    """A ValueChange: some rows of the residual memory."""

    memory: Float[Tensor, "M D"]
    rows: Int[Tensor, " k"]

    def __call__(self, inputs: Float[Tensor, "... M"]) -> Float[Tensor, "... D"]:
        return inputs[..., self.rows].float() @ self.memory[self.rows]

    @property
    def recalled(self) -> Float[Tensor, " D"]:
        raise ValueError("rows of a memory recall no input that they were learned on")


@dataclass(frozen=True)
class _State:
    """The edits in force, the rows of each, and the residual memory; None before the first."""

    edits: tuple[Edit, ...] = ()
    rows: Int[Tensor, "E k"] | None = None
    memory: Float[Tensor, "M D"] | None = None

    @cached_property
    def parts(self) -> tuple[OneEdit[_Rows], ...]:
        """Each edit as a side memory of its own."""
        if self.memory is None or self.rows is None:
            return ()
        found = []
        for edit, rows in zip(self.edits, self.rows.long(), strict=True):
            key = self.memory.new_zeros(len(self.memory)).index_fill(0, rows, 1.0)
            routing = RoutingInputs(key[None, None], key.new_ones(1, 1).bool())
            found.append(OneEdit(_Rows(self.memory, rows), (edit,), routing))
        return tuple(found)


class MEMOIR(GatedBase[MEMOIRConfig, _State]):
    """Online editor with one memory of rows that edits share; a turn's edits are made one by one.

    It is Generates, Routed, Retrieves, Growing and Persistent. An edit changes its own rows alone;
    those that a later one writes too, it changes for both, so that no edit can be taken back.
    """

    empty = _State()

    @property
    def growth_per_edit(self) -> float:
        """A prompt's rows are compared with each edit's."""
        return len(self._weight) / self.lm.model.num_parameters()

    @cached_property
    def router(self) -> Overlap:
        """With the threshold of the options, or that of the background."""
        config, n_inner = self.config, len(self._weight)
        order = torch.randperm(n_inner, generator=seeded(self.seed, "rows")).to(self.lm.device)
        n_rows = max(1, round(config.share * n_inner))
        found = background_inputs(
            self.kept, self.layer, self.background, "mean", n=config.n_background, seed=self.seed
        )
        if found is None:
            found = self._inputs_of(own_texts(self.lm, self.tokenizer, seed=self.seed))
        router = Overlap(mean_of(found).mean(0), order, n_rows)
        least = self._calibrated(router) if config.threshold is None else config.threshold
        return replace(router, least=least)

    def _calibrated(self, router: Overlap) -> float:
        """What few of the background's prompts exceed with the edit of another subject."""
        prompts = of_different_subjects(self.background, self.config.n_background)
        if len(prompts) < 2:
            return _UNCALIBRATED
        keys = router.rows_of(self._inputs_of(prompts)).keys[:, 0]  # N M
        common = keys @ keys.T / router.n_rows
        return threshold_among(common, false_positives=self.config.false_positives)

    def _memories(self, state: _State) -> tuple[OneEdit[_Rows], ...]:
        return state.parts

    def _after(self, state: _State, edits: tuple[Edit, ...]) -> _State:
        memory = state.memory
        if memory is None:
            memory = torch.zeros(self._weight.shape, device=self.lm.device)  # float32 in any model
        prompts = [edit.prompt for edit in state.edits]
        of_prompt = {} if state.rows is None else dict(zip(prompts, state.rows.long(), strict=True))
        for edit in edits:
            found = self.router.rows_of(self._inputs_of([edit.prompt]))
            rows = of_prompt[edit.prompt] = found.keys[0, 0].nonzero()[:, 0]
            memory = self._learned(memory, rows, edit)
        in_force = live(state.edits, edits)
        rows = torch.stack([of_prompt[edit.prompt] for edit in in_force])
        return _State(in_force, rows.int(), memory)

    def _learned(
        self, memory: Float[Tensor, "M D"], rows: Int[Tensor, " k"], edit: Edit
    ) -> Float[Tensor, "M D"]:
        """`memory` with `rows` such that the model gives the edit's target."""
        config = self.config
        row = f"{edit.prompt} {edit.target}"
        prefixes = [prefix and f"{prefix} " for prefix in self._prefixes]
        starts = ["", *fitting_starts(self.lm, self.tokenizer, prefixes, [row])]
        batch = encode(
            self.tokenizer, [start + edit.prompt for start in starts], [edit.target] * len(starts),
            append_eos=config.append_eos, max_length=self.lm.context_length,
        ).to(self.lm.device)  # fmt: skip
        tail = Tail.capture(self.lm, self.layer, batch)
        inputs = tail.inputs[..., rows].float()  # B T k
        learned, last = memory[rows], math.inf
        for step in range(config.n_steps):
            with torch.enable_grad():
                variable = learned.detach().requires_grad_()
                loss = tail.loss(tail.value + (inputs @ variable).to(tail.value.dtype))
            found = loss.item()
            if not math.isfinite(found):
                raise ValueError(f"loss={found} after {step} steps at lr={config.lr}; lower lr")
            if found <= config.early_stop and abs(last - found) <= _STEADY:
                break
            last = found
            (gradient,) = torch.autograd.grad(loss, variable)
            cut = (config.max_norm / gradient.norm()).clamp(max=1.0)
            learned = learned - config.lr * cut * gradient
        return memory.index_copy(0, rows, learned)

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        config = self.config
        return model_prefixes(
            self.lm, self.tokenizer,
            n=config.n_prefixes, length=config.prefix_length, seed=self.seed,
        )  # fmt: skip

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _State:
        edits = edits_of(record["edits"])
        memory, rows = floats(tensors, "memory", *self._weight.shape), tensors["rows"]
        expected = len(edits), self.router.n_rows
        is_of_rows = rows.dtype == torch.int32 and rows.shape == expected
        if not (is_of_rows and bool(((rows >= 0) & (rows < len(memory))).all())):
            raise ValueError(f"rows are not {expected} numbers of rows of the memory")
        return _State(edits, rows, memory)


make = factory(MEMOIR, MEMOIRConfig, PRESETS)
