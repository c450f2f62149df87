"""One call of pytest: its model, its streams, and a bench for each editor."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from hypothesis import settings as hypothesis_settings
from tqdm import tqdm

from fixtures.models import FAMILIES, LoadedModel, load_model
from fixtures.scenes import scene_of, stream_seed
from properties.attainable import check_thresholds
from properties.bench import Bench, Operation
from properties.row_files import RowFiles
from properties.runs import N_EXACT, make_runs
from properties.settings import Settings
from wise.editor import load_editor, with_cache
from wise.edits import EditStream
from wise.evaluation.askable import UnaskableError, at_record, check_askable
from wise.evaluation.cell import Scene
from wise.evaluation.datasets import drawn
from wise.evaluation.lifelong import LifelongRun, check_resumable, run_lifelong
from wise.lm.architectures import LanguageModel, context_length
from wise.lm.digest import model_digest
from wise.lm.tokens import reading_of
from wise.measures.rows import Row, read_rows
from wise.measures.verdicts import SharedDraws

__all__ = ["Session"]

_SMALL = 50_000_000  # parameters, below which a second thread is of little use


@dataclass(frozen=True, eq=False)
class Session:
    """Makes everything that the tests are given, once and when first needed.

    `folder` is where rows go without --rows; several processes may share it. `bar_of` makes the
    bars that show how far a stream has come.
    """

    settings: Settings
    folder: Path
    repro: Path = Path("repro")
    bar_of: Callable[..., tqdm] = tqdm

    @cached_property
    def loaded(self) -> LoadedModel:
        """The unedited model. A small one runs on one thread, so that rows do not depend on the
        number of threads."""
        settings = self.settings
        loaded = load_model(settings.model, device=settings.device, dtype=settings.dtype)
        if settings.device == "cpu" and loaded.model.num_parameters() < _SMALL:
            torch.set_num_threads(1)
        return loaded

    @cached_property
    def model_name(self) -> str:
        """The model's name in rows: a local folder has a digest, and another dtype is named."""
        name, dtype = self.loaded.name, self.settings.dtype
        if self.settings.model not in FAMILIES:
            name += f" {model_digest(LanguageModel(self.loaded.model))[:8]}"
        return name if dtype == "float32" else f"{name} {dtype}"

    def seed(self, look: int) -> int:
        """That of a look's stream, and of its editor."""
        return stream_seed(self.settings.seed, look)

    def scene(self, look: int) -> Scene:
        """The model, with the stream of a look, of T edits, and its background."""
        return self._scene(look, self.settings.n_to_make)

    @property
    def exact_scene(self) -> Scene:
        """That of exact laws, whatever T is: what an editor breaks, it breaks at every T."""
        n_known = len(self.settings.facts[0].edits) if self.settings.dataset else N_EXACT
        return self._scene(0, min(N_EXACT, n_known))

    @cache  # noqa: B019 - a session lives as long as the process
    def _scene(self, look: int, n_edits: int) -> Scene:
        whole = self.settings.facts[0] if self.settings.dataset else None
        made = scene_of(self.loaded, self.seed(look), n_edits, whole=whole)
        self._check_lengths(made.stream)
        return made

    @cache  # noqa: B019
    def check_attainable(self) -> None:
        """Raise ValueError where no editor can reach a threshold on the streams of --dataset."""
        settings = self.settings
        if not settings.dataset or self._baseline():
            return
        whole, _ = settings.facts
        check_thresholds(
            settings.thresholds,
            (drawn(whole, n_edits=settings.n_to_make, seed=self.seed(look))
             for look in range(settings.max_looks)),
            protocol=settings.protocols[0], reading=reading_of(self.loaded.tokenizer),
        )  # fmt: skip

    def _check_lengths(self, stream: EditStream) -> None:
        """Raise ValueError naming an answer that is no text, or a prompt that leaves it no room,
        and of a dataset the record."""
        source = self.settings.dataset
        try:
            check_askable(self.loaded.tokenizer, stream, context_length(self.loaded.model))
        except UnaskableError as error:
            if not source:
                raise
            raise ValueError(at_record(error, source)) from error

    @property
    def rows(self) -> RowFiles:
        """Where the rows of its editors are kept."""
        return RowFiles(self.settings, self.folder)

    @cache  # noqa: B019
    def bench(self, spec: str) -> Bench:
        """The bench of one editor. Raises ValueError where its factory does not take the options
        or refuses the model."""
        settings = self.settings
        self.scene(0)  # first: where it stops, lint says too
        exact = self.exact_scene
        bench = Bench(
            name=settings.editor_name(spec),
            factory=with_cache(load_editor(spec), self.folder / "cache"),
            loaded=self.loaded,
            stream=exact.stream,
            background=exact.background,
            spec=spec,
            seed=settings.seed,
            options=settings.editor_options,
            n_examples=max(5, hypothesis_settings().max_examples // 10),
            is_random=not hypothesis_settings().derandomize,
            runs=make_runs(lambda look: self._rows(spec, look)),
            streams=SharedDraws(lambda look: self.scene(look).stream),
            thresholds=settings.thresholds,
            confidence=settings.confidence,
            max_looks=settings.max_looks,
            protocol=settings.protocols[0],
            baseline=self._baseline(),
            on_broken=lambda log: self._keep(spec, log),
        )
        arguments = self.loaded.model, self.loaded.tokenizer, exact.background
        try:
            inspect.signature(bench.factory).bind(
                *arguments, seed=settings.seed, **settings.editor_options
            )
        except TypeError as error:
            signature = inspect.signature(bench.factory)
            taken = signature.parameters.values()
            named = ", ".join(each.name for each in taken if each.kind is each.KEYWORD_ONLY)
            raise ValueError(
                f"its factory does not take these options: {error}; it takes {named}" if named else
                f"its factory takes {signature}, and does not take (model, tokenizer, background, "
                f"*, seed, **options): {error}"
            ) from error  # fmt: skip
        return bench

    def check_usable(self, spec: str, *, rates: bool) -> None:
        """Raise ValueError where no test of an editor, or none of its `rates`, could run: a wrong
        model, stream, option or file."""
        _ = self.bench(spec).example
        if rates:
            self.check_attainable()
        if self.settings.resume:
            self._check_resumable(spec)

    def _check_resumable(self, spec: str) -> None:
        """Raise ValueError where a rows file of the editor is not of what would be run now."""
        loaded = self.loaded
        for look in range(self.settings.max_looks):
            path = self.rows.path(spec, look)
            if path.exists():
                check_resumable(self._run(spec, look), loaded.model, loaded.tokenizer, path)

    def _run(self, spec: str, look: int) -> LifelongRun:
        """That of a look; later ones than the first are asked only what is judged."""
        settings, scene = self.settings, self.scene(look)
        run = LifelongRun(
            settings.editor_name(spec), self.model_name, self.seed(look), scene.stream,
            settings.checkpoints_of(len(scene.stream.edits)), settings.protocols,
            spec=spec, options=settings.editor_options, background=scene.background,
            tells_knowledge=scene.tells_knowledge,
        )  # fmt: skip
        return run.judged() if look else run

    def _rows(self, spec: str, look: int) -> list[Row]:
        run, loaded, path = self._run(spec, look), self.loaded, self.rows.path(spec, look)
        with FileLock(self.folder / f"{path.name}.lock"):
            bench = replace(self.bench(spec), background=run.background)
            editor = bench.editor(seed=run.seed)
            return run_lifelong(
                run, editor, loaded.model, loaded.tokenizer, path,
                resume=True, bar_of=self.bar_of,
            )  # fmt: skip

    def _baseline(self) -> list[Row]:
        path = self.settings.baseline
        return read_rows(path) if path is not None and path.exists() else []

    def _keep(self, spec: str, log: list[Operation]) -> str:
        """Write the operations of a failed sequence; returns the command line that repeats them."""
        text = "".join(json.dumps(operation) + "\n" for operation in log)
        folder = self.repro / sha256(f"{spec} {text}".encode()).hexdigest()[:8]
        checkout = Path(__file__).resolve().parents[1]
        places = shlex.quote(str(checkout)), shlex.quote(f"--editors-replay={folder}")
        line = f"pytest {places[0]} {self.settings.arguments(spec)} {places[1]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "operations.jsonl").write_text(text)
            (folder / "command.txt").write_text(line + "\n")
        except OSError as error:
            return f"(not kept: {error})"
        return line

    def recorded(self) -> list[Operation]:
        """The operations in the folder of --replay."""
        assert self.settings.replay is not None
        lines = (self.settings.replay / "operations.jsonl").read_text().splitlines()
        records: list[Any] = [json.loads(line) for line in lines]
        return [(name, edits) for name, edits in records]
