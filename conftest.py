"""pytest's entry: options, header, parametrisation by editor, terminal summary.

Torch is imported with the first session, so that what needs no model starts at once.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from fixtures.models import FAMILIES
from properties.attainable import fault_lines
from properties.meta.import_rules import loads_torch
from properties.profiles import register_profiles
from properties.progress import Progress
from properties.pytest_options import add_options
from properties.report import (
    check_records,
    editor_lines,
    facts_lines,
    header_lines,
    in_order,
    reading_of_facts,
    rulings_of,
)
from properties.row_files import RowFiles
from properties.settings import Settings
from wise.measures.verdicts import THRESHOLDS, verdicts_beside, write_rulings

if TYPE_CHECKING:
    from properties.bench import Bench
    from properties.session import Session

RATES = ("test_triangle", "test_router")
OF_THEIR_ROWS = ("retention", "at-edit-is-not-below-final", "misses-look-like-chance")
KINDS = ("lifelong", "contract", "triangle", "router", "localization")
WITHOUT_RATES = ("contract", "router", "localization")
_KEPT = re.compile(r"--(editors-)?(resume|rows=.*)", re.DOTALL)
SETTINGS = pytest.StashKey[Settings]()
UNUSABLE = "unusable"  # in what a worker of pytest-xdist hands over: why nothing could be tested
FOLDER = pytest.StashKey[Path]()  # of this call; the processes of pytest-xdist share it


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)
    register_profiles()


def pytest_configure(config: pytest.Config) -> None:
    own = Path(__file__).parent / "pyproject.toml"
    if config.inipath != own:
        raise pytest.UsageError(
            f"pytest read its settings from {config.inipath}, not from {own}. An option's value "
            "was taken for a test path: write it as --rows=FILE, or add -c pointing to that file"
        )
    settings = config.stash[SETTINGS] = Settings.of(config)
    shared = getattr(config, "workerinput", {}).get("folder")
    rates = config.getoption("markexpr") not in WITHOUT_RATES
    settings.refuse_missing_facts(rates=rates)
    settings.refuse_late_checkpoints()
    config.stash[FOLDER] = Path(shared or tempfile.mkdtemp(prefix="editors-"))
    if shared is None and not settings.resume:
        settings.refuse_existing_rows()


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if config.getoption("markexpr") in KINDS and reporter and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(session, reporter), "editors-progress")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """pytest-xdist: the checks of a small model's editor go to two processes of one core each.

    Unless the call says otherwise, names some of them, or is to show what is written meanwhile.
    """
    model = config.getoption("editors_model") or config.getini("editors_model")
    given = [config.getoption(name, None) for name in ("-n", "--dist", "--tx")]
    others = ("usepdb", "collectonly", "keyword", "editors_replay", "editors_device")
    if (
        config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput")
        and config.getoption("markexpr") in KINDS and model in FAMILIES
        and given == [None, "no", []] and not any(map(config.getoption, others))
        and config.getoption("capture") != "no" and (os.cpu_count() or 1) > 1
    ):  # fmt: skip
        config.option.numprocesses = 2


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist: a worker writes its rows where all others do."""
    node.workerinput["folder"] = str(node.config.stash[FOLDER])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """pytest-xdist: what a worker could not run with ends the call."""
    if UNUSABLE in (found := getattr(node, "workeroutput", {})):
        pytest.exit(found[UNUSABLE], returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist: rates go to one process, as any other would only wait for the same runs."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class RatesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            is_rate = re.split(r"::|\[", nodeid)[1] in RATES
            is_of_rows = nodeid.endswith(tuple(f"-{check}]" for check in OF_THEIR_ROWS))
            return "rates" if is_rate or is_of_rows else nodeid

    return RatesTogether(config, log)


def pytest_report_header(config: pytest.Config) -> list[str]:
    packages = ("torch", "transformers", "hypothesis", "scipy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    settings = config.stash[SETTINGS]
    return [*header_lines(settings), f"versions: {versions}", *facts_lines(settings)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not read what cannot be asked for: the suite's own tests where one kind of check of an
    editor is asked for, and files that need torch where only unit tests are."""
    asked = config.getoption("markexpr")
    if asked in KINDS and collection_path.name in ("internals", "meta"):
        return True
    if asked == "unit" and collection_path.suffix == ".py" and loads_torch(collection_path):
        return True
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    """A unit test is one whose file loads without torch: it needs no model."""
    if "unit" in item.config.getoption("markexpr") and not loads_torch(item.path):
        item.add_marker(pytest.mark.unit)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = metafunc.config.stash[SETTINGS]
    if "editor_spec" in metafunc.fixturenames:
        metafunc.parametrize("editor_spec", settings.editors, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark known failures as strict xfails, and deselect what was not asked for.

    A test that is slow or for a GPU runs only where -m names its mark. With --replay only the
    recorded sequence runs, and without it never.
    """
    asked, settings = config.getoption("markexpr"), config.stash[SETTINGS]
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        wanted = all(m in asked or not item.get_closest_marker(m) for m in ("slow", "gpu"))
        is_replay = item.get_closest_marker("replayed") is not None
        wanted = wanted and is_replay == (settings.replay is not None)
        (kept if wanted else left_out).append(item)
        _expect_known_failure(settings, item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    if hasattr(config, "workerinput"):  # what takes long goes first, so that no process ends late
        items.sort(key=lambda item: getattr(item, "originalname", "") != "test_lifelong")


def pytest_collection_finish() -> None:
    """What the imports made lives as long as the process: no collection of garbage walks it."""
    gc.freeze()


def _expect_known_failure(settings: Settings, item: pytest.Item) -> None:
    params = getattr(getattr(item, "callspec", None), "params", {})
    if {"check", "editor_spec"} <= params.keys():
        reason = settings.known_failures[params["editor_spec"]].get(params["check"].name)
        if reason:
            broken = pytest.fail.Exception  # another exception is not the known failure
            item.add_marker(pytest.mark.xfail(reason=reason, raises=broken, strict=True))


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    """What tests are given; where an editor could not be tested, the call ends and says why."""
    from properties.session import Session

    config = request.config
    repro = config.invocation_params.dir / "repro"
    progress = config.pluginmanager.getplugin("editors-progress")
    shown = {} if progress is None else {"bar_of": progress.bar_of}
    made = Session(config.stash[SETTINGS], config.stash[FOLDER], repro, **shown)
    rates = config.getoption("markexpr") not in WITHOUT_RATES
    for spec in made.settings.editors:
        try:
            made.check_usable(spec, rates=rates)
        except ValueError as error:
            _end(config, f"{spec}: {error}")
    return made


def _end(config: pytest.Config, reason: str) -> NoReturn:
    """End the call; a worker of pytest-xdist leaves that to the process that it works for."""
    getattr(config, "workeroutput", {})[UNUSABLE] = reason
    pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def bench(session: Session, editor_spec: str) -> Bench:
    """The editor under test, on its model, with its streams."""
    return session.bench(editor_spec)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    config = terminalreporter.config
    if hasattr(config, "workerinput"):
        return  # of pytest-xdist: it has some of the results, and its terminal is not shown
    settings = config.stash[SETTINGS]
    reports = [r for group in terminalreporter.stats.values() for r in group]
    if settings.report is None and not any(check_records(reports)):
        return  # no editor was checked
    files = RowFiles(settings, config.stash[FOLDER])
    if terminalreporter.no_header or not terminalreporter.showheader:
        for line in facts_lines(settings):
            terminalreporter.write_line(line)
    is_whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if is_whole and settings.baseline is not None and files.save_baseline():
        terminalreporter.write_line(f"\nno baseline yet: saved to {settings.baseline}")
    for spec in settings.editors:
        path = files.path(spec)
        for title, lines in editor_lines(settings, path, spec, reports):
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)
        if path.exists():
            rulings = rulings_of(settings, path, spec, reports)
            write_rulings(verdicts_beside(path), rulings, resume=settings.resume)
    if settings.report is not None:
        arguments = config.invocation_params.args
        page = _write_page(files, settings.report, reports, arguments)
        terminalreporter.write_line(f"\n{page}")


def _again(arguments: Sequence[object]) -> str:
    """The call of pytest, without where its rows were kept, so that it makes them anew."""
    words = [word for word in map(str, arguments) if not _KEPT.fullmatch(word)]
    return shlex.join(["pytest", *words])


def _write_page(
    files: RowFiles, out: Path, reports: list[object], arguments: Sequence[object]
) -> Path | str:
    """Write the page of --report, with the call's `arguments`; its path, or what went wrong."""
    from reports.build import build_page
    from reports.check_table import CheckRecord

    settings = files.settings
    rows = [path for spec in settings.editors if (path := files.path(spec)).exists()]
    names = [settings.editor_name(spec) for spec in settings.editors]
    records = in_order(check_records(reports), names)
    n_looks = max(map(files.n_looks, settings.editors))
    notes = [
        "Verdicts at the last T are those of the checks: a check of a rate judged up to "
        f"{n_looks} streams, until it was decided. All else is of the first stream alone."
    ] * (n_looks > 1)
    if settings.dataset:
        whole, told = settings.facts
        notes += [f"{whole.name}: {note}" for note in (*told, *fault_lines(settings))]
    # The others are judged by the checks alone, which ask the unedited model.
    thresholds = {name: each for name, each in settings.thresholds.items() if name in THRESHOLDS}
    try:
        return build_page(
            rows, out, thresholds=thresholds, confidence=settings.confidence,
            max_looks=settings.max_looks, verdicts=list(map(verdicts_beside, rows)),
            checks=[CheckRecord(**record) for record in records], notes=notes,
            command=_again(arguments), reading=reading_of_facts(settings),
        )  # fmt: skip
    except ValueError as error:
        return f"no page: {error}"
