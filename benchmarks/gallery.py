"""A small version of everything, on one page: python -m benchmarks.gallery.

Editors side by side on one stream with their costs; WISE by mask ratio and shards, and by merge
method; all checks against some editors; where tracing finds the facts; and the suite's own kill
matrix. Finished parts are not run again. Rows do not depend on what else runs on the machine; times
do, and are only in costs.csv.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import click
from tqdm import tqdm

from fixtures.models import load_model
from fixtures.scenes import world_scene
from reports.build import build_page
from reports.calibration import CALIBRATION
from reports.sections.study_section import EFFECTS
from wise.editors.wise.merge import MERGES
from wise.evaluation.entries import Entry
from wise.evaluation.league import League, run_league, write_costs
from wise.jobs.grid import run_apart
from wise.localization.known_facts import fact_of, known
from wise.localization.records import Site
from wise.localization.tracing import causal_trace

ROOT = Path(__file__).parents[1]
KILLS = ROOT / "properties" / "meta" / "kill_matrix.toml"
MODEL = "llama"
N_EDITS = 100
EDITORS = ("wise", "grace", "rome", "memit", "alphaedit", "ft-l", "ft-m", "ike")
CHECKED = {"wise": N_EDITS, "none": 20, "grace": 20, "ft-l": 20, "rome": 20}  # by their T

# WISE-Merge, ten edits per shard: by mask ratio and number of shards, and by merge method.
N_SWEPT = 40
SWEPT: dict[str, Any] = {"memory": "merge", "edits_per_shard": 10}
MASK_RATIOS, N_SHARDS = (0.1, 0.2, 0.5, 1.0), (1, 2, 4)

N_TRACED = 24  # facts
SITES: tuple[Site, ...] = ("mlp", "attention")

# File in docs/images, the part of the page that it shows, and how much of it.
IMAGES = {
    "verdict": ("main", 760),
    "league": ("section:has(> #league-10)", 700),
    "router": ("section:has(> #router-1)", 720),
}
MOST_BYTES = 100_000


def editors() -> tuple[Entry, ...]:
    """The league: every editor with its own defaults, and the corners of calibration."""
    corners = [Entry(name, spec, group="corner") for name, spec in CALIBRATION.items()]
    return (*(Entry(name, name) for name in EDITORS), *corners)


def swept() -> tuple[Entry, ...]:
    """WISE by its options."""
    grids: list[dict[str, Any]]
    grids = [{"mask_ratio": ratio, "n_shards": k} for k in N_SHARDS for ratio in MASK_RATIOS]
    merges = [{"mask_ratio": 0.2, "n_shards": 4, "merge": merge} for merge in MERGES]
    return tuple(Entry("wise", "wise", tuple((SWEPT | one).items())) for one in (*grids, *merges))


def run_entries(
    entries: tuple[Entry, ...], folder: Path, *, n_edits: int, protocols: Sequence[str], jobs: int
) -> list[Path]:
    """Run every unfinished entry; returns the rows of those that finished."""
    league = League({MODEL: entries}, (0,), n_edits, world_scene, tuple(protocols))
    outcomes = run_league(league, folder, executor=partial(run_apart, n_processes=jobs))
    write_costs(outcomes, folder / "costs.csv")
    for cell, outcome in outcomes.items():
        if outcome.state != "ended":
            click.echo(f"{cell.entry.editor} is not in the gallery: {outcome.message}", err=True)
    return [cell.rows_in(folder) for cell, found in outcomes.items() if found.state == "ended"]


def run_checks(folder: Path, *, jobs: int) -> list[Path]:
    """Run every check against each editor of CHECKED, in a process each; returns the outcomes."""

    def check(editor: str) -> Path:
        own = folder / editor
        own.mkdir(parents=True, exist_ok=True)
        found = own / "page" / "checks.jsonl"
        if not found.exists():
            options = [f"--editor={editor}", f"--model={MODEL}", f"--edits={CHECKED[editor]}"]
            options += ["--rows=rows.jsonl", "--resume", "--report=page"]
            suite = [str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-m", "lifelong"]
            command = [sys.executable, "-m", "pytest", *suite, *options]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with (own / "log.txt").open("w") as log:
                subprocess.run(command, cwd=own, env=environment, stdout=log, stderr=log)
        if not found.exists():
            raise click.ClickException(f"the checks of {editor} did not end; see {own / 'log.txt'}")
        return found

    with ThreadPoolExecutor(jobs) as pool:
        return list(tqdm(pool.map(check, CHECKED), total=len(CHECKED), desc="checks"))


def trace(folder: Path) -> Path:
    """The tracing effects of facts that the model knows, as a long table."""
    path = folder / "effects.csv"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    scene, model = world_scene(MODEL, 0, N_EDITS), load_model(MODEL)
    asked = [fact_of(edit) for edit in scene.stream.edits if edit.subject and edit.ground_truth]
    facts = known(model.model, model.tokenizer, asked, most=N_TRACED)
    text = io.StringIO()
    writer = csv.DictWriter(text, EFFECTS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for site in tqdm(SITES, desc="tracing"):
        traced = causal_trace(model.model, model.tokenizer, facts, site=site, window=1,
                              metrics=("probability",))  # fmt: skip
        writer.writerows(_rounded(traced.rows()))
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def _rounded(rows: Iterator[dict[str, object]]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        yield row | {"effect": f"{row['effect']:.6f}"}


def take_pictures(page: Path, folder: Path) -> list[Path]:
    """Parts of the page as PNG; without playwright or a Chromium none, and a message says why."""
    from PIL import Image

    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        click.echo("no pictures: playwright is not installed", err=True)
        return []
    chromium = which("chromium") or which("google-chrome")
    if not chromium:
        click.echo("no pictures: there is no chromium and no google-chrome here", err=True)
        return []
    taken = []
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1100, "height": 900})
        view.goto(page.resolve().as_uri())
        for name, (place, most) in IMAGES.items():
            shot = view.locator(place).first.screenshot()
            image = Image.open(io.BytesIO(shot)).convert("RGB")
            image = image.crop((0, 0, image.width, min(most, image.height)))
            path = folder / f"{name}.png"
            image.quantize(256).save(path, optimize=True)
            if path.stat().st_size > MOST_BYTES:
                raise click.ClickException(f"{path} has more than {MOST_BYTES:,} bytes")
            taken.append(path)
        browser.close()
    return taken


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


@click.command()
@click.option("--out", default="runs/gallery", show_default=True,
              type=click.Path(file_okay=False, path_type=Path),
              help="folder of all rows and of the page")  # fmt: skip
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1),
              help="processes")  # fmt: skip
@click.option("--images", type=click.Path(file_okay=False, path_type=Path),
              help="folder for pictures of the page")  # fmt: skip
def main(out: Path, jobs: int, images: Path | None) -> None:
    """Run a small version of everything, and make one page of it."""
    both = ("free", "forced")
    rows = run_entries(editors(), out / "league", n_edits=N_EDITS, protocols=both, jobs=jobs)
    sweeps = run_entries(swept(), out / "sweep", n_edits=N_SWEPT, protocols=both[:1], jobs=jobs)
    checks = run_checks(out / "checks", jobs=jobs)
    study = out / "study"  # a localization study's tables join the page where they stand here
    page = build_page(
        rows, out / "page", checks=checks, sweeps=sweeps, costs=out / "league" / "costs.csv",
        effects=trace(study), kill_matrix=KILLS, settings={"command": "make gallery"},
        study=_existing(study / "study.csv"), r2=_existing(study / "r2.csv"),
    )  # fmt: skip
    click.echo(page)
    for path in take_pictures(page, images) if images else ():
        click.echo(path)


if __name__ == "__main__":
    main()
