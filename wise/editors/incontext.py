"""Editing in context: facts are put before the prompt as text, and their tokens cut off again.

In-context editing (IKE: Zheng et al., EMNLP 2023, arXiv 2305.12740) shows the newest edits after
demonstrations; retrieval-augmented editing shows those that BM25 finds for the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wise.editors.base import EditorBase, factory, live
from wise.editors.context import (
    PRESETS,
    InContextConfig,
    Retriever,
    demonstrations,
    n_lead,
    placed,
    statement,
)
from wise.edits import Edit
from wise.lm.tokens import encode

__all__ = ["InContext", "Retrieval", "make_ike", "make_retrieval"]


@dataclass(frozen=True)
class _Store:
    """The edits in force, oldest first."""

    edits: tuple[Edit, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(edit.prompt for edit in self.edits)

    @cached_property
    def retriever(self) -> Retriever:
        """Finds edits by their prompts."""
        return Retriever(self.prompts)


class InContext(EditorBase[InContextConfig, _Store]):
    """Shows the newest edits; it is Generates, Persistent and Erasable. The weights never count.

    With no edit in force it is the model itself, bitwise.
    """

    empty = _Store()

    @property
    def n_bytes(self) -> int:
        """Bytes of the text held beside the model."""
        return sum(len(statement(edit, self.config.style).encode()) for edit in self.edits)

    def remove(self, edits: Sequence[Edit]) -> None:
        """Unedit. Raises KeyError naming a prompt that no edit in force has."""
        gone = {edit.prompt for edit in edits}
        for prompt in gone - set(self._state.prompts):
            raise KeyError(f"no edit of the prompt {prompt!r} is in force")
        self._state = _Store(tuple(edit for edit in self.edits if edit.prompt not in gone))

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B T V"]:
        """Logits at the given tokens, with what stands before them read first."""
        return self._logits(input_ids, attention_mask, attention_mask)

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "B S"]:
        """Greedy continuations (num_beams=n: beams), with what stands before the prompts read."""
        prefixes = self._prefixes(input_ids, attention_mask)
        rows, mask, _ = placed(prefixes, input_ids, attention_mask, n_lead=n_lead(self.tokenizer))
        self._check_length(mask, max_new_tokens)
        return self._bare.generate(rows, mask, max_new_tokens, **options)

    def _logits(self, input_ids: Tensor, attention_mask: Tensor, prompt_mask: Tensor) -> Tensor:
        prefixes = self._prefixes(input_ids, prompt_mask)
        if not any(prefixes):
            return self._bare.logits(input_ids, attention_mask)
        rows, mask, places = placed(
            prefixes, input_ids, attention_mask, n_lead=n_lead(self.tokenizer)
        )
        self._check_length(mask, 0)
        logits = self._bare.logits(rows, mask)
        return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))  # B T V

    def _check_length(self, mask: Tensor, n_more: int) -> None:
        limit, longest = self.lm.context_length, int(mask.sum(-1).max()) + n_more
        if limit is not None and longest > limit:
            raise ValueError(
                f"{longest} tokens with the context and the answer are more than the model's "
                f"{limit}; raise reserve={self.config.reserve}"
            )

    def _prefixes(self, input_ids: Tensor, prompt_mask: Tensor) -> list[list[int]]:
        """The tokens before each row, empty where nothing is shown."""
        if not self.edits:
            return [[]] * len(input_ids)
        rows = [row[mask] for row, mask in zip(input_ids, prompt_mask.bool(), strict=True)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [self._prefix(text, len(row)) for text, row in zip(texts, rows, strict=True)]

    def _prefix(self, prompt: str, n_tokens: int) -> list[int]:
        """As many of the texts before `prompt`, from the last, as its context has room for."""
        shown = self._shown(prompt)
        if not shown:
            return []
        limit = self.lm.context_length
        room = None if limit is None else limit - n_tokens - self.config.reserve
        told = [statement(edit, self.config.style) for edit in shown]
        parts = [self._ids(text) for text in (*self._demonstrations, *told)]
        ids: list[int] = []
        for part in reversed(parts):
            if room is not None and len(part) + len(ids) > room:
                break
            ids = part + ids
        return ids

    def _shown(self, prompt: str) -> Sequence[Edit]:
        """The edits shown before `prompt`, the most telling last."""
        return self.edits[-self.config.n_edits :]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @cached_property
    def _demonstrations(self) -> tuple[str, ...]:
        return demonstrations(
            self.background, n=self.config.n_demonstrations, style=self.config.style, seed=self.seed
        )

    def _after(self, state: _Store, edits: tuple[Edit, ...]) -> _Store:
        """Raises ValueError for an edit that does not fit before its own prompt and answer."""
        for edit in edits:
            batch = encode(
                self.tokenizer, [edit.prompt], [edit.target], max_length=self.lm.context_length
            ).to(self.lm.device)
            told = self._ids(statement(edit, self.config.style))
            n_tokens = batch.input_ids.shape[1] + 1 + len(told)
            if self.lm.context_length is not None and n_tokens > self.lm.context_length:
                raise ValueError(
                    f"edit {edit.prompt!r} has {n_tokens} tokens with its own prompt; "
                    f"the model reads at most {self.lm.context_length}"
                )
            logits = self._bare.logits(batch.input_ids, batch.attention_mask)
            if not logits[batch.attention_mask.bool()].isfinite().all():
                raise ValueError(f"the model's logits of {edit.prompt!r} are not finite numbers")
        return _Store(live(state.edits, edits))

    def _out(self, state: _Store) -> dict[str, Tensor]:
        return {}

    def _in(self, edits: tuple[Edit, ...], tensors: Mapping[str, Tensor], n_turns: int) -> _Store:
        return _Store(edits)


class Retrieval(InContext):
    """Shows the edits that BM25 finds for a prompt; it is Routed too.

    A prompt that shares no word with any edit gets the model itself.
    """

    @property
    def threshold(self) -> float:
        """The score above which an edit is shown."""
        return float(self.config.min_score)

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The best score of an edit's prompt for each prompt; 0 before the first edit."""
        rows = zip(input_ids, attention_mask.bool(), strict=True)
        texts = self.tokenizer.batch_decode([r[mask] for r, mask in rows], skip_special_tokens=True)
        scores = [max(self._retriever.scores(text), default=0.0) for text in texts]
        return torch.tensor(scores, device=input_ids.device)

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """As in context; found by `prompt_mask` or, without one, by all tokens."""
        asked = attention_mask if prompt_mask is None else prompt_mask
        return self._logits(input_ids, attention_mask, asked)

    def _shown(self, prompt: str) -> Sequence[Edit]:
        scores = self._retriever.scores(prompt)
        found = [index for index, score in enumerate(scores) if score > self.config.min_score]
        best = sorted(found, key=lambda index: (scores[index], index))
        return [self.edits[index] for index in best[-self.config.n_edits :]]

    @property
    def _retriever(self) -> Retriever:
        return self._state.retriever


make_ike = factory(InContext, InContextConfig, PRESETS["ike"])
make_retrieval = factory(Retrieval, InContextConfig, PRESETS["retrieval"])
