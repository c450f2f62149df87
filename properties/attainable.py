"""What a file's faults cost: said before a run, beside its scores, and of its thresholds."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

from fixtures.models import FAMILIES, load_tokenizer, model_folder, world_of
from properties.settings import Settings
from wise.edits import EditStream
from wise.evaluation.asked import final_questions
from wise.evaluation.datasets import drawn, makes_probes
from wise.evaluation.lint import lint
from wise.evaluation.lint_text import brief_lines
from wise.measures.ceilings import Ceiling, TextReading, ceilings, pooled
from wise.measures.estimates import Measure
from wise.measures.text import by_number, normalized
from wise.measures.verdicts import RELATIVE

__all__ = ["check_thresholds", "fault_lines", "unlearnt_targets"]


def fault_lines(settings: Settings) -> Iterator[str]:
    """At most three lines on the first stream of --dataset, and what the model never learnt to say.

    None where the file has fewer edits than asked, as the run will say.
    """
    stream = _first_stream(settings)
    if stream is None:
        return
    n_edits = settings.n_to_make
    chosen = f"--edits {n_edits} --seed {settings.seed} --model {shlex.quote(settings.model)}"
    chosen += " --skip-bad-records" * settings.skip_bad_records
    command = f"python -m reports lint {shlex.quote(settings.dataset)} {chosen}"
    from wise.evaluation.askable import spelling_of  # which needs torch

    try:
        spelling = spelling_of(load_tokenizer(settings.model))
    except (OSError, ValueError):  # which the run tells
        spelling = None
    found = lint(stream, spelling=spelling, made_probes=makes_probes(stream))
    for line in brief_lines(found, command):
        yield f"of T={n_edits}: {line}"
    if unlearnt := _unlearnt(settings.model, stream):
        yield (
            f"{unlearnt}, and such a small model can hardly say them; --model=smollm2 or a folder "
            "of your own can"
        )


def _first_stream(settings: Settings) -> EditStream | None:
    """The first stream of --dataset; None without one, or where it has fewer edits than asked."""
    if not settings.dataset:
        return None
    try:
        whole, _ = settings.facts
        return drawn(whole, n_edits=settings.n_to_make, seed=settings.seed)
    except ValueError:
        return None


def unlearnt_targets(settings: Settings) -> str:
    """How many targets of --dataset an embedded model never saw, as these are mostly beyond any
    edit; empty for none."""
    stream = _first_stream(settings)
    return "" if stream is None else _unlearnt(settings.model, stream)


def _unlearnt(model: str, stream: EditStream) -> str:
    world = world_of(model_folder(model)) if model in FAMILIES else None
    if world is None:
        return ""
    known = set(map(normalized, world.answers))
    n = sum(normalized(edit.target) not in known for edit in stream.edits)
    are = "is" if n == 1 else "are"
    told = f"{n:,} of {by_number(len(stream.edits), 'target|targets')} {are} no answer in the world"
    return f"{told} that {model} was trained on" if n else ""


def check_thresholds(
    thresholds: Mapping[str, float],
    streams: Iterable[EditStream],
    *,
    protocol: str,
    reading: TextReading,
) -> None:
    """Raise ValueError naming a threshold that no editor can reach, at any look at `streams`.

    Thresholds that are relative to the unedited model are about some of the questions only, and
    are not held against the ceiling of all.
    """
    looks = list[Mapping[Measure, Ceiling]]()
    best = dict[str, Ceiling]()
    for stream in streams:
        asked = final_questions(stream, protocol=protocol)
        looks.append(ceilings(asked, protocol=protocol, reading=reading))
        for measure in looks[0]:
            found = pooled(looks, measure)
            if found and (measure.name not in best or found.share > best[measure.name].share):
                best[measure.name] = found
        above = [name for name, each in best.items()
                 if name not in RELATIVE and thresholds.get(name, 0) > each.share]  # fmt: skip
        if not above:
            return
    if looks:
        name = above[0]
        raise ValueError(
            f"--threshold={name}={thresholds[name]:g} is above {float(best[name].share):.4g}, the "
            f"most that any editor can reach on {stream.name} after "
            f"{by_number(len(stream.edits), 'edit|edits')}: "
            f"{best[name].reason}; --threshold={name}=VALUE lowers it"
        )
