"""How a fact is hidden from a model: noise on its subject's embeddings, or another subject."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.lm.architectures import LanguageModel
from wise.lm.tokens import subject_span
from wise.localization.known_facts import KnownFact, TracedQuestion

__all__ = ["Corruption", "add_noise", "embedding_deviation", "fact_seed", "gaussian", "replacement"]


@dataclass(frozen=True)
class Corruption:
    """N corrupted readings of a question: other tokens, or `noise` on the subject's embeddings."""

    input_ids: Int[Tensor, "N T"]
    span: tuple[int, int]
    noise: Float[Tensor, "N S E"] | None = None  # E: width of the embedding

    def after(self, clean: Int[Tensor, " T"]) -> Corruption:
        """These readings after one clean reading, which is the first row."""
        noise = self.noise
        if noise is not None:
            noise = torch.cat([torch.zeros_like(noise[:1]), noise])
        return Corruption(torch.cat([clean[None], self.input_ids]), self.span, noise)


def add_noise(
    embedded: Float[Tensor, "N T E"], noise: Float[Tensor, "N S E"], span: tuple[int, int]
) -> Float[Tensor, "N T E"]:
    """The embeddings with `noise` on the subject's tokens alone; the argument is not written to."""
    begin, end = span
    noised = embedded.clone()
    noised[:, begin:end] += noise.to(embedded)
    return noised


def fact_seed(fact: KnownFact, seed: int) -> int:
    """A seed of this fact, whichever facts it is traced with."""
    digest = hashlib.sha256(f"tracing {seed} {fact.sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.no_grad()
def embedding_deviation(
    lm: LanguageModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[KnownFact]
) -> float:
    """Standard deviation of the entries of the subjects' token embeddings, as the model adds them.

    Over the tokens that noise falls on, in their prompts. Source: ROME, collect_embedding_std,
    which reads each subject alone.
    """
    spans = [slice(*subject_span(tokenizer, fact.prompt, fact.subject)) for fact in facts]
    prompts = tokenizer([fact.prompt for fact in facts]).input_ids
    ids = [token for prompt, span in zip(prompts, spans, strict=True) for token in prompt[span]]
    return float(lm.embedding(torch.tensor(ids, device=lm.device)).float().std())


def gaussian(
    lm: LanguageModel,
    fact: KnownFact,
    question: TracedQuestion,
    *,
    sigma: float,
    n_noise: int,
    seed: int,
) -> Corruption:
    """Noise of N(0, sigma^2) on the subject, drawn in float32 from the fact's own seed.

    Source: ROME section 2.1.
    """
    begin, end = question.span
    generator = torch.Generator().manual_seed(fact_seed(fact, seed))
    width = lm.embedding(question.input_ids[:1].to(lm.device)).shape[-1]
    noise = sigma * torch.randn(n_noise, end - begin, width, generator=generator)
    ids = question.input_ids.expand(n_noise, -1)
    return Corruption(ids, question.span, noise)


def replacement(
    tokenizer: PreTrainedTokenizerBase,
    fact: KnownFact,
    question: TracedQuestion,
    *,
    others: Sequence[KnownFact],
    n_noise: int,
    seed: int,
) -> Corruption:
    """Up to `n_noise` other subjects of as many tokens in place of this one.

    The fact's counterpart if it names one, else subjects of `others` with another target. Raises
    ValueError where none fits. Source: Zhang and Nanda 2024, symmetric token replacement.
    """
    if fact.counterpart:
        subjects = [fact.counterpart]
    else:
        subjects = sorted({other.subject for other in others if other.target != fact.target})
        subjects = [subject for subject in subjects if subject != fact.subject]
        random.Random(fact_seed(fact, seed)).shuffle(subjects)
    replaced = (_replaced(tokenizer, fact, question, subject) for subject in subjects)
    rows = list(islice((ids for ids in replaced if ids is not None), n_noise))
    if not rows:
        n_tokens = question.span[1] - question.span[0]
        raise ValueError(
            f"subject {fact.subject!r} has {n_tokens} tokens; none of {len(subjects)} other "
            "subjects has as many in its place"
        )
    return Corruption(torch.stack(rows), question.span)


def _replaced(
    tokenizer: PreTrainedTokenizerBase, fact: KnownFact, question: TracedQuestion, subject: str
) -> Tensor | None:
    """The question's tokens with `subject` in it, if it takes exactly the same places."""
    head, _, rest = fact.prompt.rpartition(fact.subject)
    swapped = KnownFact(f"{head}{subject}{rest}", subject, fact.target)
    other = TracedQuestion.of(tokenizer, swapped)
    if other.span != question.span or len(other.input_ids) != len(question.input_ids):
        return None
    outside = torch.ones(len(question.input_ids), dtype=torch.bool)
    outside[slice(*question.span)] = False
    same = torch.equal(other.input_ids[outside], question.input_ids[outside])
    return other.input_ids if same else None
