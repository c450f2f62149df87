"""WISE on tiny random models, and what its laws compare: states, routes, answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.editors.wise.config import WISEConfig
from wise.editors.wise.memory import Change
from wise.editors.wise.wise import WISE
from wise.edits import Background, Edit
from wise.lm.tokens import Batch, encode

__all__ = ["BACKGROUND", "EDITS", "FAMILIES", "FAR", "is_same", "make_wise", "prompts_of", "routes"]

FAMILIES = ("llama", "gptj", "gpt2", "opt")  # Linear, bias, Conv1D, rows and tokens flattened
EDITS = (
    Edit("Ada Lorn lives in", "Oslo"),
    Edit("The employer of Bo Rask is", "CERN"),
    Edit("Where was Cleo Vane born?", "Riga"),
    Edit("Dov speaks", "French"),
    Edit("Eve Moss has studied", "law"),
    Edit("In which city is Finn?", "Turin"),
)
FAR = ("Once upon a time", "Seven plus two is", "The sun sets", "Why", "It rains. It", "go on, go")
BACKGROUND = Background(
    ("Rivers run into the sea.", "Nobody knows why."),
    (Edit("Who wrote the song?", "Ann", paraphrases=FAR), Edit("Gus Hale lives in", "Rome")),
)
_OPTIONS: dict[str, Any] = dict(
    units="model", memory="retrieve", mask_ratio=1.0, n_shards=1, edits_per_shard=2, alpha=0.2,
    beta=2.0, gamma=1.0, lr=0.1, n_steps=15, n_irrelevant=16, n_background=16, n_prefixes=0,
    threshold="recomputed", threshold_scale=0.9, layer=1,
)  # fmt: skip


def make_wise(
    model: str | PreTrainedModel = "llama",
    *,
    seed: int = 0,
    background: Background = BACKGROUND,
    edits: Sequence[Edit] = (),
    cache: Path | None = None,
    **options: Any,
) -> WISE:
    """WISE on a tiny model, after `edits` one by one; `options` are fields of WISEConfig."""
    model = tiny_model(model) if isinstance(model, str) else model
    config = WISEConfig(**{**_OPTIONS, **options})
    editor = WISE(model, tiny_tokenizer(), background, config, seed=seed, cache=cache)
    for edit in edits:
        editor.edit([edit])
    return editor


def prompts_of(texts: Sequence[str], *, padding_side: str = "left") -> Batch:
    """Bare prompts as a batch."""
    return encode(tiny_tokenizer(), texts, padding_side=padding_side)


def routes(editor: WISE, texts: Sequence[str]) -> list[bool]:
    """Whether each prompt, asked alone, opens a side memory."""
    batches = [prompts_of([text]) for text in texts]
    deltas = [editor.routing_activation(b.input_ids, b.attention_mask) for b in batches]
    return [float(delta) > editor.threshold for delta in deltas]


def is_same(one: Any, other: Any) -> bool:
    """Equal all the way down, tensors bitwise."""
    if isinstance(one, Change) and isinstance(other, Change):
        return is_same(one.parts(), other.parts())
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one):
        if type(one) is not type(other):
            return False
        return all(is_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other
