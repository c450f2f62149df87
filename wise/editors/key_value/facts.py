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
from wise.lm.tokens import (
    IGNORED,
    Batch,
    encode,
    last_column,
    pad,
    padding_id,
    subject_mask,
    widened,
)

__all__ = ["Corrupts", "FactToken", "Facts", "Rows", "chunk_of", "n_chunks"]

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
    places: Int[Tensor, "B P"]  # the columns of the keys, the one that is asked for last
    subject: Bool[Tensor, "B T"]

    @property
    def place(self) -> Int[Tensor, " B"]:
        """The column of the key that is asked for."""
        return self.places[:, -1]

    @property
    def n_columns(self) -> int:
        """How many columns the rows have from the first key's on."""
        return self.batch.input_ids.shape[1] - int(self.places.min())

    @property
    def elsewhere(self) -> Bool[Tensor, "B T"]:
        """The rows' own tokens that are no key's."""
        return self.batch.attention_mask.bool().scatter(1, self.places, False)

    def above(self, other: Rows) -> Rows:
        """The rows of both as one batch, each a reading of its own."""
        batch, parts = self.batch.above(other.batch), (self, other)
        width = batch.input_ids.shape[1]
        return Rows(
            batch,
            self.readings + other.readings,
            torch.cat([part.owner for part in parts]),
            torch.cat([part.places + width - part.subject.shape[1] for part in parts]),
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
        return states[rows, self._columns(states.shape[1])[:, -1]]

    def shift(
        self, change: Float[Tensor, "N D"], n_columns: int, key: int = -1
    ) -> Float[Tensor, "B t D"]:
        """The last t = `n_columns` columns: each edit's `change` at a key's, zero elsewhere."""
        columns = torch.arange(n_columns, device=change.device)
        here = columns == self._columns(n_columns)[:, key, None]  # B t
        return here[..., None] * change[self.owner][:, None]  # B t D

    def _columns(self, n_columns: int) -> Int[Tensor, "B P"]:
        return self.places - (self.subject.shape[1] - n_columns)


@dataclass(frozen=True)
class Facts:
    """Turns the edits of a turn into rows of a model.

    With `chunk`, a target is parted into chunks of so many tokens, each with a key of its own: the
    last token before it. Without, it is one chunk.
    """

    lm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    prefixes: tuple[str, ...] = ()
    prefix_share: float | None = None
    append_eos: bool = True
    fact_token: str = "subject-last"
    corruption: Corrupts | None = None
    chunk: int | None = None

    def n_chunks(self, edits: Sequence[Edit]) -> list[int]:
        """Into how many chunks the target of each edit is parted."""
        return n_chunks(self.tokenizer, edits, self.chunk, append_eos=self.append_eos)

    def every_chunk(self, edits: Sequence[Edit]) -> tuple[list[Edit], list[int]]:
        """Each edit once for each of its chunks, and their numbers."""
        counts = self.n_chunks(edits)
        repeated = [edit for edit, n in zip(edits, counts, strict=True) for _ in range(n)]
        return repeated, [number for n in counts for number in range(n)]

    def whole(self, edits: Sequence[Edit], *, forced: bool = True) -> Rows:
        """The bare prompts and the keys of all chunks, with the targets, or up to the last key."""
        last = [n - 1 for n in self.n_chunks(edits)]
        return self.asked(edits, last, forced=forced, bare=True)

    def asked(
        self,
        edits: Sequence[Edit],
        numbers: Sequence[int] | None = None,
        *,
        forced: bool = False,
        bare: bool = False,
    ) -> Rows:
        """The prompts, then the prompts after each prefix; with their targets where `forced`.

        With `numbers`, a row is about that chunk of its edit's target: it holds the earlier ones
        and, where `forced`, this one. Else it is about the first.

        A prefix is left out after which one of them would not fit the model's context. Raises
        ValueError where a prompt or target encodes to nothing or is too long by itself.
        """
        starts = [""]
        if not bare:
            prefixes = [f"{prefix}. " for prefix in self.prefixes]
            rows = [f"{edit.prompt} {edit.target}" for edit in edits]
            starts += fitting_starts(self.lm, self.tokenizer, prefixes, rows)
        texts = [start + edit.prompt for start in starts for edit in edits]
        targets = [edit.target for edit in edits] * len(starts)
        owners = list(range(len(edits))) * len(starts)
        if self.chunk is None:
            return self._rows(texts, owners, edits, targets if forced else None)
        numbers = list(numbers or [0] * len(edits)) * len(starts)
        return self._rows(texts, owners, edits, targets, numbers, forced=forced)

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
        numbers: Sequence[int] = (),
        *,
        forced: bool = True,
    ) -> Rows:
        batch = encode(
            self.tokenizer, texts, targets, append_eos=self.append_eos,
            max_length=self.lm.context_length,
        )  # fmt: skip
        chunk = self.chunk or 0
        if numbers:
            begins = [chunk * number for number in numbers]
            batch = chunk_of(batch, begins, chunk if forced else 0, padding_id(self.tokenizer))
        own = tuple(edits[owner] for owner in owners)
        subject = subject_mask(self.tokenizer, batch, texts, [edit.subject for edit in own])
        number = torch.tensor(numbers or [0] * len(texts))[:, None]  # B 1
        keys = torch.arange(int(number.max()) + 1)  # P
        behind = chunk * (number - keys).clamp(min=0)  # B P
        places = last_column(batch.prompt_mask)[:, None] - behind  # B P
        if self.fact_token == "subject-last":
            is_first = subject.any(-1)[:, None] & ((keys == 0) | (number == 0))
            places = torch.where(is_first, last_column(subject)[:, None], places)
        device = self.lm.device
        owner = torch.tensor(list(owners), device=device)
        return Rows(batch.to(device), (own,), owner, places.to(device), subject.to(device))


def n_chunks(
    tokenizer: PreTrainedTokenizerBase,
    edits: Sequence[Edit],
    chunk: int | None,
    *,
    append_eos: bool,
) -> list[int]:
    """Into how many chunks of at most `chunk` tokens, EOS one of them, each target is parted."""
    if chunk is None or not edits:
        return [1] * len(edits)
    prompts, targets = [edit.prompt for edit in edits], [edit.target for edit in edits]
    batch = encode(tokenizer, prompts, targets, append_eos=append_eos)
    return [-(-n // chunk) for n in (batch.labels != IGNORED).sum(-1).tolist()]


def chunk_of(batch: Batch, begins: Sequence[int], n: int, padding: int) -> Batch:
    """Rows in which the first `begins` tokens of each target belong to its prompt, and the next `n`
    are the target.

    `batch` is padded on the left, and so is what comes of it, without columns that no row needs.
    """
    rows, prompts, labels = list[list[int]](), list[list[int]](), list[list[int]]()
    own, ends = batch.attention_mask.sum(-1).tolist(), last_column(batch.prompt_mask).tolist()
    for row, (n_own, end, begin) in enumerate(zip(own, ends, begins, strict=True)):
        ids, told = batch.input_ids[row].tolist(), batch.labels[row].tolist()
        first, key = len(ids) - n_own, end + begin
        stop = max(key + 1, key + n)
        rows.append(ids[first:stop])
        prompts.append([1] * (key + 1 - first) + [0] * (len(rows[-1]) - (key + 1 - first)))
        found = [IGNORED] * (key - first) + (told[key:stop] if n else [IGNORED])
        labels.append(found)
    input_ids, mask = pad(rows, padding)
    (in_prompt, _), (found_labels, _) = pad(prompts, 0), pad(labels, IGNORED)
    return Batch(input_ids, mask, in_prompt.bool(), found_labels)
