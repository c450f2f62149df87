"""Editing in context: facts are put before the prompt as text; only the prompt's logits are kept.

In-context editing (IKE: Zheng et al., EMNLP 2023, arXiv 2305.12740) shows the newest edits after
demonstrations; retrieval-augmented editing shows those that BM25 finds for the prompt.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from wise.editors.base import ErasableBase, factory, live, without
from wise.editors.prefixed import PrefixedBase, PrefixedConfig
from wise.edits import Background, Edit, edits_of
from wise.seeds import seeded

__all__ = [
    "PRESETS", "ContextBase", "ContextConfig", "ErasableContextBase", "InContext",
    "InContextConfig", "Retrieval", "Retriever", "demonstrations", "make_ike", "make_retrieval",
    "statement",
]  # fmt: skip


C = TypeVar("C", bound="ContextConfig")
S = TypeVar("S", bound=Any)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextConfig(PrefixedConfig):
    """How a fact stands before a prompt. Raises as PrefixedConfig.

    style: how a fact is told: "plain" = "prompt target.", or "ike" = as a new fact and, in a
        demonstration, with a question about it (IKE, section 3.1 and appendix).

    Of what has no room, demonstrations are dropped before edits.
    """

    style: Literal["plain", "ike"] = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class InContextConfig(ContextConfig):
    """What is put before a prompt. Raises as ContextConfig.

    n_demonstrations: facts of the background shown first; of eight, one copies its fact, three
        paraphrase it and four ask for something else (IKE, section 3.2; released: 16).
    n_edits: at most so many edits are shown, the newest or best match last.
    min_score: an edit is shown if the BM25 score of its prompt is above this (retrieval only).
    """

    n_demonstrations: NonNegativeInt = 0
    n_edits: PositiveInt = 8
    min_score: NonNegativeFloat = 0.0


PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ike": {
        "released": dict(style="ike", n_demonstrations=16, n_edits=1),
        "embedded": dict(n_demonstrations=0, n_edits=1),
    },
    "retrieval": {
        "released": dict(style="ike", n_edits=1),
        "embedded": dict(n_edits=1),
    },
}


@dataclass(frozen=True)
class _Store:
    """The edits in force, oldest first."""

    edits: tuple[Edit, ...] = ()

    @cached_property
    def retriever(self) -> Retriever:
        """The index of the edits' prompts."""
        return Retriever([edit.prompt for edit in self.edits])


class ContextBase(PrefixedBase[C, S]):
    """An editor that puts edits before the prompt as text."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the text and the tensors held beside the model."""
        told = (statement(edit, self.config.style) for edit in self.edits)
        return super().n_bytes + sum(len(text.encode()) for text in told)

    def _prefixes(self, input_ids: Tensor, prompt_mask: Tensor) -> list[list[int]]:
        """The tokens before each row, empty where nothing is shown."""
        if not self.edits:
            return [[]] * len(input_ids)
        shown, n_tokens = self._shown(input_ids, prompt_mask), prompt_mask.sum(-1).tolist()
        return [self._prefix(edits, n) for edits, n in zip(shown, n_tokens, strict=True)]

    def _prefix(self, shown: Sequence[Edit], n_tokens: int) -> list[int]:
        """As many of the texts for `shown`, the last first, as the context has room for."""
        if not shown:
            return []
        room, ids = self._room(n_tokens), list[int]()
        for part in reversed(self._parts(shown)):
            if room is not None and len(part) + len(ids) > room:
                break
            ids = part + ids
        return ids

    def _parts(self, shown: Sequence[Edit]) -> list[list[int]]:
        """The tokens of each text before a prompt for which `shown` is relevant."""
        return [self._ids(statement(edit, self.config.style)) for edit in shown]

    @abstractmethod
    def _shown(self, input_ids: Tensor, prompt_mask: Tensor) -> Sequence[Sequence[Edit]]:
        """The edits shown before each row, the most relevant last."""

    def _texts(self, input_ids: Tensor, mask: Tensor) -> list[str]:
        rows = [row[kept] for row, kept in zip(input_ids, mask.bool(), strict=True)]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _require_told(self, edits: Sequence[Edit]) -> None:
        """Raises ValueError for an edit that does not fit before its own prompt and answer."""
        for edit in edits:
            batch = self._encoded([edit])
            told = self._ids(statement(edit, self.config.style))
            n_tokens = batch.input_ids.shape[1] + 1 + len(told)
            if self.lm.context_length is not None and n_tokens > self.lm.context_length:
                raise ValueError(
                    f"edit {edit.prompt!r} has {n_tokens} tokens with its own prompt; "
                    f"the model reads at most {self.lm.context_length}"
                )
            logits = self._bare.logits(batch.input_ids, batch.attention_mask)
            if not logits[batch.attention_mask.bool()].isfinite().all():
                raise ValueError(f"the model's logits of {edit.prompt!r} are not finite")


class ErasableContextBase(ContextBase[C, S], ErasableBase[C, S]):
    """An editor in context whose state follows from the edits in force; it is Erasable."""

    def _after(self, state: S, edits: tuple[Edit, ...]) -> S:
        self._require_told(edits)
        return self._of(live(state.edits, edits), state)

    def _without(self, state: S, prompts: frozenset[str]) -> S:
        return self._of(without(state.edits, prompts), state)

    @abstractmethod
    def _of(self, edits: tuple[Edit, ...], state: S) -> S:
        """The state of these edits, with what `state` already has of them."""


class InContext(ErasableContextBase[InContextConfig, _Store]):
    """Shows the newest edits, behind demonstrations."""

    empty = _Store()

    def _shown(self, input_ids: Tensor, prompt_mask: Tensor) -> Sequence[Sequence[Edit]]:
        return [self.edits[-self.config.n_edits :]] * len(input_ids)

    def _parts(self, shown: Sequence[Edit]) -> list[list[int]]:
        return [*self._demonstrations, *super()._parts(shown)]

    @cached_property
    def _demonstrations(self) -> list[list[int]]:
        config = self.config
        return [self._ids(text) for text in demonstrations(
            self.background, n=config.n_demonstrations, style=config.style, seed=self.seed
        )]  # fmt: skip

    def _of(self, edits: tuple[Edit, ...], state: _Store) -> _Store:
        return _Store(edits)

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Store:
        return _Store(edits_of(record["edits"]))


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
        texts, retriever = self._texts(input_ids, attention_mask), self._state.retriever
        scores = [max(retriever.scores(text), default=0.0) for text in texts]
        return torch.tensor(scores, device=input_ids.device)

    def _shown(self, input_ids: Tensor, prompt_mask: Tensor) -> Sequence[Sequence[Edit]]:
        return [self._best(text) for text in self._texts(input_ids, prompt_mask)]

    def _best(self, prompt: str) -> Sequence[Edit]:
        scores = self._state.retriever.scores(prompt)
        found = [index for index, score in enumerate(scores) if score > self.config.min_score]
        edits = self.edits
        best = sorted(found, key=lambda n: (scores[n], edits[n].prompt == prompt, n))
        return [edits[index] for index in best[-self.config.n_edits :]]


def statement(edit: Edit, style: str) -> str:
    """A fact as text, ready to stand before a prompt."""
    if style == "plain":
        return f"{edit.prompt} {edit.target}. "
    return f"New Fact: {edit.prompt} {edit.target}\nPrompt: "


def demonstrations(background: Background, *, n: int, style: str, seed: int) -> tuple[str, ...]:
    """`n` facts of the background's edits, each with a question: of eight, one is the fact itself,
    three are paraphrases and four ask for another fact, whose answer is unchanged.

    An edit without a paraphrase or known answer gives a copy. Source: IKE section 3.2.
    """
    edits = background.edits
    order = torch.randperm(len(edits), generator=seeded(seed, "demonstrations"))[:n].tolist()
    kinds = ("copy", "retain", "update", "retain", "update", "retain", "update", "retain")
    shown = []
    for place, index in enumerate(order):
        edit, other = edits[index], edits[(index + 1) % len(edits)]
        question, answer = edit.prompt, edit.target
        kind = kinds[place % len(kinds)]
        if kind == "update" and edit.paraphrases:
            question = edit.paraphrases[0]
        elif kind == "retain" and other is not edit and other.ground_truth:
            question, answer = other.prompt, other.ground_truth
        end = ". " if style == "plain" else "\n\n"
        shown.append(f"{statement(edit, style)}{question} {answer}{end}")
    return tuple(shown)


class Retriever:
    """BM25 over texts (Lucene's variant, by the library bm25s); words are runs of letters.

    Raises ImportError naming the extra where bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]):
        self._index = None
        if texts:
            try:
                import bm25s
            except ImportError as error:
                raise ImportError(
                    "retrieval needs bm25s: pip install 'model-editor-suite[retrieval]'"
                ) from error
            self._index = bm25s.BM25()
            self._index.index([_words(text) for text in texts], show_progress=False)

    def scores(self, query: str) -> list[float]:
        """The score of each text, 0 where no word is shared."""
        return [] if self._index is None else self._index.get_scores(_words(query)).tolist()


def _words(text: str) -> list[str]:
    """The words of a text in lower case; itself where it has none."""
    return re.findall(r"\w+", text.lower()) or [text.strip()]


make_ike = factory(InContext, InContextConfig, PRESETS["ike"])
make_retrieval = factory(Retrieval, InContextConfig, PRESETS["retrieval"])
