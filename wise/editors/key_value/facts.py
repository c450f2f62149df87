"""Edits as rows of a model: where their subjects are, and how they may be corrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.edits import Edit
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import fitting_starts
from wise.lm.tokens import Batch, encode, last_column, subject_mask, widened

__all__ = ["Corrupts", "FactToken", "Facts", "Rows"]

FactToken = Literal["subject-last", "last"]


class Corrupts(Protocol):
    """Changes token embeddings while keys are read and values optimised (fact forcing)."""

    def __call__(
        self,
        embeddings: Float[Tensor, "B T D"],
        subject: Bool[Tensor, "B T"],
        edits: Sequence[Edit],
        step: int = 0,
    ) -> Float[Tensor, "B T D"]:
        """The embeddings of rows with their subjects at `subject`; row b is about `edits[b]`.

        `step` counts the steps of learning: noise is drawn anew at each of them.
        """


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts about the edits of a turn as one batch, and where their subjects are."""

    batch: Batch
    readings: tuple[tuple[Edit, ...], ...]  # the edit of each row; a corruption sees one at a time
    owner: Int[Tensor, " B"]  # their numbers in the turn
    place: Int[Tensor, " B"]  # the column of the key
    subject: Bool[Tensor, "B T"]

    @property
    def n_columns(self) -> int:
        """How many columns the rows have from the first key's on."""
        return self.batch.input_ids.shape[1] - int(self.place.min())

    def above(self, other: Rows) -> Rows:
        """The rows of both as one batch, each a reading of its own."""
        batch, parts = self.batch.above(other.batch), (self, other)
        width = batch.input_ids.shape[1]
        return Rows(
            batch,
            self.readings + other.readings,
            torch.cat([part.owner for part in parts]),
            torch.cat([part.place + width - part.subject.shape[1] for part in parts]),
            torch.cat([widened(part.subject, width, False) for part in parts]),
        )

    def corrupted(self, embeddings: Float[Tensor, "B T D"], by: Corrupts, step: int) -> Tensor:
        """The embeddings, corrupted by `by` in each reading at a step."""
        sizes = [len(reading) for reading in self.readings]
        parts = zip(embeddings.split(sizes), self.subject.split(sizes), self.readings, strict=True)
        return torch.cat([by(*part, step) for part in parts])

    def at_place(self, states: Float[Tensor, "B t D"]) -> Float[Tensor, "B D"]:
        """The states at the key's column; `states` are those of the rows' last t columns."""
        rows = torch.arange(len(states), device=states.device)
        return states[rows, self._place(states.shape[1])]

    def shift(self, change: Float[Tensor, "N D"], n_columns: int) -> Float[Tensor, "B t D"]:
        """The last t = `n_columns` columns: each edit's `change` at its key's, zero elsewhere."""
        columns = torch.arange(n_columns, device=change.device)
        here = columns == self._place(n_columns)[:, None]  # B t
        return here[..., None] * change[self.owner][:, None]  # B t D

    def _place(self, n_columns: int) -> Int[Tensor, " B"]:
        return self.place - (self.subject.shape[1] - n_columns)


@dataclass(frozen=True)
class Facts:
    """Turns the edits of a turn into rows of a model."""

    lm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    prefixes: tuple[str, ...] = ()
    prefix_share: float | None = None
    append_eos: bool = True
    fact_token: str = "subject-last"
    corruption: Corrupts | None = None

    def asked(self, edits: Sequence[Edit], *, forced: bool = False, bare: bool = False) -> Rows:
        """The prompts, then the prompts after each prefix; with their targets where `forced`.

        A prefix is left out after which one of them would not fit the model's context. Raises
        ValueError where a prompt or target encodes to nothing or is too long by itself.
        """
        starts = [""]
        if not bare:
            prefixes = [f"{prefix}. " for prefix in self.prefixes]
            rows = [f"{edit.prompt} {edit.target}" for edit in edits]
            starts += fitting_starts(self.lm, self.tokenizer, prefixes, rows)
        texts = [start + edit.prompt for start in starts for edit in edits]
        targets = [edit.target for edit in edits] * len(starts) if forced else None
        return self._rows(texts, list(range(len(edits))) * len(starts), edits, targets)

    def mean(self, states: Float[Tensor, "S N M"]) -> Float[Tensor, "N M"]:
        """The mean over the bare prompts, which come first, and the prompts after each prefix."""
        share = self.prefix_share
        if share is None or len(states) == 1:
            return states.mean(0)
        return torch.lerp(states[0], states[1:].mean(0), share)

    def essence(self, edits: Sequence[Edit]) -> Rows | None:
        """ "<subject> is a" for each edit that names its subject; a label marks the last token."""
        owners = [number for number, edit in enumerate(edits) if edit.subject]
        if not owners:
            return None
        rows = self._rows([f"{edits[n].subject} is a" for n in owners], owners, edits, None)
        labels = rows.batch.labels.clone()
        labels[:, -1] = 0  # only marks where the distribution is compared
        return replace(rows, batch=replace(rows.batch, labels=labels))

    @contextmanager
    def corrupted(self, rows: Rows, step: int = 0) -> Iterator[None]:
        """The model on `rows` at a step, with corrupted embeddings where there is a corruption."""
        corruption = self.corruption
        if corruption is None:
            yield
            return

        def change(_ids: Tensor, embeddings: Tensor) -> Tensor:
            return rows.corrupted(embeddings, corruption, step)

        with hooks.replace(self.lm.embedding, change):
            yield

    def _rows(
        self,
        texts: Sequence[str],
        owners: Sequence[int],
        edits: Sequence[Edit],
        targets: Sequence[str] | None,
    ) -> Rows:
        batch = encode(
            self.tokenizer, texts, targets, append_eos=self.append_eos,
            max_length=self.lm.context_length,
        )  # fmt: skip
        own = tuple(edits[owner] for owner in owners)
        subject = subject_mask(self.tokenizer, batch, texts, [edit.subject for edit in own])
        place = last_column(batch.prompt_mask)
        if self.fact_token == "subject-last":
            place = torch.where(subject.any(-1), last_column(subject), place)
        device = self.lm.device
        owner = torch.tensor(list(owners), device=device)
        return Rows(batch.to(device), (own,), owner, place.to(device), subject.to(device))
