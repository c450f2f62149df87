"""Drift: how far an edited model is from the unedited one on text that no edit is about.

The next-token distributions of both are compared at every token of a text, and their perplexities.
Source: "Should We Really Edit Language Models?" (NeurIPS 2024), where general abilities are lost
after some tens of edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from wise.editor import Editor
from wise.lm.decoding import Reader, batch_logits
from wise.lm.divergence import divergence

__all__ = ["Drift", "drifts"]


class Drift(NamedTuple):
    """Of one text, means over its tokens in nats: KL(unedited || edited), and -log p of each."""

    divergence: float
    before: float
    after: float


@torch.no_grad()
def drifts(unedited: Editor, editor: Editor, reader: Reader, texts: Sequence[str]) -> list[Drift]:
    """The drift of `editor` on each text, over the tokens that others stand before.

    Both read the same batches, so that a row that an editor leaves alone has exactly 0. A routed
    editor routes on the whole text. Raises ValueError for a text beyond the context; one of a
    single token is NaN.
    """

    def read(rows: list[int]) -> list[Drift]:
        batch = reader.encode([texts[row] for row in rows], max_length=reader.max_length)
        first = batch_logits(unedited, batch)
        both = first, first if editor is unedited else batch_logits(editor, batch)
        found = []
        for row, own in enumerate(batch.attention_mask.bool()):
            before, after = (logits[row, own].float().log_softmax(-1)[:-1] for logits in both)
            told = batch.input_ids[row, own][1:, None]
            means = divergence(before, after), -before.gather(-1, told), -after.gather(-1, told)
            found.append(Drift(*(float(each.mean()) for each in means)))
        return found

    return reader.in_batches(texts, read)
