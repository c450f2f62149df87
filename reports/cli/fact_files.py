"""A file of facts for a command: read, told of, and refused before the work begins."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from wise.edits import Edit, EditStream, Probe

__all__ = [
    "N_EDITS",
    "facts_of",
    "facts_to_lint",
    "facts_to_study",
    "file_to_run",
    "why_not_asked",
    "would_stop",
]

N_EDITS = 100  # of a league


def facts_of(source: str, skip_bad_records: bool) -> tuple[EditStream, tuple[str, ...]]:
    """All facts of a file; what its reader left out or changed is told, here alone.

    Raises ValueError where it has no edit.
    """
    from fixtures.scenes import read_once
    from wise.evaluation.datasets import require_edits
    from wise.evaluation.fields import RecordError
    from wise.evaluation.loading_notes import to_go_on

    try:
        whole, left_out = read_once(source, skip_bad_records=skip_bad_records)
    except RecordError as error:
        raise ValueError(f"{error}; {to_go_on(source)}") from error
    for note in left_out:
        click.echo(f"{whole.name}: {note}", err=True)
    try:
        require_edits(whole)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return whole, left_out


def why_not_asked(
    dataset: str,
    stream: EditStream,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    truths: bool = False,
) -> str:
    """The record at which a run on `stream` stops, and why it cannot be asked; "" for none.

    With `truths` it is asked for the answers before the edits too.
    """
    from wise.evaluation.askable import UnaskableError, at_record, check_askable
    from wise.evaluation.loading_notes import COUNTED

    try:
        check_askable(tokenizer, stream, max_length, truths=truths)
    except UnaskableError as error:
        return f"{at_record(error, dataset)}; {COUNTED}"
    return ""


def file_to_run(
    dataset: str, models: Sequence[str], edits: int | None, n_seeds: int, skip_bad_records: bool
) -> tuple[int, tuple[str, ...]]:
    """T of a league on a file, and what is left out of it; both, and its faults, are told here.

    Raises ValueError naming a record that a model cannot be asked, unless these are skipped.
    """
    from fixtures.models import load_context_length, load_tokenizer
    from wise.evaluation.askable import askable, not_askable
    from wise.evaluation.datasets import drawn

    whole, left_out = facts_of(dataset, skip_bad_records)
    asked: dict[str, EditStream] = {}
    told = list[str]()
    for model in models:
        tokenizer, most = load_tokenizer(model), load_context_length(model)
        asked[model] = whole
        if skip_bad_records:
            asked[model], lost = askable(whole, tokenizer, most)
            told += [f"{not_askable(lost, model, most)}; left out"] * bool(lost)
        for seed in () if skip_bad_records else range(n_seeds):
            stream = drawn(whole, n_edits=edits or min(N_EDITS, len(whole.edits)), seed=seed)
            if why := why_not_asked(dataset, stream, tokenizer, most):
                raise ValueError(f"{model}: a run stops at {why}")
    for note in told:
        click.echo(f"{whole.name}: {note}", err=True)
    n_edits = edits or min(N_EDITS, *(len(each.edits) for each in asked.values()))
    if not n_edits:
        raise ValueError(f"{dataset}: no edit of {whole.name} is left that all models can be asked")
    skip = " --skip-bad-records" * skip_bad_records
    how = f"python -m reports lint {shlex.quote(dataset)} --edits {n_edits} --seed 0{skip}"
    firsts = {model: drawn(each, n_edits=n_edits, seed=0) for model, each in asked.items()}
    for line in _faults_by_model(firsts, how):
        click.echo(f"{whole.name}, T={n_edits}, seed 0{line}", err=True)
    return n_edits, (*left_out, *told)


def _faults_by_model(streams: Mapping[str, EditStream], command: str) -> Iterator[str]:
    """The faults of each model's stream, by its tokenizer; what all models share is told once.

    A line begins with the models where they differ.
    """
    from fixtures.models import load_tokenizer
    from wise.evaluation.askable import spelling_of
    from wise.evaluation.datasets import makes_probes
    from wise.evaluation.lint import StreamFinding
    from wise.evaluation.lint import lint as findings_of
    from wise.evaluation.lint_text import brief_lines

    alike = dict[tuple[StreamFinding, ...], list[str]]()
    for model, stream in streams.items():
        spelling = spelling_of(load_tokenizer(model))
        found = findings_of(stream, spelling=spelling, made_probes=makes_probes(stream))
        alike.setdefault(tuple(found), []).append(model)
    for same, models in alike.items():
        who = f", {', '.join(models)}" * (len(alike) > 1)
        for line in brief_lines(same, f"{command} --model {shlex.quote(models[0])}"):
            yield f"{who}: {line}"


def facts_to_study(source: str, models: Sequence[str], skip_bad_records: bool) -> int:
    """How many edits a file of facts holds; what is left out of a study is told here.

    Raises ValueError naming the first record where no fact can be traced, and one that a model
    cannot be asked, unless these are skipped.
    """
    from fixtures.models import load_context_length, load_tokenizer
    from wise.evaluation.askable import askable, not_askable
    from wise.evaluation.datasets import place_of
    from wise.localization.study import traceable

    whole, _ = facts_of(source, skip_bad_records)
    try:
        facts = traceable(whole)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    needed = "a subject in its prompt and a ground_truth, the answer before the edit"
    if not facts.edits:
        first = whole.edits[0]
        told = {"subject": first.subject, "ground_truth": first.ground_truth}
        lacks = " and ".join(name for name, text in told.items() if not text.strip())
        raise ValueError(
            f"{place_of(source, first)}: the edit has no {lacks}, and of {len(whole.edits)} none "
            f"can be traced; a fact needs {needed}"
        )
    if n_lost := len(whole.edits) - len(facts.edits):
        click.echo(f"{whole.name}: {n_lost} of {len(whole.edits)} edits are not traced, as a fact "
                   f"needs {needed}", err=True)  # fmt: skip
    for model in models:
        tokenizer, most = load_tokenizer(model), load_context_length(model)
        if skip_bad_records:
            kept, left_out = askable(facts, tokenizer, most, truths=True)
            why = f"{whole.name}: {not_askable(left_out, model, most)}; left out"
            if not kept.edits:
                raise ValueError(f"{why}, and no fact is left to trace")
            if left_out:
                click.echo(why, err=True)
        elif why := why_not_asked(source, facts, tokenizer, most, truths=True):
            raise ValueError(f"{model}: a run stops at {why}")
    return len(whole.edits)


def would_stop(where: str) -> str:
    """What lint says at its end where it left out what a run stops at."""
    return f"lint read on, and a run would stop at {where}"


def facts_to_lint(
    dataset: str, skip_bad_records: bool
) -> tuple[EditStream, tuple[str, ...], dict[Edit | Probe, int], list[str]]:
    """All good records of a file, the notes on it, the lines of what it holds, and where a run
    would stop, if it would."""
    from wise.evaluation.datasets import read_with_lines
    from wise.evaluation.fields import RecordError
    from wise.evaluation.lint_text import notes_lines
    from wise.evaluation.loading_notes import COUNTED, NothingLeftError

    try:
        try:
            return *read_with_lines(dataset, skip_bad_records=skip_bad_records), []
        except RecordError as error:
            if skip_bad_records:
                raise
            why = f"{error.place}; --skip-bad-records leaves bad records out"
            read = read_with_lines(dataset, skip_bad_records=True)
            return *read, [would_stop(f"{why}; {COUNTED}")]
    except NothingLeftError as error:
        click.echo("\n".join(notes_lines(error.notes)))
        raise click.ClickException(f"{dataset}: no record can be read; {COUNTED}") from error
