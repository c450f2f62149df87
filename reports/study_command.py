"""The command `python -m reports study`: does tracing tell which layer to edit?"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reports.league_command import in_a_folder, world_scene

if TYPE_CHECKING:
    from wise.evaluation.cell import Scene
    from wise.evaluation.entries import Entry
    from wise.jobs.grid import Executor
    from wise.localization.study import Study
    from wise.localization.study_text import ModelStudy

__all__ = ["file_scene", "study"]

# As the study names them: how to make one, and its own options. By the released code that Hase et
# al. ran, ROME and MEMIT take all of their steps, and fine-tuning takes 25.
_EDITORS: dict[str, tuple[str, dict[str, Any]]] = {
    "rome": ("rome", {"early_stop": 0.0}),
    "memit": ("memit", {"early_stop": 0.0, "n_layers": 5}),
    "ft-1": ("ft-l", {"n_epochs": 25}),
    "ft-5": ("ft-l", {"n_epochs": 25, "n_layers": 5}),
    "wise": ("wise", {}),
}
# The embedded models know facts so well that the released stop would leave them as they are.
_EMBEDDED: dict[str, dict[str, Any]] = {"ft-1": {"early_stop": 1e-4}, "ft-5": {"early_stop": 1e-4}}
_UNRELEASED = ("wise",)  # whose presets have other names
_PROBLEMS = (
    "error-injection", "tracing-reversal", "fact-erasure", "fact-amplification", "fact-forcing",
)  # fmt: skip


def file_scene(model: str, seed: int, n_edits: int, *, source: str) -> Scene:
    """A model, and `n_edits` facts of a published file from number `seed` on.

    `source` is FORMAT:FILE, or a known-facts file. The background is that of the model's world.
    """
    from transformers.utils import logging

    from fixtures.models import load_model
    from wise.edits import Background, EditStream
    from wise.evaluation.cell import Scene
    from wise.localization.fact_streams import read_facts

    logging.disable_progress_bar()
    loaded, whole = load_model(model), read_facts(source)
    start = seed % len(whole.edits)
    edits = (whole.edits[start:] + whole.edits[:start])[:n_edits]
    ids = {edit.id for edit in edits}
    probes = tuple(probe for probe in whole.probes if probe.edit_id in ids)
    background = loaded.world.background() if loaded.world else Background()
    stream = EditStream(edits, probes, Path(source).name)
    return Scene(loaded.model, loaded.tokenizer, stream, background.apart_from(stream))


def _study_of(model: str, asked: Mapping[str, Any]) -> Study:
    """What the command line asks for, of one of its models."""
    from fixtures.models import load_model
    from wise.lm.architectures import LanguageModel
    from wise.localization.fact_streams import read_facts
    from wise.localization.study import Study

    source, n_candidates, scene_of = asked["facts_file"], None, world_scene
    if source is not None:
        if not Path(source.rpartition(":")[2]).expanduser().is_file():
            raise ValueError(f"--facts-file={source} is not [FORMAT:]FILE, a file that exists")
        n_candidates = len(read_facts(source).edits)
        scene_of = update_wrapper(partial(file_scene, source=source), file_scene)
    n_layers = LanguageModel(load_model(model).model).n_layers
    layers = _layers(asked["layers"] or ",".join(map(str, range(n_layers))), n_layers)
    if asked["rule"] not in (None, *layers):
        raise ValueError(f"--rule={asked['rule']} is none of the study's layers "
                         f"{', '.join(map(str, layers))}")  # fmt: skip
    return Study(
        model, tuple(_entry(name, model, asked["preset"]) for name in asked["editor"]),
        layers, asked["facts"], scene_of, n_candidates, tuple(asked["problem"]),
        tuple(range(asked["seeds"])), asked["window"],
    )  # fmt: skip


def _layers(text: str, n_layers: int) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) < n_layers for part in parts):
        raise ValueError(f"--layers={text} are not layers of the model, 0..{n_layers - 1}, "
                         "parted by commas")  # fmt: skip
    return tuple(map(int, parts))


def _entry(name: str, model: str, preset: str | None) -> Entry:
    from fixtures.models import FAMILIES
    from wise.editor import load_editor
    from wise.evaluation.entries import Entry

    spec, options = _EDITORS.get(name, (name, {}))
    taken = inspect.signature(load_editor(spec)).parameters.values()
    if not any(each.name == "layer" or each.kind is each.VAR_KEYWORD for each in taken):
        raise ValueError(f"editor={name!r} takes no layer=, and a study edits at every layer")
    if name in _EDITORS and (preset or spec not in _UNRELEASED):
        preset = preset or ("embedded" if model in FAMILIES else "released")
        options = {"preset": preset, **options}
    if preset == "embedded":
        options = {**options, **_EMBEDDED.get(name, {})}
    return Entry(name, spec, tuple(options.items()))


def _executor_of(asked: Mapping[str, Any], out: Path) -> Executor:
    from wise.editor import factory_options
    from wise.jobs.grid import run_apart, run_submitted

    if not asked["cluster"]:
        return partial(run_apart, n_processes=asked["jobs"] or os.cpu_count() or 1)
    given = factory_options(asked["cluster_option"])
    return partial(run_submitted, folder=out / "jobs", cluster=asked["cluster"], **given)


def _settings(made: Study) -> dict[str, object]:
    named = {entry.name: entry.editor for entry in made.entries}
    return {"model": made.model, "layers": ", ".join(map(str, made.layers)), **named, "tracing":
            f"MLP, window {made.window}, noise {made.noise:g} deviations, {made.n_noise} draws",
            "seeds": ", ".join(map(str, made.seeds))}  # fmt: skip


@click.command()
@click.option("--model", multiple=True, default=("gpt2",), show_default=True,
              help="repeatable: embedded family or local folder")  # fmt: skip
@click.option("--facts", default=100, show_default=True, type=click.IntRange(1),
              help="how many that the model knows")  # fmt: skip
@click.option("--facts-file", metavar="[FORMAT:]FILE",
              help="known facts, or counterfact:FILE and the like, not of the world")  # fmt: skip
@click.option("--editor", multiple=True, default=tuple(_EDITORS), show_default=True,
              help="repeatable; also a name, MODULE:FACTORY or FILE.py:FACTORY")  # fmt: skip
@click.option("--problem", multiple=True, default=_PROBLEMS, show_default=True,
              type=click.Choice(_PROBLEMS), help="repeatable")  # fmt: skip
@click.option("--layers", help="such as 0,4,8  [default: all]")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="how many")
@click.option("--window", default=5, show_default=True, type=click.IntRange(1),
              help="layers that tracing restores together")  # fmt: skip
@click.option("--preset", help="of the editors  [default: embedded; of a folder, released]")
@click.option("--rule", type=int, help="layer that the field's rule of thumb would edit")
@click.option("--sweep", default=0, show_default=True, type=click.IntRange(0),
              help="T of WISE's own curve over layers, such as 50; 0 = none")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="processes  [default: one for each core]")
@click.option("--cluster", type=click.Choice(["slurm", "local"]), help="run by submitit instead")
@click.option("--cluster-option", multiple=True, metavar="KEY=VALUE",
              help="of submitit, such as timeout_min=60 or slurm_partition=gpu")  # fmt: skip
@click.option("--out", default="study", show_default=True,
              type=click.Path(file_okay=False, path_type=Path),
              help="folder of tables, the page and what is needed to go on")  # fmt: skip
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), callback=in_a_folder,
              help="Markdown document")  # fmt: skip
def study(model: Sequence[str], out: Path, write: Path | None, **asked: Any) -> None:
    """Edit facts at every layer, and ask whether tracing tells where; a stopped call goes on."""
    from wise.localization import study_text

    folders = {name: out / Path(name).name if len(model) > 1 else out for name in model}
    if len({*folders.values()}) < len(model):
        raise click.ClickException(f"--model={', '.join(model)} must differ in their last names")
    try:
        made = {folder: _study_of(name, asked) for name, folder in folders.items()}
        found = [_studied(each, folder, asked) for folder, each in made.items()]
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    command = shlex.join(["python", "-m", "reports", *sys.argv[1:]])
    text = study_text.document(found, command=command)
    for path in filter(None, (out / "study.md", write)):
        path.write_text(text, encoding="utf-8")


def _studied(made: Study, out: Path, asked: Mapping[str, Any]) -> ModelStudy:
    """The study of one model, with its tables and page in `out`."""
    from reports.build import build_page
    from reports.csv_text import safe_for_csv
    from wise.localization.layer_findings import findings_of, r2_table, within_table
    from wise.localization.layers import sweep_layers
    from wise.localization.study import run_study
    from wise.localization.study_text import ModelStudy

    model = made.model
    executor = _executor_of(asked, out)
    found = run_study(made, out, executor=executor)
    curve = sweep_layers(
        _entry("wise", model, asked["preset"]), model, made.layers, made.scene_of, out / "sweep",
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
        shown = {name: paths[name] for name in ("study", "r2", "effects") if name in paths}
        click.echo(build_page([], out / "page", **shown))
    return studied
