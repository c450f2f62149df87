"""The page says first what holds, hides no failure, and is the same bytes every time."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from properties.internals.hostile import PageReader
from properties.internals.measured import ROW, RUN, contradicting, rows_of, run_rows, write_rows
from reports.build import build_page
from reports.check_table import CheckRecord, read_checks
from wise.measures.rows import Row

pytestmark = pytest.mark.internals

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that holds, one that fails, and checks of every outcome."""
    folder = tmp_path_factory.mktemp("page")
    high = dict.fromkeys([(m, k) for m, k in run_rates()], 1.0)
    rows = run_rows(ts=(1, 10, 100), rates=high)
    rows += run_rows(RUN._replace(editor="weak"), ts=(1, 10, 100))
    rows += rows_of("portability", "portability", [None] * 3, run=RUN, t=100, block="late")
    checks = [
        CheckRecord(
            "test_padding", "weak", "fail", "3 answers changed", "1. A -> B\n2. C -> D", "pytest x"
        ),
        CheckRecord("test_reset", "weak", "error", "out of memory"),
        CheckRecord("test_router", "wise", "inconclusive", "n=20 is too few"),
        CheckRecord("test_contract", "wise", "xfail", "by nature"),
        CheckRecord("test_seed", "wise", "pass"),
    ]
    path = write_rows(folder / "rows.jsonl", rows)
    build_page([path], folder / "out", checks=checks, notes=["One note", "and another"])
    return folder / "out"


def run_rates() -> list[tuple[str, str]]:
    levels = [("generalization", "1"), ("generalization", "2")]
    probes = [("locality", kind) for kind in ("far", "near-subject", "near-relation")]
    return [("reliability", ""), *levels, *probes]


@pytest.fixture(scope="module")
def page(out: Path) -> PageReader:
    return PageReader((out / "index.html").read_text(encoding="utf-8"))


def test_the_verdict_comes_before_every_figure(page: PageReader) -> None:
    tags = [tag for tag, _ in page.tags]
    verdict = page.tags.index(("section", {"aria-label": "Verdict"}))
    assert verdict < tags.index("svg")
    assert "holds up to T=100: reliability" in page.text
    assert "fails at T=100: " in page.text
    assert page.text.index("holds up to") < page.text.index("mean score")


def test_failed_checks_are_told_of_before_what_holds(page: PageReader) -> None:
    told = "ends in an error in 1 of 2 checks: test_reset; fails 1 of 2 checks: test_padding; "
    assert f"weak: {told}holds up to T=100: locality far; " in page.text
    known = "is known to fail 1 of 3 checks: test_contract; 1 hold, 1 undecided; holds up to T=100"
    assert f"wise: {known}" in page.text


def test_every_named_check_leads_to_what_it_said(page: PageReader) -> None:
    ids = {attributes["id"] for tag, attributes in page.tags if "id" in attributes}
    links = [attributes.get("href", "") for tag, attributes in page.tags if tag == "a"]
    to_checks = [link for link in links if link.startswith("#check")]
    assert len(to_checks) >= 6
    assert {link[1:] for link in to_checks} <= ids


def test_an_editor_that_fails_a_check_is_not_marked_as_holding(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", run_rows(ts=(100,), rates=dict.fromkeys(run_rates(), 1.0))
    )
    for outcome, symbol in (("pass", "✓"), ("inconclusive", "?"), ("xfail", "~"), ("fail", "✗")):
        checks = [
            CheckRecord("test_seed", "wise", "pass"),
            CheckRecord("test_reset", "wise", outcome),
        ]
        out = build_page([path], tmp_path / outcome, checks=checks)
        assert f"{symbol} wise: " in PageReader(out.read_text(encoding="utf-8")).text


def test_an_editor_without_rows_is_judged_by_its_checks(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [])
    checks = [CheckRecord("test_reset", "broken", "error", "out of memory")]
    out = build_page([path], tmp_path / "out", checks=checks)
    text = PageReader(out.read_text(encoding="utf-8")).text
    assert "✗ broken: ends in an error in 1 of 1 check: test_reset" in text


def test_of_many_editors_those_that_fail_a_check_are_named(tmp_path: Path) -> None:
    high = dict.fromkeys(run_rates(), 1.0)
    rows = [
        row for name in "abcd" for row in run_rows(RUN._replace(editor=name), ts=(100,), rates=high)
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    out = build_page([path], tmp_path / "out", checks=[CheckRecord("test_reset", "c", "fail")])
    text = PageReader(out.read_text(encoding="utf-8")).text
    assert "3 hold all properties up to the last T, 1 fail a property or a check (c)" in text


def test_checks_are_read_as_they_are_written(out: Path) -> None:
    read = read_checks(out / "checks.jsonl")
    assert [check.name for check in read][:2] == ["test_padding", "test_reset"]
    assert read[0].stream == "1. A -> B\n2. C -> D"


def test_a_verdict_says_number_interval_n_threshold_and_confidence(page: PageReader) -> None:
    assert re.search(r"1\.00 \[\.95, 1\.00\] at n=100; needed >= \.85", page.text)
    assert "judged at 95 % confidence" in page.text


def test_a_threshold_is_shown_as_it_was_given(tmp_path: Path) -> None:
    rows = [row for n in range(4) for row in run_rows(RUN._replace(editor=f"editor {n}"))]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    out = build_page([path], tmp_path / "out", thresholds=["reliability=.9995"])
    text = PageReader(out.read_text(encoding="utf-8")).text
    assert "reliability ≥ .9995" in text


def test_every_outcome_of_a_check_is_shown_worst_first(page: PageReader) -> None:
    text = page.text[page.text.index("All that they said") - 600 :]
    places = [text.index(said) for said in (
        "test_reset: ended in an error", "test_padding: fails", "test_router: undecided",
        "test_contract: known to fail", "1 hold: test_seed",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "Shortest stream1. A -> B 2. C -> D Replaypytest x" in text


def test_excluded_items_and_their_reason_are_shown(page: PageReader) -> None:
    assert "What was excluded" in page.text
    assert "too long" in page.text
    assert "Excluded from scoring: 3 items" in page.text


def test_wrong_answers_are_shown(page: PageReader) -> None:
    assert "What went wrong" in page.text
    assert "reliability prompt 0rightwrong" in page.text


def test_all_that_is_needed_to_run_it_again_is_there(page: PageReader) -> None:
    line = "pytest -m triangle --looks=1 --editor=weak --model=llama --edits=100 --stream-seed=0 "
    assert f"{line}--checkpoints=1,10,100 --protocol=both" in page.text
    assert RUN.stream_sha256 in page.text
    assert re.search(r"rows\.jsonl: [\d,]+ rows, [\d,]+ bytes, sha256 [0-9a-f]{64}", page.text)
    for package in ("matplotlib", "pandas", "python"):
        assert f"{package}: " in page.text


def test_every_note_is_a_line_of_its_own(page: PageReader) -> None:
    assert re.search(r"One note\s+and another", page.text)


def test_the_perplexity_of_targets_is_told_of_each_editor(tmp_path: Path) -> None:
    rows = [
        row
        for editor, likelihood in (("wise", 0.5), ("weak", 0.01))
        for row in rows_of("reliability", "", [likelihood] * 3, protocol="likelihood", t=7,
                           run=RUN._replace(editor=editor))
    ]  # fmt: skip
    path = write_rows(tmp_path / "rows.jsonl", rows)
    text = PageReader(build_page([path], tmp_path / "out").read_text(encoding="utf-8")).text
    for editor, value in (("wise", 2), ("weak", 100)):
        told = f"Perplexity of the targets at T=7: median {value}, mean {value},"
        assert f"{editor} on llama, stream world-0/evaluation: {told}" in text


def test_the_drift_of_each_editor_is_told_at_each_t(tmp_path: Path) -> None:
    places = (("unedited", 0, "log-perplexity"), *(("final", t, kind) for t in (1, 7)
              for kind in ("divergence", "log-perplexity")))  # fmt: skip
    rows = [
        replace(
            ROW, **RUN._replace(editor=editor)._asdict(), protocol="drift", when=when, t=t,
            metric="drift", kind=kind, edit_id="", age=0, score=None, value=t * far,
            block=f"{t} drift",
        )
        for editor, far in (("wise", 0.0), ("weak", 0.5))
        for when, t, kind in places
    ]  # fmt: skip
    path = write_rows(tmp_path / "rows.jsonl", [*run_rows(), *rows])
    text = PageReader(build_page([path], tmp_path / "out").read_text(encoding="utf-8")).text
    what = "Drift on 1 text of far probes, KL from the unedited model in nats a token"
    for editor, at in (
        ("wise", "T=1: KL 0, 95th percentile 0, perplexity 1, ratio 1; T=7: KL 0,"),
        ("weak", "T=1: KL 0.5, 95th percentile 0.5, perplexity 1.649, ratio 1.649; T=7: KL 3.5,"),
    ):
        told = f"{editor} on llama, stream world-0/evaluation: {what}, and perplexity (unedited 1)"
        assert f"{told}: {at}" in text
    assert "--protocol=both,drift" in text


def test_the_page_needs_nothing_but_itself(out: Path, page: PageReader) -> None:
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
    }
    for _, attributes in page.tags:
        for name in ("src", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#")
        target = attributes.get("href") or "#"
        assert target.startswith("#") or (out / target).is_file()


def test_every_figure_has_a_text_in_its_place(page: PageReader) -> None:
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(figures) >= 10
    for attributes in figures:
        title, description = str(attributes["aria-labelledby"]).split()
        assert {title, description} <= set(ids)
        assert attributes["role"] == "img"


def test_figures_follow_the_theme_on_the_page_and_not_in_their_files(out: Path) -> None:
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "fill: var(--c-1f2328, #1f2328)" in text
    for color in re.findall(r"var\((--c-[0-9a-f]{6}),", text):
        assert text.count(f"{color}: ") == 3  # light, dark, print
    for path in out.glob("*.svg"):
        assert "var(" not in path.read_text(encoding="utf-8")


def test_every_section_has_its_numbers_beside_it(out: Path, page: PageReader) -> None:
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    figures = {path.stem for path in out.glob("*.csv")}
    assert set(sections) - {"checks", "again"} <= figures
    with (out / "verdicts.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["outcome"] for line in lines} == {"pass", "fail", "inconclusive"}


@pytest.mark.parametrize("rows", [[], rows_of("reliability", "", [1.0], t=1)], ids=["none", "one"])
def test_next_to_nothing_is_a_page_too(rows: list[Row], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    text = build_page([path], tmp_path / "out").read_text(encoding="utf-8")
    word = "reliability" if rows else "holds no rows"
    assert word in PageReader(text).text


def test_only_teacher_forced_rows_are_named_so(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", run_rows(protocols=("forced",))[10:])
    text = PageReader(build_page([path], tmp_path / "out").read_text(encoding="utf-8")).text
    assert "teacher-forced" in text
    assert "free-run" not in text


def test_what_no_editor_can_reach_is_told_with_its_reason(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*run_rows(ts=(10,)), *contradicting(4)])
    out = build_page([path], tmp_path / "out", thresholds=["portability=.5"]).parent
    text = PageReader((out / "index.html").read_text(encoding="utf-8")).text
    assert "The most that any editor can reach: portability .93." in text
    assert "What no editor can reach" in text
    assert "5 of 15 questions share a prompt with one that has another answer" in text
    assert text.count(", at most .93 by any editor") == 1
    with (out / "triangle-10.csv").open(encoding="utf-8") as file:
        told = {line["metric"]: line["at_most"] for line in csv.DictReader(file)}
    assert float(told["portability"]) == 14 / 15
    assert told["reliability"] == ""


@pytest.mark.parametrize("main", ["free", "forced"])
def test_other_protocols_stand_beside_what_was_said(main: str, tmp_path: Path) -> None:
    protocols = (main, "likelihood", "compared")
    alone = write_rows(tmp_path / "alone.jsonl", run_rows(protocols=(main,)))
    beside = write_rows(tmp_path / "beside.jsonl", run_rows(protocols=protocols))
    folders = [build_page([path], tmp_path / path.stem).parent for path in (alone, beside)]
    first, second = ({file.name for file in folder.glob("*.svg")} for folder in folders)
    assert len(second) == len(first) + 1
    text = PageReader((folders[1] / "index.html").read_text(encoding="utf-8")).text
    assert "The protocols side by side" in text


def test_what_held_before_any_edit_is_told_beside_what_holds(tmp_path: Path) -> None:
    rows = run_rows(protocols=("compared",))
    last = [row for row in rows if row.when == "final" and row.t == 10]
    before = [
        replace(row, when="unedited", t=0, age=0, score=0.0, answer="wrong", block="unedited")
        for row in last
    ]
    path = write_rows(tmp_path / "rows.jsonl", [*before, *rows])
    out = build_page([path], tmp_path / "out")
    text = PageReader(out.read_text(encoding="utf-8")).text
    assert "Before any edit, by comparison: reliability .00 [.00, .31], generalization" in text
    (figure,) = out.parent.glob("protocols-*.svg")
    assert "unedited, by comparison" in figure.read_text(encoding="utf-8")


def test_two_versions_are_two_editors_with_a_word(tmp_path: Path) -> None:
    new = run_rows(rates=dict.fromkeys(run_rates(), 0.1))
    paths = [
        write_rows(tmp_path / f"{name}.jsonl", rows)
        for name, rows in (("old", run_rows()), ("new", new))
    ]
    text = PageReader(build_page(paths, tmp_path / "out").read_text(encoding="utf-8")).text
    assert "new.jsonl: holds other rows of the run wise on llama, seed 0" in text
    assert "wise, version 2" in text


def test_the_same_rows_give_the_same_bytes_in_another_process(out: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", run_rows())
    for seed in ("1", "2"):
        arguments = ["page", str(path), "--out", str(tmp_path / seed)]
        command = [sys.executable, "-m", "reports", *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / seed).iterdir()} for seed in "12"
    )
    assert len(first) > 10
    assert first == second


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"name": "a"}',
        '{"name": 1, "editor": "", "outcome": "pass"}',
        '{"name": "a", "editor": "b", "outcome": "maybe"}',
    ],
)
def test_a_line_that_is_no_check_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1"):
        read_checks(path)
