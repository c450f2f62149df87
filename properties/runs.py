"""The lifelong runs that rates are judged on, and the bench that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import Phase

from fixtures.models import LoadedModel
from fixtures.scenes import scene_of, stream_seed
from properties.bench import PHASES, Bench
from wise.editor import EditorFactory, with_cache
from wise.edits import Background, EditStream
from wise.evaluation.cell import Scene
from wise.evaluation.datasets import load_stream
from wise.evaluation.league import checkpoints_of
from wise.evaluation.lifelong import LifelongRun, run_lifelong
from wise.measures.rows import Row
from wise.measures.verdicts import DEFAULT_THRESHOLDS, JUDGED, MAX_LOOKS, SharedDraws

__all__ = ["N_EXACT", "make_runs", "world_bench"]

N_EXACT = 40  # edits of the stream of exact laws, where a dataset has so many


def make_runs(rows_of: Callable[[int], list[Row]]) -> SharedDraws[list[Row]]:
    """The rows of look 0, 1, ..., each made when first needed.

    What stops a run is raised for every rate that needs it, and the run is not made again.
    """

    @cache
    def attempt(look: int) -> list[Row] | Exception:
        try:
            return rows_of(look)
        except Exception as error:  # noqa: BLE001 - an editor may raise anything
            return error

    def rows(look: int) -> list[Row]:
        found = attempt(look)
        if isinstance(found, Exception):
            raise found
        return found

    return SharedDraws(rows)


def world_bench(
    factory: EditorFactory,
    loaded: LoadedModel,
    folder: Path,
    *,
    n_edits: int = 100,
    seed: int = 0,
    name: str = "editor",
    spec: str = "",
    dataset: str | None = None,
    skip_bad_records: bool = False,
    thresholds: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    background: Background | None = None,
    of_stream: Callable[[EditStream], EditStream] = lambda stream: stream,
    n_examples: int = 10,
    phases: tuple[Phase, ...] = PHASES,
) -> Bench:
    """A bench on the model's own world, or on `dataset`; the runs' rows are written below `folder`.

    `dataset` is FILE or FORMAT:FILE, read as by `load_stream`. `spec` names the factory, as in a
    Bench. `of_stream` changes every stream, `background` replaces the world's.
    Raises ValueError for a model without a world, for more edits than there are, and for a
    threshold of an unknown metric.
    """
    whole = None if dataset is None else load_stream(dataset, skip_bad_records=skip_bad_records)
    n_exact = N_EXACT if whole is None else min(N_EXACT, len(whole.edits))
    unknown = (thresholds or {}).keys() - set(JUDGED)
    if unknown:
        raise ValueError(f"threshold {min(unknown)!r} is none of {', '.join(JUDGED)}")

    @cache
    def scene(look: int, n: int = n_edits) -> Scene:
        made = scene_of(loaded, stream_seed(seed, look), n, whole=whole)
        seen = made.background if background is None else background
        return replace(made, stream=of_stream(made.stream), background=seen)

    def rows_of(look: int) -> list[Row]:
        own, stream = stream_seed(seed, look), scene(look).stream
        run = LifelongRun(
            name, loaded.name, own, stream, checkpoints_of(n_edits), ("free",),
            tells_knowledge=scene(look).tells_knowledge,
        )  # fmt: skip
        path = folder / f"look-{look}.jsonl"
        return run_lifelong(
            run.judged() if look else run, bench.editor(seed=own), loaded.model, loaded.tokenizer,
            path, progress=False,
        )  # fmt: skip

    bench = Bench(
        name=name,
        factory=with_cache(factory, folder / "cache"),
        loaded=loaded,
        stream=scene(0, n_exact).stream,
        background=scene(0, n_exact).background,
        spec=spec,
        seed=seed,
        options=options or {},
        n_examples=n_examples,
        phases=phases,
        runs=make_runs(rows_of),
        streams=SharedDraws(lambda look: scene(look).stream),
        thresholds={**DEFAULT_THRESHOLDS, **(thresholds or {})},
        max_looks=MAX_LOOKS,
    )
    return bench
