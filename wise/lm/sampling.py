"""Token sequences to put before a prompt, so that an edit also holds in context."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import torch
from transformers import PreTrainedTokenizerBase

from wise.edits import Background
from wise.lm.architectures import LanguageModel
from wise.seeds import seeded, shuffled

__all__ = [
    "background_prefixes", "background_texts", "fitting_starts", "model_prefixes", "own_texts",
]  # fmt: skip


@torch.no_grad()
def model_prefixes(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    length: int | Sequence[int],
    seed: int,
    starts: Sequence[str] = (),
) -> tuple[str, ...]:
    """`n` sequences of `length` tokens sampled from the model; the first token is uniform.

    Several lengths, and the texts in `starts`, are used in turn. No special token is drawn. Source:
    WISE section 3.1 ("random token sequences of length 10"). Raises ValueError where the model's
    logits are not finite.
    """
    if not n:
        return ()
    lengths = [length] if isinstance(length, int) else list(length)
    given = [tokenizer(start, add_special_tokens=False).input_ids for start in starts]
    generator = seeded(seed, "prefixes")
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.long)
    logits = torch.zeros(n, lm.model.config.vocab_size)
    tokens = torch.empty(n, 0, dtype=torch.long)
    for place in range(max(lengths)):
        logits[:, special] = -torch.inf
        logits[:, len(tokenizer) :] = -torch.inf
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        for row, ids in zip(drawn, cycle(given), strict=False):
            if place < len(ids):
                row[0] = ids[place]
        tokens = torch.cat([tokens, drawn], dim=1)
        logits = lm.model(input_ids=tokens.to(lm.device), use_cache=False).logits[:, -1]
        if not logits.isfinite().all():
            raise ValueError("the model's logits are not finite: are all of its weights numbers?")
        logits = logits.float().cpu()
    rows = zip(tokens.tolist(), cycle(lengths), strict=False)
    texts = tokenizer.batch_decode([row[:end] for row, end in rows])
    return tuple(" ".join(text.replace("\ufffd", " ").split()) for text in texts)


def background_texts(
    background: Background, *, n: int, generator: torch.Generator
) -> tuple[str, ...]:
    """`n` of the background's texts, or of its edits' prompts where it has none."""
    known = background.texts or tuple(edit.prompt for edit in background.edits)
    return tuple(shuffled(known, generator)[:n])


def own_texts(
    lm: LanguageModel, tokenizer: PreTrainedTokenizerBase, *, seed: int, n: int = 32
) -> tuple[str, ...]:
    """`n` texts of ten tokens that the model draws, without blank ones, in place of others."""
    return tuple(filter(None, model_prefixes(lm, tokenizer, n=n, length=10, seed=seed)))


def background_prefixes(background: Background, *, n: int, seed: int, turn: int) -> tuple[str, ...]:
    """`n` background texts for a turn, each ending in a full stop."""
    if not n or not background.texts:
        return ()
    generator = seeded(seed, "prefixes", turn)
    order = torch.randperm(len(background.texts), generator=generator)[:n]
    return tuple(f"{background.texts[index].rstrip('.')}." for index in order)


def fitting_starts(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    starts: Sequence[str],
    texts: Sequence[str],
) -> list[str]:
    """Those of `starts` after which each of `texts`, and EOS, fits the model's context."""
    if lm.context_length is None:
        return [*starts]
    lengths = (
        max(map(len, tokenizer([start + text for text in texts]).input_ids)) for start in starts
    )
    return [start for start, n in zip(starts, lengths, strict=True) if n + 1 <= lm.context_length]
