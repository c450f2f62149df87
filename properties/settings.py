"""The suite's options, validated and with their defaults; conftest.py registers and fills them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.models import LoadedModel, load_model, model_folder
from wise.editor import Editor, factory_options, load_editor
from wise.edits import Background, EditStream
from wise.evaluation.datasets import FORMATS, load_stream
from wise.evaluation.lifelong import PROTOCOLS, LifelongRun

__all__ = ["DEFAULT_THRESHOLDS", "Settings"]

DEFAULT_THRESHOLDS: Mapping[str, float] = {
    "reliability": 0.85,
    "generalization-1": 0.75,
    "generalization-2": 0.75,
    "far": 0.95,
    "near-subject": 0.75,
    "near-relation": 0.75,
}
_METRICS = (*DEFAULT_THRESHOLDS, "generalization", *(f"generalization-{n}" for n in (3, 4, 5)),
            "portability")  # fmt: skip
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_EDITS = 100
_MOST_LEFT = 2000  # records of a dataset, beside the stream, that an editor may see


@dataclass(frozen=True)
class Settings:
    """What one call of pytest asks for. UsageError names a bad option and its value."""

    editors: tuple[str, ...]
    editor_options: dict[str, Any]
    model: str
    device: str
    dtype: torch.dtype
    dataset: str
    n_edits: int | None
    checkpoints: tuple[int, ...]
    seed: int
    protocols: tuple[str, ...]
    thresholds: dict[str, float]
    confidence: float
    rows: Path | None
    resume: bool
    _loaded: list[LoadedModel] = field(default_factory=list, repr=False)
    _streams: list[tuple[EditStream, Background]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        def text(name: str) -> str:
            value = config.getoption(name)
            return str(config.getini(f"editors_{name}") if value is None else value)

        def texts(name: str) -> list[str]:
            return list(config.getoption(name) or config.getini(f"editors_{name}"))

        try:
            options = factory_options(texts("editor_option"))
            if text("layer"):
                options["layer"] = _whole("layer", text("layer"))
            model_folder(text("model"))
            for spec in texts("editor"):
                load_editor(spec)
            settings = cls(
                editors=tuple(dict.fromkeys(texts("editor"))),
                editor_options=options,
                model=text("model"),
                device=_device(text("device")),
                dtype=_choice("dtype", text("dtype"), _DTYPES),
                dataset=_dataset(text("dataset")),
                n_edits=_whole("edits", text("edits"), least=1) if text("edits") else None,
                checkpoints=tuple(_whole("checkpoints", part, least=1)
                                  for part in text("checkpoints").split(",") if part),
                seed=_whole("stream-seed", text("stream_seed")),
                protocols=_choice("protocol", text("protocol"),
                                  {"both": PROTOCOLS, **{name: (name,) for name in PROTOCOLS}}),
                thresholds=_thresholds(texts("threshold")),
                confidence=_share("confidence", text("confidence")),
                rows=_rows_file(text("rows")),
                resume=bool(config.getoption("resume")),
            )  # fmt: skip
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
        if settings.resume and settings.rows is None:
            raise pytest.UsageError("--resume needs --rows FILE, the rows to go on with")
        return settings

    @property
    def loaded(self) -> LoadedModel:
        """The model, loaded when first needed."""
        if not self._loaded:
            self._loaded.append(load_model(self.model, device=self.device, dtype=self.dtype))
        return self._loaded[0]

    def forget_model(self) -> None:
        """Load the model anew when it is next needed."""
        self._loaded.clear()

    @property
    def stream_and_background(self) -> tuple[EditStream, Background]:
        """The edits to make and what an editor may see before them."""
        if not self._streams:
            self._streams.append(self._make_stream())
        return self._streams[0]

    def _make_stream(self) -> tuple[EditStream, Background]:
        world = self.loaded.world
        background = Background() if world is None else world.background()
        if self.dataset:
            whole = load_stream(self.dataset)
            n_edits = self.n_edits or min(DEFAULT_EDITS, len(whole.edits))
            stream = load_stream(self.dataset, n_edits=n_edits, seed=self.seed)
            left = Background.of(whole.edits[:_MOST_LEFT], whole.probes[:_MOST_LEFT])
            background = background.apart_from(stream) + left.apart_from(stream)
        elif world is not None:
            stream = world.stream(self.seed, self.n_edits or DEFAULT_EDITS)
        else:
            raise ValueError(f"model {self.model!r} has no world; name a stream with --dataset")
        background.check_disjoint(stream)
        return stream, background

    def rows_of(self, spec: str) -> Path | None:
        """The rows file of one editor: --rows itself, or beside it where several editors run."""
        if self.rows is None or len(self.editors) == 1:
            return self.rows
        name = "".join(letter if letter.isalnum() else "-" for letter in spec)
        return self.rows.with_name(f"{self.rows.stem}.{name}{self.rows.suffix}")

    def make_editor(self, spec: str) -> Editor:
        """A fresh editor on the loaded model."""
        _, background = self.stream_and_background
        factory, loaded = load_editor(spec), self.loaded
        arguments = loaded.model, loaded.tokenizer, background
        try:
            inspect.signature(factory).bind(*arguments, seed=self.seed, **self.editor_options)
        except TypeError as error:
            raise ValueError(f"its factory does not take these options: {error}") from error
        return factory(*arguments, seed=self.seed, **self.editor_options)

    def run(self, spec: str) -> LifelongRun:
        stream, _ = self.stream_and_background
        options = ", ".join(f"{name}={value}" for name, value in self.editor_options.items())
        return LifelongRun(
            editor=f"{spec}({options})" if options else spec,
            model=self.loaded.name,
            seed=self.seed,
            stream=stream,
            checkpoints=self.checkpoints_of(len(stream.edits)),
            protocols=self.protocols,
        )

    def checkpoints_of(self, n_edits: int) -> tuple[int, ...]:
        """Those asked for, or the powers of ten below T and T itself."""
        powers = (10**n for n in range(len(str(n_edits))))
        return tuple(sorted(set(self.checkpoints) or {*powers, n_edits} - {0}))


def _whole(name: str, text: str, least: int = 0) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise ValueError(f"--{name}={text} is not a whole number >= {least}")
    return int(text)


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise ValueError(f"--{name}={text} is not between 0 and 1")
    return value


def _choice(name: str, text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(f"--{name}={text} is none of {', '.join(choices)}")
    return choices[text]


def _thresholds(pairs: Sequence[str]) -> dict[str, float]:
    thresholds = dict(DEFAULT_THRESHOLDS)
    for pair in pairs:
        metric, _, value = pair.partition("=")
        if metric not in _METRICS:
            raise ValueError(f"--threshold={pair}: {metric!r} is none of {', '.join(_METRICS)}")
        thresholds[metric] = _share(f"threshold={metric}", value)
    return thresholds


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without it
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device={text} cannot be used here: {reason}") from error
    return text


def _dataset(text: str) -> str:
    format_name, _, file = text.partition(":")
    if text and (format_name not in FORMATS or not Path(file).is_file()):
        raise ValueError(
            f"--dataset={text} is not FORMAT:FILE, FORMAT one of {', '.join(sorted(FORMATS))} "
            "and FILE a file that exists"
        )
    return text


def _rows_file(text: str) -> Path | None:
    if text and (Path(text).is_dir() or not Path(text).parent.is_dir()):
        raise ValueError(f"--rows={text} is not a file in a folder that exists")
    return Path(text) if text else None
