"""A short lifelong run on a tiny model, by an editor that counts its calls and can be killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from properties.internals.tiny_wise import EDITS, FAR, make_wise
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.lifelong import LifelongRun, run_lifelong
from wise.evaluation.provenance import keep_provenance, provenance_of
from wise.measures.rows import Row

__all__ = ["KINDS", "RUN", "STREAM", "KilledError", "Saving", "T", "Watched", "go", "put"]

STREAM = EditStream(
    tuple(
        replace(edit, id=f"e{i}", paraphrases=(f"So: {edit.prompt}",), levels=(1,))
        for i, edit in enumerate(EDITS)
    ),
    tuple(Probe(prompt, "far", edit_id=f"e{i}") for i, prompt in enumerate(FAR)),
    "six edits",
)
RUN = LifelongRun("wise", "tiny", 0, STREAM, checkpoints=(2, 6))
T = len(STREAM.edits)


class KilledError(Exception):
    """The process is gone."""


class Watched:
    """WISE that counts its edits and can be killed before its n-th call of anything."""

    def __init__(self, *, kill_at: float = float("inf"), kill: Callable[[], None] | None = None):
        self.wise = make_wise(n_steps=2, n_irrelevant=4)
        self.n_edits = self.n_calls = 0
        self.kill_at, self.kill = kill_at, kill

    def _count(self) -> None:
        self.n_calls += 1
        if self.n_calls >= self.kill_at:
            if self.kill is not None:
                self.kill()
            raise KilledError

    def edit(self, edits: Sequence[Edit]) -> None:
        self._count()
        self.n_edits += len(edits)
        self.wise.edit(edits)

    def logits(self, input_ids: Tensor, attention_mask: Tensor, **more: Tensor) -> Tensor:
        self._count()
        return self.wise.logits(input_ids, attention_mask, **more)

    def generate(self, input_ids: Tensor, attention_mask: Tensor, n: int) -> Tensor:
        self._count()
        return self.wise.generate(input_ids, attention_mask, n)

    def reset(self) -> None:
        self.wise.reset()


class Saving(Watched):
    """The same with states that are saved and loaded; saving counts as a call too."""

    def save(self, path: Path) -> None:
        self._count()
        self.wise.save(path)

    def load(self, path: Path) -> None:
        self.wise.load(path)


KINDS = {"with saved states": Saving, "without": Watched}


def go(path: Path, editor: Watched, run: LifelongRun = RUN, **options: Any) -> list[Row]:
    """`run` by `editor`, its rows at `path`."""
    lm = editor.wise.lm.model
    options = {"progress": False, **options}
    return run_lifelong(run, editor, lm, editor.wise.tokenizer, path, **options)


def put(path: Path, content: bytes) -> None:
    """Make `path` a rows file of RUN that holds `content`."""
    path.write_bytes(content)
    wise = Watched().wise
    keep_provenance(path, provenance_of(RUN, wise.lm.model, wise.tokenizer))
