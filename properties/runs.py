"""The lifelong runs that rates are judged on, and the bench that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import Phase

from fixtures.models import LoadedModel
from fixtures.samples import stream_seed
from fixtures.world import LEVELS
from properties.bench import PHASES, Bench
from wise.editor import EditorFactory, with_cache
from wise.edits import Background, EditStream
from wise.evaluation.league import checkpoints_of
from wise.evaluation.lifelong import LifelongRun, run_lifelong
from wise.measures.rows import Row
from wise.measures.verdicts import DEFAULT_THRESHOLDS, JUDGED, MAX_LOOKS, SharedDraws

__all__ = ["LEVELS", "checkpoints_of", "make_runs", "world_bench"]

_N_EXACT = 40  # edits of the stream that the exact laws take theirs from


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
    thresholds: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    background: Background | None = None,
    of_stream: Callable[[EditStream], EditStream] = lambda stream: stream,
    n_examples: int = 10,
    phases: tuple[Phase, ...] = PHASES,
) -> Bench:
    """A bench on the model's own world; the runs' rows are written below `folder`.

    `of_stream` changes every stream, `background` replaces the world's. Raises ValueError for a
    model without a world and for a threshold of an unknown metric.
    """
    world = loaded.own_world
    unknown = (thresholds or {}).keys() - set(JUDGED)
    if unknown:
        raise ValueError(f"threshold {min(unknown)!r} is none of {', '.join(JUDGED)}")

    def seed_of(look: int) -> int:
        return stream_seed(seed, look) if look else seed

    def stream(look: int) -> EditStream:
        return of_stream(world.stream(seed_of(look), n_edits))

    def rows_of(look: int) -> list[Row]:
        own = seed_of(look)
        run = LifelongRun(name, loaded.name, own, stream(look), checkpoints_of(n_edits), ("free",))
        path = folder / f"look-{look}.jsonl"
        return run_lifelong(
            run, bench.editor(seed=own), loaded.model, loaded.tokenizer, path, progress=False
        )

    bench = Bench(
        name=name,
        factory=with_cache(factory, folder / "cache"),
        loaded=loaded,
        stream=of_stream(world.stream(seed, _N_EXACT)),
        background=world.background() if background is None else background,
        seed=seed,
        options=options or {},
        n_examples=n_examples,
        phases=phases,
        runs=make_runs(rows_of),
        streams=SharedDraws(stream),
        thresholds={**DEFAULT_THRESHOLDS, **(thresholds or {})},
        max_looks=MAX_LOOKS,
    )
    return bench
