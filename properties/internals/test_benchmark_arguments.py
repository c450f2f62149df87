"""The command lines of the search and of the triangle: bad values, and one header for all lines."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import search, triangle
from benchmarks.lines import append

pytestmark = pytest.mark.internals

RESULTS = Path(triangle.__file__).parent / "results" / "triangle.csv"


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (search.main, ["--trials=0"], "argument --trials: 0 is not a whole number >= 1"),
        (search.main, ["--edits=x"], "argument --edits: x is not a whole number >= 1"),
        (search.main, ["--stream-seed=-1"], "--stream-seed: -1 is not a whole number >= 0"),
        (search.main, ["--editor=none"], "--editor none: has no search space; wise, rome, "),
        (triangle.main, ["--edits=0"], "argument --edits: 0 is not a whole number >= 1"),
        (triangle.main, ["--seeds=a"], "argument --seeds: a is not a whole number >= 0"),
        (triangle.main, ["--option=lr"], "editor option 'lr' is not of the form KEY=VALUE"),
        (triangle.main, ["--editor=nobody"], "editor='nobody' is not a built-in editor"),
        (search.main, ["--editor=rome", f"--csv={__file__}"], "not editor, model, edits, stream_"),
        (triangle.main, [f"--csv={__file__}"], "not editor, options, model, edits, seed, far, "),
    ],
)
def test_a_bad_value_is_a_usage_error(
    main: Callable[..., None], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_metric_that_was_not_asked_for_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "triangle.csv"
    for more in ({"portability": "0.5"}, {}):
        append(path, triangle.COLUMNS, {"editor": "wise", "edits": 1, "far": "1.0", **more})
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert [line["portability"] for line in lines] == ["0.5", ""]
    assert path.read_text().splitlines()[0] == RESULTS.read_text().splitlines()[0]
