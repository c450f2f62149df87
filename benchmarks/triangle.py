"""One editor's triangle on one stream, as numbers: what the searches and figures below share."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fixtures.models import LoadedModel
from properties.checks import metric_name
from wise.editor import load_editor
from wise.edits import Background, EditStream
from wise.evaluation.lifelong import LifelongRun, reader_of
from wise.evaluation.metrics import BaseAnswers, final_questions, measure

__all__ = ["triangle"]


def triangle(
    loaded: LoadedModel,
    stream: EditStream,
    background: Background,
    *,
    seed: int,
    editor: str = "wise",
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Mean score of every metric on the final model, free-run, and seconds an edit."""
    run = LifelongRun(editor, loaded.name, seed, stream, (len(stream.edits),))
    reader = reader_of(loaded.model, loaded.tokenizer, stream)
    questions = final_questions(stream)
    base = BaseAnswers.ask(loaded.model, reader, questions)
    factory = load_editor(editor)
    edited = factory(loaded.model, loaded.tokenizer, background, seed=seed, **dict(options or {}))
    start = time.perf_counter()
    for edit in stream.edits:
        edited.edit([edit])
    seconds = (time.perf_counter() - start) / len(stream.edits)
    scores: dict[str, list[float]] = defaultdict(list)
    for measured in measure(edited, reader, questions, "free", base):
        if measured.score is not None:
            row = run.row("final", "free", "final", len(stream.edits), measured)
            scores[metric_name(row)].append(measured.score)
    means = {name: sum(values) / len(values) for name, values in sorted(scores.items())}
    return {**means, "seconds per edit": seconds}
