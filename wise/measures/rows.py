"""Rows: one measured item each, kept in a ledger that survives a kill at any moment.

A file holds one run: one editor, model, stream and seed. It is written block by block, a block
being the unit of work that is done again when it was cut off. Nothing in it tells the time, so that
one command gives the same bytes twice. Files of several runs may be joined to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self

from wise.jobs.ledger import Ledger, Record, check_claim, read_records
from wise.measures.row import Row, Run

__all__ = ["Row", "RowWriter", "Run", "read_rows"]


class RowWriter:
    """Appends whole blocks of `run` to its file; a context manager.

    To `resume` a file is to drop its last block, which may lack rows without anything telling so;
    `blocks` names those before it, in order. Raises, the file left as it is, FileExistsError for
    one that holds rows and is not resumed; ValueError for a bad line, a row of another run (naming
    the field) or a block that stands twice; RuntimeError where another process has it open.
    """

    def __init__(self, path: Path | str, run: Run, *, resume: bool = False) -> None:
        self._path, self._run, self.blocks = Path(path), run, list[str]()
        if not resume and self._path.exists() and self._path.stat().st_size:
            raise FileExistsError(f"{path} holds rows already; resume it or name another file")
        self._ledger = Ledger(path, claim=run._asdict(), what="run", keep=self._whole_blocks)

    def _whole_blocks(self, records: list[Record]) -> int:
        """How many records stand before the last block."""
        starts: dict[str, int] = {}
        for number, record in enumerate(records):
            row = _row(record)
            check_claim(row.run._asdict(), self._run._asdict(), what="run", place=record.place)
            if row.block in starts and row.block != next(reversed(starts)):
                raise ValueError(
                    f"{record.place}: block={row.block!r} stands twice; a file holds one run"
                )
            starts.setdefault(row.block, number)
        n_kept = starts.popitem()[1] if starts else 0
        self.blocks = list(starts)
        return n_kept

    def write_block(self, rows: Sequence[Row]) -> None:
        """Append the rows of one block by one write, and have them on the disk on return.

        Raises ValueError where `rows` are not one block of the run, or a block that the file holds;
        OSError where it is not written whole, the file then being as it was.
        """
        if not rows:
            raise ValueError("rows=[] is no block; what could not be measured is a row too")
        block = rows[0].block
        if block in self.blocks:
            raise ValueError(f"block={block!r} is in {self._path} already; a block is written once")
        for row in rows:
            check_claim(row.run._asdict(), self._run._asdict(), what="run", place=self._path)
            if row.block != block:
                raise ValueError(f"Row.block={row.block!r} is written with block {block!r}")
        self._ledger.append(*map(asdict, rows))
        self.blocks.append(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ledger.close()


def read_rows(path: Path | str, *, truncated: Literal["raise", "drop"] = "raise") -> list[Row]:
    """All rows of a file, of one run or of several.

    Raises ValueError naming file, line and field; so it does for a last line without its end,
    unless truncated is "drop".
    """
    return [_row(record) for record in read_records(path, truncated=truncated)]


def _row(record: Record) -> Row:
    try:
        return Row(**record.values)
    except (TypeError, ValueError) as error:  # TypeError: a field is missing, or is none of Row's
        raise ValueError(f"{record.place}: {error}") from error
