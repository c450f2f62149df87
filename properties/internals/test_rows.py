"""Laws of `wise.measures.rows`: any text comes back, kills are survived, no two runs are mixed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from properties.internals.measured import ROW, RUN
from wise.measures.rows import Row, RowWriter, Run, read_rows

pytestmark = pytest.mark.internals

BLOCKS = {
    "edit 1": [replace(ROW, block="edit 1", answer=answer) for answer in ("é\u2028", "\n\x00")],
    "edit 2": [replace(ROW, block="edit 2", score=None, answer="", excluded="too long")],
    "checkpoint 2 free": [replace(ROW, block="checkpoint 2 free", t=t) for t in (1, 2)],
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NOT_BLANK = TEXTS.filter(str.strip)
NASTY = 'a\n\r\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"\\u2028\ufeff\U0010ffff'


def write(path: Path, blocks: dict[str, list[Row]], *, resume: bool = False) -> bytes:
    """Write the blocks that are not done; the bytes of the file."""
    run = next(iter(blocks.values()))[0].run
    with RowWriter(path, run, resume=resume) as writer:
        for name, rows in blocks.items():
            if name not in writer.blocks:
                writer.write_block(rows)
    return path.read_bytes()


def resume(path: Path, run: Run) -> list[str]:
    """The blocks that a resumed file of `run` begins with."""
    with RowWriter(path, run, resume=True) as writer:
        return list(writer.blocks)


@given(
    texts=st.fixed_dictionaries(
        dict.fromkeys(("editor", "cluster", "prompt"), NOT_BLANK)
        | dict.fromkeys(("answer", "expected", "edit_id"), TEXTS)
    ),
    score=st.none() | st.floats(0, 1),
    reasons=st.lists(TEXTS.filter(bool), min_size=1, max_size=3),
)
@example(texts=dict.fromkeys(("prompt", "editor", "answer"), NASTY), score=None, reasons=[NASTY])
@settings(deadline=None, max_examples=60)
def test_any_text_comes_back_and_a_row_is_its_fields_on_one_line(
    texts: dict[str, str], score: float | None, reasons: list[str]
) -> None:
    rows = [
        replace(ROW, **texts, score=score, excluded="" if score is not None else reason)
        for reason in reasons
    ]
    with TemporaryDirectory() as folder:
        content = write(Path(folder) / "rows.jsonl", {ROW.block: rows})
        assert read_rows(Path(folder) / "rows.jsonl") == rows
    lines = content.decode().splitlines()
    fields = [name for name in asdict(ROW) if name != "aliases"]
    assert [list(json.loads(line)) for line in lines] == [fields] * len(rows)


def test_only_a_row_with_aliases_has_the_field(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, aliases=("Tech", "M.I.T."))]
    content = write(tmp_path / "rows.jsonl", {ROW.block: rows})
    assert [json.loads(line).get("aliases") for line in content.splitlines()] == [
        None, ["Tech", "M.I.T."],
    ]  # fmt: skip
    assert read_rows(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"editor": " "}, "Row.editor=' ' is not a non-blank text"),
        ({"cluster": ""}, "Row.cluster='' is not a non-blank text"),
        ({"answer": "\udc80"}, "Row.answer='\\udc80' is not Unicode text"),
        ({"stream_sha256": "0F" * 32}, "is not 64 lower-case hexa"),
        ({"seed": True}, "Row.seed=True is not an int >= 0"),
        ({"protocol": "greedy"}, "Row.protocol='greedy' is none of free, forced"),
        ({"t": -1}, "Row.t=-1 is not an int >= 0"),
        ({"when": "at-edit"}, "Row.age=3 is not 0, which it is at-edit"),
        (
            {"when": "unedited", "age": 0},
            "Row.when='unedited' does not go with generalization, free; knowledge is asked",
        ),
        ({"metric": "speed"}, "Row.metric='speed' is none of reliability, generalization"),
        ({"kind": "0"}, "Row.kind='0' is no kind of generalization; allowed: a level from 1 up"),
        ({"metric": "reliability"}, "Row.kind='2' is no kind of reliability; allowed: none"),
        ({"metric": "locality", "kind": "near"}, "'near' is no kind of locality; allowed: far, "),
        ({"metric": "portability", "kind": ""}, "is no kind of portability; allowed: portability"),
        ({"score": 1.01}, "Row.score=1.01 is not a number in [0, 1]"),
        ({"score": float("nan")}, "Row.score=nan is not a number in [0, 1]"),
        (
            {"score": None},
            "Row.excluded='' with score=None; an item has either a score or a reason",
        ),
        ({"excluded": "too long"}, "Row.excluded='too long' with score=0.0"),
        ({"aliases": "Tech"}, "Row.aliases='Tech' is not an array of texts"),
        ({"aliases": ["Tech", " "]}, "holds ' ', which is not a non-blank Unicode text"),
        ({"aliases": ["\udc80"]}, "holds '\\udc80', which is not a non-blank Unicode text"),
        ({"aliases": ["Tech"], "expected": ""}, "are not of an answer that is expected free-run"),
        ({"aliases": ["Tech"], "protocol": "forced"}, "are not of an answer that is expected"),
    ],
)
def test_a_wrong_field_is_refused_by_name_and_value(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        replace(ROW, **changes)


@pytest.mark.parametrize(("given_score", "kept"), [(True, "1.0"), (0, "0.0"), (-0.0, "0.0")])
def test_equal_scores_are_equal_bytes(given_score: float, kept: str) -> None:
    assert repr(replace(ROW, score=given_score).score) == kept


def test_a_run_killed_after_any_byte_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert resume(path, RUN) == []  # killed before there was a file
    content = write(path, BLOCKS)
    names, resumed = [row.block for rows in BLOCKS.values() for row in rows], {}
    for n_bytes in range(len(content) + 1):
        path.write_bytes(content[:n_bytes])
        done = resume(path, RUN)
        n_rows = content[:n_bytes].count(b"\n")
        last = names[n_rows - 1] if n_rows else names[0]
        assert done == list(BLOCKS)[: list(BLOCKS).index(last)]
        resumed[path.read_bytes()] = done
    assert len(resumed) == len(BLOCKS)
    for kept, done in resumed.items():
        path.write_bytes(kept)
        assert resume(path, RUN) == done[:-1]
        path.write_bytes(kept)
        assert write(path, BLOCKS, resume=True) == content


OTHERS = {"editor": "rome", "model": "gpt2", "stream": "b", "stream_sha256": "1" * 64, "seed": 8}


@pytest.mark.parametrize("field", Run._fields)
@pytest.mark.parametrize("cut_off", [False, True], ids=["whole", "cut off"])
def test_a_file_of_another_run_is_left_alone_and_what_differs_is_named(
    field: str, cut_off: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    content = write(path, {"edit 1": BLOCKS["edit 1"][:1]})
    path.write_bytes(content[:-9] if cut_off else content)
    named = (
        "does not start a run of"
        if cut_off
        else f"line 1: {field}={getattr(RUN, field)!r} belongs to"
    )
    with pytest.raises(ValueError, match=re.escape(named)):
        resume(path, RUN._replace(**{field: OTHERS[field]}))
    assert path.read_bytes() == (content[:-9] if cut_off else content)


def test_two_runs_in_one_file_are_not_resumed_but_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content = write(path, BLOCKS)
    path.write_bytes(content + content)
    with pytest.raises(ValueError, match="line 6: block='edit 1' is there twice"):
        resume(path, RUN)
    other = content.replace(b'"wise"', b'"rome"')
    path.write_bytes(content + other)
    with pytest.raises(ValueError, match="line 6: editor='rome' belongs to another run"):
        resume(path, RUN)
    assert [row.editor for row in read_rows(path)] == ["wise"] * 5 + ["rome"] * 5


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ([], "rows=[] is not a block"),
        (BLOCKS["edit 1"], "block='edit 1' is in "),
        ([ROW, replace(ROW, block="edit 9")], "Row.block='edit 9' is written with block 'check"),
        ([replace(ROW, seed=8)], "seed=8 belongs to another run; this one has 0"),
    ],
    ids=["empty", "repeated", "two blocks", "another run"],
)
def test_what_is_not_one_new_block_of_the_run_is_not_written(
    block: list[Row], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path, RUN) as writer:
        writer.write_block(BLOCKS["edit 1"])
        with pytest.raises(ValueError, match=re.escape(named)):
            writer.write_block(block)
    assert read_rows(path) == BLOCKS["edit 1"]


def test_a_file_that_holds_rows_is_not_written_to_unless_resumed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content = write(path, BLOCKS)
    with pytest.raises(FileExistsError, match="holds rows already; resume it"):
        RowWriter(path, RUN)
    assert path.read_bytes() == content


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path, RUN) as first:
        first.write_block(BLOCKS["edit 1"])
        with pytest.raises(RuntimeError, match=r"another process is writing to .*rows.jsonl"):
            RowWriter(path, RUN, resume=True)
        first.write_block(BLOCKS["edit 2"])
    assert read_rows(path) == BLOCKS["edit 1"] + BLOCKS["edit 2"]


def test_a_block_that_does_not_fit_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path, RUN) as writer:
        writer.write_block(BLOCKS["edit 1"])
        file = writer._file
        full = SimpleNamespace(fileno=file.fileno, truncate=file.truncate)
        full.write = lambda content: file.write(content[:40])
        monkeypatch.setattr(writer, "_file", full)
        with pytest.raises(OSError, match=r"took 40 of \d+ bytes, and was restored"):
            writer.write_block(BLOCKS["edit 2"])
        monkeypatch.undo()
        writer.write_block(BLOCKS["edit 2"])
    assert read_rows(path) == BLOCKS["edit 1"] + BLOCKS["edit 2"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"", "the line is not a JSON object in UTF-8"),
        (b"\xff{}", "the line is not a JSON object in UTF-8"),
        (b"[1]", "b'[1]' is not a JSON object"),
        ({"cluster": ...}, "missing 1 required positional argument: 'cluster'"),
        ({"speed": 1}, "unexpected keyword argument 'speed'"),
        ({"score": float("nan")}, "Row.score=nan is not a number in [0, 1]"),
        ({"t": "10"}, "Row.t='10' is not an int >= 0"),
        ({"answer": "\ud800"}, "Row.answer='\\ud800' is not Unicode text"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(
    line: bytes | dict[str, object], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    content = write(path, BLOCKS)
    if isinstance(line, dict):
        values = {**asdict(ROW), **line}
        given = {key: value for key, value in values.items() if value is not ...}
        line = json.dumps(given).encode()
    path.write_bytes(content + line + b"\n" + content)
    for read in (read_rows, lambda path: resume(path, RUN)):
        with pytest.raises(ValueError, match=re.escape(f"{path}, line 6: ")) as caught:
            read(path)
        assert named in str(caught.value)


def test_a_line_that_is_cut_off_is_an_error_unless_it_may_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(write(path, BLOCKS)[:-1])
    with pytest.raises(ValueError, match="line 5: the line is cut off"):
        read_rows(path)
    assert read_rows(path, truncated="drop") == [row for b in BLOCKS.values() for row in b][:-1]
