"""The lines of a page make its rows again, or it says why none does."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from fixtures import gguf
from properties.internals.measured import RUN, rows_of
from properties.meta.test_options import settings_of
from reports.commands import PACKAGED, commands
from reports.reading import Items

pytestmark = pytest.mark.internals


@pytest.mark.parametrize(
    ("editor", "model", "words"),
    [
        ("wise", "llama", ["--editor=wise", "--model=llama"]),
        ("wise(lr=0.5, layer=None)", "gpt2 bfloat16",
         ["--editor-option=lr=0.5", "--model=gpt2", "--dtype=bfloat16"]),
        ("wise", "smollm2 0a1b2c3d bfloat16", ["--model=smollm2", "--dtype=bfloat16"]),
        ("perfect", "gptj", ["--editor=fixtures.perfect:make_perfect"]),
        ("random", "gptj", ["--editor=wise.editors.corners:make_random_router"]),
        ("none", "gptj", ["--editor=none"]),
    ],
)  # fmt: skip
def test_a_line_is_one_that_the_suite_takes(
    editor: str, model: str, words: list[str], items_of: Callable[..., Items]
) -> None:
    run = RUN._replace(editor=editor, model=model)
    [(line, stream)] = commands(items_of(rows_of("reliability", "", [1.0] * 3, run=run, t=3)))
    program, *arguments = shlex.split(line)
    assert (program, *arguments[:2]) == ("pytest", "-m", "triangle")
    assert set(words) <= set(arguments)
    found = settings_of(*arguments[2:])
    assert (found.n_edits, found.checkpoints, found.protocols) == (3, (3,), ("free",))
    assert found.max_looks == 1
    assert stream.startswith(f"stream {RUN.stream}, sha256 {RUN.stream_sha256}")
    assert stream.endswith("the weights of smollm2 have the digest 0a1b2c3d") == ("0a1b" in model)


def test_the_models_that_pytest_takes_by_name_are_those_of_packages() -> None:
    assert set(PACKAGED) == set(gguf.PACKAGED)


def test_where_the_call_is_known_it_is_the_line_and_each_stream_is_named(
    items_of: Callable[..., Items],
) -> None:
    call = "pytest -m triangle --looks=2 --edits=3"
    rows = rows_of("reliability", "", [1.0], run=RUN._replace(model="my-model 0a1b2c3d"))
    (first, _), (line, text) = commands(items_of(rows), call)
    assert (first, line) == (call, "")
    assert text == (
        f"wise on my-model 0a1b2c3d, seed 0: stream {RUN.stream}, sha256 {RUN.stream_sha256}"
    )


@pytest.mark.parametrize(
    ("editor", "model", "reason"),
    [
        ("memit-mass(preset=released)", "llama", "as pytest edits one by one"),
        ("wise", "my-model 0a1b2c3d float16", "as its model is a folder"),
    ],
)
def test_where_no_line_would_do_the_page_says_why(
    editor: str, model: str, reason: str, items_of: Callable[..., Items]
) -> None:
    run = RUN._replace(editor=editor, model=model)
    [(line, text)] = commands(items_of(rows_of("reliability", "", [1.0], run=run)))
    assert line == ""
    assert f"{editor} on {model}, seed 0: no line makes it again, {reason}" in text
