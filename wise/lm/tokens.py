"""How prompts and targets become tokens, and which answers are the same.

Text is encoded as it stands: no chat template is applied. A prompt begins with the special tokens
that the tokenizer puts before a text, with BOS once; what the tokenizer puts behind a text is left
out, since the target follows there. Two answers are the same if they are equal once the tokenizer
has read and written them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.measures.ceilings import TextReading
from wise.measures.text import UNSPACED, normalized

__all__ = ["IGNORED", "Batch", "canonical", "encode", "joined", "last_column", "of_like_length",
           "pad", "padding_id", "position_ids", "prompt_tokens", "reading_of", "special_token_in",
           "subject_mask", "subject_span", "why_no_answer", "why_no_target", "widened"]  # fmt: skip

IGNORED = -100
_OPENING = r"(\[{\u00ab\u2018\u201c\u201e\u201a\u2039"
# A quotation mark opens at the start of a word; elsewhere it closes, or is an apostrophe.
_NO_SPACE_AFTER = re.compile(
    rf"(?:[\s/\\{UNSPACED}(\[{{]|(?:^|[\s/{UNSPACED}{_OPENING}])[\"'\u00bb{_OPENING}])\Z"
)
# Texts behind which a target's first token is searched: they merge with little.
_ANCHORS = ("\n", ".", "a")
# What vocabularies put before or behind the letters of a token.
_MARKS = (("", ""), ("\u2581", ""), ("\u0120", ""), ("##", ""), ("", "</w>"))


def canonical(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` as the tokenizer writes what it has read, normalized.

    Two answers are the same if this is: a model cannot tell letters that its tokenizer does not.
    A text with unknown tokens stays itself, as those stand for any word.
    """
    (ids,) = _own_tokens(tokenizer, [normalized(text)])
    if _has_unknown(tokenizer, ids):
        return normalized(text)
    return normalized(str(tokenizer.decode(ids)))


def _has_unknown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown != tokenizer.eos_token_id and unknown in ids


def joined(prompt: str, target: str) -> str:
    """The target behind the prompt, with a space between where the writing has one.

    It has none beside white space, nor after a slash, an opening bracket or quotation mark, or a
    letter of a script that is written without spaces.
    """
    space = "" if target[:1].isspace() or _NO_SPACE_AFTER.search(prompt) else " "
    return prompt + space + target


def why_no_target(tokenizer: PreTrainedTokenizerBase, target: str) -> str:
    """Why no model can be taught to answer `target`; empty where one can."""
    if special := special_token_in(tokenizer, target):
        return f"holds the special token {special!r}, which is not text"
    if target and not target.strip():
        return "is only white space; an answer needs other text"
    return "" if target else "encodes to no token"


def special_token_in(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The special token that `text` holds; empty where it holds none."""
    return next((each for each in tokenizer.all_special_tokens if each in text), "")


def why_no_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Why no answer of a model is the same as `text`, as `canonical` has it; empty where one may
    be: a word that is read as unknown may still be written, piece by piece."""
    if why := why_no_target(tokenizer, text):
        return why
    if not canonical(tokenizer, text):
        return "encodes to no token of text"
    (ids,) = _own_tokens(tokenizer, [normalized(text)])
    words = text.split() if _has_unknown(tokenizer, ids) else []
    unwritten = next((word for word in words if not _is_made_of_pieces(tokenizer, word)), "")
    return f"holds {unwritten!r}, for which the tokenizer has no tokens" if unwritten else ""


def _is_made_of_pieces(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    """Whether tokens, one behind the other, can be the word."""
    none = {None, tokenizer.unk_token_id}

    def is_piece(text: str) -> bool:
        marked = [f"{before}{text}{behind}" for before, behind in _MARKS]
        return not none.issuperset(map(tokenizer.convert_tokens_to_ids, marked))

    ends = {0}
    for start in range(len(word)):
        if start in ends:
            ends |= {n for n in range(start + 1, len(word) + 1) if is_piece(word[start:n])}
    return len(word) in ends


def reading_of(tokenizer: PreTrainedTokenizerBase) -> TextReading:
    """When two prompts, and two answers, are one to a model with this tokenizer."""

    def tokens(prompt: str, answer: str) -> list[int]:
        labels = encode(tokenizer, [prompt], [answer], append_eos=False).labels
        return labels[labels != IGNORED].tolist()

    @cache
    def answer(text: str) -> str | None:
        return None if why_no_answer(tokenizer, text) else canonical(tokenizer, text)

    @cache
    def prompt(text: str) -> tuple[int, ...]:
        return tuple(prompt_tokens(tokenizer, [text])[0])

    return TextReading(prompt, answer, tokens)


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Each prompt's tokens behind those that the tokenizer puts before a text, with BOS once."""
    return _with_start(tokenizer, _own_tokens(tokenizer, prompts))


def _with_start(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> list[list[int]]:
    """Rows of own tokens behind those that the tokenizer puts before a text, with BOS once."""
    (letter,), full = _own_tokens(tokenizer, ["a"]), tokenizer("a").input_ids
    places = range(len(full) - len(letter) + 1)
    start = next((n for n in places if full[n : n + len(letter)] == letter), 0)
    before, bos = full[:start], [tokenizer.bos_token_id]
    return [(before[:-1] if before[-1:] == own[:1] == bos else before) + own for own in rows]


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
        return self._changed(lambda part: part[rows][:, columns])

    def columns(self, some: slice) -> Batch:
        """Some columns of all rows."""
        return self._changed(lambda part: part[:, some])

    @property
    def position_ids(self) -> Int[Tensor, "B T"]:
        return position_ids(self.attention_mask)

    def to(self, device: torch.device) -> Batch:
        return self._changed(lambda part: part.to(device))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(*(change(getattr(self, field.name)) for field in fields(self)))


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
    n_more: int = 0,
) -> Batch:
    """Rows of `prompt`, or of `prompt target` followed by one EOS token.

    A prompt has the same tokens with and without a target, so that free-run and teacher-forced rows
    begin alike. Labels mark where a target token, or EOS, is predicted.
    Raises ValueError for a prompt without tokens, a target that no model can answer, and a row that
    with `n_more` tokens of an answer is longer than `max_length`.
    """
    if not prompts:
        raise ValueError("prompts=[] holds nothing to encode")
    own_ids = _own_tokens(tokenizer, prompts)
    prompt_ids = _with_start(tokenizer, own_ids)
    ends: list[list[int]] = [[]] * len(prompts)
    if targets is not None:
        eos = [tokenizer.eos_token_id] if append_eos else []
        if eos == [None]:
            raise ValueError("append_eos=True needs a tokenizer with an end-of-sequence token")
        ends = [ids + eos for ids in _target_tokens(tokenizer, prompts, own_ids, targets)]
    parts = list(zip(prompt_ids, ends, strict=True))
    for row, (prompt, (begin, end)) in enumerate(zip(prompts, parts, strict=True)):
        if not begin:
            raise ValueError(f"prompt {prompt!r} encodes to no token")
        n_tokens = len(begin) + len(end)
        if max_length is not None and n_tokens + n_more > max_length:
            what = f"prompt {_shorten(prompt)!r}" + " with its target" * (targets is not None)
            if targets is not None and len(end) >= max_length:
                what, n_tokens = f"target {_shorten(targets[row])!r}", len(end)
            most = str(max_length) + f", {n_more} of them kept for the answer" * bool(n_more)
            raise ValueError(f"{what} has {n_tokens} tokens; the model reads at most {most}")
    rows = [begin + end[:-1] for begin, end in parts]  # the last token is predicted, never read
    labels = [[IGNORED] * (len(begin) - 1) + (end or [IGNORED]) for begin, end in parts]
    in_prompt = [[1] * len(begin) + [0] * (len(end) - 1) for begin, end in parts]
    input_ids, attention_mask = pad(rows, padding_id(tokenizer), padding_side=padding_side)
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


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills rows; any will do where there is none, as padding is masked."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((candidate for candidate in candidates if candidate is not None), 0)


def widened(rows: Tensor, width: int, value: int | bool) -> Tensor:
    """The rows [B, T] padded on the left with `value` to `width` columns."""
    return nn.functional.pad(rows, (width - rows.shape[1], 0), value=value)


def last_column(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """The last column of each row that is in the mask; 0 where none is."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)


def of_like_length(
    lengths: Int[Tensor, " R"], n_rows: int, most_padded: float = 1.25
) -> Iterator[Int[Tensor, " r"]]:
    """The rows in batches of at most `n_rows`, the shortest first; in each, no row is longer than
    `most_padded` times the shortest."""
    order = lengths.argsort(stable=True)
    start = 0
    while start < len(order):
        some = lengths[order[start : start + n_rows]]
        n = int((some <= most_padded * some[0]).sum())
        yield order[start : start + n]
        start += n


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
    own = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    n_before = len(prompt_tokens(tokenizer, [prompt])[0]) - len(own.input_ids)
    offsets = enumerate(own["offset_mapping"], start=n_before)
    inside = [i for i, (begin, end) in offsets if begin < last and end > first]
    return inside[0], inside[-1] + 1


def _own_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text alone, without those that the tokenizer adds."""
    return list(tokenizer(list(texts), add_special_tokens=False).input_ids)


def _target_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    own_ids: Sequence[list[int]],
    targets: Sequence[str],
) -> list[list[int]]:
    """The tokens of each target as they follow its prompt's own.

    Those that the tokenizer itself finds there, unless the prompt's last token would merge with
    the target's first letters; then, those behind which the row still reads as `joined`.
    """
    for target in targets:
        if why := why_no_target(tokenizer, target):
            raise ValueError(f"target {_shorten(target)!r} {why}")
    texts = [joined(*pair) for pair in zip(prompts, targets, strict=True)]
    found = []
    for prompt, own, text, joint in zip(
        prompts, own_ids, texts, _own_tokens(tokenizer, texts), strict=True
    ):
        ids = joint[len(own) :] if joint[: len(own)] == own else []
        ids = ids or _split_tokens(tokenizer, own, joint, text[len(prompt) :])
        if not ids:
            raise ValueError(f"target {_shorten(text[len(prompt) :])!r} encodes to no token")
        found.append(ids)
    return found


def _split_tokens(
    tokenizer: PreTrainedTokenizerBase, own: list[int], joint: list[int], rest: str
) -> list[int]:
    """The tokens of `rest` such that `own` and they decode as `joint` does; else, by themselves."""
    (plain,) = _own_tokens(tokenizer, [rest])
    wanted = tokenizer.decode(joint)
    tried = (each for each in (plain, *_behind_anchors(tokenizer, rest)) if each)
    return next((each for each in tried if tokenizer.decode(own + each) == wanted), plain)


def _behind_anchors(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[list[int]]:
    """The tokens of `text` inside a longer one, where no space is put before it."""
    for anchor in _ANCHORS:
        own, joint = _own_tokens(tokenizer, [anchor, anchor + text])
        if joint[: len(own)] == own:
            yield joint[len(own) :]


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[:width]}..."
