"""Prompts and targets as padded batches, with the positions that matter marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORED", "Batch", "encode", "last_column", "pad", "position_ids", "subject_mask",
           "subject_span", "widened"]  # fmt: skip

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows. `labels[b, t]` is the token after position t (shifted already), or IGNORED."""

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    prompt_mask: Bool[Tensor, "B T"]  # the prompt's own tokens
    labels: Int[Tensor, "B T"]

    @classmethod
    def of_prompts(cls, input_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Batch:
        """Prompts alone, with nothing to predict."""
        return cls(input_ids, mask.long(), mask, torch.full_like(input_ids, IGNORED))

    def above(self, other: Batch) -> Batch:
        """The rows of both, the narrower ones with more padding on their left."""
        width = max(batch.input_ids.shape[1] for batch in (self, other))
        columns = zip(fields(self), (0, 0, False, IGNORED), strict=True)
        return Batch(*(
            torch.cat([widened(getattr(batch, c.name), width, value) for batch in (self, other)])
            for c, value in columns
        ))  # fmt: skip

    def __getitem__(self, rows: Int[Tensor, " N"]) -> Batch:
        """Some rows, without the columns that are padding in all of them."""
        columns = self.attention_mask[rows].any(0)
        return Batch(*(getattr(self, field.name)[rows][:, columns] for field in fields(self)))

    @property
    def position_ids(self) -> Int[Tensor, "B T"]:
        return position_ids(self.attention_mask)

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def position_ids(attention_mask: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Positions counted from each row's first real token, for either padding side; 0 on padding."""
    mask = attention_mask.long()
    return (mask.cumsum(-1) - 1) * mask


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    targets: Sequence[str] | None = None,
    *,
    append_eos: bool = True,
    padding_side: str = "left",
    max_length: int | None = None,
) -> Batch:
    """Rows of `prompt`, or of `prompt target` followed by one EOS token.

    A prompt has the same tokens with and without a target, so that free-run and teacher-forced rows
    begin alike. Labels mark where a target token, or EOS, is predicted.
    Raises ValueError for a prompt or target without tokens, and for a row longer than `max_length`.
    """
    if not prompts:
        raise ValueError("prompts=[] holds nothing to encode")
    prompt_ids = tokenizer(list(prompts)).input_ids
    ends: list[list[int]] = [[]] * len(prompts)
    if targets is not None:
        eos = [tokenizer.eos_token_id] if append_eos else []
        if eos == [None]:
            raise ValueError("append_eos=True needs a tokenizer with an end-of-sequence token")
        pairs = zip(prompts, prompt_ids, targets, strict=True)
        ends = [_target_ids(tokenizer, *pair) + eos for pair in pairs]
    parts = list(zip(prompt_ids, ends, strict=True))
    for prompt, (begin, end) in zip(prompts, parts, strict=True):
        if not begin:
            raise ValueError(f"prompt {prompt!r} encodes to no token")
        if max_length is not None and len(begin) + len(end) > max_length:
            raise ValueError(
                f"prompt {_shorten(prompt)!r} with its target has {len(begin) + len(end)} tokens; "
                f"the model reads at most {max_length}"
            )
    rows = [begin + end[:-1] for begin, end in parts]  # the last token is predicted, never read
    labels = [[IGNORED] * (len(begin) - 1) + (end or [IGNORED]) for begin, end in parts]
    in_prompt = [[1] * len(begin) + [0] * (len(end) - 1) for begin, end in parts]
    input_ids, attention_mask = pad(rows, _padding_id(tokenizer), padding_side=padding_side)
    prompt_mask, label_rows = (
        pad(each, value, padding_side=padding_side)[0]
        for each, value in ((in_prompt, 0), (labels, IGNORED))
    )
    return Batch(input_ids, attention_mask, prompt_mask.bool(), label_rows)


def pad(
    rows: Sequence[Sequence[int]], value: int, *, padding_side: str = "left"
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """The rows padded to one length, and the mask of their own tokens."""
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side={padding_side!r} is neither 'left' nor 'right'")
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), value)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
        padded[index, span] = torch.tensor(row, dtype=torch.long)
        mask[index, span] = 1
    return padded, mask


def widened(rows: Tensor, width: int, value: int | bool) -> Tensor:
    """The rows [B, T] padded on the left with `value` to `width` columns."""
    return nn.functional.pad(rows, (width - rows.shape[1], 0), value=value)


def last_column(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """The last column of each row that is in the mask; 0 where none is."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)


def subject_mask(
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    prompts: Sequence[str],
    subjects: Sequence[str],
) -> Bool[Tensor, "B T"]:
    """The tokens of the subject in each row; none where the subject is empty."""
    mask = torch.zeros_like(batch.prompt_mask)
    for row, (prompt, subject) in enumerate(zip(prompts, subjects, strict=True)):
        if subject:
            begin, end = subject_span(tokenizer, prompt, subject)
            first = int(batch.attention_mask[row].argmax())
            mask[row, first + begin : first + end] = True
    return mask


def subject_span(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str) -> tuple[int, int]:
    """[begin, end) of the tokens that hold the last occurrence of `subject` in the unpadded prompt.

    Raises ValueError where the subject is empty or not in the prompt.
    """
    first = prompt.rfind(subject) if subject else -1
    if first < 0:
        raise ValueError(f"subject {subject!r} is not in the prompt {prompt!r}")
    last = first + len(subject)
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    inside = [i for i, (begin, end) in enumerate(offsets) if begin < last and end > first]
    return inside[0], inside[-1] + 1


def _target_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, prompt_ids: list[int], target: str
) -> list[int]:
    """The target's tokens as they follow the prompt's."""
    space = "" if prompt[-1:].isspace() or target[:1].isspace() else " "
    joint = tokenizer(prompt + space + target).input_ids
    if joint[: len(prompt_ids)] == prompt_ids:
        ids = joint[len(prompt_ids) :]
    else:  # the prompt's last token would merge with the target's first letters
        ids = tokenizer(space + target, add_special_tokens=False).input_ids
    if not target or not ids:
        raise ValueError(f"target {target!r} encodes to no token")
    return ids


def _padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token will do: padding is masked."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((candidate for candidate in candidates if candidate is not None), 0)


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[:width]}..."
