"""Search hyper-parameters, with one budget for all: `python -m benchmarks.search --editor rome`.

Optuna's TPE maximises the worst corner of the triangle on a stream of the tuning split, which
shares no fact with the evaluation split, or on records of a file of your own. The first trial is
the preset "embedded", around which the space lies. All trials go to one CSV file, which a later
search continues and the league reads.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from benchmarks import arguments
from benchmarks.lines import append, check_columns
from fixtures.models import load_model, title_of
from fixtures.scenes import scene_of
from wise.editor import load_editor, with_cache
from wise.evaluation.cell import Scene
from wise.evaluation.entries import Entry, best_options, entries_of, every_name
from wise.evaluation.league_table import counted, measures_of
from wise.evaluation.lifelong import LifelongRun, run_lifelong
from wise.lm.loading_bars import no_bars
from wise.measures.estimates import CORNERS

__all__ = ["COLUMNS", "SPACES", "Range", "search"]

RESULTS = Path(__file__).parent / "results" / "search.csv"
COLUMNS = ("editor", "model", "edits", "stream_seed", "trial", "worst", *CORNERS, "seconds",
           "options", "error")  # fmt: skip
_STREAM_SEED = 1000  # of the tuning split; the league counts its seeds from 0
_N_RANDOM = 4  # random trials before TPE models the results


@dataclass(frozen=True)
class Range:
    """The values that an option may take, and its value in the preset "embedded"."""

    start: Any
    within: BaseDistribution


def _log(start: float, low: float, high: float) -> Range:
    return Range(start, FloatDistribution(low, high, log=True))


def _share(start: float, low: float, high: float) -> Range:
    return Range(start, FloatDistribution(low, high))


def _whole(start: int, low: int, high: int) -> Range:
    return Range(start, IntDistribution(low, high))


def _one_of(start: Any, *choices: Any) -> Range:
    return Range(start, CategoricalDistribution((start, *choices)))


_MEMIT = {
    "depth": _share(0.55, 0.2, 0.9), "n_layers": _whole(1, 1, 3), "lr": _log(0.5, 0.05, 1.0),
    "n_steps": _whole(25, 10, 60), "clamp": _log(0.75, 0.3, 20.0),
    "covariance_weight": _log(0.005, 1e-4, 1.0),
}  # fmt: skip
_ROME = {
    "depth": _share(0.6, 0.2, 0.9), "lr": _log(0.5, 0.05, 1.0), "n_steps": _whole(40, 15, 80),
    "clamp": _log(20.0, 1.0, 40.0), "kl": _log(0.0625, 0.01, 1.0),
}  # fmt: skip
_EMMET = {option: each for option, each in _MEMIT.items() if option != "covariance_weight"}
_ULTRAEDIT = {
    "depth": _share(1.0, 0.4, 1.0), "n_layers": _whole(1, 1, 3), "lr": _log(2.0, 0.2, 20.0),
    "ridge": _log(0.1, 1e-3, 10.0),
}  # fmt: skip
_FINE_TUNING = {"lr": _log(2e-4, 2e-5, 2e-3), "n_epochs": _whole(50, 15, 100)}

SPACES: Mapping[str, Mapping[str, Range]] = {
    "wise": {
        "lr": _log(0.3, 0.1, 1.0), "n_steps": _whole(30, 15, 50), "alpha": _share(0.5, 0.2, 1.0),
        "beta": _share(2.0, 1.0, 5.0), "gamma": _share(1.0, 0.3, 3.0),
        "threshold_scale": _share(0.8, 0.5, 1.0),
    },
    "rome": _ROME,
    "r-rome": {**_ROME, "n_prefixes": _whole(5, 1, 20)},
    "memit": _MEMIT,
    "memit-mass": _MEMIT,
    "anyedit": {**_MEMIT, "chunk": _whole(1, 1, 40)},
    "rect": {**_MEMIT, "kept_share": _share(0.4, 0.1, 1.0)},
    "prune": {**_MEMIT, "restraint": _log(1.006, 1.001, 1.1)},
    "emmet": _EMMET,
    "emmet-mass": _EMMET,
    "ultraedit": _ULTRAEDIT,
    "ultraedit-mass": _ULTRAEDIT,
    "alphaedit": {
        "depth": _share(0.6, 0.2, 0.9), "n_layers": _whole(1, 1, 3), "lr": _log(0.5, 0.05, 1.0),
        "null_threshold": _log(0.1, 0.005, 1.0), "l2": _log(0.001, 1e-4, 1.0),
    },
    "ft-l": {
        "lr": _log(5e-4, 5e-5, 5e-3), "n_epochs": _whole(50, 15, 100),
        "norm_constraint": _log(8e-3, 5e-4, 5e-2),
    },
    "ft-m": _FINE_TUNING,
    "ft-ewc": {**_FINE_TUNING, "ewc": _log(0.1, 1e-3, 100.0), "replay": _whole(10, 0, 20)},
    "locft-bf-mass": {
        "lr": _log(5e-4, 5e-5, 5e-3), "n_epochs": _whole(50, 15, 100),
        "batch_size": _one_of(25, 5, 10, 50),
    },
    "grace": {
        "radius": _log(0.6, 0.1, 2.0), "lr": _log(0.5, 0.05, 2.0), "n_steps": _whole(200, 50, 300),
        "value_init": _one_of("warm", "cold"),
    },
    "horen": {
        "share": _share(0.05, 0.05, 1.0), "threshold": _share(0.7, 0.3, 0.95),
        "pull": _share(0.1, 0.0, 0.5), "lr": _log(0.5, 0.05, 2.0),
        "n_steps": _whole(200, 50, 300),
    },
    "memoir": {
        "share": _share(0.7, 0.1, 0.9), "threshold": _share(0.8, 0.2, 0.95),
        "lr": _log(5.0, 0.5, 20.0), "n_steps": _whole(30, 10, 60),
        "early_stop": _log(0.005, 0.001, 0.05),
    },
    "mend": {
        "n_layers": _whole(1, 1, 3), "scale": _log(0.05, 0.005, 0.5), "lr": _log(1e-4, 1e-6, 1e-3),
        "n_edits": _whole(1, 1, 8), "edit_weight": _log(1.0, 0.1, 10.0),
    },
    "ke": {
        "n_layers": _whole(1, 1, 3), "scale": _log(0.1, 0.01, 1.0), "lr": _log(1e-3, 1e-5, 1e-2),
        "margin": _log(1e-3, 1e-5, 1.0),
    },
    "defer": {
        "depth": _share(0.75, 0.2, 1.0), "lr": _log(0.005, 5e-4, 0.1),
        "n_steps": _whole(100, 20, 200),
    },
    "melo": {
        "lr": _log(0.01, 0.001, 0.1), "n_steps": _whole(50, 20, 100), "rank": _whole(2, 1, 8),
        "n_layers": _whole(2, 1, 3), "false_positives": _log(0.05, 0.001, 0.5),
    },
    "unke": {
        "depth": _share(0.5, 0.1, 0.9), "lr": _log(0.5, 0.05, 1.0), "n_steps": _whole(25, 10, 60),
        "clamp": _log(4.0, 1.0, 20.0), "n_epochs": _whole(12, 5, 50),
        "block_lr": _log(4e-4, 2e-5, 4e-3), "n_texts": _whole(20, 5, 60),
    },
    "elder": {
        "lr": _log(0.01, 0.001, 0.1), "n_steps": _whole(50, 20, 100), "rank": _whole(8, 2, 16),
        "n_layers": _whole(3, 1, 4), "n_experts": _whole(16, 4, 32),
        "guidance": _log(1.0, 0.001, 10.0), "early_stop": _log(0.1, 0.01, 1.0),
        "false_positives": _log(0.05, 0.001, 0.5),
    },
    "ike": {
        "n_edits": _whole(1, 1, 16), "n_demonstrations": _whole(0, 0, 16),
        "style": _one_of("plain", "ike"),
    },
    "retrieval": {
        "n_edits": _whole(1, 1, 8), "min_score": _share(0.0, 0.0, 8.0),
        "style": _one_of("plain", "ike"),
    },
    "serac": {
        "depth": _share(0.95, 0.2, 1.0), "tokens": _one_of("last", "mean"),
        "threshold": _share(0.5, 0.05, 0.95), "n_dims": _whole(128, 16, 256),
        "n_steps": _whole(50, 0, 200), "style": _one_of("plain", "ike"),
    },
    "spalm-lite": {
        "n_nearest": _whole(1, 1, 8), "false_positives": _log(0.01, 0.001, 0.2),
        "gate": _share(0.1, 0.01, 0.49),
    },
    "memllm-lite": {"missed": _log(0.01, 0.001, 0.5), "style": _one_of("plain", "ike")},
    "memoria-lite": {
        "n_reminded": _whole(4, 1, 16), "n_short": _whole(8, 1, 32),
        "false_positives": _log(0.05, 0.001, 0.5),
        "style": _one_of("plain", "ike"),
    },
    "memoryllm-lite": {"n_slots": _whole(64, 16, 128), "n_newest": _whole(8, 1, 16)},
}  # fmt: skip


def search(name: str, scene: Scene, *, model: str, n_trials: int, path: Path, seed: int) -> None:
    """Run trials of editor `name` on a scene of `model` until `path` holds `n_trials` of them.

    `seed` is that of the stream. A failed trial counts, with a worst corner of 0. Raises ValueError
    for an editor without a space, and for a file with trials on another stream.
    """
    if name not in SPACES:
        raise ValueError(f"editor={name!r} has no search space; {', '.join(SPACES)} have")
    space = {option: each.within for option, each in SPACES[name].items()}
    edits = len(scene.stream.edits)
    asked = {"editor": name, "model": model, "edits": edits, "stream_seed": seed}
    done = _trials(path, asked)
    sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=_N_RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for record in done:
        study.add_trial(optuna.trial.create_trial(
            params=json.loads(record["options"]), distributions=space, value=float(record["worst"])
        ))  # fmt: skip
    if not done:
        study.enqueue_trial({option: each.start for option, each in SPACES[name].items()})
    entry = entries_of(name)[-1]
    with TemporaryDirectory() as folder:
        for number in range(len(done), n_trials):
            trial = study.ask(space)
            rows = Path(folder) / f"{number}.jsonl"
            found = _tried(entry, model, scene, trial.params, seed, rows)
            study.tell(trial, found["worst"])
            append(path, COLUMNS, {**asked, "trial": number, "options": json.dumps(trial.params),
                                   **found})  # fmt: skip


def _tried(
    entry: Entry,
    model: str,
    scene: Scene,
    options: Mapping[str, Any],
    seed: int,
    path: Path,
) -> dict[str, Any]:
    """The corners after all edits, free-run, as the league counts them. Rows go to `path`."""
    T, start = len(scene.stream.edits), time.perf_counter()
    factory = with_cache(load_editor(entry.spec), path.parent / "cache")
    try:
        editor = factory(
            copy.deepcopy(scene.model), scene.tokenizer, scene.background,
            seed=seed, **{"preset": "embedded", **options},
        )  # fmt: skip
        turn = T if entry.group == "mass" else 1
        run = LifelongRun(entry.name, model, seed, scene.stream, (T,), ("free",), turn)
        rows = run_lifelong(run, editor, scene.model, scene.tokenizer, path, progress=False)
    except (ArithmeticError, RuntimeError, ValueError) as error:  # such as a non-finite loss
        return {"worst": 0.0, "error": f"{type(error).__name__}: {error}"}
    found = measures_of(counted(rows, T))
    corners = {corner: found[corner].mean for corner in CORNERS if corner in found}
    seconds = f"{time.perf_counter() - start:.1f}"
    return {"worst": min(corners.values()), **corners, "seconds": seconds}


def _trials(path: Path, asked: Mapping[str, Any]) -> list[dict[str, str]]:
    """The trials of this editor and model.

    Raises ValueError where any is on another stream, or the file has other columns.
    """
    if not path.exists():
        return []
    check_columns(path, COLUMNS)
    with path.open(newline="", encoding="utf-8") as file:
        of_model = [each for each in csv.DictReader(file) if each["model"] == asked["model"]]
    for record in of_model:
        for key in ("edits", "stream_seed"):
            if record[key] != str(asked[key]):
                raise ValueError(f"{path} holds trials with {key}={record[key]}, not {asked[key]}; "
                                 "all editors share one budget: name another file")  # fmt: skip
    return [record for record in of_model if record["editor"] == asked["editor"]]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--editor", action="append", metavar="NAME", help="repeatable; or all")
    parser.add_argument("--model", type=arguments.model, default="llama")
    parser.add_argument(
        "--dataset", type=arguments.dataset, metavar="[FORMAT:]FILE",
        help="facts to tune on, other than those to be evaluated; needs a --csv of its own",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=arguments.whole, default=12, help="for each editor, with those in the file"
    )
    parser.add_argument("--edits", type=arguments.whole, default=20)
    parser.add_argument("--stream-seed", type=arguments.seed, default=_STREAM_SEED)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--best", action="store_true", help="only print the best options so far")
    asked = parser.parse_args(words)
    names = asked.editor or ["all"]
    names = every_name() if "all" in names else names
    for name in names:
        if name not in SPACES:
            parser.error(f"--editor {name}: has no search space; {', '.join(SPACES)}, all have")
    if asked.dataset is not None and asked.csv is None:
        parser.error("--dataset needs --csv: its trials are no other stream's")
    path, model = asked.csv or RESULTS, title_of(asked.model)
    if not asked.best:
        torch.set_num_threads(1)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with no_bars():
                scene = scene_of(load_model(asked.model), asked.stream_seed, asked.edits,
                                 whole=asked.dataset, split="tuning")  # fmt: skip
            for name in names:
                search(name, scene, model=model, n_trials=asked.trials, path=path,
                       seed=asked.stream_seed)  # fmt: skip
        except ValueError as error:
            parser.error(str(error))
    for name, options in best_options(path, model=model).items():
        print(f"{name:16} {json.dumps(options)}")


if __name__ == "__main__":
    main()
