"""A part of a study: one editor and problem on some facts at every layer, cell by cell.

A cell is one fact at one layer. Its record is a line of the part's file, on disk before the next
cell begins.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wise.editor import Editor, Precomputes, Prepares, load_editor, with_cache
from wise.evaluation.cell import one_thread
from wise.evaluation.datasets import load_stream
from wise.evaluation.entries import Entry
from wise.jobs.grid import file_name
from wise.jobs.ledger import Ledger, Record, forget, read_records
from wise.localization.problems import PROBLEMS, UnsuitedEditorError, make_editor
from wise.localization.scoring import Asked, Asker

if TYPE_CHECKING:
    from wise.localization.study import Study

__all__ = ["SAID", "STREAM", "Part", "run_part"]

STREAM = "stream.jsonl"  # the facts, in a study's folder
SAID = "said.json"  # what the unedited model writes about their subjects
Place = tuple[str, int]  # fact, layer: the key of a cell within a part


@dataclass(frozen=True)
class Part:
    """The cells of `facts` by `layers`, of one editor, problem and seed."""

    entry: Entry
    problem: str
    seed: int
    facts: tuple[str, ...]
    layers: tuple[int, ...]

    @property
    def key(self) -> str:
        """Its unique name, which names its file."""
        return file_name(self, f"{self.entry.name} {self.problem} seed-{self.seed}")

    @property
    def title(self) -> str:
        return f"{self.entry.name} {self.problem}"

    def path(self, folder: Path) -> Path:
        return folder / "cells" / f"{self.key}.jsonl"

    def cells(self) -> Iterator[Place]:
        """All cells, layer by layer, so that only one editor is held at a time."""
        return ((fact, layer) for layer in self.layers for fact in self.facts)

    def records(self, folder: Path) -> dict[Place, dict[str, Any]]:
        """The record of each cell that has one; a last line that was cut off is ignored."""
        path = self.path(folder)
        return _by_place(read_records(path, truncated="drop") if path.exists() else ())

    def ledger(self, folder: Path) -> Ledger:
        """Its file, to append records to."""
        self.path(folder).parent.mkdir(parents=True, exist_ok=True)
        return Ledger(self.path(folder), what="part of a study")

    def is_open(self, folder: Path) -> bool:
        """Whether a cell has no record."""
        return not self.records(folder).keys() >= set(self.cells())

    def forget_errors(self, folder: Path) -> None:
        """Open again the cells that had an error."""
        if self.path(folder).exists():
            forget(self.path(folder), lambda record: "error" in record)

    def lose(self, folder: Path, message: str) -> None:
        """Record `message` as the error of the cell at which the part stopped."""
        with self.ledger(folder) as ledger:
            done = _by_place(ledger.records)
            cell = next((cell for cell in self.cells() if cell not in done), None)
            if cell is not None:
                ledger.append(_record(cell, error=message))


def _by_place(records: Sequence[Record]) -> dict[Place, dict[str, Any]]:
    return {(record.values["fact"], record.values["layer"]): record.values for record in records}


def _record(cell: Place, **found: Any) -> dict[str, Any]:
    return {"fact": cell[0], "layer": cell[1], **found}


def run_part(part: Part, study: Study, folder: Path, sigma: float) -> None:
    """Run the cells of `part` that have no record below `folder`; `sigma` is the noise of tracing.

    An error of a cell is its record, as is the reason why it has no score. It runs on one thread,
    so that scores do not depend on what else is running.
    """
    with one_thread(), part.ledger(folder) as ledger:
        done = _by_place(ledger.records)
        if cells := [cell for cell in part.cells() if cell not in done]:
            bench = _Bench(part, study, folder, sigma)
            for cell in cells:
                ledger.append(_record(cell, **bench.record(*cell)))


class _Bench:
    """The model, the facts and the editor of the current layer."""

    def __init__(self, part: Part, study: Study, folder: Path, sigma: float):
        self._part, self._folder, self._sigma = part, folder, sigma
        self._problem = PROBLEMS[part.problem]
        self._stream = load_stream(f"jsonl:{folder / STREAM}")
        self._edits = {edit.id: edit for edit in self._stream.edits}
        scene = study.scene_of(study.model, part.seed, 1)
        self._scene = replace(scene, background=scene.background.apart_from(self._stream))
        self._asker = Asker(
            scene.model, scene.tokenizer, self._problem,
            json.loads((folder / SAID).read_bytes()), sigma, study.n_noise, part.seed,
            study.min_probability,
        )  # fmt: skip
        self.ask = cache(self._ask)
        self._layer = -1
        self._editor: Editor | None = None
        self._own: PreTrainedModel | None = None

    def record(self, fact: str, layer: int) -> Mapping[str, Any]:
        """The cell's scores, or why it has none: `excluded` by the problem, or an `error`."""
        asked = self.ask(fact)
        if isinstance(asked, str):
            return {"excluded": asked}
        if self._own is None:
            self._own = copy.deepcopy(self._scene.model)  # an editor may write to it
        try:
            editor = self._editor_of(layer, self._own)
            editor.edit([asked.edit.as_taught()])
            scores = asked.scores(editor, self._own)
            editor.reset()
            _check_restored(self._own, self._scene.model)
        except UnsuitedEditorError as error:
            return {"excluded": str(error)}
        except Exception as error:  # noqa: BLE001 - a cell's error is its result, and no other's
            self._editor = self._own = None  # the next cell starts afresh
            return {"error": f"{type(error).__name__}: {error}"}
        return {name: None if math.isnan(score) else score for name, score in scores.items()}

    def _ask(self, fact: str) -> Asked | str:
        try:
            return self._asker.ask(self._stream, self._edits[fact])
        except ValueError as error:
            return str(error)

    def _editor_of(self, layer: int, model: PreTrainedModel) -> Editor:
        if self._editor is None or layer != self._layer:
            entry = self._part.entry
            self._editor = make_editor(
                with_cache(load_editor(entry.spec), self._folder / "cache"),
                self._problem, model, self._scene.tokenizer, self._scene.background,
                sigma=self._sigma, seed=self._part.seed,
                **{**dict(entry.options), "layer": layer},
            )  # fmt: skip
            self._layer = layer
            self._prepare(self._editor)
        return self._editor

    def _prepare(self, editor: Editor) -> None:
        """Let an editor do at once what it can for all layers and facts, whichever are open."""
        if isinstance(editor, Precomputes):
            editor.precompute(self._part.layers)
        if isinstance(editor, Prepares):
            asked = [self.ask(fact) for fact in self._part.facts]
            editor.prepare([each.edit.as_taught() for each in asked if isinstance(each, Asked)])


def _check_restored(model: PreTrainedModel, unedited: PreTrainedModel) -> None:
    """Raise RuntimeError where `model` is not bitwise `unedited`."""
    found = model.state_dict()
    for name, weight in unedited.state_dict().items():
        if not torch.equal(_bits(weight), _bits(found[name])):
            raise RuntimeError(f"after reset the editor has left {name} changed")


def _bits(weight: Tensor) -> Tensor:
    """The weight's bytes, which compare equal even where it is NaN."""
    return weight.detach().reshape(-1).view(torch.uint8)
