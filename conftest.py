"""pytest's entry: options, header, parametrisation by editor, terminal summary."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from properties.options import add_options
from properties.report import editor_lines, header_lines
from properties.settings import Settings
from wise.evaluation.lifelong import run_lifelong
from wise.rows import Row

SETTINGS = pytest.StashKey[Settings]()
RUNS = pytest.StashKey[dict[str, list[Row]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    own = Path(__file__).parent / "pyproject.toml"
    if config.inipath != own:
        raise pytest.UsageError(
            f"pytest read its settings from {config.inipath}, not from {own}. An option's value "
            "was taken for a test path: write it as --rows=FILE, or add -c pointing to that file"
        )
    config.stash[SETTINGS] = Settings.of(config)
    config.stash[RUNS] = {}


def pytest_report_header(config: pytest.Config) -> list[str]:
    packages = ("torch", "transformers", "hypothesis", "scipy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return [*header_lines(config.stash[SETTINGS]), f"versions: {versions}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that is slow or for a GPU runs only where -m names its mark."""
    asked = config.getoption("markexpr")
    left_out = [
        i for i in items if any(i.get_closest_marker(m) and m not in asked for m in ("slow", "gpu"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = metafunc.config.stash[SETTINGS]
    if "editor_spec" in metafunc.fixturenames:
        metafunc.parametrize("editor_spec", settings.editors, scope="session")


@pytest.fixture(scope="session")
def settings(request: pytest.FixtureRequest) -> Settings:
    return request.config.stash[SETTINGS]


@pytest.fixture(scope="session")
def lifelong_rows(
    request: pytest.FixtureRequest,
    settings: Settings,
    editor_spec: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Row]:
    """The rows of the whole stream, edited and measured once per editor."""
    path = settings.rows_of(editor_spec) or tmp_path_factory.mktemp("rows") / "rows.jsonl"
    try:
        run, editor = settings.run(editor_spec), settings.make_editor(editor_spec)
        if path.exists() and not settings.resume:
            raise ValueError(f"--rows={path} exists; go on with --resume, or name another file")
    except ValueError as error:  # a wrong model, stream, option or file: no test could tell more
        pytest.exit(f"{editor_spec}: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
    loaded = settings.loaded
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        rows = run_lifelong(
            run, editor, loaded.model, loaded.tokenizer, path, resume=settings.resume
        )
    settings.forget_model()  # the next editor gets weights that no other has written to
    request.config.stash[RUNS][editor_spec] = rows
    return rows


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    for spec, rows in config.stash[RUNS].items():
        terminalreporter.section(f"{spec}: the triangle after T edits")
        for line in editor_lines(config.stash[SETTINGS], rows):
            terminalreporter.write_line(line)
