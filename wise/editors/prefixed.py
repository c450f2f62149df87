"""Tokens put before each row that a model reads; only the row's own logits are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeInt
from torch import Tensor, nn

from wise.editors.base import EditorBase
from wise.editors.options import Checked
from wise.lm.decoding import most_rows
from wise.lm.tokens import pad, padding_id

__all__ = ["PrefixedBase", "PrefixedConfig", "placed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixedConfig(Checked):
    """What has room before a row. Raises ValueError naming field, value and what is allowed.

    reserve: tokens kept free for the answer. What does not fit into the model's context is dropped
        from the front.
    """

    reserve: NonNegativeInt = 16


C = TypeVar("C", bound=PrefixedConfig)
S = TypeVar("S", bound=Any)


class PrefixedBase(EditorBase[C, S]):
    """An editor that puts a prefix before each row; it changes no weight.

    It is Generates and Persistent. A row before which nothing is put is answered by the model
    itself, bitwise, whatever its batch.
    """

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits at the given tokens, with the prefixes in front of them."""
        asked = attention_mask if prompt_mask is None else prompt_mask
        prefixes = self._prefixes(input_ids, asked)
        told = self._told(prefixes, input_ids)
        if len(told) == len(prefixes):
            return self._logits(prefixes, input_ids, attention_mask)
        logits = self._bare.logits(input_ids, attention_mask)  # of all rows, which keep their bits
        if not len(told):
            return logits
        shown = [prefix for prefix in prefixes if prefix]
        found = self._logits(shown, input_ids[told], attention_mask[told])
        return logits.index_copy(0, told, found)

    def _logits(
        self, prefixes: list[list[int]], input_ids: Tensor, attention_mask: Tensor
    ) -> Float[Tensor, "B T V"]:
        rows, mask, places = self._placed(prefixes, input_ids, attention_mask)
        n = most_rows(self.tokenizer, rows.shape[1])
        found = []
        for first in range(0, len(rows), n):
            some, seen, at = (each[first : first + n] for each in (rows, mask, places))
            with self._reading(seen, prefixes[first : first + n]):
                logits = self._bare.logits(some, seen)
            found.append(logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1])))
        return torch.cat(found)  # B T V

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "B S"]:
        """Greedy continuations (num_beams=n: beams), with the prefixes in front of the prompts."""
        prefixes = self._prefixes(input_ids, attention_mask)
        told = self._told(prefixes, input_ids)
        if not len(told):
            return self._bare.generate(input_ids, attention_mask, max_new_tokens, **options)
        shown = [prefix for prefix in prefixes if prefix]
        rows, mask, _ = self._placed(shown, input_ids[told], attention_mask[told], max_new_tokens)
        with self._reading(mask, shown):
            found = self._bare.generate(rows, mask, max_new_tokens, **options)
        if len(told) == len(prefixes):
            return found
        others = told.new_tensor([row for row, prefix in enumerate(prefixes) if not prefix])
        rest = input_ids[others], attention_mask[others]
        left = self._bare.generate(*rest, max_new_tokens, **options)
        return _interleaved(
            torch.cat([told, others]).argsort(), found, left, padding_id(self.tokenizer)
        )

    def _told(self, prefixes: list[list[int]], like: Tensor) -> Int[Tensor, " r"]:
        """The rows before which something is put."""
        rows = [row for row, prefix in enumerate(prefixes) if prefix]
        return torch.tensor(rows, dtype=torch.long, device=like.device)

    def _placed(
        self, prefixes: list[list[int]], input_ids: Tensor, attention_mask: Tensor, n_more: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`placed`; ValueError where a row with `n_more` tokens is too long for the model."""
        rows, mask, places = placed(prefixes, input_ids, attention_mask, n_lead=self._n_lead)
        limit, longest = self.lm.context_length, int(mask.sum(-1).max()) + n_more
        if limit is not None and longest > limit:
            raise ValueError(
                f"{longest} tokens, with prefix and answer, exceed the model's "
                f"{limit}; raise reserve={self.config.reserve}"
            )
        return rows, mask, places

    @abstractmethod
    def _prefixes(self, input_ids: Tensor, prompt_mask: Tensor) -> list[list[int]]:
        """The tokens before each row, empty where nothing is put."""

    def _reading(
        self, mask: Int[Tensor, "B S"], prefixes: Sequence[Sequence[int]]
    ) -> AbstractContextManager[None]:
        """The model as it reads rows with this mask, which begin with `prefixes`."""
        return nullcontext()

    @property
    def _n_lead(self) -> int:
        """How many tokens, such as BOS, stay in front of a prefix."""
        return len(self.tokenizer("").input_ids)

    def _room(self, n_tokens: int) -> int | None:
        """How many tokens have room before a row of `n_tokens` and its answer; None: any number."""
        limit = self.lm.context_length
        return None if limit is None else limit - n_tokens - self.config.reserve


def _interleaved(
    order: Int[Tensor, " B"], one: Int[Tensor, "b S"], other: Int[Tensor, "c R"], padding: int
) -> Int[Tensor, "d W"]:
    """Answers of `one` above those of `other`, brought into `order`; a prompt may have several."""
    width = max(one.shape[1], other.shape[1])
    rows = torch.cat([
        nn.functional.pad(each, (0, width - each.shape[1]), value=padding) for each in (one, other)
    ])  # fmt: skip
    return rows.view(len(order), -1, width)[order].flatten(0, 1)  # B*copies W


def placed(
    prefixes: Sequence[Sequence[int]],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    *,
    n_lead: int = 0,
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"], Int[Tensor, "B T"]]:
    """Left-padded rows that begin with their prefixes, their mask, and each token's column.

    A row's first `n_lead` tokens, such as BOS, stay in front of the prefix. Padding ends up on the
    left from whichever side, and rows have no gaps.
    """
    ids, given = pad(prefixes, 0)
    own, given = attention_mask.long(), given.to(attention_mask)
    in_lead = own.bool() & (own.cumsum(-1) <= n_lead)
    rank = torch.cat([2 * given, torch.where(in_lead, 1, 3 * own)], dim=1)  # 0 = padding
    order = rank.argsort(dim=1, stable=True)  # B P+T
    n_padding = int((rank == 0).sum(-1).min())
    kept = order[:, n_padding:]  # B S
    rows = torch.cat([ids.to(input_ids), input_ids], dim=1).gather(1, kept)
    places = (order.argsort(dim=1)[:, ids.shape[1] :] - n_padding).clamp(min=0)  # B T
    return rows, (rank > 0).to(attention_mask).gather(1, kept), places
