"""The suite's options, validated and with their defaults; conftest.py registers and fills them.

Torch is imported only for what cannot be checked without it, so that pytest starts at once.
"""

from __future__ import annotations

import hashlib
import shlex
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from fixtures.models import source_of
from properties.known_failures import known_failures
from wise.editor import BUILT_IN, factory_options, load_editor, with_options
from wise.edits import EditStream
from wise.evaluation.datasets import named_file, read_dataset, require_edits
from wise.evaluation.fields import RecordError
from wise.evaluation.loading_notes import to_go_on
from wise.measures.estimates import MAIN_PROTOCOLS, PROTOCOL_WORDS
from wise.measures.rows import REPORTED
from wise.measures.text import by_number
from wise.measures.verdicts import DEFAULT_THRESHOLDS, JUDGED

__all__ = ["DEFAULT_EDITS", "Settings", "of_look"]

_DTYPES = ("float32", "bfloat16", "float16")
_PATHS = ("dataset", "rows", "baseline", "known_failures", "report", "replay")
DEFAULT_EDITS = 100


@dataclass(frozen=True)
class Settings:
    """The options of one call of pytest. UsageError names a bad option and its value."""

    editors: tuple[str, ...]
    editor_options: dict[str, Any]
    model: str
    device: str
    dtype: str
    dataset: str
    skip_bad_records: bool
    n_edits: int | None
    checkpoints: tuple[int, ...]
    seed: int
    protocols: tuple[str, ...]
    thresholds: dict[str, float]
    confidence: float
    max_looks: int
    rows: Path | None
    resume: bool
    baseline: Path | None
    known_failures: Mapping[str, Mapping[str, str]]  # by editor: check -> reason
    report: Path | None
    replay: Path | None

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        def text(name: str) -> str:
            value = config.getoption(f"editors_{name}")
            if value == "" and name in _PATHS:
                raise ValueError(f"--{name.replace('_', '-')}= is empty; needed: a path")
            return str(config.getini(f"editors_{name}") if value is None else value)

        def texts(name: str) -> list[str]:
            return list(config.getoption(f"editors_{name}") or config.getini(f"editors_{name}"))

        try:
            options = factory_options(texts("editor_option"))
            if text("layer"):
                options["layer"] = _whole("layer", text("layer"))
            source_of(text("model"))
            for spec in texts("editor"):
                if spec not in BUILT_IN:
                    _check_loads(spec)
            settings = cls(
                editors=tuple(dict.fromkeys(texts("editor"))),
                editor_options=options,
                model=text("model"),
                device=_device(text("device")),
                dtype=_choice("dtype", text("dtype"), _DTYPES),
                dataset=_dataset(text("dataset")),
                skip_bad_records=bool(config.getoption("editors_skip_bad_records")),
                n_edits=_whole("edits", text("edits"), least=1) if text("edits") else None,
                checkpoints=tuple(_whole("checkpoints", part, least=1)
                                  for part in text("checkpoints").split(",") if part),
                seed=_whole("stream-seed", text("stream_seed")),
                protocols=_protocols(text("protocol")),
                thresholds=_thresholds(texts("threshold")),
                confidence=_share("confidence", text("confidence"), least=0.5),
                max_looks=_whole("looks", text("looks"), least=1),
                rows=_new_file("rows", text("rows")),
                resume=bool(config.getoption("editors_resume")),
                baseline=_new_file("baseline", text("baseline")),
                known_failures={
                    spec: known_failures(
                        spec, text("known_failures"), text("model"),
                        int(text("edits")) if text("edits").isdecimal() else DEFAULT_EDITS,
                    )
                    for spec in texts("editor")
                },
                report=_new_folder("report", text("report")),
                replay=_recorded("replay", text("replay")),
            )  # fmt: skip
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
        if settings.resume and settings.rows is None:
            raise pytest.UsageError("--resume needs --rows FILE, the rows to continue")
        if settings.skip_bad_records and not settings.dataset:
            raise pytest.UsageError(
                "--skip-bad-records needs --dataset FILE, whose records it skips"
            )
        return settings

    @cached_property
    def facts(self) -> tuple[EditStream, tuple[str, ...]]:
        """The whole of --dataset, and what its loader changed or left out; both empty without.

        UsageError names file, line, record and field where it cannot be read.
        """
        if not self.dataset:
            return EditStream(()), ()
        try:
            whole, notes = read_dataset(self.dataset, skip_bad_records=self.skip_bad_records)
            if self.skip_bad_records:
                from fixtures.models import load_context_length, load_tokenizer
                from wise.evaluation.askable import askable, not_askable

                most = load_context_length(self.model)
                whole, long = askable(whole, load_tokenizer(self.model), most)
                notes += (f"{not_askable(long, self.model, most)}; left out",) * bool(long)
            return whole, notes
        except RecordError as error:
            raise pytest.UsageError(
                f"--dataset={self.dataset}: {error}; {to_go_on(self.dataset)}"
            ) from error
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--dataset={self.dataset}: {error}") from error

    def refuse_missing_facts(self, *, rates: bool = True) -> None:
        """Raise UsageError where --dataset has no edit, or for `rates` fewer than the run is to
        make."""
        if not self.dataset:
            return
        whole, notes = self.facts
        try:
            require_edits(whole, notes)
        except ValueError as error:
            raise pytest.UsageError(f"--dataset={self.dataset}: {error}") from error
        if rates and (self.n_edits or 0) > len(whole.edits):
            held = f"{whole.name} has {by_number(len(whole.edits), 'edit|edits')}"
            told = "; ".join([held, *notes])
            raise pytest.UsageError(
                f"--edits={self.n_edits}: {told}; without --edits a run makes all, or "
                f"{DEFAULT_EDITS} of more"
            )

    @property
    def n_to_make(self) -> int:
        """T of a run: how many edits it is to make."""
        n_known = len(self.facts[0].edits) if self.dataset else DEFAULT_EDITS
        return self.n_edits or min(DEFAULT_EDITS, n_known)

    def refuse_late_checkpoints(self) -> None:
        """Raise UsageError for a checkpoint that no run comes to."""
        for t in self.checkpoints:
            if t > self.n_to_make:
                raise pytest.UsageError(
                    f"--checkpoints={t} is beyond the last of the {self.n_to_make} edits that are "
                    f"made; allowed is 1 to {self.n_to_make}, and --edits makes more"
                )

    def rows_of(self, spec: str) -> Path | None:
        """The rows file of one editor: --rows itself, or beside it where several editors run."""
        if self.rows is None or len(self.editors) == 1:
            return self.rows
        name = "".join(letter if letter.isalnum() else "-" for letter in spec)
        if name != spec:  # another editor may have these letters too
            name += f"-{hashlib.sha256(spec.encode()).hexdigest()[:8]}"
        return self.rows.with_name(f"{self.rows.stem}.{name}{self.rows.suffix}")

    def refuse_existing_rows(self) -> None:
        """Raise UsageError where rows of any look would be written to a file that exists."""
        firsts = [path for path in map(self.rows_of, self.editors) if path is not None]
        for path in (of_look(first, look) for first in firsts for look in range(self.max_looks)):
            if path.exists():
                raise pytest.UsageError(
                    f"--rows={self.rows}: {path} exists; use --resume, or name another file"
                )

    def editor_name(self, spec: str) -> str:
        """An editor's name in rows: its spec and its options."""
        return with_options(spec, self.editor_options)

    def arguments(self, spec: str) -> str:
        """The options that make the same editor on the same model and stream, to be pasted."""
        source, colon, factory = spec.rpartition(":")
        if source.endswith(".py"):
            spec = f"{Path(source).resolve()}{colon}{factory}"
        options = {k: v for k, v in self.editor_options.items() if k != "layer"}
        chosen: list[tuple[str, object]] = [("editor", spec)]
        chosen += [("editor-option", f"{key}={value}") for key, value in options.items()]
        chosen += [("threshold", f"{metric}={value}") for metric, value in self.thresholds.items()
                   if DEFAULT_THRESHOLDS.get(metric) != value]  # fmt: skip
        single = {
            "model": self.model, "device": self.device, "layer": self.editor_options.get("layer"),
            "dtype": self.dtype, "dataset": self.dataset or None,
            "edits": self.n_edits, "stream-seed": self.seed,
        }  # fmt: skip
        chosen += [(name, value) for name, value in single.items() if value is not None]
        words = [f"--editors-{name}={value}" for name, value in chosen]
        words += ["--editors-skip-bad-records"] * self.skip_bad_records
        return shlex.join(words)

    def checkpoints_of(self, n_edits: int) -> tuple[int, ...]:
        """The given checkpoints, or the powers of ten, and T itself."""
        from wise.evaluation.league import checkpoints_of

        wanted = self.checkpoints or checkpoints_of(n_edits)
        return tuple(sorted({*wanted, n_edits}))


def of_look(rows: Path, look: int) -> Path:
    """The rows file of a look, beside that of the first."""
    return rows.with_name(f"{rows.stem}.look-{look}{rows.suffix}") if look else rows


def _whole(name: str, text: str, least: int = 0) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise ValueError(f"--{name}={text} is not a whole number >= {least}")
    return int(text)


def _share(name: str, text: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1 or value < least:
        bounds = f"[{least:g}, 1)" if least else "(0, 1)"
        raise ValueError(f"--{name}={text} is not a number in {bounds}")
    return value


def _choice(name: str, text: str, choices: Iterable[str]) -> str:
    if text not in choices:
        raise ValueError(f"--{name}={text} is none of {', '.join(choices)}")
    return text


def _protocols(text: str) -> tuple[str, ...]:
    """In the order of PROTOCOL_WORDS, whose first is judged."""
    asked = {
        _choice("protocol", name, ["both", *PROTOCOL_WORDS])
        for part in text.split(",")
        for name in (MAIN_PROTOCOLS if part == "both" else (part,))
    }
    if asked <= {*REPORTED}:
        judged = ", ".join(name for name in PROTOCOL_WORDS if name not in REPORTED)
        raise ValueError(f"--protocol={text} names nothing that is judged; add one of {judged}")
    return tuple(name for name in PROTOCOL_WORDS if name in asked)


def _thresholds(pairs: Sequence[str]) -> dict[str, float]:
    thresholds = dict(DEFAULT_THRESHOLDS)
    for pair in pairs:
        metric, _, value = pair.partition("=")
        if metric not in JUDGED:
            raise ValueError(f"--threshold={pair}: {metric!r} is none of {', '.join(JUDGED)}")
        thresholds[metric] = _share(f"threshold={metric}", value)
    return thresholds


def _check_loads(spec: str) -> None:
    """Raise ValueError where there is no such editor, or its own code cannot be imported."""
    try:
        load_editor(spec)
    except ValueError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = getattr(error, "filename", None) or last.filename
        line = getattr(error, "lineno", None) or last.lineno
        name = type(error).__name__
        raise ValueError(f"--editor={spec}: {place}, line {line}: {name}: {error}") from error


def _device(text: str) -> str:
    if text == "cpu":
        return text
    if text.partition(":")[0] == "meta":
        raise ValueError(f"--device={text} holds no numbers; name cpu, cuda or mps")
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without it
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device={text} cannot be used here: {reason}") from error
    return text


def _dataset(text: str) -> str:
    if text:
        named_file(text)
    return text


def _new_file(name: str, text: str) -> Path | None:
    if text and (Path(text).is_dir() or not Path(text).parent.is_dir()):
        raise ValueError(f"--{name}={text} is not a file in a folder that exists")
    return Path(text) if text else None


def _new_folder(name: str, text: str) -> Path | None:
    if text and (Path(text).is_file() or not Path(text).absolute().parent.is_dir()):
        raise ValueError(f"--{name}={text} is not a folder, or one to make in a folder that exists")
    return Path(text) if text else None


def _recorded(name: str, text: str) -> Path | None:
    file = Path(text) / "operations.jsonl"
    if text and not (file.is_file() and file.stat().st_size):
        raise ValueError(f"--{name}={text} is not a folder with an operations.jsonl to run again")
    return Path(text) if text else None
