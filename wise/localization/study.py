"""Facts by layers by editors by problems: the scores of each edit, beside the tracing effects.

It is a grid of cells that any executor runs, that resumes cell by cell and gives one long table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from threading import Event, Thread

import pandas as pd
from tqdm import tqdm

from wise.edits import EditStream
from wise.evaluation.cell import Scene, SceneMaker
from wise.evaluation.datasets import load_stream, write_jsonl
from wise.evaluation.entries import Entry
from wise.jobs.grid import Executor, claimed, run_grid, write_json
from wise.localization.known_facts import fact_of, known
from wise.localization.problems import PROBLEMS
from wise.localization.records import FactTrace, Trace, read_trace
from wise.localization.scoring import SCORES, said_of
from wise.localization.study_part import SAID, STREAM, Part, run_part
from wise.localization.tracing import causal_trace

__all__ = ["Study", "StudyTables", "run_study", "tables_of", "traceable"]

_FORMAT = 1
_TRACE = "tracing.jsonl"
_SECONDS_SHOWN = 2.0  # how often the bar of cells is brought up to date


@dataclass(frozen=True)
class Study:
    """What is edited, at which `layers` of the model, and by which editors.

    `n_facts` facts that the model knows are taken from the first `n_candidates` (default: as many)
    of the stream that `scene_of` makes; `seeds` are those of noise and editors. Tracing is that of
    the MLP over `window` layers, with `noise` in standard deviations of the subjects' embeddings. A
    fact whose truth has less than `min_probability` in the clean run is left out, as there is no
    effect to measure. Source: Hase et al. 2023, and their released code. Raises ValueError for an
    invalid setting.
    """

    model: str
    entries: tuple[Entry, ...]
    layers: tuple[int, ...]
    n_facts: int
    scene_of: SceneMaker
    n_candidates: int | None = None
    problems: tuple[str, ...] = tuple(PROBLEMS)
    seeds: tuple[int, ...] = (0,)
    window: int = 5
    noise: float = 3.0
    n_noise: int = 10
    min_probability: float = 0.02
    facts_per_part: int = 25

    def __post_init__(self) -> None:
        for name in ("entries", "layers", "problems", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must name at least one, each once")
        names = [entry.name for entry in self.entries]
        if len(set(names)) < len(names):
            raise ValueError(f"entries of one name cannot be told apart: {', '.join(names)}")
        if unknown := set(self.problems) - set(PROBLEMS):
            raise ValueError(f"problem={min(unknown)!r} is none of {', '.join(PROBLEMS)}")
        for name in ("n_facts", "window", "n_noise", "facts_per_part"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be >= 1")

    def identity(self) -> dict[str, object]:
        """What all cells of a table share; editors, problems and seeds may be added later."""
        return {
            "format": _FORMAT, "model": self.model, "facts": self.n_facts,
            "candidates": self.n_candidates, "layers": list(self.layers),
            "scene": f"{self.scene_of.__module__}:{self.scene_of.__qualname__}",
            "scene options": getattr(self.scene_of, "keywords", {}),
            "window": self.window, "noise": self.noise, "draws": self.n_noise,
            "min probability": self.min_probability,
        }  # fmt: skip

    def parts(self, facts: Sequence[str]) -> Iterator[Part]:
        """All cells; the facts are split into parts that can run at the same time."""
        step = self.facts_per_part
        some = [tuple(facts[start : start + step]) for start in range(0, len(facts), step)]
        for seed, entry, problem, own in product(self.seeds, self.entries, self.problems, some):
            yield Part(entry, problem, seed, own, self.layers)


def run_study(
    study: Study, folder: Path, *, executor: Executor | None = None, progress: bool = True
) -> StudyTables:
    """Run every cell that has no score yet below `folder`, in this process or by `executor`.

    Cells that had an error are tried again. An error in a cell, or the death of its process,
    affects no other cell; after a kill, the same call goes on at the cell where it stopped. Raises
    ValueError where `folder` holds another study, two facts have one id or the model knows none of
    them, RuntimeError where another process works in it.
    """
    with claimed(folder, "study", study.identity()):
        stream, trace = _prepared(study, folder, progress)
        parts = list(study.parts([edit.id for edit in stream.edits]))
        for part in parts:
            part.forget_errors(folder)
        work = partial(run_part, study=study, folder=folder, sigma=trace.settings.sigma)
        with _shown(parts, folder, progress=progress):
            run_grid(parts, work, folder, executor=executor, name="study", progress=False)
    return tables_of(study, folder)


@contextmanager
def _shown(parts: Sequence[Part], folder: Path, *, progress: bool) -> Iterator[None]:
    """A bar of all cells, whichever processes run them; their files tell which have ended."""
    ended = Event()
    n_cells = sum(len(part.facts) * len(part.layers) for part in parts)

    def n_done() -> int:
        return sum(len(part.records(folder)) for part in parts)

    with tqdm(total=n_cells, initial=n_done(), unit="cell", desc="study",
              disable=not progress) as bar:  # fmt: skip

        def watch() -> None:
            while not ended.wait(_SECONDS_SHOWN):
                bar.update(n_done() - bar.n)

        watcher = Thread(target=watch, daemon=True)
        if progress:
            watcher.start()
        try:
            yield
        finally:
            ended.set()
            if progress:
                watcher.join()
                bar.update(n_done() - bar.n)


def traceable(stream: EditStream) -> EditStream:
    """The edits with a fact to trace, which has a subject and an answer before the edit, and their
    probes. Raises ValueError where two have one id."""
    edits = [edit for edit in stream.edits if edit.ground_truth.strip() and edit.subject.strip()]
    if repeated := [i for i, n in Counter(edit.id for edit in edits).items() if n > 1]:
        raise ValueError(f"several facts have the id {repeated[0]!r}; a study needs one for each")
    return stream.with_only(edits)


def _prepared(study: Study, folder: Path, progress: bool) -> tuple[EditStream, Trace]:
    """The facts and their traces, kept in `folder` with what the model says of their subjects."""
    n = study.n_facts if study.n_candidates is None else study.n_candidates
    scene, path = study.scene_of(study.model, study.seeds[0], n), folder / STREAM
    if not path.exists():
        write_jsonl(_known(scene, study.n_facts), path)
    stream = load_stream(f"jsonl:{path}")
    if not (folder / SAID).exists():
        write_json(said_of(scene.model, scene.tokenizer, stream.edits), folder / SAID)
    trace = causal_trace(
        scene.model, scene.tokenizer, [fact_of(edit) for edit in stream.edits],
        window=study.window, noise=study.noise, n_noise=study.n_noise, layers=study.layers,
        metrics=("probability",), seed=study.seeds[0], path=folder / _TRACE, progress=progress,
    )  # fmt: skip
    return stream, trace


def _known(scene: Scene, n_facts: int) -> EditStream:
    """The first edits of facts that the model knows, with their probes."""
    edits = traceable(scene.stream).edits
    facts = known(scene.model, scene.tokenizer, [*map(fact_of, edits)], most=n_facts)
    if not facts:
        raise ValueError(f"the model knows none of {len(edits)} facts; a study needs known ones")
    kept = {fact.id for fact in facts}
    return EditStream(
        tuple(edit for edit in edits if edit.id in kept),
        tuple(probe for probe in scene.stream.probes if probe.edit_id in kept),
        scene.stream.name,
    )


@dataclass(frozen=True)
class StudyTables:
    """The long tables of a study: cells with scores, cells without, and tracing effects."""

    cells: pd.DataFrame  # fact, subject, model, layer, editor, problem, seed, tracing and SCORES
    excluded: pd.DataFrame  # fact, layer, editor, problem, seed, kind ("excluded", "error"), reason
    effects: pd.DataFrame  # fact, token_index, token, role, layer, site, effect and more


def tables_of(study: Study, folder: Path) -> StudyTables:
    """The tables of what `folder` holds so far; a cell without a record is in none of them."""
    stream, trace = load_stream(f"jsonl:{folder / STREAM}"), read_trace(folder / _TRACE)
    subjects = {edit.id: edit.subject for edit in stream.edits}
    traces = {fact.sha256: fact for fact in trace.facts}  # ids may be repeated
    of_id = {edit.id: traces[fact_of(edit).sha256] for edit in stream.edits}
    untraced = {i: why for i, fact in of_id.items() if (why := _untraced(fact, study))}
    tracing = {i: fact.tracing_effect() for i, fact in of_id.items() if i not in untraced}
    scored: list[dict[str, object]] = []
    excluded: list[dict[str, object]] = []
    for part in study.parts(list(subjects)):
        for (fact, layer), record in part.records(folder).items():
            cell = dict(
                fact=fact, layer=layer, editor=part.entry.name, problem=part.problem, seed=part.seed
            )
            kind = next((kind for kind in ("excluded", "error") if kind in record), "")
            if not kind and fact in tracing:
                scores = {name: record[name] for name in SCORES}
                more = dict(subject=subjects[fact], model=study.model, tracing=tracing[fact][layer])
                scored.append({**cell, **more, **scores})
            else:
                reason = record[kind] if kind else untraced[fact]
                excluded.append({**cell, "kind": kind or "excluded", "reason": reason})
    columns = ["fact", "subject", "model", "layer", "editor", "problem", "seed", "tracing", *SCORES]
    reasons = ["fact", "layer", "editor", "problem", "seed", "kind", "reason"]
    return StudyTables(
        pd.DataFrame(scored, columns=columns).astype(dict.fromkeys(SCORES, float)),
        pd.DataFrame(excluded, columns=reasons),
        pd.DataFrame(list(trace.rows())),
    )


def _untraced(fact: FactTrace, study: Study) -> str:
    """Why a fact has no tracing effect; "" where it has one."""
    if fact.clean is None:
        return fact.excluded
    p, least = fact.clean["probability"], study.min_probability
    return f"p(o_true)={p:.4f} is below min_probability={least}" if p < least else ""
