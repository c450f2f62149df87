"""A little stream, and an editor that knows it: perfect, for it looks all answers up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.edits import Edit, EditStream, Probe
from wise.lm.decoding import Unedited
from wise.lm.tokens import IGNORED, encode

__all__ = ["ADA", "BO", "CLEO", "STREAM", "EndlessNotebook", "Notebook", "with_edits"]

ADA = Edit("Ada lives in", "Oslo", "Ada", ("Where is Ada?", "Ada's home:"), id="ada", levels=(1, 4))
BO = Edit("Bo speaks", "Danish", "Bo", ("Bo's language is",), id="bo")
CLEO = Edit("Cleo plays the", "lute", "Cleo", id="cleo")
STREAM = EditStream(
    (ADA, BO, CLEO),
    (
        Probe("Rome lies in", "far", edit_id="ada"),
        Probe("Ada works as a", "near-subject", edit_id="ada"),
        Probe("In which country is Ada?", "portability", "Norway", "ada"),
        Probe("Ann speaks", "near-relation", edit_id="bo"),
        Probe("The sun is", "far"),
    ),
)
_SURE = 1e4  # logit of the token that is to come


def with_edits(*edits: Edit) -> EditStream:
    """The stream and then `edits`."""
    return EditStream((*STREAM.edits, *edits), STREAM.probes)


class Notebook:
    """Answers from notes, else as the bare model; it knows what the edits of `stream` imply."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stream: EditStream
    ):
        self.bare = Unedited(model, tokenizer)
        self.tokenizer = tokenizer
        self.stream = stream
        self.next_token: dict[tuple[int, ...], int] = {}

    def edit(self, edits: Sequence[Edit]) -> None:
        paraphrases = {edit.prompt: edit.paraphrases for edit in self.stream.edits}
        for edit in edits:
            for prompt in (edit.prompt, *paraphrases.get(edit.prompt, ())):
                self.note(prompt, edit.target)
            for probe in self.stream.probes:
                if probe.kind == "portability" and probe.edit_id == edit.id:
                    self.note(probe.prompt, probe.answer)

    def note(self, prompt: str, answer: str) -> None:
        """From now on `prompt` is answered by `answer` and the end of sequence."""
        batch = encode(self.tokenizer, [prompt], [answer])
        ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
        for t, label in enumerate(labels, start=1):
            if label != IGNORED:
                self.next_token[tuple(ids[:t])] = label

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = self.bare.logits(input_ids, attention_mask)
        for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask, strict=True)):
            read: tuple[int, ...] = ()
            for t in mask.nonzero()[:, 0].tolist():
                read = (*read, ids[t])
                if read in self.next_token:
                    logits[row, t, self.next_token[read]] = _SURE
        return logits

    def reset(self) -> None:
        self.next_token.clear()


class EndlessNotebook(Notebook):
    """The same, but its answers never end."""

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = super().logits(input_ids, attention_mask)
        logits[..., self.tokenizer.eos_token_id] = -torch.inf
        return logits
