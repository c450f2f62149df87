"""Corners of the triangle, for calibration: what no editing at all would score."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.edits import Background
from wise.lm.decoding import Unedited

__all__ = ["make_unedited"]


def make_unedited(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    *,
    seed: int = 0,
) -> Unedited:
    """The bare model: reliability of a guess, locality of 1."""
    return Unedited(model, tokenizer)
