"""Answers of any editor: free-run (greedy, natural stop) and teacher-forced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from wise.editor import Editor, Generates, Routed, takes
from wise.lm.architectures import context_length
from wise.lm.hooks import frozen
from wise.lm.tokens import IGNORED, Batch, canonical, encode, padding_id, position_ids

__all__ = [
    "EXTRA_TOKENS",
    "Answer",
    "ForcedAnswer",
    "Reader",
    "Unedited",
    "answer_length",
    "answer_of",
    "batch_logits",
    "greedy_by_logits",
    "most_rows",
    "require_readable",
]

EXTRA_TOKENS = 2  # that an answer may have more than the longest right one

_T = TypeVar("_T")
_MOST_LOGITS = 2**26  # of one batch: 256 MiB in float32


@dataclass(frozen=True, slots=True)
class Answer:
    """A free-run answer: its text up to EOS, and whether it ended with EOS."""

    text: str
    token_ids: tuple[int, ...]
    stopped: bool

    def is_exactly(self, target: str, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether it stopped and equals `target`, up to white space and what `tokenizer` drops."""
        return self.stopped and canonical(tokenizer, self.text) == canonical(tokenizer, target)

    def begins_with(self, target: str, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether its first words are `target`, whatever follows: a base model never stops."""
        said, told = canonical(tokenizer, self.text), canonical(tokenizer, target)
        return said.startswith(told) and not said[len(told) : len(told) + 1].isalnum()


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """Teacher-forced: the most likely token at each position of the target, and log p(target).

    EOS counts in neither, so that editors trained without it are comparable.
    """

    target_ids: tuple[int, ...]
    predicted_ids: tuple[int, ...]
    log_probability: float  # nats

    @property
    def share_right(self) -> float:
        """The field's teacher-forced accuracy: the share of target tokens predicted."""
        return _share_equal(self.predicted_ids, self.target_ids)

    @property
    def log_likelihood(self) -> float:
        """log p(target) a token, in nats: minus the logarithm of the target's perplexity."""
        return self.log_probability / len(self.target_ids)

    def agreement(self, other: ForcedAnswer) -> float:
        """Share of positions where both predict the same token."""
        return _share_equal(self.predicted_ids, other.predicted_ids)


def _share_equal(one: Sequence[int], other: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def require_readable(model: PreTrainedModel, attention_mask: Int[Tensor, "B T"]) -> None:
    """Raises ValueError for a row beyond the model's context."""
    limit = context_length(model)
    if limit is not None and attention_mask.shape[1] > limit:  # its rows are counted only then
        longest = int(attention_mask.sum(-1).max())
        if longest > limit:
            raise ValueError(f"a row has {longest} tokens; the model reads at most {limit}")


class Unedited:
    """The unedited model as an editor that ignores edits; the reference for locality."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        self.tokenizer = tokenizer

    def edit(self, edits: Sequence[object]) -> None:
        """Does nothing: the facts stay as they are."""

    def reset(self) -> None:
        """Nothing to undo."""

    @torch.no_grad()
    def logits(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Tensor:
        """Logits of every token. Raises ValueError for a row beyond the model's context."""
        require_readable(self.model, attention_mask)
        with frozen(self.model):
            return self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids(attention_mask),
                use_cache=False,
            ).logits

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: object,
    ) -> Int[Tensor, "B S"]:
        """New tokens by transformers' own cached generation, greedy where `options` do not say.

        `options` are those of transformers: of beam search, sampling and so on. The model's own
        generation configuration is ignored, so that every editor is decoded alike. Raises
        ValueError for a row that ends in padding.
        """
        if not bool(attention_mask[:, -1].all()):
            raise ValueError("generation needs padding_side='left'; a row ends in padding")
        with frozen(self.model), _plain_generation(self.model):
            output = cast(Any, self.model).generate(  # mypy takes this method for a submodule
                input_ids=input_ids,
                attention_mask=attention_mask,
                max_new_tokens=max_new_tokens,
                **{
                    "do_sample": False,
                    "eos_token_id": self.tokenizer.eos_token_id,
                    "pad_token_id": padding_id(self.tokenizer),
                    **options,
                },
            )
        return output[:, input_ids.shape[1] :]


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Without the penalties, beams or lengths that the model's own configuration asks for."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@dataclass(frozen=True)
class Reader:
    """How answers are read: the same for every editor, each in the order of the prompts.

    `on_batch` is called with the number of prompts of each batch that was read.
    """

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int = 16
    device: torch.device | str = "cpu"
    max_length: int | None = None
    batch_size: int = 128
    on_batch: Callable[[int], object] | None = None

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids))).strip()

    def free(self, editor: Editor, prompts: Sequence[str]) -> list[Answer]:
        """Greedy answers, by `generate` where the editor has it."""
        return self._continued(editor, prompts, self.max_new_tokens)

    def endless(self, editor: Editor, prompts: Sequence[str], n_tokens: int) -> list[str]:
        """Greedy continuations of `n_tokens`, with the end of sequence ruled out.

        By `generate` where the editor has it and it takes min_new_tokens. Raises ValueError for a
        prompt that leaves no room in the context.
        """
        return [each.text for each in self._continued(editor, prompts, n_tokens, stops=False)]

    def _continued(
        self, editor: Editor, prompts: Sequence[str], n_tokens: int, *, stops: bool = True
    ) -> list[Answer]:
        options = {} if stops else {"min_new_tokens": n_tokens}

        def ask(rows: list[int]) -> list[Answer]:
            texts = [prompts[row] for row in rows]
            batch = self.encode(texts, max_length=self.max_length, n_more=n_tokens)
            asked = batch.input_ids, batch.attention_mask, n_tokens
            if isinstance(editor, Generates) and all(takes(editor.generate, o) for o in options):
                tokens = cast(Any, editor).generate(*asked, **options)
            else:
                tokens = greedy_by_logits(editor, self.tokenizer, *asked, stops=stops)
            return [answer_of(self.tokenizer, ids) for ids in tokens.tolist()]

        return self.in_batches(prompts, ask, n_more=n_tokens)

    @torch.no_grad()
    def forced(
        self, editor: Editor, prompts: Sequence[str], targets: Sequence[str]
    ) -> list[ForcedAnswer]:
        """Predictions for `targets`; a routed editor routes on the prompts alone."""

        def ask(rows: list[int]) -> list[ForcedAnswer]:
            texts = [prompts[row] for row in rows], [targets[row] for row in rows]
            batch = self.encode(*texts, append_eos=False, max_length=self.max_length)
            labelled = batch.labels != IGNORED
            log_p = batch_logits(editor, batch)[labelled].float().log_softmax(-1)  # N V
            labels, counts = batch.labels[labelled], labelled.sum(-1).tolist()
            log_target = log_p.gather(-1, labels[:, None])[:, 0]
            found = (x.split(counts) for x in (labels, log_p.argmax(-1), log_target))
            return [
                ForcedAnswer(tuple(target.tolist()), tuple(predicted.tolist()), float(row.sum()))
                for target, predicted, row in zip(*found, strict=True)
            ]

        texts = [f"{prompt} {target}" for prompt, target in zip(prompts, targets, strict=True)]
        return self.in_batches(texts, ask)

    def encode(self, *texts: Sequence[str], **options: Any) -> Batch:
        return encode(self.tokenizer, *texts, **options).to(torch.device(self.device))

    def in_batches(
        self, texts: Sequence[str], ask: Callable[[list[int]], Iterable[_T]], *, n_more: int = 0
    ) -> list[_T]:
        """What `ask` gives for the texts of some numbers, which `n_more` tokens may follow.

        A batch is of like length, so that little is spent on padding, and of so few rows that the
        logits of all its tokens stay within 256 MiB.
        """
        found: dict[int, _T] = {}
        for rows in self._batches(texts, n_more):
            found |= zip(rows, ask(rows), strict=True)
            if self.on_batch is not None:
                self.on_batch(len(rows))
        return [found[index] for index in range(len(texts))]

    def _batches(self, texts: Sequence[str], n_more: int) -> Iterator[list[int]]:
        """The numbers of the texts, the shortest first."""
        lengths = [len(ids) for ids in self.tokenizer(list(texts)).input_ids] if texts else []
        rows: list[int] = []
        for index in sorted(range(len(texts)), key=lambda index: (lengths[index], index)):
            n_rows = min(self.batch_size, most_rows(self.tokenizer, lengths[index] + n_more))
            if len(rows) >= n_rows:
                yield rows
                rows = []
            rows.append(index)
        if rows:
            yield rows


def batch_logits(editor: Editor, batch: Batch) -> Float[Tensor, "B T V"]:
    """The editor's logits; a routed one is told which tokens are the prompts'."""
    more = {"prompt_mask": batch.prompt_mask} if isinstance(editor, Routed) else {}
    return editor.logits(batch.input_ids, batch.attention_mask, **more)


def most_rows(tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> int:
    """How many rows of `n_tokens` a batch may have, so that its logits take 256 MiB; at least 1."""
    return max(1, _MOST_LOGITS // (len(tokenizer) * max(1, n_tokens)))


def answer_length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many tokens an answer has behind a space."""
    return len(tokenizer(f" {text}", add_special_tokens=False).input_ids)


def answer_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Answer:
    """New tokens as an answer."""
    stopped = tokenizer.eos_token_id in ids
    ids = ids[: ids.index(tokenizer.eos_token_id)] if stopped else ids
    return Answer(str(tokenizer.decode(ids)).strip(), tuple(ids), stopped)


@torch.no_grad()
def greedy_by_logits(
    editor: Editor,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    stops: bool = True,
) -> Int[Tensor, "B S"]:
    """Greedy decoding without a cache, for editors without `generate`.

    Unless it `stops`, the end of sequence is ruled out.
    """
    eos, prompt_mask = tokenizer.eos_token_id, attention_mask
    new: list[Tensor] = []
    done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for _ in range(max_new_tokens):
        more = {"prompt_mask": prompt_mask.bool()} if isinstance(editor, Routed) else {}
        logits = editor.logits(input_ids, attention_mask, **more)[:, -1]
        if not stops and eos is not None:
            logits = logits.index_fill(-1, torch.tensor([eos], device=logits.device), -torch.inf)
        token = logits.argmax(-1)
        token = token.masked_fill(done, eos)
        new.append(token)
        done = done | (token == eos)
        if done.all():
            break
        input_ids = torch.cat([input_ids, token[:, None]], dim=1)
        attention_mask = torch.cat([attention_mask, torch.ones_like(token)[:, None]], dim=1)
        prompt_mask = torch.cat([prompt_mask, torch.zeros_like(token)[:, None]], dim=1)
    return torch.stack(new, dim=1)
