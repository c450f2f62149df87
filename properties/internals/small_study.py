"""A study of few cells: an embedded model, three facts, and editors that fail or are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fixtures.models import LoadedModel, load_model
from properties.internals.small_league import StoppedError
from wise.editors.finetune import make_ft_m
from wise.editors.key_value.rome import ROME
from wise.editors.key_value.rome import make as make_rome
from wise.edits import Background, Edit
from wise.evaluation.cell import Scene
from wise.evaluation.entries import Entry
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited
from wise.localization.study import Study

__all__ = ["CARELESS", "FAILING", "QUICK", "STORED", "UNEDITED", "UNPREPARED", "StoppedError",
           "killed", "loaded", "scene", "study_of"]  # fmt: skip


@cache
def loaded() -> LoadedModel:
    return load_model("mistral")


def scene(model: str, seed: int, n_edits: int) -> Scene:
    world = loaded().world
    assert world is not None
    stream = world.stream(0, n_edits, split="tuning")
    return Scene(loaded().model, loaded().tokenizer, stream, Background())


def make_quick(model: Any, tokenizer: Any, background: Any, *, seed: int, **options: Any) -> Any:
    return make_ft_m(model, tokenizer, background, seed=seed, n_epochs=4, **options)


class Special:
    """Fine-tuning that goes wrong with the second fact at layer 3."""

    def __init__(self, editor: Any, layer: int, how: str, kill: str):
        self.editor, self.layer, self.how, self.kill = editor, layer, how, Path(kill)

    def prepare(self, edits: Sequence[Edit]) -> None:
        self.editor.prepare(edits)

    def edit(self, edits: Sequence[Edit]) -> None:
        self.editor.edit(edits)
        second = scene("mistral", 0, 3).stream.edits[1]
        if self.layer != 3 or edits[0].prompt != second.prompt:
            return
        if self.how == "fail":
            raise ValueError("it | broke\noff")
        if self.how == "careless":
            with torch.no_grad():
                LanguageModel(self.editor.lm.model).value_weight(0)[0, 0] += 1.0
        if self.how in ("soft", "hard") and (self.how == "hard" or not self.kill.exists()):
            self.kill.touch()
            if self.how == "soft":
                raise StoppedError
            os.kill(os.getpid(), signal.SIGKILL)

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.editor.logits(input_ids, attention_mask)

    def reset(self) -> None:
        self.editor.reset()


def make_special(
    model: Any, tokenizer: Any, background: Any, *, seed: int, layer: int, how: str, kill: str = "",
    **options: Any,
) -> Special:  # fmt: skip
    editor = make_quick(model, tokenizer, background, seed=seed, layer=layer, **options)
    return Special(editor, layer, how, kill)


def make_unprepared(*args: Any, **options: Any) -> ROME:
    """ROME that can do nothing ahead."""

    def prepare(edits: Sequence[Edit]) -> None:
        raise RuntimeError(f"{len(edits)} edits are too many")

    editor = make_rome(*args, **options)
    editor.prepare = prepare  # type: ignore[method-assign]
    return editor


def make_bare(model: Any, tokenizer: Any, background: Any, *, seed: int, layer: int) -> Unedited:
    return Unedited(model, tokenizer)


_HERE = "properties.internals.small_study"
QUICK = Entry("quick", f"{_HERE}:make_quick")
STORED = Entry("stored", "rome", (("n_steps", 6), ("n_texts", 50)))
UNPREPARED = Entry("unprepared", f"{_HERE}:make_unprepared", STORED.options)
UNEDITED = Entry("bare", f"{_HERE}:make_bare")
FAILING = Entry("failing", f"{_HERE}:make_special", (("how", "fail"),))
CARELESS = Entry("careless", f"{_HERE}:make_special", (("how", "careless"),))


def killed(how: str, file: Path) -> Entry:
    """An editor that is killed once ("soft", its call alone), or always ("hard")."""
    return Entry("killed", f"{_HERE}:make_special", (("how", how), ("kill", str(file))))


def study_of(*entries: Entry, n_facts: int = 3, **options: Any) -> Study:
    how: dict[str, Any] = dict(problems=("error-injection",), n_noise=2, facts_per_part=2)
    return Study("mistral", entries, (1, 3), n_facts, scene, **{**how, **options})
