"""A league of tiny cells: a tiny model, six edits, and editors that fail or are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_wise import BACKGROUND, make_wise
from properties.internals.watched import STREAM
from wise.editors.corners import RandomRouter, make_random_router
from wise.edits import Edit
from wise.evaluation.cell import Scene
from wise.evaluation.entries import Entry
from wise.evaluation.league import League

__all__ = ["FAILING", "ROUTER", "WISE", "StoppedError", "killed", "league_of", "make_failing",
           "make_killed", "make_router", "make_small_wise", "tiny_scene"]  # fmt: skip


class StoppedError(BaseException):
    """The process is gone: nothing of the library catches it."""


def tiny_scene(model: str, seed: int, n_edits: int) -> Scene:
    """The first of six edits; another order for each seed."""
    edits = STREAM.edits[seed:] + STREAM.edits[:seed]
    stream = replace(STREAM, edits=edits, name=f"six-{seed}").prefix(n_edits)
    return Scene(tiny_model(model), tiny_tokenizer(), stream, BACKGROUND)


class Failing(RandomRouter):
    """Refuses its third edit; where `kill` names a file that is not there yet, it ends its process
    instead ("hard"), or only the call ("soft")."""

    n_edits = 0
    how, kill = "fail", Path()

    def edit(self, edits: Sequence[Edit]) -> None:
        self.n_edits += len(edits)
        if self.n_edits == 3 and self.how == "fail":
            raise ValueError("three edits | are\ntoo many")
        if self.n_edits == 3 and not self.kill.exists():
            if self.how != "always":
                self.kill.touch()
            if self.how == "soft":
                raise StoppedError
            os.kill(os.getpid(), signal.SIGKILL)
        super().edit(edits)


def make_failing(model: Any, tokenizer: Any, background: Any, *, seed: int) -> Failing:
    return Failing(model, tokenizer, seed=seed)


def make_killed(
    model: Any, tokenizer: Any, background: Any, *, seed: int, how: str, kill: str
) -> Failing:
    editor = Failing(model, tokenizer, seed=seed)
    editor.how, editor.kill = how, Path(kill)
    return editor


def make_small_wise(model: Any, tokenizer: Any, background: Any, *, seed: int) -> Any:
    return make_wise(model, seed=seed, background=background, n_steps=2, n_irrelevant=4)


make_router = make_random_router
_HERE = "properties.internals.small_league"
ROUTER = Entry("router", f"{_HERE}:make_router")
WISE = Entry("wise", f"{_HERE}:make_small_wise")
FAILING = Entry("failing", f"{_HERE}:make_failing")


def killed(how: str, file: Path) -> Entry:
    """An editor that is killed once, or always."""
    options = (("how", how), ("kill", str(file)))
    return Entry("killed", f"{_HERE}:make_killed", options)


def league_of(*entries: Entry, seeds: tuple[int, ...] = (0,), n_edits: int = 6) -> League:
    return League({"gpt2": entries}, seeds, n_edits, tiny_scene)
