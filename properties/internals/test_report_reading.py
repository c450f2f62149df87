"""Laws of `reports.reading`: every row of a whole block counts once, and every loss has a word."""

from __future__ import annotations

import codecs
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from properties.internals.measured import RUN, rows_of, run_rows, write_rows
from reports.reading import Items, read_items
from wise.measures.rows import read_rows

pytestmark = pytest.mark.internals


def told(items: Items) -> str:
    return "\n".join(notice.text for notice in items.notices)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", run_rows())


def test_the_items_are_the_rows_of_the_file(whole: Path) -> None:
    items, rows = read_items([whole]), read_rows(whole)
    for name in ("protocol", "when", "metric", "kind", "edit_id", "cluster", "prompt", "answer"):
        assert list(items.table[name]) == [getattr(row, name) for row in rows], name
    for name in ("t", "age", "score"):
        assert list(items.table[name]) == [getattr(row, name) for row in rows], name
    assert items.runs.iloc[0].tolist() == [*RUN, 1]
    assert items.notices == ()
    assert (items.sources[0].n_rows, items.sources[0].n_bytes) == (len(rows), whole.stat().st_size)


def test_the_items_have_the_aliases_of_their_rows(tmp_path: Path) -> None:
    one, *rest = rows_of("reliability", "", [1.0, 1.0, 0.0])
    path = write_rows(tmp_path / "rows.jsonl", [replace(one, aliases=("a", "b" * 900)), *rest])
    short, long = read_items([path]).table.aliases[0]
    assert (short, len(long) < 900) == ("a", True)
    assert list(read_items([path]).table.aliases[1:]) == [(), ()]


def test_an_empty_file_has_no_items_and_a_word(tmp_path: Path) -> None:
    items = read_items([write_rows(tmp_path / "empty.jsonl", [])])
    assert len(items.table) == len(items.runs) == 0
    assert told(items) == "holds no rows"


def test_a_single_row_is_an_item(tmp_path: Path) -> None:
    items = read_items([write_rows(tmp_path / "one.jsonl", rows_of("reliability", "", [1.0]))])
    assert len(items.table) == 1
    assert not items.notices


def test_a_file_that_is_cut_off_loses_the_block_that_may_lack_rows(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes()[:-30])
    items = read_items([whole])
    lost = items.table[(items.table.t == 10) & (items.table.protocol == "forced")]
    assert lost.empty
    assert len(items.table) == sum(row.block != "checkpoint 10 forced" for row in run_rows())
    assert "cut off" in told(items)
    assert "checkpoint 10 forced may lack rows and is left out" in told(items)


def test_a_bad_line_takes_with_it_the_blocks_that_it_may_be_of(tmp_path: Path) -> None:
    first, second = (rows_of("reliability", "", [1.0] * 3, t=t) for t in (3, 4))
    third = rows_of("reliability", "", [1.0] * 3, t=5)
    path = write_rows(tmp_path / "rows.jsonl", [*first, *second, *third])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], '{"editor": "wi', "se\n", *lines[3:]]))
    items = read_items([path])
    assert list(items.table.t) == [5, 5, 5]
    assert "line 4 is left out: it is not JSON" in told(items)
    assert "checkpoint 3 free and checkpoint 4 free may lack rows" in told(items)


@pytest.mark.parametrize("again", ["in one file", "in two files"])
def test_a_run_that_stands_twice_counts_once(again: str, whole: Path, tmp_path: Path) -> None:
    once = read_items([whole])
    other = tmp_path / "again.jsonl"
    content = whole.read_bytes()
    other.write_bytes(content * 2 if again == "in one file" else content)
    twice = read_items([other] if again == "in one file" else [whole, other])
    assert twice.table.equals(once.table)
    assert f"repeats {len(once.table)} rows" in told(twice)


def test_a_run_that_goes_on_in_another_file_is_one_run(tmp_path: Path) -> None:
    rows = run_rows()
    half = next(i for i, row in enumerate(rows) if row.block == "checkpoint 10 free")
    paths = [
        write_rows(tmp_path / f"{name}.jsonl", part)
        for name, part in (("first", rows[:half]), ("second", rows[half:]))
    ]
    items = read_items(paths)
    assert (len(items.table), len(items.runs)) == (len(rows), 1)
    assert not items.notices


@pytest.mark.parametrize("joined", [False, True])
def test_two_versions_of_a_run_are_kept_apart(joined: bool, whole: Path, tmp_path: Path) -> None:
    changed = [
        replace(row, answer="else", score=0.0) if row.metric == "reliability" else row
        for row in run_rows()
    ]
    other = write_rows(tmp_path / "other.jsonl", changed)
    paths = [whole, other]
    if joined:
        other.write_bytes(whole.read_bytes() + other.read_bytes())
        paths = [other]
    items = read_items(paths)
    assert list(items.runs.version) == [1, 2]
    reliability = items.table[items.table.metric == "reliability"]
    assert reliability[reliability.run == 1].score.eq(0).all()
    assert reliability[reliability.run == 0].score.mean() > 0.9
    assert "kept apart, as version 2" in told(items)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"colour": "red"}, "has colour"),
        ({"metric": "charm"}, "Row.metric='charm' is none of"),
        ({"score": 2}, "Row.score=2"),
    ],
)
def test_a_row_of_another_version_is_named(
    change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    values = asdict(rows_of("reliability", "", [1.0])[0])
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(values | change) + "\n")
    items = read_items([path])
    assert items.table.empty
    assert word in told(items)


def test_a_row_without_a_needed_field_is_of_another_version(tmp_path: Path) -> None:
    values = asdict(rows_of("reliability", "", [1.0])[0])
    del values["cluster"]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(values) + "\n")
    assert "of another version: it lacks cluster" in told(read_items([path]))


@pytest.mark.parametrize("content", [b"\x00\xff" * 2000, b"not rows\n" * 1000, b"[1]\n" * 1000])
def test_what_is_no_rows_file_is_left_out_whole(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    good = write_rows(tmp_path / "good.jsonl", run_rows()).read_bytes()
    path.write_bytes(good + content)
    items = read_items([path])
    assert len(items.notices) <= 25
    if content.count(b"\n") > 100:
        assert items.table.empty
        assert "all of it is left out" in told(items)


def test_long_texts_are_held_short_and_stay_different(tmp_path: Path) -> None:
    row = rows_of("reliability", "", [1.0])[0]
    rows = [replace(row, prompt="x" * 10_000 + end) for end in "ab"]
    items = read_items([write_rows(tmp_path / "rows.jsonl", rows)])
    first, second = items.table.prompt
    assert len(first) < 600
    assert first != second
    assert "10,001 characters" in first


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    rows = rows_of("reliability", "", [1.0, 0.0])
    path = write_rows(tmp_path / "rows.jsonl", rows)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    items = read_items([path])
    assert (len(items.table), items.notices) == (len(rows), ())
