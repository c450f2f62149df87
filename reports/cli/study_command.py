"""`python -m reports study`: whether tracing tells which layer to edit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any

import click

from reports.cli.command_options import (
    FOLDER,
    called,
    executor_of,
    jobs_option,
    option,
    skip_option,
    write_option,
)  # fmt: skip
from reports.cli.fact_files import facts_to_study

if TYPE_CHECKING:
    from fixtures.models import LoadedModel
    from wise.evaluation.cell import SceneMaker
    from wise.evaluation.entries import Entry
    from wise.localization.study import Study
    from wise.localization.study_text import ModelStudy

__all__ = ["study"]

_EDITORS = ("rome", "memit", "ft-1", "ft-5", "wise")
_DEEP = 12  # layers, beyond which a study takes every third, and the first problem
_N_ASKED = 12  # tokens of a question
# In an edit and its scoring: 25 steps of half of the blocks, back and forth, and some ten rows.
_N_FORWARDS = 40
_PROBLEMS = (
    "error-injection", "tracing-reversal", "fact-erasure", "fact-amplification", "fact-forcing",
)  # fmt: skip


@click.command()
@option("--model", multiple=True, default=("gpt2",),
         help="embedded family, smollm2, local folder or GGUF file; repeatable")  # fmt: skip
@option("--facts", default=100, type=click.IntRange(1),
         help="number of facts that the model knows")  # fmt: skip
@option("--facts-file", metavar="[FORMAT:]FILE",
         help="known facts or a dataset in place of the model's world")  # fmt: skip
@skip_option
@option("--editor", multiple=True, default=_EDITORS,
         help="a name, MODULE:FACTORY or FILE.py:FACTORY; repeatable")  # fmt: skip
@option("--problem", multiple=True, type=click.Choice(_PROBLEMS),
         help="repeatable  [default: all; of more than 12 layers, error-injection]")  # fmt: skip
@option("--layers", help="such as 0,4,8  [default: all; of more than 12, every third]")
@option("--seeds", default=1, type=click.IntRange(1), help="number of seeds")
@option(
    "--window",
    default=5,
    type=click.IntRange(1),
    help="number of layers that tracing restores together",
)
@option("--preset", help="preset of the editors  [default: embedded; of a folder, released]")
@option("--rule", type=int, help="layer that the field's rule of thumb would edit")
@option("--sweep", default=0, type=click.IntRange(0),
         help="T of WISE's own curve over layers, such as 50; 0 = no curve")  # fmt: skip
@jobs_option
@option("--cluster", type=click.Choice(["slurm", "local"]), help="run on a cluster, by submitit")
@option("--cluster-option", multiple=True, metavar="KEY=VALUE",
         help="option of submitit, such as timeout_min=60 or slurm_partition=gpu")  # fmt: skip
@option("--out", default="study", type=FOLDER,
         help="folder of tables, the page and all that a resumed call needs")  # fmt: skip
@write_option(help="Markdown file to write the study to, beside the one in --out")
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
        n_facts = None if source is None else facts_to_study(source, model, skip)
        made = {folder: _study_of(name, asked, n_facts) for name, folder in folders.items()}
        found = [_studied(each, folder, asked) for folder, each in made.items()]
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    command = called()
    text = study_text.document(found, command=command)
    for path in filter(None, (out / "study.md", write)):
        path.write_text(text, encoding="utf-8")


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


def _studied(made: Study, out: Path, asked: Mapping[str, Any]) -> ModelStudy:
    """The study of one model, with its tables and page in `out`."""
    from reports.build import build_page
    from reports.csv_text import safe_for_csv
    from wise.localization.layer_findings import findings_of, r2_table, within_table
    from wise.localization.layers import sweep_layers
    from wise.localization.study import run_study
    from wise.localization.study_text import ModelStudy

    model = made.model
    executor = executor_of(asked["jobs"], asked["cluster"], asked["cluster_option"], out)
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


def _settings(made: Study) -> dict[str, object]:
    named = {entry.name: entry.editor for entry in made.entries}
    return {"model": made.model, "layers": ", ".join(map(str, made.layers)), **named, "tracing":
            f"MLP, window {made.window}, noise {made.noise:g} deviations, {made.n_noise} draws",
            "seeds": ", ".join(map(str, made.seeds))}  # fmt: skip
