"""The options of the suite: --help shows them, files set them, and a bad value is a usage error."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from properties.internals.measured import run_rows, write_rows
from properties.meta.called import ROOT, run_pytest
from properties.pytest_options import add_options
from properties.report import editor_lines
from properties.settings import Settings
from wise.measures.verdicts import DEFAULT_THRESHOLDS

pytestmark = pytest.mark.meta

# Every option with the default that --help shows.
DEFAULTS = {
    "--editor": "wise",
    "--editor-option": "none",
    "--model": "llama",
    "--device": "cpu",
    "--dtype": "float32",
    "--layer": "the editor's own",
    "--dataset": "none",
    "--edits": "100, or all",
    "--checkpoints": "powers of ten, and T",
    "--stream-seed": "0",
    "--protocol": "both",
    "--threshold": " ".join(f"{metric}={value}" for metric, value in DEFAULT_THRESHOLDS.items()),
    "--confidence": "0.95",
    "--looks": "3",
    "--baseline": "none",
    "--known-failures": "those of a built-in editor",
    "--report": "none",
    "--replay": "none",
    "--rows": "none",
    "--resume": None,
    "--skip-bad-records": None,
}


class Options:
    """As much of pytest's parser and configuration as the suite's options use."""

    def __init__(self, *arguments: str, taken: Sequence[str] = (), **ini: str | list[str]) -> None:
        self.parser = argparse.ArgumentParser(allow_abbrev=False)
        self.ini: dict[str, str | list[str]] = {}
        for name in taken:
            self.parser.add_argument(name)
        stands_in: Any = self
        add_options(stands_in)
        assert ini.keys() <= self.ini.keys()
        self.ini |= ini
        self.chosen = self.parser.parse_args(arguments)

    def getgroup(self, *names: str) -> Options:
        return self

    def addoption(self, *names: str, **more: Any) -> None:
        self.parser.add_argument(*names, **more)

    def addini(self, name: str, help: str, *, type: str, default: str | list[str]) -> None:
        self.ini[name] = default

    def getoption(self, name: str) -> Any:
        return getattr(self.chosen, name)

    def getini(self, name: str) -> str | list[str]:
        return self.ini[name]


def settings_of(*arguments: str, **more: Any) -> Settings:
    stands_in: Any = Options(*arguments, **more)
    return Settings.of(stands_in)


def test_help_shows_every_option_and_its_default_in_one_group() -> None:
    text = run_pytest("--help").stdout
    group = re.search(r"\nmodel editors:\n(.+?)\n\n", text, re.DOTALL)
    assert group is not None
    described = re.split(r"\n  (?=--)", "\n" + group[1])[1:]
    found = {re.split("[=, \n]", option)[0]: " ".join(option.split()) for option in described}
    assert found.keys() == DEFAULTS.keys()
    for name, default in DEFAULTS.items():
        if default is not None:
            assert found[name].endswith(f"(default: {default})"), name


# Options that widely used plugins define: cov, timeout, rerunfailures, html, django, benchmark,
# randomly, sugar, playwright, replay, base-url, selenium, dotenv, testmon, picked, syrupy,
# json-report, order, split, repeat, bdd, regressions, asyncio, mypy, ruff.
OF_PLUGINS = """
    --cov --cov-report --cov-config --cov-append --cov-branch --cov-fail-under --no-cov
    --cov-context --timeout --timeout-method --session-timeout --reruns --reruns-delay --only-rerun
    --rerun-except --html --self-contained-html --css --ds --dc --reuse-db --create-db
    --nomigrations --migrations --benchmark-only --benchmark-skip --benchmark-save
    --benchmark-compare --benchmark-json --randomly-seed --randomly-dont-reorganize --old-summary
    --force-sugar --browser --headed --browser-channel --slowmo --device --output --tracing --video
    --screenshot --full-page-screenshot --replay --replay-record-dir --replay-base-name
    --replay-skip-cleanup --base-url --verify-base-url --driver --driver-path --capability --host
    --port --sensitive-url --envfile --testmon --testmon-noselect --testmon-nocollect --tmnet
    --picked --mode --parent-branch --snapshot-update --snapshot-details --snapshot-warn-unused
    --json-report --json-report-file --json-report-summary --indulgent-ordering --order-scope
    --order-dependencies --sparse-ordering --splits --group --durations-path --store-durations
    --splitting-algorithm --count --repeat-scope --gherkin-terminal-reporter --cucumberjson
    --generate-missing --feature --force-regen --regen-all --with-test-class-names --asyncio-mode
    --asyncio-debug --mypy --mypy-config-file --mypy-report-style --ruff --ruff-format
""".split()


def test_an_option_that_a_plugin_takes_has_its_prefixed_name_and_the_others_keep_both() -> None:
    assert {"--device", "--replay"} == set(OF_PLUGINS) & DEFAULTS.keys()
    found = settings_of("--editors-device=cpu", "--device=iPhone", "--dtype=bfloat16",
                        "--editors-model=gpt2", taken=OF_PLUGINS)  # fmt: skip
    assert (found.device, found.dtype, found.model) == ("cpu", "bfloat16", "gpt2")


def test_every_option_may_be_taken() -> None:
    with pytest.raises(pytest.UsageError, match="--edits=0 is not"):
        settings_of("--edits=9", "--editors-edits=0", taken=list(DEFAULTS))
    assert settings_of("--edits=9", taken=list(DEFAULTS)).n_edits is None


def test_the_suite_loads_beside_plugins_that_take_its_options(tmp_path: Path) -> None:
    taken = dict.fromkeys([*OF_PLUGINS, "--report", "--resume", "--rows"])
    (tmp_path / "other_plugins.py").write_text(
        "def pytest_addoption(parser):\n"
        f"    for name in {list(taken)}:\n"
        "        parser.addoption(name)\n"
    )
    ran = run_pytest(
        str(ROOT / "properties" / "meta" / "test_names.py"), "-p", "other_plugins",
        "--device=iPhone", "--editors-edits=7", "--editors-rows=rows.jsonl", "--collect-only", "-q",
        cwd=tmp_path,
    )  # fmt: skip
    assert "test_names.py" in ran.stdout, ran.stdout + ran.stderr
    assert ran.stdout.count("\n") < 20


def test_without_options_the_defaults_hold() -> None:
    found = settings_of()
    assert (found.editors, found.editor_options, found.model) == (("wise",), {}, "llama")
    assert (found.device, found.dtype, found.dataset) == ("cpu", "float32", "")
    assert (found.n_edits, found.checkpoints, found.seed) == (None, (), 0)
    assert (found.protocols, found.thresholds) == (("free", "forced"), dict(DEFAULT_THRESHOLDS))
    assert (found.confidence, found.rows, found.resume) == (0.95, None, False)


BAD = {
    "--editor=nobody": "editor='nobody' is not a built-in editor (alphaedit, ",
    "--editor=no.module:make": "editor='no.module:make': there is no module 'no.module'",
    "--editor=no_file.py:make": "editor='no_file.py:make': there is no file 'no_file.py'",
    "--editor-option=lr": "editor option 'lr' is not of the form KEY=VALUE",
    "--model=bert": "model='bert' is neither an embedded family (llama",
    "--device=meta": "--device=meta holds no numbers; name cpu, cuda or mps",
    "--device=abacus": "--device=abacus cannot be used here: Expected one of cpu, cuda",
    "--dtype=int8": "--dtype=int8 is none of float32, bfloat16, float16",
    "--layer=-1": "--layer=-1 is not a whole number >= 0",
    "--layer=last": "--layer=last is not a whole number >= 0",
    "--dataset=no_file": "dataset='no_file': there is no file 'no_file' in ",
    "--dataset=zsre:no_file": "dataset='zsre:no_file': there is no file 'no_file' in ",
    "--dataset=csv:README.md": "a dataset is FILE or FORMAT:FILE, FORMAT one of cknowedit, ",
    "--dataset=docs": "dataset='docs': 'docs' is a folder in ",
    "--edits=0": "--edits=0 is not a whole number >= 1",
    "--edits=1e3": "--edits=1e3 is not a whole number >= 1",
    "--checkpoints=1,0": "--checkpoints=0 is not a whole number >= 1",
    "--checkpoints=1;2": "--checkpoints=1;2 is not a whole number >= 1",
    "--stream-seed=-1": "--stream-seed=-1 is not a whole number >= 0",
    "--protocol=greedy": "--protocol=greedy is none of both, free, forced, likelihood, compared",
    "--protocol=drift": "--protocol=drift names nothing that is judged; add one of free, forced",
    "--protocol=free,": "--protocol= is none of both, free, forced",
    "--threshold=speed=.9": "--threshold=speed=.9: 'speed' is none of reliability, generalization",
    "--threshold=far=2": "--threshold=far=2 is not a number in (0, 1)",
    "--threshold=far=1": "--threshold=far=1 is not a number in (0, 1)",
    "--threshold=far=0": "--threshold=far=0 is not a number in (0, 1)",
    "--threshold=far": "--threshold=far= is not a number in (0, 1)",
    "--confidence=1": "--confidence=1 is not a number in [0.5, 1)",
    "--confidence=.3": "--confidence=.3 is not a number in [0.5, 1)",
    "--confidence=nan": "--confidence=nan is not a number in [0.5, 1)",
    "--looks=0": "--looks=0 is not a whole number >= 1",
    "--dataset=": "--dataset= is empty; needed: a path",
    "--baseline=no/folder/b.jsonl": "--baseline=no/folder/b.jsonl is not a file in a folder",
    "--known-failures=no_file": "--known-failures=no_file is not a file that exists",
    "--known-failures=README.md": "README.md: not TOML",
    "--report=README.md": "--report=README.md is not a folder, or one to make in",
    "--replay=README.md": "--replay=README.md is not a folder with an operations.jsonl",
    "--replay=docs": "--replay=docs is not a folder with an operations.jsonl to run again",
    "--rows=.": "--rows=. is not a file in a folder that exists",
    "--rows=no/folder/rows.jsonl": "--rows=no/folder/rows.jsonl is not a file in a folder",
    "--resume": "--resume needs --rows FILE, the rows to continue",
    "--skip-bad-records": "--skip-bad-records needs --dataset FILE, whose records it skips",
}


@pytest.mark.parametrize("argument", BAD)
def test_a_bad_value_is_a_usage_error_that_names_it_and_what_is_allowed(argument: str) -> None:
    with pytest.raises(pytest.UsageError, match=re.escape(BAD[argument])):
        settings_of(argument)


def test_every_option_has_a_bad_value_here() -> None:
    assert {argument.partition("=")[0] for argument in BAD} == DEFAULTS.keys()


def test_values_are_read_as_what_they_mean(tmp_path: Path) -> None:
    found = settings_of(
        "--editor=none", "--editor=wise", "--editor=none", "--editor-option=lr=.5",
        "--editor-option=memory=merge", "--layer=3", "--edits=20", "--checkpoints=1,5,20",
        "--stream-seed=7", "--protocol=forced", "--threshold=far=.5",
        "--threshold=generalization-5=.25", "--confidence=.9", f"--rows={tmp_path / 'r'}",
        "--resume",
    )  # fmt: skip
    assert found.editors == ("none", "wise")
    assert found.editor_options == {"lr": 0.5, "memory": "merge", "layer": 3}
    assert (found.n_edits, found.checkpoints, found.seed) == (20, (1, 5, 20), 7)
    assert found.protocols == ("forced",)
    assert found.thresholds == {**DEFAULT_THRESHOLDS, "far": 0.5, "generalization-5": 0.25}
    assert (found.confidence, found.rows, found.resume) == (0.9, tmp_path / "r", True)


@pytest.mark.parametrize(
    ("n_edits", "checkpoints"),
    [(1, (1,)), (10, (1, 10)), (20, (1, 10, 20)), (100, (1, 10, 100)), (999, (1, 10, 100, 999))],
)
def test_by_default_everything_is_measured_at_powers_of_ten_and_at_the_end(
    n_edits: int, checkpoints: tuple[int, ...]
) -> None:
    assert settings_of().checkpoints_of(n_edits) == checkpoints
    assert settings_of("--checkpoints=3,2").checkpoints_of(2000) == (2, 3, 2000)


def test_a_file_sets_defaults_and_the_command_line_overrules_them() -> None:
    ini = {"editors_editor": ["none"], "editors_edits": "5", "editors_layer": "2"}
    assert settings_of(**ini).editors == ("none",)
    found = settings_of("--editor=wise", "--edits=6", **ini)
    assert (found.editors, found.n_edits, found.editor_options) == (("wise",), 6, {"layer": 2})


def test_every_option_with_a_value_can_stand_in_a_file() -> None:
    valued = DEFAULTS.keys() - {"--resume", "--skip-bad-records"}
    assert Options().ini.keys() == {f"editors_{name[2:].replace('-', '_')}" for name in valued}


def test_rows_of_several_editors_go_to_a_file_each(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    alone = settings_of("--editor=none", f"--rows={path}")
    several = settings_of("--editor=none", "--editor=wise", f"--rows={path}")
    assert alone.rows_of("none") == path
    assert several.rows_of("none") == tmp_path / "out.none.jsonl"
    assert several.rows_of("wise") == tmp_path / "out.wise.jsonl"
    assert several.rows_of("my_ed.py:make") != several.rows_of("my-ed.py:make")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def make(:\n", "line 1: SyntaxError: invalid syntax"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_in_an_editors_own_file_is_named_by_its_line(
    source: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "own_editor.py"
    path.write_text(source)
    with pytest.raises(pytest.UsageError, match=re.escape(f"{path}, {message}")):
        settings_of(f"--editor={path}:make")


@pytest.mark.parametrize("name", ["out.jsonl", "out.look-1.jsonl", "out.look-2.jsonl"])
def test_rows_of_any_look_that_exist_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    rows = f"--rows={tmp_path / 'out.jsonl'}"
    with pytest.raises(
        pytest.UsageError, match=re.escape(f"{tmp_path / name} exists; use --resume")
    ):
        settings_of(rows).refuse_existing_rows()
    if "look" in name:
        settings_of(rows, "--looks=1").refuse_existing_rows()


def test_a_file_with_fewer_edits_than_asked_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "Ada is at", "target": "CERN"}')
    settings_of(f"--dataset={path}").refuse_missing_facts()
    settings_of(f"--dataset={path}", "--edits=1").refuse_missing_facts()
    done = run_pytest("-m", "triangle", f"--dataset={path}", "--edits=20")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--edits=20: jsonl:facts.jsonl has 1 edit; without --edits a run" in done.stderr


def test_fewer_edits_than_asked_are_told_with_what_was_left_out(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "Ada is at", "target": "CERN"}\n{"prompt": 7, "target": "CERN"}')
    settings = settings_of(f"--dataset={path}", "--edits=2", "--skip-bad-records", "--model=gpt2")
    with pytest.raises(pytest.UsageError) as caught:
        settings.refuse_missing_facts()
    assert str(caught.value) == (
        "--edits=2: jsonl:facts.jsonl has 1 edit; 1 bad record left out: record 1, line 2: "
        "prompt=7 is not a non-blank text; without --edits a run makes all, or 100 of more"
    )


@pytest.mark.parametrize("more", [("-p", "no:xdist"), ("-n", "2")], ids=["one", "two"])
def test_a_checkpoint_beyond_the_last_edit_is_one_usage_error(more: tuple[str, str]) -> None:
    done = run_pytest("-m", "triangle", "--edits=5", "--checkpoints=5,50", *more)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stdout + done.stderr == (
        "ERROR: --checkpoints=50 is beyond the last of the 5 edits that are made; allowed is 1 to "
        "5, and --edits makes more\n\n"
    )


def test_the_checkpoints_of_a_dataset_end_with_its_edits(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "Ada is at", "target": "CERN"}\n' * 3)
    settings_of(f"--dataset={path}", "--checkpoints=1,3").refuse_late_checkpoints()
    settings_of("--checkpoints=100").refuse_late_checkpoints()
    for words in ((f"--dataset={path}", "--checkpoints=4"), ("--checkpoints=101",)):
        with pytest.raises(pytest.UsageError, match=r"beyond the last of the (3|100) edits"):
            settings_of(*words).refuse_late_checkpoints()


WITHOUT_EDITS = {
    "none": ('{"probes": []}', [], ""),
    "probes alone": ('{"probes": [{"prompt": "Who?", "kind": "far"}]}', [], ""),
    "too long": (
        '{"prompt": "Ada is at", "target": "%s"}' % ("CERN " * 600),
        ["--skip-bad-records"],
        "; 1 edit with a text that is too long for gpt2 (what is asked has at most 64 tokens, and "
        "an answer 189): jsonl-0 (target 'CERN CERN CERN CERN CERN...': ",
    ),
}


@pytest.mark.parametrize("what", WITHOUT_EDITS)
@pytest.mark.parametrize("rates", [True, False])
def test_a_file_without_an_edit_is_refused_at_once(what: str, rates: bool, tmp_path: Path) -> None:
    text, words, why = WITHOUT_EDITS[what]
    path = tmp_path / "facts.jsonl"
    path.write_text(text)
    settings = settings_of(f"--dataset={path}", "--model=gpt2", *words)
    said = f"--dataset={path}: jsonl:facts.jsonl has no edits; at least one is needed{why}"
    with pytest.raises(pytest.UsageError, match=f"^{re.escape(said)}") as caught:
        settings.refuse_missing_facts(rates=rates)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("lifelong", '{"probes": []}', "jsonl:facts.jsonl has no edits; at least one is needed"),
        ("contract", '{"probes": []}', "jsonl:facts.jsonl has no edits; at least one is needed"),
        ("lifelong", "[]", "facts.jsonl, line 1: the array is empty; it must hold a record"),
        ("lifelong", '{"prompt": 7, "target": "x"}', "record 0: prompt=7 is not a non-blank text"),
    ],
)
def test_a_run_on_a_file_without_an_edit_is_a_usage_error_of_one_line(
    kind: str, text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(text)
    done = run_pytest("-m", kind, "--skip-bad-records", f"--dataset={path}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = (done.stdout + done.stderr).split("\n\n")[0].strip().splitlines()
    assert line.startswith(f"ERROR: --dataset={path}: ")
    assert said in line


def test_pytest_takes_an_option_from_its_own_settings() -> None:
    ran = run_pytest("-o", "editors_editor=none", "-o", "editors_edits=3", "--collect-only", "-q",
                     "-m", "triangle", "properties/test_editors.py")  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "test_triangle[none-reliability]" in ran.stdout


def test_pytest_refuses_a_bad_value_before_it_runs_anything() -> None:
    ran = run_pytest("--edits=0", "-m", "triangle", "properties/test_editors.py")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --edits=0 is not a whole number >= 1" in ran.stderr


def test_the_table_says_at_which_confidence_it_is_and_the_checks_are(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", run_rows())
    told = {
        looks: "\n".join(next(editor_lines(settings_of(f"--looks={looks}"), path, "wise", ()))[1])
        for looks in (1, 3)
    }
    assert "Intervals at 95 %." in told[1]
    assert "Intervals at 95 %; a check's own, and the page's, at 98.3 %, as up to 3" in told[3]
