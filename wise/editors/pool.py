"""MemoryLLM-lite: edits are hidden states in a pool that every block reads before the prompt.

MemoryLLM (Wang et al., ICML 2024, arXiv 2402.04624) trains a model to read and write such a pool;
the "-lite" says that this training is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from wise.editors.base import factory, floats, live
from wise.editors.prefixed import PrefixedBase, PrefixedConfig, placed
from wise.edits import Edit, edits_of
from wise.lm.hooks import replace_input
from wise.lm.tail import block_inputs_seen
from wise.lm.tokens import joined, padding_id, prompt_tokens
from wise.seeds import seeded

__all__ = [
    "PRESETS", "MemoryLLMConfig", "MemoryLLMLite", "make", "slots_at", "survivors", "with_slots",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLLMConfig(PrefixedConfig):
    """How large the pool is, and what an edit writes to it. Raises as PrefixedConfig.

    n_slots: N, the states that each layer holds at most (released: 50 * 256).
    n_newest: K, the states that an edit adds, those of its last tokens; a shorter one adds all of
        its own (released: 256). At most n_slots.
    """

    n_slots: PositiveInt = 12_800
    n_newest: PositiveInt = 256

    def __post_init__(self) -> None:
        PrefixedConfig.__post_init__(self)
        if self.n_newest > self.n_slots:
            raise ValueError(f"n_newest={self.n_newest} is more than n_slots={self.n_slots}")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": {},
    # So small that a prompt has room beside the pool.
    "embedded": dict(n_slots=64, n_newest=8),
}


@dataclass(frozen=True)
class _Pool:
    """The edits so far, the n slots of each of L layers, oldest first, and how often they were
    written to, which says what the next write drops; no slots before the first."""

    edits: tuple[Edit, ...] = ()
    slots: Float[Tensor, "L n D"] | None = None
    n_writes: int = 0


class MemoryLLMLite(PrefixedBase[MemoryLLMConfig, _Pool]):
    """Reads the states of the newest edits before each row; older ones wear away at random.

    It is Generates and Persistent. It is not Erasable: what a write dropped stays out.

    A slot of a layer is what its block reads at one token of "prompt target.", itself read behind
    the pool. A write to a full pool drops as many of the old slots, the same of every layer, as it
    adds, each with the same chance: of K slots K (1 - K/N)^t are left on average after t further
    writes. Rows read slots as tokens before them, at positions of their own: as long as nothing is
    left out, this is the model with the texts of all edits in its context. Where the slots do not
    all have room, the newest are read.

    Left out of MemoryLLM: the training of the model to read slots, and to put into K of them what a
    text says; and the pool that is full from the start. It projects slots to keys and values
    at each reading; to keep these would save that, but they turn with the slot's position.
    """

    empty = _Pool()

    def _after(self, state: _Pool, edits: tuple[Edit, ...]) -> _Pool:
        slots, n_writes = state.slots, state.n_writes
        for edit in edits:
            slots, n_writes = self._written(slots, n_writes, edit), n_writes + 1
        return _Pool(live(state.edits, edits), slots, n_writes)

    def _written(
        self, slots: Float[Tensor, "L n D"] | None, n_writes: int, edit: Edit
    ) -> Float[Tensor, "L m D"]:
        """The slots after one more write. Raises ValueError for an edit that the model cannot read,
        and for states that are not finite."""
        new = self._states(slots, edit)
        if slots is None:
            return new
        n, most = slots.shape[1], self.config.n_slots
        generator = seeded(self.seed, "slots that stay", n_writes)
        kept = survivors(n, min(n, most - new.shape[1]), generator=generator)
        return torch.cat([slots[:, kept.to(slots.device)], new], dim=1)

    def _states(self, slots: Float[Tensor, "L n D"] | None, edit: Edit) -> Float[Tensor, "L k D"]:
        """What each block reads at the last tokens of an edit, behind the slots."""
        self._encoded([edit])  # which raises where it is no edit for this model
        [text] = prompt_tokens(self.tokenizer, [joined(edit.prompt, edit.target) + "."])
        limit, n_lead = self.lm.context_length, self._n_lead
        if limit is not None:
            text = [*text[:n_lead], *text[n_lead:][n_lead - limit :]]
        own = torch.tensor([text], device=self.lm.device)
        n = 0 if slots is None else slots.shape[1]
        n = n if limit is None else min(n, limit - len(text))
        ids = [[padding_id(self.tokenizer)] * n]
        rows, mask, _ = placed(ids, own, torch.ones_like(own), n_lead=n_lead)
        with self._with(slots, mask, [n]), block_inputs_seen(self.lm) as seen:
            logits = self._bare.logits(rows, mask)
        k = min(self.config.n_newest, len(text) - n_lead)
        found = torch.stack([states[0, -k:] for states in seen]).float()  # L k D
        if not bool(found.isfinite().all() and logits.isfinite().all()):
            raise ValueError(f"the model's states of {edit.prompt!r} are not finite")
        return found

    def _prefixes(self, input_ids: Tensor, prompt_mask: Tensor) -> list[list[int]]:
        slots = self._state.slots
        n = 0 if slots is None else slots.shape[1]
        rooms = (self._room(n_tokens) for n_tokens in prompt_mask.sum(-1).tolist())
        counts = [n if room is None else max(0, min(n, room)) for room in rooms]
        return [[padding_id(self.tokenizer)] * count for count in counts]  # no block reads them

    def _reading(
        self, mask: Int[Tensor, "B S"], prefixes: Sequence[Sequence[int]]
    ) -> AbstractContextManager[None]:
        return self._with(self._state.slots, mask, [len(prefix) for prefix in prefixes])

    @contextmanager
    def _with(
        self, slots: Float[Tensor, "L n D"] | None, mask: Tensor, counts: Sequence[int]
    ) -> Iterator[None]:
        """The model with the newest slots, of each row so many, behind what begins it."""
        with ExitStack() as stack:
            if slots is not None:
                at = slots_at(mask, counts, n_slots=slots.shape[1], n_lead=self._n_lead)
                for block, own in zip(self.lm.blocks, slots, strict=True):
                    stack.enter_context(replace_input(block, partial(with_slots, own, at)))
            yield

    def _record(self, state: _Pool) -> dict[str, Any]:
        return {**super()._record(state), "n_writes": state.n_writes}

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Pool:
        edits, n_writes = edits_of(record["edits"]), record["n_writes"]
        if type(n_writes) is not int or n_writes < len(edits):
            raise ValueError(f"n_writes={n_writes!r} is not the number of {len(edits)} edits")
        n = tensors["slots"].shape[1]
        if not 0 < n <= self.config.n_slots:
            raise ValueError(f"{n} slots are not 1 to {self.config.n_slots}")
        shape = self.lm.n_layers, n, self.lm.value_weight(0).shape[1]
        return _Pool(edits, floats(tensors, "slots", *shape), n_writes)


def survivors(n: int, n_kept: int, *, generator: torch.Generator) -> Int[Tensor, " k"]:
    """Which `n_kept` of `n` slots stay, in order; any is dropped with the same chance."""
    return torch.randperm(n, generator=generator)[:n_kept].sort().values


def slots_at(
    mask: Int[Tensor, "B S"], counts: Sequence[int], *, n_slots: int, n_lead: int = 0
) -> Int[Tensor, "B S"]:
    """Which of `n_slots` slots each column reads, -1 for none.

    A row's first own `n_lead` columns have none, and the next ones its newest, `counts` of them.
    """
    n = torch.tensor(counts, device=mask.device)[:, None]
    rank = mask.cumsum(-1) - 1 - n_lead
    is_slot = mask.bool() & (rank >= 0) & (rank < n)
    return torch.where(is_slot, n_slots - n + rank, -1)


def with_slots(
    slots: Float[Tensor, "n D"], at: Int[Tensor, "B S"], hidden: Float[Tensor, "C T D"]
) -> Float[Tensor, "C T D"]:
    """The hidden states with those of the slots `at` each column in place of their own.

    C is B, or a multiple for the beams of each row. A step of cached decoding has fewer columns
    than the rows, and no slot among them.
    """
    S = at.shape[1]
    if hidden.shape[1] < S:
        return hidden
    at = at.repeat_interleave(len(hidden) // len(at), dim=0)  # C S
    found = hidden.clone()
    found[:, :S][at >= 0] = slots[at[at >= 0]].to(hidden.dtype)
    return found


make = factory(MemoryLLMLite, MemoryLLMConfig, PRESETS)
