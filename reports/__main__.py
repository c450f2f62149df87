"""The command line, `python -m reports page|league|study|lint`; a command imports what it needs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

import click

from reports.calibration import CALIBRATION
from wise.measures.verdicts import MAX_LOOKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fixtures.models import LoadedModel
    from wise.edits import EditStream
    from wise.evaluation.cell import SceneMaker
    from wise.evaluation.entries import Entry, Which
    from wise.jobs.grid import Executor
    from wise.localization.study import Study
    from wise.localization.study_text import ModelStudy

__all__ = ["main"]

_option = partial(click.option, show_default=True)
_file = partial(click.Path, dir_okay=False, path_type=Path)
_FILE = _file(exists=True)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_jobs = _option("--jobs", type=click.IntRange(1), help="processes  [default: one for each core]")
_confidence = _option("--confidence", default=0.95, type=click.FloatRange(0.5, 1, max_open=True),
                      help="of intervals and verdicts")  # fmt: skip
_skip = _option("--skip-bad-records", is_flag=True,
                help="leave out bad records of the file and say why, not stop at them")  # fmt: skip
_SEARCH = Path(__file__).parents[1] / "benchmarks" / "results" / "search.csv"
_EDITORS = ("rome", "memit", "ft-1", "ft-5", "wise")
_N_EDITS = 100
_DEEP = 12  # layers, beyond which a study takes every third, and the first problem
_N_ASKED = 12  # tokens of a question
# In an edit and its scoring: 25 steps of half of the blocks, back and forth, and some ten rows.
_N_FORWARDS = 40
_PROBLEMS = (
    "error-injection", "tracing-reversal", "fact-erasure", "fact-amplification", "fact-forcing",
)  # fmt: skip


def _in_a_folder(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A file to write, whose folder must exist before the work begins."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"{path} is not a file in a folder that exists")
    return path


def _which(
    context: click.Context, option: click.Parameter, given: Sequence[str]
) -> Mapping[str, str]:
    """By editor, which of its entries; of all others at ""."""
    found = {}
    for text in given:
        name, _, which = text.rpartition("=")
        found[name] = click.Choice(["both", "released", "tuned"]).convert(which, option, context)
    return found


@click.group()
def main() -> None:
    """Reports on model editors: from rows to figures, tables and one page."""


_write = partial(_option, "--write", type=_file(), callback=_in_a_folder)


@main.command()
@click.argument("rows", nargs=-1, type=_FILE)
@_option("--out", type=_FOLDER, required=True, help="folder of the page")
@_option("--compare", nargs=2, type=_FILE, metavar="A B", help="two files of rows, item by item")
@_option("--threshold", multiple=True, metavar="METRIC=VALUE",
         help="what a metric must reach; repeatable")  # fmt: skip
@_option("--confidence", type=click.FloatRange(0.5, 1, max_open=True),
         help="of intervals and verdicts  [default: the run's, or 0.95]")  # fmt: skip
@_option("--looks", "max_looks", type=click.IntRange(1),
         help="number of looks (interim analyses) that share the error  [default: the run's, or "
         f"{MAX_LOOKS}]")  # fmt: skip
@_option("--verdicts", type=_FILE, multiple=True,
         help="verdicts of the suite, as JSON lines  [default: those beside the rows]")  # fmt: skip
@_option("--checks", type=_FILE, multiple=True, help="outcomes of checks, as JSON lines")
@_option("--sweep", "sweeps", type=_FILE, multiple=True,
         help="rows of one editor, shown by its options and not judged; repeatable")  # fmt: skip
@_option("--costs", type=_FILE, help="a league's costs, as CSV")
@_option("--kill-matrix", type=_FILE, help="faults and the checks that they trip, as TOML")
@_option("--study", type=_FILE, help="a localization study, as CSV")
@_option("--r2", type=_FILE, help="its regressions, as CSV")
@_option("--effects", type=_FILE, help="tracing effects by token and layer, as CSV")
@_option("--model", help="read texts with the tokenizer of this model, for forced ceilings too")
def page(
    rows: tuple[Path, ...], out: Path, threshold: tuple[str, ...], model: str | None, **options: Any
) -> None:
    """Make one page of files of rows.

    ROWS are files of JSON lines, as --rows of pytest writes them; the page is index.html in the
    folder --out.
    """
    from reports.build import build_page
    from reports.reading import check_has_rows

    if not rows and not options["compare"]:
        raise click.UsageError("name a file of rows, or two to --compare")
    try:
        for path in (*rows, *(options["compare"] or ()), *options["sweeps"]):
            check_has_rows(path)
        if model is not None:
            from fixtures.models import load_reading

            options["reading"] = partial(load_reading, model)
        click.echo(build_page(rows, out, thresholds=threshold, **options))
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@_option("--editors", default="all",
         help="all, none, perfect, random, names or MODULE:FACTORY; with commas")  # fmt: skip
@_option("--models", default="llama",
         help="embedded families, smollm2, folders or GGUF files, with commas")  # fmt: skip
@_option("--dataset", metavar="[FORMAT:]FILE", help="facts of a file, not of the models' worlds")
@_skip
@_option("--edits", type=click.IntRange(1), help="number of edits  [default: 100, or all of file]")
@_option("--seeds", default=3, type=click.IntRange(1), help="number of seeds")
@_jobs
@_option("--out", default="league", type=_FOLDER,
         help="folder of rows, tables and all that a resumed call needs")  # fmt: skip
@_option("--options", default=["both"], multiple=True, callback=_which,
         metavar="[NAME=]both|released|tuned",
         help="entries of the built-in editors; of one alone, such as wise=tuned")  # fmt: skip
@_option("--search", type=_FILE,
         help="results of benchmarks.search  [default: those of the checkout]")  # fmt: skip
@_write(help="Markdown file to write the page to, beside the one in --out")
@_option("--notes", type=_FILE, help="Markdown file with which the page ends")
@_confidence
def league(
    editors: str,
    models: str,
    dataset: str | None,
    skip_bad_records: bool,
    edits: int | None,
    seeds: int,
    jobs: int | None,
    out: Path,
    options: Mapping[str, Which],
    search: Path | None,
    write: Path | None,
    notes: Path | None,
    confidence: float,
) -> None:
    """Run editors on the same streams and rank them.

    Repeat the call to resume it.
    """
    from fixtures.models import model_folder, no_world, title_of, world_of
    from fixtures.scenes import of_dataset, world_scene
    from wise.editor import load_editor
    from wise.evaluation import league_table, league_text
    from wise.evaluation.entries import best_options, entries_named
    from wise.evaluation.league import League, results_of, run_league, write_costs

    entries, left_out, n_edits = {}, tuple[str, ...](), edits or _N_EDITS
    try:
        if dataset is not None:
            n_edits, left_out = _file_to_run(
                dataset, models.split(","), edits, seeds, skip_bad_records
            )
        for model in models.split(","):
            world = world_of(model_folder(model))
            if dataset is None:
                if world is None:
                    raise no_world(model)
                world.stream(0, n_edits)
            best = best_options(search or _SEARCH, model=title_of(model))
            entries[model] = entries_named(
                editors.split(","), best=best, options=options.get("", "both"),
                options_of={name: each for name, each in options.items() if name},
                corners=CALIBRATION,
            )  # fmt: skip
        for entry in {entry for of_model in entries.values() for entry in of_model}:
            load_editor(entry.spec)
        scene_of = (
            world_scene
            if dataset is None
            else of_dataset(dataset, skip_bad_records=skip_bad_records)
        )
        asked = League(entries, tuple(range(seeds)), n_edits, scene_of)
        outcomes = run_league(asked, out, executor=_executor(jobs))
    except (OSError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    results = results_of(outcomes, out)
    found = league_table.standings(results, confidence=confidence)
    write_costs(outcomes, out / "costs.csv")
    league_text.write_scores(found, out / "scores.csv")
    page = league_text.document(
        found, outcomes, league_table.retained(results), confidence=confidence,
        command=shlex.join(["python", "-m", "reports", *sys.argv[1:]]), left_out=left_out,
        notes=notes.read_text(encoding="utf-8") if notes else "",
    )  # fmt: skip
    for path in filter(None, (out / "league.md", write)):
        path.write_text(page, encoding="utf-8")
    click.echo(league_text.tables(found, outcomes, last_only=True))
    if all(outcome.state == "error" for outcome in outcomes.values()):
        raise click.ClickException("no cell was finished; the tables say why")


@main.command()
@_option("--model", multiple=True, default=("gpt2",),
         help="embedded family, smollm2, local folder or GGUF file; repeatable")  # fmt: skip
@_option("--facts", default=100, type=click.IntRange(1),
         help="number of facts that the model knows")  # fmt: skip
@_option("--facts-file", metavar="[FORMAT:]FILE",
         help="known facts or a dataset in place of the model's world")  # fmt: skip
@_skip
@_option("--editor", multiple=True, default=_EDITORS,
         help="a name, MODULE:FACTORY or FILE.py:FACTORY; repeatable")  # fmt: skip
@_option("--problem", multiple=True, type=click.Choice(_PROBLEMS),
         help="repeatable  [default: all; of more than 12 layers, error-injection]")  # fmt: skip
@_option("--layers", help="such as 0,4,8  [default: all; of more than 12, every third]")
@_option("--seeds", default=1, type=click.IntRange(1), help="number of seeds")
@_option(
    "--window",
    default=5,
    type=click.IntRange(1),
    help="number of layers that tracing restores together",
)
@_option("--preset", help="preset of the editors  [default: embedded; of a folder, released]")
@_option("--rule", type=int, help="layer that the field's rule of thumb would edit")
@_option("--sweep", default=0, type=click.IntRange(0),
         help="T of WISE's own curve over layers, such as 50; 0 = no curve")  # fmt: skip
@_jobs
@_option("--cluster", type=click.Choice(["slurm", "local"]), help="run on a cluster, by submitit")
@_option("--cluster-option", multiple=True, metavar="KEY=VALUE",
         help="option of submitit, such as timeout_min=60 or slurm_partition=gpu")  # fmt: skip
@_option("--out", default="study", type=_FOLDER,
         help="folder of tables, the page and all that a resumed call needs")  # fmt: skip
@_write(help="Markdown file to write the study to, beside the one in --out")
def study(model: Sequence[str], out: Path, write: Path | None, **asked: Any) -> None:
    """Ask whether tracing tells which layer to edit.

    Facts are traced, and edited at every layer. Repeat the call to resume it.
    """
    from wise.localization import study_text

    folders = {name: out / Path(name).name if len(model) > 1 else out for name in model}
    if len({*folders.values()}) < len(model):
        raise click.ClickException(f"--model={', '.join(model)} must differ in their last names")
    try:
        source, skip = asked["facts_file"], asked["skip_bad_records"]
        n_facts = None if source is None else _facts_to_study(source, model, skip)
        made = {folder: _study_of(name, asked, n_facts) for name, folder in folders.items()}
        found = [_studied(each, folder, asked) for folder, each in made.items()]
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    command = shlex.join(["python", "-m", "reports", *sys.argv[1:]])
    text = study_text.document(found, command=command)
    for path in filter(None, (out / "study.md", write)):
        path.write_text(text, encoding="utf-8")


@main.command()
@click.argument("dataset", metavar="[FORMAT:]FILE")
@_option("--edits", type=click.IntRange(1), help="number of edits  [default: all]")
@_option("--seed", type=click.IntRange(0),
         help="seed of the stream, as of pytest  [default: the file's own order]")  # fmt: skip
@_option("--model", help="read the texts with the tokenizer of this model too")
@_skip
def lint(
    dataset: str, edits: int | None, seed: int | None, model: str | None, skip_bad_records: bool
) -> None:
    """Say what is wrong with a file of edits and probes.

    Each fault with its number and an example; then the most that any editor can reach. Where a run
    would stop, the command goes on, and ends with an error: bad records, and what the model cannot
    be asked, are told and left out, and of fewer edits than asked all are judged.
    """
    from wise.evaluation.asked import final_questions
    from wise.evaluation.datasets import drawn, makes_probes
    from wise.evaluation.lint import lint as findings_of
    from wise.evaluation.lint_text import lint_text
    from wise.measures.ceilings import AS_WRITTEN, ceilings
    from wise.measures.text import by_number

    reading, spelling, protocols = AS_WRITTEN, None, ["free"]
    try:
        whole, notes, stops = _facts_to_lint(dataset, skip_bad_records)
        if edits is not None and edits > len(whole.edits):
            held = by_number(len(whole.edits), "edit|edits")
            stops.append(f"--edits={edits}: {whole.name} has {held}, and a run stops")
            edits = None
        if model is not None:
            from fixtures.models import load_context_length, load_tokenizer
            from wise.evaluation.askable import askable, not_askable, spelling_of
            from wise.lm.tokens import reading_of

            tokenizer, most = load_tokenizer(model), load_context_length(model)
            why = "" if skip_bad_records else _why_not_asked(
                dataset, drawn(whole, n_edits=edits, seed=seed), tokenizer, most
            )  # fmt: skip
            if why or skip_bad_records:
                whole, left_out = askable(whole, tokenizer, most)
                notes += (f"{not_askable(left_out, model, most)}; left out",) * bool(left_out)
                edits = None if edits is None else min(edits, len(whole.edits))
            stops += [why] * bool(why)
            reading, spelling = reading_of(tokenizer), spelling_of(tokenizer)
            protocols = ["free", "forced"]
        if not whole.edits:
            stops.append(f"{whole.name} has no edits, and a run stops")
        stream = drawn(whole, n_edits=edits, seed=seed)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    asked = {each: final_questions(stream, protocol=each) for each in protocols}
    reached = {each: ceilings(asked[each], protocol=each, reading=reading) for each in protocols}
    findings = findings_of(stream, spelling=spelling, made_probes=makes_probes(stream))
    click.echo(lint_text(stream, findings, reached, notes=notes))
    if stops:
        raise click.ClickException(stops[0])


def _facts_to_lint(
    dataset: str, skip_bad_records: bool
) -> tuple[EditStream, tuple[str, ...], list[str]]:
    """All good records of a file, the notes on it, and at which bad record a run stops, if any."""
    from wise.evaluation.datasets import read_dataset
    from wise.evaluation.fields import RecordError
    from wise.evaluation.lint_text import notes_lines
    from wise.evaluation.loading_notes import COUNTED, NothingLeftError

    try:
        try:
            return *read_dataset(dataset, skip_bad_records=skip_bad_records), []
        except RecordError as error:
            if skip_bad_records:
                raise
            stops = f"a run stops at {error.place}; --skip-bad-records leaves bad records out"
            return *read_dataset(dataset, skip_bad_records=True), [f"{stops}; {COUNTED}"]
    except NothingLeftError as error:
        click.echo("\n".join(notes_lines(error.notes)))
        raise click.ClickException(f"{dataset}: no record can be read; {COUNTED}") from error


def _file_to_run(
    dataset: str, models: Sequence[str], edits: int | None, n_seeds: int, skip_bad_records: bool
) -> tuple[int, tuple[str, ...]]:
    """T of a league on a file, and what is left out of it; both, and its faults, are told here.

    Raises ValueError naming a record that a model cannot be asked, unless these are skipped.
    """
    from fixtures.models import load_context_length, load_tokenizer
    from wise.evaluation.askable import askable, not_askable
    from wise.evaluation.datasets import drawn

    whole, left_out = _facts_of(dataset, skip_bad_records)
    asked: dict[str, EditStream] = {}
    told = list[str]()
    for model in models:
        tokenizer, most = load_tokenizer(model), load_context_length(model)
        asked[model] = whole
        if skip_bad_records:
            asked[model], lost = askable(whole, tokenizer, most)
            told += [f"{not_askable(lost, model, most)}; left out"] * bool(lost)
        for seed in () if skip_bad_records else range(n_seeds):
            stream = drawn(whole, n_edits=edits or min(_N_EDITS, len(whole.edits)), seed=seed)
            if why := _why_not_asked(dataset, stream, tokenizer, most):
                raise ValueError(f"{model}: {why}")
    for note in told:
        click.echo(f"{whole.name}: {note}", err=True)
    n_edits = edits or min(_N_EDITS, *(len(each.edits) for each in asked.values()))
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


def _why_not_asked(
    dataset: str,
    stream: EditStream,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    truths: bool = False,
) -> str:
    """At which record a run on `stream` stops, as the model cannot be asked it; "" at none.

    With `truths` it is asked for the answers before the edits too.
    """
    from wise.evaluation.askable import UnaskableError, at_record, check_askable
    from wise.evaluation.loading_notes import COUNTED

    try:
        check_askable(tokenizer, stream, max_length, truths=truths)
    except UnaskableError as error:
        return f"a run stops at {at_record(error, dataset)}; {COUNTED}"
    return ""


def _studied(made: Study, out: Path, asked: Mapping[str, Any]) -> ModelStudy:
    """The study of one model, with its tables and page in `out`."""
    from reports.build import build_page
    from reports.csv_text import safe_for_csv
    from wise.localization.layer_findings import findings_of, r2_table, within_table
    from wise.localization.layers import sweep_layers
    from wise.localization.study import run_study
    from wise.localization.study_text import ModelStudy

    model = made.model
    executor = _executor(asked["jobs"], asked["cluster"], asked["cluster_option"], out)
    found = run_study(made, out, executor=executor)
    curve = sweep_layers(
        _entry("wise", model, asked), model, made.layers, made.scene_of, out / "sweep",
        n_edits=asked["sweep"], executor=executor,
    ) if asked["sweep"] else None  # fmt: skip
    n_known = len({*found.cells.fact, *found.excluded.fact})
    if n_known < made.n_facts:
        click.echo(f"{model} knows {n_known} of the facts; {made.n_facts} were asked for", err=True)
    errors = found.excluded[found.excluded.kind == "error"]
    if len(errors):
        click.echo(f"{len(errors)} cells had an error, the first {errors.reason.iloc[0]}", err=True)
    findings = findings_of(found.cells, rule=asked["rule"])
    r2 = r2_table(findings, model=model)
    tables = {
        "study": found.cells, "excluded": found.excluded, "effects": found.effects,
        "r2": r2[r2.r2_layer.notna() & (r2.outcome == "rewrite")] if "r2_layer" in r2 else None,
        "outcomes": r2, "within": within_table(findings), "layers": curve,
    }  # fmt: skip
    paths = {}
    for name, table in tables.items():
        if table is not None and len(table):
            paths[name] = out / f"{name}.csv"
            safe_for_csv(table).to_csv(paths[name], index=False, lineterminator="\n")
    settings = {"facts": n_known, **_settings(made)}
    studied = ModelStudy(model, findings, found.cells, found.excluded, settings, curve)
    click.echo(studied.verdict)
    if "study" in paths:
        study, r2_path, effects = map(paths.get, ("study", "r2", "effects"))
        click.echo(build_page([], out / "page", study=study, r2=r2_path, effects=effects))
    return studied


def _study_of(model: str, asked: Mapping[str, Any], n_candidates: int | None) -> Study:
    """The study of one model that the command line asks for, with so many facts in its file."""
    from fixtures.models import load_model
    from fixtures.scenes import of_file, world_scene
    from wise.lm.architectures import LanguageModel
    from wise.localization.study import Study

    entries = tuple(_entry(name, model, asked) for name in asked["editor"])
    source, skip = asked["facts_file"], asked["skip_bad_records"]
    scene_of: SceneMaker = world_scene
    if source is not None:
        scene_of = of_file(source, skip_bad_records=skip)
    loaded = load_model(model)
    n_layers = LanguageModel(loaded.model).n_layers
    is_deep = n_layers > _DEEP
    every = range(0, n_layers, 3 if is_deep else 1)
    layers = _layers(asked["layers"] or ",".join(map(str, every)), n_layers)
    problems = tuple(asked["problem"]) or (_PROBLEMS[:1] if is_deep else _PROBLEMS)
    if asked["rule"] not in (None, *layers):
        raise ValueError(f"--rule={asked['rule']} is none of the study's layers "
                         f"{', '.join(map(str, layers))}")  # fmt: skip
    made = Study(
        model, entries, layers, asked["facts"], scene_of, n_candidates, problems,
        tuple(range(asked["seeds"])), asked["window"],
    )  # fmt: skip
    click.echo(_plan(made, loaded, asked["jobs"] or os.cpu_count() or 1), err=True)
    return made


def _facts_to_study(source: str, models: Sequence[str], skip_bad_records: bool) -> int:
    """How many edits a file of facts holds; what is left out of a study is told here.

    Raises ValueError naming the first record where no fact can be traced, and one that a model
    cannot be asked, unless these are skipped.
    """
    from fixtures.models import load_context_length, load_tokenizer
    from wise.evaluation.askable import askable, not_askable
    from wise.evaluation.datasets import place_of
    from wise.localization.study import traceable

    whole, _ = _facts_of(source, skip_bad_records)
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
        elif why := _why_not_asked(source, facts, tokenizer, most, truths=True):
            raise ValueError(f"{model}: {why}")
    return len(whole.edits)


def _facts_of(source: str, skip_bad_records: bool) -> tuple[EditStream, tuple[str, ...]]:
    """All facts of a file; what its reader left out or changed is told, here alone.

    Raises ValueError where it has no edit.
    """
    from fixtures.scenes import facts_of
    from wise.evaluation.datasets import require_edits
    from wise.evaluation.fields import RecordError
    from wise.evaluation.loading_notes import to_go_on

    try:
        whole, left_out = facts_of(source, skip_bad_records=skip_bad_records)
    except RecordError as error:
        raise ValueError(f"{error}; {to_go_on(source)}") from error
    for note in left_out:
        click.echo(f"{whole.name}: {note}", err=True)
    try:
        require_edits(whole)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return whole, left_out


def _layers(text: str, n_layers: int) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) < n_layers for part in parts):
        raise ValueError(f"--layers={text} are not layers of the model, 0..{n_layers - 1}, "
                         "comma-separated")  # fmt: skip
    return tuple(map(int, parts))


def _entry(name: str, model: str, asked: Mapping[str, Any]) -> Entry:
    from fixtures.models import FAMILIES
    from wise.localization.study_editors import study_entry

    return study_entry(name, preset=asked["preset"], is_embedded=model in FAMILIES)


def _executor(
    jobs: int | None, cluster: str | None = None, options: Sequence[str] = (), out: Path = Path()
) -> Executor:
    from wise.editor import factory_options
    from wise.jobs.grid import run_apart, run_submitted

    if not cluster:
        return partial(run_apart, n_processes=jobs or os.cpu_count() or 1)
    given = factory_options(options)
    return partial(run_submitted, folder=out / "jobs", cluster=cluster, **given)


def _plan(made: Study, loaded: LoadedModel, n_processes: int) -> str:
    """How much a study does and how long it takes an idle machine at least, said beforehand."""
    import torch

    from wise.evaluation.cell import one_thread

    question = torch.zeros(1, _N_ASKED, dtype=torch.long)
    with one_thread(), torch.no_grad():
        loaded.model(input_ids=question)  # the first call is slower
        start = thread_time()
        loaded.model(input_ids=question)
        seconds = thread_time() - start
    n_pairs = len(made.entries) * len(made.problems) * len(made.seeds)
    n_cells = made.n_facts * len(made.layers) * n_pairs
    minutes = n_cells * _N_FORWARDS * seconds / min(n_processes, n_pairs) / 60
    return (
        f"{made.model}: {made.n_facts} facts, traced and edited at {len(made.layers)} layers "
        f"({', '.join(map(str, made.layers))}) by {n_pairs} pairs of editor and problem: {n_cells} "
        f"cells, at least some {max(1, round(minutes))} minutes, and several times that where an "
        "editor learns under many prefixes or under noise"
    )


def _settings(made: Study) -> dict[str, object]:
    named = {entry.name: entry.editor for entry in made.entries}
    return {"model": made.model, "layers": ", ".join(map(str, made.layers)), **named, "tracing":
            f"MLP, window {made.window}, noise {made.noise:g} deviations, {made.n_noise} draws",
            "seeds": ", ".join(map(str, made.seeds))}  # fmt: skip


if __name__ == "__main__":
    main()
