"""Prompts as routing inputs: given ones, and those drawn from the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.editors.kept import Kept
from wise.editors.router import RoutingInputs, select, stack
from wise.edits import Background
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import own_texts
from wise.lm.tail import value_inputs
from wise.lm.tokens import Batch, encode, of_like_length
from wise.seeds import seeded, shuffled

__all__ = [
    "background_inputs",
    "cut_anywhere",
    "of_different_subjects",
    "of_unlike_prompts",
    "prompt_inputs",
    "read_in_batches",
    "readable",
]

_BATCH = 64  # prompts


def prompt_inputs(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    prompts: Sequence[str],
    how: str,
) -> RoutingInputs:
    """Routing inputs of `prompts`, in their order."""
    parts = []
    for start in range(0, len(prompts), _BATCH):
        rows = prompts[start : start + _BATCH]
        batch = encode(tokenizer, rows, max_length=lm.context_length).to(lm.device)
        parts.append(select(value_inputs(lm, layer, batch), batch.prompt_mask, how))
    return stack(parts)


def read_in_batches(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    read: Callable[[Batch], Tensor],
) -> Tensor:
    """What `read` gives of each of `texts`, in their order; those of like length are a batch."""
    lengths = torch.tensor([len(ids) for ids in tokenizer([*texts]).input_ids])
    batches, found = [*of_like_length(lengths, _BATCH)], []
    for rows in batches:
        some = [texts[row] for row in rows]
        found.append(read(encode(tokenizer, some, max_length=lm.context_length).to(lm.device)))
    return torch.cat(found)[torch.cat(batches).argsort()]


def background_inputs(
    kept: Kept, layer: int, background: Background, how: str, *, n: int, seed: int
) -> RoutingInputs | None:
    """Routing inputs of `n` background prompts; None for an empty background.

    Half of them, as far as the background has both, are its edits' prompts and paraphrases, the
    others its texts, each cut off after a random word: a prompt may end anywhere.
    """
    generator = seeded(seed, "background")
    asked = [text for edit in background.edits for text in (edit.prompt, *edit.paraphrases)]
    n_asked = min(len(asked), n - min(n // 2, len(background.texts)))
    chosen = shuffled(asked, generator)[:n_asked]
    texts = shuffled(background.texts, generator)[: n - n_asked]
    chosen += [cut_anywhere(text, generator) for text in texts]
    if not chosen:
        return None
    lm, tokenizer = kept.lm, kept.tokenizer
    chosen = readable(lm, tokenizer, chosen)
    chosen.sort(key=len)  # batches of like length; the order is drawn anew for each turn

    def compute() -> dict[str, Tensor]:
        found = prompt_inputs(lm, tokenizer, layer, chosen, how)
        return {"keys": found.keys, "mask": found.mask}

    return RoutingInputs(**kept.get(f"routing inputs {layer} {how}", chosen, compute))


def of_different_subjects(background: Background, n: int) -> list[str]:
    """Up to `n` prompts of the background's edits, one for each subject."""
    prompts = {edit.subject or edit.prompt: edit.prompt for edit in background.edits}
    return [*prompts.values()][:n]


def of_unlike_prompts(
    kept: Kept,
    background: Background,
    what: str,
    read: Callable[[list[str]], Tensor],
    *,
    n: int,
    seed: int,
) -> Tensor:
    """What `read` gives of such prompts, each cut to what the model reads; computed once.

    Where the background has not two of them, they are texts that the model draws. `what` is as of
    Kept.get.
    """
    prompts = of_different_subjects(background, n)
    if len(prompts) < 2:
        prompts = [*dict.fromkeys(own_texts(kept.lm, kept.tokenizer, seed=seed))]
    prompts = readable(kept.lm, kept.tokenizer, prompts)

    @wraps(read)
    def compute() -> dict[str, Tensor]:
        return {"read": read(prompts)}

    return kept.get(f"{what} of unlike prompts", prompts, compute)["read"]


def cut_anywhere(text: str, generator: torch.Generator) -> str:
    """`text` cut off after a random word: a prompt may end anywhere."""
    words = text.split(" ")
    start = " ".join(words[: int(torch.randint(len(words), (), generator=generator)) + 1])
    return start if start.strip() else text


def readable(
    lm: LanguageModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str],
    *, at_most: int | None = None,
) -> list[str]:  # fmt: skip
    """Each text, halved until it has `at_most` tokens, or else until it fits the context."""
    limit = lm.context_length if at_most is None else at_most
    if limit is None or not texts:
        return [*texts]
    lengths = map(len, tokenizer([*texts]).input_ids)
    halves = [text if n <= limit else text[: len(text) // 2]
              for text, n in zip(texts, lengths, strict=True)]  # fmt: skip
    return halves if halves == [*texts] else readable(lm, tokenizer, halves, at_most=limit)
