"""Prompts of the background that a matcher is settled on, and what is read of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from transformers import PreTrainedTokenizerBase

from wise.editors.kept import Kept
from wise.editors.routing_inputs import cut_anywhere, readable
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import own_texts
from wise.lm.tail import inputs_at
from wise.lm.tokens import encode, last_column
from wise.seeds import seeded, shuffled

__all__ = ["Prompts", "Read", "References", "pooled"]


def pooled(
    inputs: Float[Tensor, "B T M"], prompt_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B 2 M"]:
    """The mean over each prompt's tokens, and its last token."""
    share = (prompt_mask / prompt_mask.sum(-1, keepdim=True).clamp(min=1))[..., None]  # B T 1
    last = inputs[torch.arange(len(inputs), device=inputs.device), last_column(prompt_mask)]
    return torch.stack([(inputs.float() * share).sum(1), last.float()], 1)


@dataclass(frozen=True)
class Prompts:
    """Background prompts side by side: each edit's prompt, then its paraphrases and near texts.

    subjects: of each one's edit, or "".
    prompt: the row of each one's edit's prompt, or its own.
    is_near: it holds its edit's subject, and does not ask for the edit.
    """

    texts: Sequence[str]
    subjects: Sequence[str]
    prompt: Int[Tensor, " N"]
    is_near: Bool[Tensor, " N"]

    @classmethod
    def of(cls, asked: Sequence[_Asked], device: torch.device) -> Prompts:
        rows = [(each, text) for each in asked for text in each.texts]
        sizes = torch.tensor([len(each.texts) for each in asked])
        return cls(
            [text for _, text in rows],
            [each.subject for each, _ in rows],
            (sizes.cumsum(0) - sizes).repeat_interleave(sizes).to(device),
            torch.tensor([text in each.near for each, text in rows], device=device),
        )

    @cached_property
    def groups(self) -> Int[Tensor, " N"]:
        """Numbers, the same for all of one subject; without a subject, of one edit."""
        owners = [
            subject or row for subject, row in zip(self.subjects, self.prompt.tolist(), strict=True)
        ]
        numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
        return self.prompt.new_tensor([numbers[owner] for owner in owners])

    @property
    def paraphrases(self) -> Int[Tensor, " P"]:
        """Rows of paraphrases."""
        own = torch.arange(len(self.prompt), device=self.prompt.device)
        return ((self.prompt != own) & ~self.is_near).nonzero()[:, 0]

    @property
    def near(self) -> Int[Tensor, " Q"]:
        """Rows of near texts."""
        return self.is_near.nonzero()[:, 0]

    @property
    def edits(self) -> Int[Tensor, " E"]:
        """Rows of the prompts of edits with a paraphrase or near text."""
        return self.prompt[torch.cat([self.paraphrases, self.near])].unique()

    def edit(self, rows: Int[Tensor, " P"]) -> Int[Tensor, " P"]:
        """The place in `edits` of the edit that each of these paraphrases or near texts is of."""
        return torch.searchsorted(self.edits, self.prompt[rows])


@dataclass(frozen=True)
class _Asked:
    """A background edit, or a text alone."""

    prompt: str
    subject: str = ""
    paraphrases: Sequence[str] = ()
    near: Sequence[str] = ()

    @property
    def texts(self) -> Sequence[str]:
        return self.prompt, *self.paraphrases, *self.near


@dataclass(frozen=True)
class Read:
    """Prompts as they were read: `pooled` at the edited layer, and each one's tokens at both."""

    pooled: Float[Tensor, "N 2 M"]
    low: Float[Tensor, "S M"]  # tokens of one prompt after the other
    edited: Float[Tensor, "S M"]
    lengths: Int[Tensor, " N"]


@dataclass(frozen=True)
class References:
    """Background prompts: common ones to whiten by, and held ones to settle the rest on.

    A covariance fits the rows that it is taken of better than others, so that no edit's subject is
    both common and held.
    """

    common: Prompts
    common_read: Read
    held: Prompts
    held_read: Read

    @classmethod
    def of(
        cls, kept: Kept, layers: Sequence[int], background: Background, *, n: int, seed: int
    ) -> References:
        """About `n` prompts; texts of the model where there are too few for either kind."""
        held, common = _chosen(background, n, seeded(seed, "references"))
        if not (held and common):
            own = [_Asked(text) for text in own_texts(kept.lm, kept.tokenizer, seed=seed)]
            held, common = own[::2], own[1::2]

        def read(asked: Sequence[_Asked]) -> Read:
            texts = readable(kept.lm, kept.tokenizer, [text for a in asked for text in a.texts])

            def compute() -> dict[str, Tensor]:
                return vars(_read(kept.lm, kept.tokenizer, layers, texts))

            return Read(**kept.get(f"mean, last token, tokens {layers}", texts, compute))

        common_read, held_read = read(common), read(held)
        device = kept.lm.device
        return cls(Prompts.of(common, device), common_read, Prompts.of(held, device), held_read)


def _chosen(
    background: Background, n: int, generator: Generator
) -> tuple[list[_Asked], list[_Asked]]:
    """What is held and what is common: n / 2 prompts of either, texts where edits are few."""
    of_subject: dict[str, list[Edit]] = {}
    for edit in background.edits:
        of_subject.setdefault(edit.subject or edit.prompt, []).append(edit)
    groups = shuffled([*of_subject.values()], generator)
    cut = [cut_anywhere(text, generator) for text in shuffled(background.texts, generator)]
    texts = [_Asked(text) for text in dict.fromkeys(cut)]
    half, n_texts = (len(groups) + 1) // 2, (len(texts) + 1) // 2

    def about(groups: Iterable[list[Edit]]) -> Iterator[_Asked]:
        seen = background.texts
        return (_asked(edit, group, seen, generator) for group in groups for edit in group)

    def first(asked: Iterable[_Asked], n: int) -> Iterator[_Asked]:
        for each in asked:
            yield each
            n -= len(each.texts)
            if n <= 0:
                return

    return (
        [*first(chain(about(groups[:half]), texts[:n_texts]), n // 2)],
        [*first(chain(about(groups[half:]), texts[n_texts:]), n // 2)],
    )


def _asked(
    edit: Edit, of_subject: Sequence[Edit], texts: Sequence[str], generator: Generator
) -> _Asked:
    """An edit with its first paraphrases, and with a prompt and a text of its subject alone."""
    paraphrases = edit.paraphrases[:2]  # the nearest
    if not edit.subject:
        return _Asked(edit.prompt, "", paraphrases)
    own = (edit.prompt, *edit.paraphrases, *filter(None, [edit.ground_truth]))
    wordings = {edit.prompt, *edit.paraphrases}
    others = (
        o.prompt
        for o in of_subject
        if o.ground_truth != edit.ground_truth and wordings.isdisjoint((o.prompt, *o.paraphrases))
    )
    about = (t for t in texts if edit.subject in t and not any(part in t for part in own))
    near = [*islice(others, 1)]
    for text in islice(about, 1):
        before, _, after = text.partition(edit.subject)
        words = after.split(" ")
        n_last = int(torch.randint(1, 4, (), generator=generator))  # what it says of the subject
        near.append(before + edit.subject + " ".join(words[:-n_last]))
    return _Asked(edit.prompt, edit.subject, paraphrases, near)


@torch.no_grad()
def _read(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
) -> Read:
    sizes = [len(tokenizer(prompt).input_ids) for prompt in prompts]
    order = sorted(range(len(prompts)), key=sizes.__getitem__)  # so that little is padded
    means = torch.empty(len(prompts), 2, lm.value_weight(layers[0]).shape[0], device=lm.device)
    tokens = [means[:0]] * len(prompts)  # each T 2 M
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = encode(tokenizer, [prompts[index] for index in chosen]).to(lm.device)
        inputs = inputs_at(lm, layers, batch)
        means[chosen] = pooled(inputs[-1], batch.prompt_mask)
        both = torch.stack([inputs[0], inputs[-1]], 2).float()  # B T 2 M
        for index, row, mask in zip(chosen, both, batch.prompt_mask, strict=True):
            tokens[index] = row[mask]
    lengths = torch.tensor([len(row) for row in tokens], device=lm.device)
    low, edited = torch.cat(tokens).unbind(1)
    read = Read(means, low, edited, lengths)
    if not all(bool(found.isfinite().all()) for found in (read.low, read.edited)):
        raise ValueError(
            f"the inputs of W_v at layers {[*layers]} are not finite on the background"
        )
    return read
