"""An editor that is made and asked again in a process of its own.

`python -m properties.processes FOLDER` reads a request as JSON, and writes the answers to FOLDER.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fixtures.models import FAMILIES, load_model, model_folder
from wise.editor import Editor, load_editor
from wise.edits import Background, Edit, edits_of
from wise.lm.architectures import LanguageModel
from wise.lm.tokens import encode

if TYPE_CHECKING:  # the other process needs none of it
    from properties.bench import Bench

__all__ = ["asked_in_another_process"]

_ROOT = Path(__file__).resolve().parents[1]
_ANSWERS = "answers.safetensors"


def asked_in_another_process(
    bench: Bench,
    turns: Sequence[Sequence[Edit]],
    *,
    hash_seed: int,
    n_threads: Sequence[int],
    after_others: bool = False,
) -> list[Tensor]:
    """[B V] for each number of threads: next-token logits of the bench's prompts after `turns`.

    They are made on the first number of threads, and asked on each; with `after_others`, once
    editors of a model with its blocks in reverse order and half of the background, and of one with
    another tokenizer, were edited and asked there.
    Raises RuntimeError with what the process wrote, where it fails.
    """
    model = bench.loaded.model
    request = {
        "spec": bench.spec, "options": dict(bench.options), "seed": bench.seed,
        "model": model.config.name_or_path, "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."), "background": asdict(bench.background),
        "turns": [[asdict(edit) for edit in turn] for turn in turns], "prompts": bench.prompts,
        "n_threads": list(n_threads), "after_others": after_others,
    }  # fmt: skip
    paths = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
    own = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "properties.processes", folder]
        ran = subprocess.run(
            command, input=json.dumps(request), env=own, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise RuntimeError(f"in another process: {ran.stderr.strip()[-2000:]}")
        found = load_file(Path(folder) / _ANSWERS, device=str(model.device))
    return [found[str(n)] for n in n_threads]


def _answers(request: Mapping[str, Any]) -> dict[str, Tensor]:
    """[B V] by number of threads."""
    loaded = load_model(request["model"], device=request["device"], dtype=request["dtype"])
    texts = request["background"]["texts"]
    background = Background(texts, edits_of(request["background"]["edits"]))
    factory = load_editor(request["spec"])

    def make(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, background: Background
    ) -> Editor:
        return factory(model, tokenizer, background, seed=request["seed"], **request["options"])

    turns = [edits_of(turn) for turn in request["turns"]]
    batch = encode(loaded.tokenizer, request["prompts"]).to(loaded.model.device)
    torch.set_num_threads(request["n_threads"][0])
    if request["after_others"]:
        other = _turned_round(loaded.model)
        less = replace(background, texts=texts[: len(texts) // 2])
        tokenizer = _another_tokenizer(loaded.tokenizer)
        wide = copy.deepcopy(other)
        wide.resize_token_embeddings(max(len(tokenizer), wide.config.vocab_size))
        for model, own in ((wide, tokenizer), (other, loaded.tokenizer)):
            before = make(model, own, less)
            asked = encode(own, request["prompts"]).to(model.device)
            before.edit(turns[0])
            before.logits(asked.input_ids, asked.attention_mask)
    editor = make(loaded.model, loaded.tokenizer, background)
    for turn in turns:
        editor.edit(turn)
    found = {}
    for n in request["n_threads"]:
        torch.set_num_threads(n)
        logits = editor.logits(batch.input_ids, batch.attention_mask)[:, -1]
        found[str(n)] = logits.detach().cpu().contiguous()
    return found


def _turned_round(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same name and sizes that sees something else: its blocks are in reverse order.

    Each keeps its place in a cache.
    """
    other = copy.deepcopy(model)
    weights = [block.state_dict() for block in LanguageModel(copy.deepcopy(model)).blocks]
    for block, own in zip(LanguageModel(other).blocks, weights[::-1], strict=True):
        block.load_state_dict(own)
    return other


def _another_tokenizer(own: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """That of the first embedded model with another vocabulary."""
    found = (PreTrainedTokenizerFast.from_pretrained(model_folder(name)) for name in FAMILIES)
    return next(each for each in found if each.get_vocab() != own.get_vocab())


if __name__ == "__main__":
    save_file(_answers(json.load(sys.stdin)), Path(sys.argv[1]) / _ANSWERS)
