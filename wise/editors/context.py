"""What stands before a prompt: facts told as text, found by BM25, and placed as tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.editors.options import require_numbers, require_one_of, require_whole
from wise.edits import Background, Edit
from wise.lm.tokens import pad
from wise.seeds import seeded

__all__ = [
    "PRESETS",
    "InContextConfig",
    "Retriever",
    "demonstrations",
    "n_lead",
    "placed",
    "statement",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InContextConfig:
    """What stands before a prompt. Raises ValueError naming field, value and what is allowed.

    style: how a fact is told: "plain" = "prompt target.", or "ike" = as a new fact and, in a
        demonstration, with a question about it (IKE, section 3.1 and appendix).
    n_demonstrations: facts of the background shown first; of eight one copies the new fact, three
        paraphrase it, four ask for something else (IKE, section 3.2; released: 16).
    n_edits: edits shown at most, the newest or the best found, with the newest or best at the end.
    min_score: what the BM25 score of an edit's prompt must exceed to be shown (retrieval only).
    reserve: tokens kept free for the answer. What does not fit beside the prompt into the model's
        context goes from the front: demonstrations before edits.
    """

    style: str = "plain"
    n_demonstrations: int = 0
    n_edits: int = 8
    min_score: float = 0.0
    reserve: int = 16

    def __post_init__(self) -> None:
        require_one_of(self, style=("plain", "ike"))
        require_whole(self, n_demonstrations=0, n_edits=1, reserve=0)
        require_numbers(self, "min_score")


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


def statement(edit: Edit, style: str) -> str:
    """A fact as text, ready to stand before a prompt."""
    if style == "plain":
        return f"{edit.prompt} {edit.target}. "
    return f"New Fact: {edit.prompt} {edit.target}\nPrompt: "


def demonstrations(background: Background, *, n: int, style: str, seed: int) -> tuple[str, ...]:
    """`n` facts of the background's edits, each with a question: of eight one is the fact itself,
    three are paraphrases and four ask for another fact, whose answer stays.

    Those without a paraphrase or a known true answer copy. Source: IKE section 3.2.
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
    return re.findall(r"\w+", text.lower()) or [""]


def n_lead(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the tokenizer puts before any text."""
    return len(tokenizer("").input_ids)


def placed(
    prefixes: Sequence[Sequence[int]],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    *,
    n_lead: int = 0,
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"], Int[Tensor, "B T"]]:
    """Left-padded rows that begin with their prefixes, their mask, and where each token is.

    A row's first `n_lead` tokens, as a beginning of sequence, stay in front of the prefix. Padding
    ends up on the left whatever side it came from; rows keep no gaps.
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
