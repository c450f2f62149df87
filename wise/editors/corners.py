"""Corners of the triangle, for calibration: no editing at all, and a router that guesses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.edits import Background, Edit
from wise.lm.decoding import Unedited

__all__ = ["RandomRouter", "make_random_router", "make_unedited"]

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


class RandomRouter:
    """Memorises every target, and opens its memory for a prompt by a hash of its text and a seed.

    An open prompt gets its own target if it was edited, else that of an edit picked by the hash. So
    reliability is about 1 - `threshold` and locality about `threshold`, whatever was learned.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int):
        self.bare = Unedited(model, tokenizer)
        self.tokenizer = tokenizer
        self.seed = seed
        self.threshold = 0.5
        self.targets: dict[str, str] = {}

    def edit(self, edits: Sequence[Edit]) -> None:
        self.targets |= {edit.prompt: edit.target for edit in edits}

    def reset(self) -> None:
        self.targets.clear()

    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """Uniform in [0, 1): a prompt's hash."""
        prompts = self._prompts(input_ids, attention_mask)
        return torch.tensor([self._draw("open", prompt) for prompt in prompts])

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_mask: Tensor | None = None,
    ) -> Float[Tensor, "B T V"]:
        logits = self.bare.logits(input_ids, attention_mask)
        asked = attention_mask if prompt_mask is None else prompt_mask
        for row, prompt in enumerate(self._prompts(input_ids, asked)):
            read = attention_mask[row].nonzero()[:, 0].tolist()[int(asked[row].sum()) - 1 :]
            for place, token in zip(read, self._memorised(prompt), strict=False):
                logits[row, place, token] = logits[row, place].max() + _MARGIN
        return logits

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: object,
    ) -> Int[Tensor, "B S"]:
        bare = self.bare.generate(input_ids, attention_mask, max_new_tokens, **options)
        rows = bare.tolist()
        for row, prompt in enumerate(self._prompts(input_ids, attention_mask)):
            rows[row] = self._memorised(prompt)[:max_new_tokens] or rows[row]
        width, end = max(map(len, rows)), self.tokenizer.eos_token_id
        return bare.new_tensor([row + [end] * (width - len(row)) for row in rows])

    def _prompts(self, input_ids: Tensor, mask: Tensor) -> list[str]:
        rows = zip(input_ids, mask.bool(), strict=True)
        return [str(self.tokenizer.decode(ids[kept].tolist())) for ids, kept in rows]

    def _memorised(self, prompt: str) -> list[int]:
        """The tokens of the answer that `prompt` opens, with EOS; none where the gate is closed."""
        if not self.targets or self._draw("open", prompt) <= self.threshold:
            return []
        edited = list(self.targets)
        picked = edited[int(self._draw("pick", prompt) * len(edited))]
        target = self.targets.get(prompt, self.targets[picked])
        ids: list[int] = self.tokenizer(f" {target}", add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id]

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
