"""Targets under teacher forcing: encoded once, asked of any number of editors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from wise.editor import Editor
from wise.edits import Edit
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import batch_logits
from wise.lm.hooks import replace
from wise.lm.tokens import IGNORED, Batch, encode, of_like_length, subject_mask

__all__ = ["Forced"]

_BATCH_SIZE = 16
_MOST_PADDED = 1.5  # times the shortest row's tokens: a longer row is read in another batch

# As `wise.localization.problems.SubjectNoise`.
Noise = Callable[[Tensor, Tensor, Sequence[Edit]], Tensor]


@dataclass(frozen=True)
class Forced:
    """N prompts about an edit, each with a target; under `noise` each is read n times."""

    batch: Batch  # N*n rows, those of one prompt together
    subject: Bool[Tensor, "N*n T"]  # where a prompt holds the edit's
    edit: Edit
    noise: Noise | None = None
    n_noise: int = 1

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerFast,
        pairs: Sequence[tuple[str, str]],
        edit: Edit,
        *,
        noise: Noise | None = None,
        n_noise: int = 10,
        device: torch.device | str = "cpu",
    ) -> Forced:
        """Encode prompts and targets; without `noise` each is read once. Raises as `encode`."""
        prompts, targets = ([pair[place] for pair in pairs] for place in (0, 1))
        batch = encode(tokenizer, prompts, targets, append_eos=False)
        held = [edit.subject if noise and edit.subject in prompt else "" for prompt in prompts]
        subject = subject_mask(tokenizer, batch, prompts, held)
        n = 1 if noise is None else n_noise
        rows = torch.arange(len(prompts)).repeat_interleave(n)
        return cls(batch[rows].to(torch.device(device)), subject[rows], edit, noise, n)

    @torch.no_grad()
    def log_probabilities(self, editor: Editor, lm: LanguageModel) -> Float[Tensor, "N n"]:
        """log p of each whole target, float32; `lm` is the editor's model."""
        batch, noise = self.batch, None
        if self.noise is not None:
            nothing = torch.zeros_like(lm.embedding(batch.input_ids))
            noise = self.noise(nothing, self.subject, [self.edit] * len(nothing))  # N*n T E
        found = torch.zeros(len(batch.labels), device=lm.device)
        for rows in of_like_length(batch.attention_mask.sum(-1), _BATCH_SIZE, _MOST_PADDED):
            some = batch[rows]
            labelled = some.labels != IGNORED
            noised: AbstractContextManager[None] = nullcontext()
            if noise is not None:
                noised = replace(
                    lm.embedding, partial(_plus, noise[rows][:, -some.labels.shape[1] :])
                )
            with noised:
                log_p = batch_logits(editor, some)[labelled].float().log_softmax(-1)
            chosen = log_p.gather(-1, some.labels[labelled][:, None])[:, 0]
            found.index_add_(0, rows[labelled.nonzero()[:, 0]], chosen)
        return found.view(-1, self.n_noise)


def _plus(added: Tensor, _input: object, output: Tensor) -> Tensor:
    return output + added
