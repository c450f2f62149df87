"""`python -m reports`: pages from files, and errors that name the file or the option."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from properties.internals.measured import RUN, run_rows, write_rows
from reports.__main__ import main
from reports.check_table import CheckRecord, read_checks, write_checks
from wise.measures.verdicts import (
    MAX_LOOKS,
    THRESHOLDS,
    Ruling,
    Terms,
    judge_mean,
    terms_of,
    verdicts_beside,
    write_rulings,
)

pytestmark = pytest.mark.internals

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", run_rows())


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    return result.exit_code, result.output


def test_page_writes_a_page_and_says_where(rows: Path, tmp_path: Path) -> None:
    code, said = run("page", rows, "--out", tmp_path / "out")
    assert (code, said.strip()) == (0, str(tmp_path / "out" / "index.html"))
    assert (tmp_path / "out" / "index.html").is_file()
    assert (tmp_path / "out" / "triangle-10-1.svg").is_file()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"# Read me\n", "line 1: it is not JSON in UTF-8"),
        (b'{"prompt": "Ada"}\n' * 30, "line 1: its fields are of another version"),
        (gzip.compress(b"{}\n", mtime=0), "line 1: it is "),
    ],
    ids=["empty", "markdown", "records", "gzip"],
)
@pytest.mark.parametrize("option", [(), ("--sweep",)])
def test_a_file_without_a_row_is_refused(
    content: bytes, reason: str, option: tuple[str, ...], rows: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(content)
    code, said = run("page", rows, *option, other, "--out", tmp_path / "out")
    assert code == 1
    assert f"other.jsonl holds no rows: {reason}" in said
    assert not (tmp_path / "out").exists()


def test_compare_takes_two_files(rows: Path, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", run_rows(RUN._replace(editor="other")))
    code, _ = run("page", "--compare", rows, other, "--out", tmp_path / "out")
    assert code == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Compared item by item" in text
    assert "Nothing changed beyond chance" in text


def test_a_threshold_changes_the_verdict(rows: Path, tmp_path: Path) -> None:
    run("page", rows, "--out", tmp_path / "out", "--threshold", "reliability=.3")
    text = (tmp_path / "out" / "verdicts.csv").read_text(encoding="utf-8")
    assert "reliability,,pass,0.9," in text


def test_a_page_of_rows_judges_as_their_run_did(rows: Path, tmp_path: Path) -> None:
    last = max(row.t for row in run_rows() if row.when == "final")
    own = {"confidence": 0.9, "n_looks": 1, "max_looks": 1}
    verdict = judge_mean(0.9, 10, 0.5, n=10, **own)
    write_rulings(verdicts_beside(rows), [Ruling(RUN, "free", last, "reliability", verdict)])
    run("page", rows, "--out", tmp_path / "own")
    run("page", rows, "--out", tmp_path / "asked", "--looks", "1", "--confidence", ".9",
        "--threshold", "reliability=.5", "--verdicts", verdicts_beside(rows))  # fmt: skip
    own_page, asked = ((tmp_path / name / "verdicts.csv").read_text(encoding="utf-8")
                       for name in ("own", "asked"))  # fmt: skip
    assert own_page == asked
    verdicts_beside(rows).unlink()
    run("page", rows, "--out", tmp_path / "alone")
    assert (tmp_path / "alone" / "verdicts.csv").read_text(encoding="utf-8") != asked


def test_terms_that_runs_do_not_share_are_the_defaults() -> None:
    verdicts = [judge_mean(0.9, 10, threshold, n=10, confidence=confidence, max_looks=looks)
                for threshold, confidence, looks in ((0.5, 0.9, 1), (0.6, 0.9, 2))]  # fmt: skip
    rulings = [Ruling(RUN, "free", 10, "reliability", each) for each in verdicts]
    assert terms_of(rulings) == Terms(THRESHOLDS, 0.9, MAX_LOOKS)
    assert terms_of(rulings[1:]) == Terms({**THRESHOLDS, "reliability": 0.6}, 0.9, 2)
    assert terms_of([]) == Terms()


def test_a_sweep_is_shown_by_its_options_and_not_judged(rows: Path, tmp_path: Path) -> None:
    swept = [
        row
        for merge in ("ties", "slerp")
        for row in run_rows(RUN._replace(editor=f"wise(merge={merge})"))
    ]
    path = write_rows(tmp_path / "swept.jsonl", swept)
    code, _ = run("page", rows, "--sweep", path, "--out", tmp_path / "out")
    assert code == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Merge methods" in text
    assert "--editor-option=merge=slerp" in text
    judged = (tmp_path / "out" / "verdicts.csv").read_text(encoding="utf-8")
    assert "merge=" not in judged
    assert "wise" in judged


def test_checks_of_several_files_stand_together(rows: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jsonl" for name in ("wise", "other")]
    for path in paths:
        write_checks(path, [CheckRecord(f"law-of-{path.stem}", path.stem, "fail")])
    options = [word for path in paths for word in ("--checks", path)]
    code, _ = run("page", rows, *options, "--out", tmp_path / "out")
    assert code == 0
    found = read_checks(tmp_path / "out" / "checks.jsonl")
    assert [check.name for check in found] == ["law-of-wise", "law-of-other"]


@pytest.mark.parametrize(
    "value", ["reliability=2", "reliabilty=.5", "reliability", "far=x", "far=0", "far=1"]
)
def test_a_bad_threshold_is_named(value: str, rows: Path, tmp_path: Path) -> None:
    code, said = run("page", rows, "--out", tmp_path / "out", "--threshold", value)
    assert code == 1
    assert f"--threshold {value} is not METRIC=VALUE" in said


@pytest.mark.parametrize("option", ["costs", "study", "r2", "effects", "kill-matrix", "checks"])
def test_a_file_beside_that_cannot_be_read_is_named(
    option: str, rows: Path, tmp_path: Path
) -> None:
    path = tmp_path / "beside.txt"
    path.write_text("x = 1\n")
    code, said = run("page", rows, "--out", tmp_path / "out", f"--{option}", path)
    assert code == 1
    assert str(path) in said


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    code, said = run("page", tmp_path / "none.jsonl", "--out", tmp_path / "out")
    assert code == 2
    assert "does not exist" in said


def test_without_rows_there_is_no_page(tmp_path: Path) -> None:
    code, said = run("page", "--out", tmp_path / "out")
    assert code == 2
    assert "name a file of rows" in said


def test_a_page_needs_neither_torch_nor_transformers(rows: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom reports.__main__ import main\nmain(standalone_mode=False)\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    arguments = ["page", str(rows), "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True)


def test_help_lists_the_commands_without_loading_figures() -> None:
    code = (
        "import sys\nfrom reports.__main__ import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'matplotlib', 'pandas', 'torch'} & sys.modules.keys()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "page" in result.stdout
