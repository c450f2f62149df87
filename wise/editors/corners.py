"""Corners of the triangle, for calibration: no editing, and answers looked up by their prompts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.edits import Background, Edit
from wise.lm.decoding import Unedited

__all__ = ["LookupBase", "RandomRouter", "make_random_router", "make_unedited"]

_MARGIN = 10.0  # logits by which a memorised token leads


def make_unedited(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    *,
    seed: int = 0,
) -> Unedited:
    """The unedited model: its reliability is that of a guess, its locality is 1."""
    return Unedited(model, tokenizer)


class LookupBase(ABC):
    """Answers a prompt that it knows by its text, and is the unedited model on any other."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.bare = Unedited(model, tokenizer)
        self.tokenizer = tokenizer

    @abstractmethod
    def answer(self, prompt: str) -> str | None:
        """The edited answer; None for a prompt that it does not know."""

    def texts(self, input_ids: Tensor, mask: Tensor) -> list[str]:
        """What the mask shows of each row."""
        rows = zip(input_ids, mask.bool(), strict=True)
        return [str(self.tokenizer.decode(ids[own].tolist())) for ids, own in rows]

    def answers(self, input_ids: Tensor, prompt_mask: Tensor) -> list[str | None]:
        """The edited answer of each row."""
        return [self.answer(text) for text in self.texts(input_ids, prompt_mask)]

    def written(self, answer: str) -> list[int]:
        """The tokens of an answer, and EOS."""
        ids: list[int] = self.tokenizer(f" {answer}", add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id]

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_mask: Tensor | None = None,
    ) -> Float[Tensor, "B T V"]:
        logits = self.bare.logits(input_ids, attention_mask)
        asked = attention_mask if prompt_mask is None else prompt_mask
        for row, answer in enumerate(self.answers(input_ids, asked)):
            if answer is None:
                continue
            read = attention_mask[row].nonzero()[:, 0].tolist()[int(asked[row].sum()) - 1 :]
            for place, token in zip(read, self.written(answer), strict=False):
                logits[row, place, token] = logits[row, place].max() + _MARGIN
        return logits

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "B S"]:
        """The edited answers; the unedited model's own, by `options`, for other prompts."""
        answers = self.answers(input_ids, attention_mask)
        n = options.get("num_return_sequences", 1)
        rows = [self.written(answer)[:max_new_tokens] if answer else []
                for answer in answers for _ in range(n)]  # fmt: skip
        others = [row for row, answer in enumerate(answers) if answer is None]
        if others:
            asked = input_ids[others], attention_mask[others]
            new = self.bare.generate(*asked, max_new_tokens, **options)
            places = (row * n + k for row in others for k in range(n))
            for place, ids in zip(places, new.tolist(), strict=True):
                rows[place] = ids
        width, end = max(map(len, rows)), self.tokenizer.eos_token_id
        return input_ids.new_tensor([row + [end] * (width - len(row)) for row in rows])


class RandomRouter(LookupBase):
    """Memorises every target, and opens its memory for a prompt by a hash of its text and a seed.

    An open prompt gets its own target if it was edited, else that of an edit picked by the hash. So
    reliability is about 1 - `threshold` and locality about `threshold`, whatever was learned.
    """

    threshold = 0.5

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int):
        super().__init__(model, tokenizer)
        self.seed = seed
        self.targets: dict[str, str] = {}

    def edit(self, edits: Sequence[Edit]) -> None:
        self.targets |= {edit.prompt: edit.target for edit in edits}

    def reset(self) -> None:
        self.targets.clear()

    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """Uniform in [0, 1): a prompt's hash."""
        prompts = self.texts(input_ids, attention_mask)
        return torch.tensor([self._draw("open", prompt) for prompt in prompts])

    def answer(self, prompt: str) -> str | None:
        """That of the memory which `prompt` opens; None where the gate is closed."""
        if not self.targets or self._draw("open", prompt) <= self.threshold:
            return None
        edited = list(self.targets)
        picked = edited[int(self._draw("pick", prompt) * len(edited))]
        return self.targets.get(prompt, self.targets[picked])

    def _draw(self, purpose: str, prompt: str) -> float:
        digest = hashlib.sha256(f"{purpose} {self.seed} {prompt}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def make_random_router(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    *,
    seed: int = 0,
) -> RandomRouter:
    """A perfect memory behind a gate that tosses a coin for each prompt."""
    return RandomRouter(model, tokenizer, seed=seed)
