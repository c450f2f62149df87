"""Rows: one measured item each, kept as append-only JSON lines that survive a kill at any moment.

A file holds one run: one editor, model, stream and seed. It is written block by block, a block
being the unit of work that is done again when it was cut off. Nothing in it tells the time, so that
one command gives the same bytes twice. Files of several runs may be joined to be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self

from wise.measures.row import CORNERS, Row, Run, corner_of

__all__ = ["CORNERS", "Row", "RowWriter", "Run", "corner_of", "read_rows", "resume"]

# Ends of lines to str.splitlines and to editors, but not to JSON.
_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})


def _to_json(values: Mapping[str, object]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return text.translate(_LINE_ENDS).encode()


class RowWriter:
    """Appends whole blocks to a file of rows; a context manager.

    `blocks` are those that the file holds already, as `resume` returned them; a file that holds
    rows is not opened without. Raises FileExistsError.
    """

    def __init__(self, path: Path | str, blocks: Collection[str] = ()) -> None:
        self._path = Path(path)
        self._written = set(blocks)
        self._run: Run | None = None
        self._file = self._path.open("ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        if self._size and not blocks:
            self._file.close()
            raise FileExistsError(f"{path} holds rows already; resume it or name another file")

    def write_block(self, rows: Sequence[Row]) -> None:
        """Append the rows of one block by one write, and have them on the disk on return.

        Raises ValueError where `rows` are not one block of one run, or a block that the file holds;
        RuntimeError where another process has written to the file; OSError where it is not
        written whole, the file then being as it was.
        """
        if not rows:
            raise ValueError("rows=[] is no block; what could not be measured is a row too")
        run, block = self._run or rows[0].run, rows[0].block
        if block in self._written:
            raise ValueError(f"block={block!r} is in {self._path} already; a block is written once")
        for row in rows:
            _check_run(row, run, str(self._path))
            if row.block != block:
                raise ValueError(f"Row.block={row.block!r} is written with block {block!r}")
        if os.fstat(self._file.fileno()).st_size != self._size:
            raise RuntimeError(f"{self._path} was changed by another process; a run has one writer")
        lines = b"".join(_to_json(asdict(row)) + b"\n" for row in rows)
        n_written = self._file.write(lines)
        if n_written != len(lines):
            self._file.truncate(self._size)
            raise OSError(f"{self._path} took {n_written} of {len(lines)} bytes of block {block!r}")
        os.fsync(self._file.fileno())
        self._size += len(lines)
        self._run = run
        self._written.add(block)

    def close(self) -> None:
        """Close the file; no row is held back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _from_line(line: bytes, place: str) -> Row:
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: the line is not a JSON object in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{place}: {line[:40]!r} is not a JSON object")
    try:
        return Row(**values)
    except (TypeError, ValueError) as error:  # TypeError: a field is missing, or is none of Row's
        raise ValueError(f"{place}: {error}") from error


def _rows_and_offsets(content: bytes, path: Path) -> Iterator[tuple[Row, str, int]]:
    """Each complete row with its place, for errors, and the byte at which its line starts."""
    offset = 0
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        place = f"{path}, line {number}"
        yield _from_line(line, place), place, offset
        offset += len(line) + 1


def read_rows(path: Path | str, *, truncated: Literal["raise", "drop"] = "raise") -> list[Row]:
    """All rows of a file, of one run or of several.

    Raises ValueError naming file, line and field; so it does for a last line without its end,
    unless truncated is "drop".
    """
    content = Path(path).read_bytes()
    if truncated != "drop" and content and not content.endswith(b"\n"):
        line = content.count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: the line is cut off; truncated='drop' drops it")
    return [row for row, _, _ in _rows_and_offsets(content, Path(path))]


def _check_run(row: Row, run: Run, place: str) -> None:
    for field, found, expected in zip(Run._fields, row.run, run, strict=True):
        if found != expected:
            raise ValueError(f"{place}: {field}={found!r} is of another run; here is {expected!r}")


def resume(path: Path | str, run: Run) -> list[str]:
    """Drop the last block of a run that was cut off; the names of those before it, in order.

    The last block may lack rows, and nothing in it tells, so it always goes, with a line that is
    cut off; the file is truncated in place. No file is no block. Raises ValueError, the file left
    as it is, for a bad line, a row of another run (naming the field) or a block that stands twice.
    """
    path = Path(path)
    if not path.exists():
        return []
    content = path.read_bytes()
    starts: dict[str, int] = {}
    for row, place, offset in _rows_and_offsets(content, path):
        _check_run(row, run, place)
        if row.block in starts and row.block != next(reversed(starts)):
            raise ValueError(f"{place}: block={row.block!r} stands twice; a file holds one run")
        starts.setdefault(row.block, offset)
    cut_off = content[content.rfind(b"\n") + 1 :]
    head = _to_json(run._asdict()).removesuffix(b"}") + b", "
    if not head.startswith(cut_off[: len(head)]):
        line = content.count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: {cut_off[:40]!r} does not start a row of {run}")
    os.truncate(path, starts.popitem()[1] if starts else 0)
    return list(starts)
