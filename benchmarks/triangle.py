"""An editor's triangle on evaluation streams, mean of seeds: `python -m benchmarks.triangle`."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arguments
from benchmarks.lines import append, check_columns
from fixtures.models import LoadedModel, load_model
from fixtures.scenes import scene_of
from fixtures.world import LEVELS
from wise.editor import Editor, factory_options, load_editor
from wise.edits import Background, EditStream
from wise.evaluation.asked import Question
from wise.evaluation.lifelong import LifelongRun, reader_of
from wise.evaluation.metrics import BaseAnswers, measure
from wise.lm.decoding import Reader
from wise.measures.estimates import Measure

__all__ = ["COLUMNS", "means", "triangle"]

COLUMNS = (
    "editor", "options", "model", "edits", "seed", "far",
    *(f"generalization-{level}" for level in LEVELS),
    "near-relation", "near-subject", "portability", "reliability", "seconds per edit",
)  # fmt: skip


def triangle(
    loaded: LoadedModel,
    stream: EditStream,
    background: Background,
    *,
    seed: int,
    editor: str = "wise",
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Mean score of every metric on the final model, free-run, and seconds per edit."""
    run = LifelongRun(editor, loaded.name, seed, stream, (len(stream.edits),), ("free",))
    final = run.plan(is_routed=False)[-1]
    reader = reader_of(loaded.model, loaded.tokenizer, stream)
    base = BaseAnswers.ask(loaded.model, reader, final.questions, forced=False)
    factory = load_editor(editor)
    edited = factory(loaded.model, loaded.tokenizer, background, seed=seed, **dict(options or {}))
    start = time.perf_counter()
    for edit in stream.edits:
        edited.edit([edit.as_taught()])
    seconds = (time.perf_counter() - start) / len(stream.edits)
    return {**means(edited, reader, final.questions, base), "seconds per edit": seconds}


def means(
    editor: Editor, reader: Reader, questions: Sequence[Question], base: BaseAnswers
) -> dict[str, float]:
    """Mean score of every metric that is asked for, free-run."""
    scores: dict[str, list[float]] = defaultdict(list)
    for measured in measure(editor, reader, questions, "free", base):
        if measured.score is not None:
            asked = measured.question
            scores[Measure(asked.metric, asked.kind).name].append(measured.score)
    return {name: sum(values) / len(values) for name, values in sorted(scores.items())}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--editor", default="wise")
    parser.add_argument("--model", type=arguments.model, default="llama")
    parser.add_argument("--dataset", type=arguments.dataset, metavar="[FORMAT:]FILE")
    parser.add_argument("--edits", type=arguments.whole, default=100)
    parser.add_argument("--seeds", type=arguments.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--csv", type=Path, help="file to append the numbers of each seed to")
    asked = parser.parse_args(words)
    try:
        load_editor(asked.editor)
        options = factory_options(asked.option)
        if asked.csv is not None:
            check_columns(asked.csv, COLUMNS)
        loaded = load_model(asked.model)
        scenes = [scene_of(loaded, seed, asked.edits, whole=asked.dataset) for seed in asked.seeds]
    except ValueError as error:
        parser.error(str(error))
    found = []
    for seed, scene in zip(asked.seeds, scenes, strict=True):
        numbers = triangle(
            loaded, scene.stream, scene.background, seed=seed,
            editor=asked.editor, options=options,
        )  # fmt: skip
        found.append(numbers)
        if asked.csv is not None:
            append(asked.csv, COLUMNS, {
                "editor": asked.editor, "options": " ".join(asked.option), "model": asked.model,
                "edits": asked.edits, "seed": seed, **numbers,
            })  # fmt: skip
    print(
        f"{asked.editor} on {asked.model}, T={asked.edits}, mean of seeds {asked.seeds}, free-run"
    )
    for name in dict.fromkeys(name for numbers in found for name in numbers):
        values = [numbers[name] for numbers in found if name in numbers]
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"  {name:18} {sum(values) / len(values):.3f}   ({each})")


if __name__ == "__main__":
    main()
