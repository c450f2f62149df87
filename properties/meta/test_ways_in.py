"""The ways into the suite: as functions, with known failures, a baseline, a replay, processes."""

from __future__ import annotations

import html
import json
import re
import shlex
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from fixtures.faulty import memory_faults as memory
from fixtures.faulty import saving_faults as saving
from fixtures.models import FAMILIES, load_model
from fixtures.perfect import make_perfect
from properties.checks import CHECKS, EditorFailedError, check_editor, checks_for, table_of
from properties.known_failures import known_failures, read_known_failures, stale
from properties.meta.called import ROOT, run_pytest
from properties.meta.test_options import settings_of
from properties.report import PRESUMED, editor_lines, in_order
from wise.editor import BUILT_IN
from wise.editors.corners import make_unedited
from wise.edits import Background
from wise.measures.verdicts import read_rulings

pytestmark = pytest.mark.meta

SHORT = ["the-last-write-wins", "refuses-a-layer-outside-the-model"]
PERFECT = ("--editor=fixtures.perfect:make_perfect", "--model=gptj", "--edits=5")


def faulty(name: str, *arguments: str) -> tuple[str, ...]:
    return (f"--editor=fixtures.faulty.{name}", "--model=gptj", "--edits=5", *arguments)


def test_check_editor_returns_a_table_of_what_it_found() -> None:
    found = check_editor(make_perfect, model="gptj", checks=SHORT)
    assert [(each.check, each.outcome) for each in found] == [(name, "pass") for name in SHORT]
    assert table_of(found).splitlines()[0] == "pass         the-last-write-wins"


def test_check_editor_raises_or_warns_or_returns_what_failed() -> None:
    options: dict[str, Any] = dict(model="gptj", checks=SHORT)
    with pytest.raises(EditorFailedError, match=r"the-last-write-wins: .* is answered"):
        check_editor(memory.FirstWriteWins, **options)
    with pytest.warns(UserWarning, match="the-last-write-wins"):
        check_editor(memory.FirstWriteWins, on_fail="warn", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_editor(memory.FirstWriteWins, on_fail=None, **options)
    assert [each.outcome for each in found] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checks": ["speed"]}, "check='speed' is none of "),
        ({"on_fail": "shout"}, "on_fail='shout' is none of 'raise', 'warn', None"),
        ({"model": "bert"}, "model='bert' is neither an embedded family"),
        ({"n_edits": 0}, "n_edits=0 is not a whole number >= 1"),
        ({"seed": None}, "seed=None is not a whole number >= 0"),
        ({"thresholds": 5}, "thresholds=5 is not a mapping of metrics to numbers"),
    ],
)
def test_check_editor_names_a_bad_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_editor(make_perfect, **options)


def test_checks_are_chosen_by_capability() -> None:
    loaded = load_model("gptj")
    arguments = loaded.model, loaded.tokenizer, Background()
    bare = {check.name for check in checks_for(make_unedited(*arguments, seed=0))}
    assert {check.name for check in checks_for(make_perfect(*arguments))} == set(CHECKS)
    assert "cached-generation-says-the-same" in bare
    assert not {"gate-far", "removing-an-edit-leaves-the-others"} & bare


def test_known_failures_are_read_for_all_models_embedded_ones_and_one(tmp_path: Path) -> None:
    file = tmp_path / "known.toml"
    file.write_text(
        '[checks]\nfar = "a"\ngone = "b"\n[embedded]\nreliability = "e"\n'
        '[models.gptj]\nfar = "c"\n[models.gptj.gate-far]\nedits = 50\nreason = "d"\n'
    )
    here, of_all = {"reliability": "e"}, {"far": "a", "gone": "b"}
    assert read_known_failures(file, "smollm2", 100) == of_all
    assert read_known_failures(file, "llama", 100) == of_all | here
    found = {"far": "c", "gone": "b"} | here
    assert read_known_failures(file, "gptj", 49) == found
    assert read_known_failures(file, "gptj", 50) == found | {"gate-far": "d"}
    assert stale(read_known_failures(file, "llama", 1)) == ["gone"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[check]", "[check] is none of [checks], [embedded], [models.NAME]"),
        ('[checks]\nfar = ""', "far = ''; needed: a reason in words"),
        ("[checks]\nfar = 3", "far = 3; needed: a reason in words"),
        ("checks = 1", "1 stands where a table of checks must"),
        ("[checks", "not TOML"),
        ("models = 3", "models = 3 stands where tables [models.NAME] must"),
        ("[models]\nllama = 3", "3 stands where a table of checks must"),
        (
            '[models.lama]\nfar = "a"',
            "[models.lama] is none of llama, mistral, gptj, gpt2, nor the",
        ),
    ],
)
def test_bad_known_failures_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "known.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_known_failures(file, "llama", 1)


@pytest.mark.parametrize("editor", BUILT_IN)
def test_what_a_built_in_editor_is_known_to_fail_are_checks(editor: str) -> None:
    for model in FAMILIES:
        assert not stale(known_failures(editor, "", model, 100))


def test_a_known_failure_is_expected_strictly_and_stale_ones_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "known.toml"
    file.write_text('[checks]\nthe-last-write-wins = "keeps notes"\nfar-away = "gone"\n')
    options = ("-m", "contract", "-k", "last-write and not at-once", f"--known-failures={file}")
    expected = run_pytest(*faulty("memory_faults:FirstWriteWins", *options))
    assert "1 xfailed" in expected.stdout, expected.stdout
    assert expected.returncode == 0
    assert "no longer checks: far-away" in expected.stdout
    passed = run_pytest(*PERFECT, *options)
    assert "[XPASS(strict)] keeps notes" in passed.stdout, passed.stdout
    told = "the-last-write-wins: passes, though it is listed as a known failure: keeps notes"
    assert f"fail         {told}" in passed.stdout
    assert passed.returncode == 1


def test_an_exception_is_not_the_known_failure(tmp_path: Path) -> None:
    (tmp_path / "known.toml").write_text(
        '[checks]\nthe-last-write-wins = "keeps notes"\nreliability = "is low"\n'
    )
    (tmp_path / "crashing.py").write_text(
        "from wise.lm.decoding import Unedited\n\n\nclass Crashing(Unedited):\n"
        "    def edit(self, edits):\n        raise OSError('the disk is full')\n\n\n"
        "def make(model, tokenizer, background, *, seed):\n    return Crashing(model, tokenizer)\n"
    )
    ran = run_pytest(
        str(ROOT), f"--editor={tmp_path / 'crashing.py'}:make", "--model=gptj", "--edits=5",
        "-m", "lifelong", "-k", "(last-write and not at-once) or reliability",
        f"--known-failures={tmp_path / 'known.toml'}",
    )  # fmt: skip
    assert "2 failed" in ran.stdout, ran.stdout
    assert "the-last-write-wins: OSError: the disk is full" in ran.stdout
    run = re.search(
        "reliability: OSError: the disk is full, at edit 1 of the stream, .*", ran.stdout
    )
    assert run is not None
    assert "crashing.py, line 6" in run[0]


def test_a_missing_baseline_is_saved_and_a_drop_from_it_fails(tmp_path: Path) -> None:
    options = ("-m", "triangle", "--edits=12", f"--baseline={tmp_path / 'rows.jsonl'}")
    first = run_pytest(*PERFECT, *options)
    assert "no baseline yet: saved to" in first.stdout, first.stdout
    assert first.returncode == 0
    worse = run_pytest(*faulty("understanding_faults:BlindToAliases", *options))
    assert worse.returncode == 1, worse.stdout
    assert re.findall(r"FAILED .*\[(.+?)\]", worse.stdout) == [
        "fixtures.faulty.understanding_faults:BlindToAliases-generalization-4"
    ]
    assert "generalization-4: drop of 1.00 on n=12 items" in worse.stdout


def test_a_failing_sequence_is_one_line_that_fails_again(tmp_path: Path) -> None:
    options = ("-m", "lifelong", "-k", "any-sequence")
    broken = run_pytest(
        str(ROOT), *faulty("state_faults:RemoveLeavesTheEdit", *options), cwd=tmp_path
    )
    assert broken.returncode == 1, broken.stdout
    [(told, line)] = re.findall(
        r"any-sequence-of-operations: (.+?)\. Shortest.+ Again: pytest (.+)", broken.stdout
    )[:1]
    again = run_pytest(*shlex.split(line), "-m", "lifelong", cwd=tmp_path)
    assert "1 failed" in again.stdout, again.stdout
    assert told in again.stdout


def test_two_processes_write_the_same_rows_as_one(tmp_path: Path) -> None:
    for name, more in (("one", ("-n0",)), ("two", ("-n2", "--dist=worksteal"))):
        ran = run_pytest("-m", "triangle", *PERFECT, f"--rows={tmp_path / name}", *more)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "the triangle after T edits" in ran.stdout
    for file in ("{}", "{}.verdicts.jsonl"):
        one, two = (tmp_path / file.format(name) for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert {ruling.check for ruling in read_rulings(two)} >= {"reliability", "far"}


def test_rows_of_an_editor_that_has_changed_since_are_refused_in_one_line(tmp_path: Path) -> None:
    file, rows = tmp_path / "my_editor.py", tmp_path / "rows.jsonl"
    file.write_text("from wise.editors.corners import make_unedited as make\n")
    options = (str(ROOT), "-m", "lifelong", "--model=gptj", "--edits=2", "--looks=1",
               f"--editor={file}:make", f"--rows={rows}")  # fmt: skip
    run_pytest(*options, "-k", "reliability")
    before = rows.read_bytes()
    assert before
    file.write_text(file.read_text() + "# changed\n")
    for more, differs in (((), "my_editor.py"), (("--checkpoints=2",), "checkpoints")):
        ran = run_pytest(*options, "--resume", *more)
        assert f"{differs} was " in ran.stdout
        assert "Traceback" not in ran.stdout
        assert " failed" not in ran.stdout
        assert (ran.returncode, rows.read_bytes()) == (4, before), ran.stdout
        assert sum("rows.jsonl is of another run" in line for line in ran.stdout.splitlines()) == 1


def test_what_a_dataset_left_out_is_said_once_where_all_pass_and_where_some_fail(
    tmp_path: Path,
) -> None:
    edits = load_model("gptj").own_world.stream(0, 25).edits
    records: list[dict[str, Any]] = [
        dict(prompt=e.prompt, target_new=e.target, subject=e.subject, locality={}, promt="?")
        for e in edits
    ]
    records += [{**records[0], "prompt": " "}, {**records[0], "target_new": {}}]
    (tmp_path / "records.json").write_text(json.dumps(records))
    options = (*PERFECT, f"--dataset=zsre:{tmp_path / 'records.json'}", "-m", "contract")
    ran = run_pytest(*options, "-k", "last-write")
    assert (ran.returncode, "line 1, record 26: target_new={} is not" in ran.stderr) == (4, True)
    skipping = (*options, "--skip-bad-records")
    note = "27 records with keys that are not read: 'promt'"
    for more, code in ((("-k", "last-write"), 0), (("--editor=none", "-k", "last-write"), 1)):
        ran = run_pytest(*skipping, *more, f"--report={tmp_path / 'page'}")
        assert (ran.returncode, ran.stdout.count(note)) == (code, 1), ran.stdout
        assert ran.stdout.count("  1 record with a blank prompt, left out: record 25") == 1
        assert ran.stdout.count("  1 bad record left out: record 26, line 1: target_new={}") == 1
        assert ran.stdout.index(note) < ran.stdout.index("collected ")
        page = html.unescape((tmp_path / "page" / "index.html").read_text(encoding="utf-8"))
        assert page.count(f"zsre:records.json: {note}") == 1


@pytest.mark.parametrize("more", [("-k", "last-write"), ("-n", "2")], ids=["one", "two"])
def test_a_factory_of_another_signature_is_told_the_one_that_is_needed(
    tmp_path: Path, more: tuple[str, str]
) -> None:
    """Also where two processes were to run the checks."""
    (tmp_path / "my_editor.py").write_text("def make(model):\n    return model\n")
    editor = f"--editor={tmp_path / 'my_editor.py'}:make"
    ran = run_pytest(editor, "--model=gptj", "--edits=5", "-m", "contract", *more)
    assert ran.returncode == 4
    assert "takes (model), and does not take (model, tokenizer, background, *, seed" in ran.stdout
    assert "INTERNALERROR" not in ran.stdout


def test_the_checks_of_a_small_model_go_to_two_processes_unless_told_otherwise() -> None:
    options = (*PERFECT, "-m", "router", "--looks=1")
    for more, is_shared in (((), True), (("-n0",), False), (("-k", "drift"), False)):
        ran = run_pytest(*options, *more)
        assert (" passed" in ran.stdout, "2/2 workers" in ran.stdout) == (True, is_shared)


def test_junit_holds_the_numbers_of_each_rate(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    run_pytest("-m", "triangle", "-k", "far", *PERFECT, "--looks=1", f"--junitxml={file}")
    [case] = [c for c in ET.parse(file).iter("testcase") if "far" in str(c.get("name"))]
    found = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert found["check"] == "far"
    assert (found["mean"], found["n"], found["threshold"]) == ("1.0", "5", "0.95")


def test_checks_stand_in_one_order_whichever_process_ends_first() -> None:
    records = [{"editor": editor, "outcome": outcome, "name": name} for editor in ("b", "a")
               for outcome in ("fail", "pass") for name in ("x", "y")]  # fmt: skip
    assert in_order(reversed(records), ["b", "a"]) == records
    assert in_order(records[3:] + records[:3], ["b", "a"]) == records


def failed(check: str) -> pytest.TestReport:
    told = [("check", check), ("editor", "wise"), ("message", "no")]
    return pytest.TestReport(
        check, ("", 0, ""), {}, "failed", "no", "call", user_properties=list(told)
    )


def test_what_others_presume_is_told_before_what_may_follow_from_it(tmp_path: Path) -> None:
    assert set(PRESUMED) < set(CHECKS)
    reset, padding, other = PRESUMED[3], PRESUMED[-2], "a-long-prompt-is-edited"
    reports = [failed(name) for name in (other, padding, reset)]
    for some, expected in (
        (reports, [reset, padding, "These may be consequences", other]),
        (reports[:1], [other]),
        (reports[1:], [reset, padding]),
    ):
        [(_, lines)] = editor_lines(settings_of("--editor=wise"), tmp_path / "none", "wise", some)
        for line, part in zip(lines, expected, strict=True):
            assert part in line


def test_a_page_has_the_call_and_says_that_its_rates_are_of_the_first_look(tmp_path: Path) -> None:
    said = []
    for looks in ("1", "2"):
        out = tmp_path / looks
        options = ("-m", "triangle", "-k", "far", *PERFECT, f"--looks={looks}", f"--report={out}")
        ran = run_pytest(*options, f"--rows={tmp_path / looks}.jsonl")
        page = html.unescape((out / "index.html").read_text(encoding="utf-8"))
        said.append("a check of a rate judged up to 2 streams" in page)
        call = shlex.join(["pytest", "-p", "no:cacheprovider", *options])
        assert f"<pre>{call}</pre>" in page, ran.stdout
    assert said == [False, True]


def test_a_pickle_is_told_from_safe_files() -> None:
    [found] = check_editor(
        saving.PicklesItsState, model="gptj", on_fail=None, checks=["a-saved-state-holds-no-pickle"]
    )
    assert found.outcome == "fail"
    assert "use safetensors or JSON" in found.message
