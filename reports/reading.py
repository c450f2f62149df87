"""Rows files as one table of items, and a notice about everything that is wrong in them.

The unit is the block, as rows are written: a block that may be incomplete is left out, and a
repeated block counts once. The same run with other rows is another version, kept apart.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.csv_text import counted, listed, shorten
from wise.measures.rows import Row, Run

__all__ = ["Items", "Notice", "Source", "check_has_rows", "read_items"]

_TEXTS = ("protocol", "when", "metric", "kind", "edit_id", "cluster", "excluded")
_LONG_TEXTS = ("prompt", "expected", "answer")
_MOST_KEPT = 400  # characters of a text; the rest is replaced by its length and a digest
_MOST_BAD = 20  # bad lines, from which on a file is not taken for rows
_FIELDS = {field.name for field in fields(Row)}
_NEEDED = {field.name for field in fields(Row) if field.default is MISSING}


class Notice(NamedTuple):
    """A remark on a file of rows for the reader."""

    source: str
    text: str


class Source(NamedTuple):
    """A file that was read."""

    name: str
    sha256: str
    n_bytes: int
    n_rows: int


@dataclass(frozen=True)
class Items:
    """All measured items, one line of `table` each, and their runs.

    `runs` has a line for each run and version, and `table.run` is its index. The other columns of
    `table` are Row's, less the run's own and the block.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    sources: tuple[Source, ...]
    notices: tuple[Notice, ...]


@dataclass(slots=True)
class _Block:
    """A block of a file; `pass_` counts how often its run began again there."""

    run: Run
    name: str
    source: str
    pass_: tuple[int, int]
    digest: int = 0
    n_rows: int = 0
    is_whole: bool = True


class _Columns:
    """The rows of all files, column by column, with each text stored once."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {name: [] for name in (*_TEXTS, *_LONG_TEXTS)}
        self.aliases: list[tuple[str, ...]] = []
        self.whole = {name: array("q") for name in ("t", "age", "block")}
        self.real = {name: array("d") for name in ("score", "value")}
        self._shared: dict[str, str] = {}

    def add(self, row: Row, block: int) -> None:
        share = self._shared.setdefault
        for name in _TEXTS:
            text = getattr(row, name)
            self.texts[name].append(share(text, text))
        for name in _LONG_TEXTS:
            text = _kept(getattr(row, name))
            self.texts[name].append(share(text, text))
        self.aliases.append(tuple(map(_kept, row.aliases)))
        for name, number in (("t", row.t), ("age", row.age), ("block", block)):
            self.whole[name].append(number)
        for name, real in (("score", row.score), ("value", row.value)):
            self.real[name].append(np.nan if real is None else real)

    def table(self) -> pd.DataFrame:
        columns: dict[str, object] = {}
        for name in list(self.texts):
            codes, texts = pd.factorize(np.array(self.texts.pop(name), dtype=object))
            columns[name] = pd.Categorical.from_codes(codes, texts)
        columns["aliases"] = pd.Series(self.aliases, dtype=object)
        numbers = {**self.whole, **self.real}
        return pd.DataFrame(columns | {name: np.array(each) for name, each in numbers.items()})


def _kept(text: str) -> str:
    if len(text) <= _MOST_KEPT:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{shorten(text, _MOST_KEPT)} [sha256 {digest[:12]}]"


def read_items(paths: Sequence[Path | str]) -> Items:
    """All rows of `paths`, in their order; only a file that cannot be opened raises (OSError)."""
    columns, blocks = _Columns(), list[_Block]()
    notices, sources = list[Notice](), list[Source]()
    for index, path in enumerate(map(Path, paths)):
        start = len(blocks)
        sources.append(_read(path, index, columns, blocks, notices))
        dropped = [block.name for block in blocks[start:] if not block.is_whole]
        if dropped:
            text = f"{listed(dropped)} may lack rows and {'is' if len(dropped) == 1 else 'are'}"
            notices.append(Notice(path.name, f"{text} left out"))
    versions = _versions(blocks, notices)
    names = list(dict.fromkeys(each for each in versions if each))
    places = {each: index for index, each in enumerate(names)}
    run_of_block = np.array([places[each] if each else -1 for each in versions], dtype=np.int64)
    table = columns.table()
    table.insert(0, "run", run_of_block[table.pop("block")] if len(table) else table.pop("block"))
    runs = pd.DataFrame(
        [(*run, version) for run, version in names], columns=[*Run._fields, "version"]
    )
    return Items(table[table.run >= 0].reset_index(drop=True), runs, tuple(sources), tuple(notices))


def check_has_rows(path: Path) -> None:
    """Raise ValueError, saying what is wrong with its first line, where no line is a row."""
    first = "it is empty"
    for number, line in enumerate(_lines(path), start=1):
        row = _row(line)
        if isinstance(row, Row):
            return
        first = f"line 1: {row}" if number == 1 else first
        if number > _MOST_BAD:
            break
    raise ValueError(f"{path} holds no rows: {first}")


def _read(
    path: Path, index: int, columns: _Columns, blocks: list[_Block], notices: list[Notice]
) -> Source:
    digest, n_rows, n_bad = hashlib.sha256(), 0, 0
    passes: dict[Run, tuple[int, set[str]]] = {}
    block: _Block | None = None
    follows_bad = False
    first = len(blocks)
    for number, line in enumerate(_lines(path), start=1):
        digest.update(line)
        if n_bad > _MOST_BAD:
            continue
        row = _row(line)
        if isinstance(row, str):
            notices.append(Notice(path.name, f"line {number} is left out: {row}"))
            n_bad, follows_bad = n_bad + 1, True
            if block:
                block.is_whole = False
            continue
        if block is None or row.block != block.name or row.run != block.run:
            block = _Block(row.run, row.block, path.name, (index, _pass(row, passes)))
            blocks.append(block)
        columns.add(row, len(blocks) - 1)
        block.digest, block.n_rows = hash((block.digest, row)), block.n_rows + 1
        block.is_whole &= not follows_bad
        n_rows, follows_bad = n_rows + 1, False
    if n_bad > _MOST_BAD:
        notices.append(Notice(path.name, "has so many bad lines that all of it is left out"))
        for block in blocks[first:]:
            block.is_whole = False
    elif not n_rows:
        notices.append(Notice(path.name, "holds no rows"))
    return Source(path.name, digest.hexdigest(), path.stat().st_size, n_rows)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _row(line: bytes) -> Row | str:
    """The row of a line, or what is wrong with the line."""
    if not line.endswith(b"\n"):
        return "it is cut off"
    try:
        values = json.loads(line.decode("utf-8-sig"))  # some editors write a mark
    except (ValueError, RecursionError) as error:
        return f"it is not JSON in UTF-8 ({error})"
    if not isinstance(values, dict):
        return "it is not a JSON object"
    if not _NEEDED <= values.keys() <= _FIELDS:
        unknown, missing = sorted(values.keys() - _FIELDS), sorted(_NEEDED - values.keys())
        differs = [f"has {listed(unknown)}"] * bool(unknown)
        differs += [f"lacks {listed(missing)}"] * bool(missing)
        return f"its fields are of another version: it {' and '.join(differs)}"
    try:
        return Row(**values)
    except (TypeError, ValueError) as error:
        return shorten(str(error), 200)


def _pass(row: Row, passes: dict[Run, tuple[int, set[str]]]) -> int:
    """How often the row's run has begun again, seen by a repeated block."""
    count, seen = passes.get(row.run, (0, set()))
    if row.block in seen:
        count, seen = count + 1, set()
    seen.add(row.block)
    passes[row.run] = count, seen
    return count


def _versions(blocks: Sequence[_Block], notices: list[Notice]) -> list[tuple[Run, int] | None]:
    """The run and version that each block counts for; None where it does not count."""
    found: list[tuple[Run, int] | None] = [None] * len(blocks)
    passes: dict[tuple[Run, tuple[int, int]], list[int]] = {}
    for index, block in enumerate(blocks):
        if block.is_whole:
            passes.setdefault((block.run, block.pass_), []).append(index)
    held: dict[Run, list[dict[str, int]]] = {}
    for (run, _), indices in passes.items():
        versions = held.setdefault(run, [])
        fits = (
            number
            for number, version in enumerate(versions)
            if all(
                version.get(blocks[i].name, blocks[i].digest) == blocks[i].digest for i in indices
            )
        )
        number = next(fits, len(versions))
        if number == len(versions):
            versions.append({})
            if number:
                text = (
                    f"holds other rows of the run {_name(run)} than were read before; "
                    f"they are kept apart, as version {number + 1}"
                )
                notices.append(Notice(blocks[indices[0]].source, text))
        again = [i for i in indices if blocks[i].name in versions[number]]
        if again:
            n_rows = counted(sum(blocks[i].n_rows for i in again), "row")
            text = f"repeats {n_rows} of the run {_name(run)}, which count once"
            notices.append(Notice(blocks[indices[0]].source, text))
        for index in set(indices) - set(again):
            versions[number][blocks[index].name] = blocks[index].digest
            found[index] = run, number + 1
    return found


def _name(run: Run) -> str:
    return shorten(f"{run.editor} on {run.model}, seed {run.seed}", 120)
