"""Ledgers: append-only files of JSON lines that survive a kill at any moment.

What is appended is on disk when the call returns. A kill costs at most the last line, which is
ignored where it was cut off. Standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Self
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Ledger", "Record", "check_claim", "forget", "json_digest", "read_records", "write_whole",
]  # fmt: skip

# Line ends for str.splitlines and text editors but not for JSON; and what UTF-8 cannot encode.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


class Record(NamedTuple):
    """One line of a ledger; `place` names its file and line, `end` is the byte after it."""

    values: dict[str, Any]
    place: str
    end: int


class Ledger:
    """A ledger that is open for its one writer; a context manager.

    `claim` identifies the job of the file: the fields with which its first record begins. `keep`
    takes the records found and says how many stay, in `records`, or raises ValueError where they
    are not the caller's. An error leaves the file as it was: ValueError for a line that is not a
    JSON object and for the claim of another job (`what` it is), naming the field; RuntimeError
    where another process has the file open (not detected on Windows).
    """

    def __init__(
        self,
        path: Path | str,
        *,
        claim: Mapping[str, object] | None = None,
        what: str = "job",
        keep: Callable[[list[Record]], int] = len,
    ) -> None:
        self.path = Path(path)
        self._file: BinaryIO = self.path.open("a+b", buffering=0)
        try:
            _lock(self._file, self.path)
            self._file.seek(0)
            found, rest = _parsed(self._file.read(), self.path)
            _check_start(found, rest, claim or {}, what, self.path)
            self.records = found[: keep(found)]
            self._size = self.records[-1].end if self.records else 0
            self._file.truncate(self._size)
        except BaseException:
            self.close()
            raise

    def append(self, *records: Mapping[str, object]) -> None:
        """Write `records` in one call. Raises OSError, with the file as before."""
        lines = b"".join(map(_encoded, records))
        n_written = self._file.write(lines)
        if n_written != len(lines):
            self._file.truncate(self._size)
            raise OSError(f"{self.path} took {n_written} of {len(lines)} bytes, and was restored")
        os.fsync(self._file.fileno())
        self._size += len(lines)

    def close(self) -> None:
        """Close the file; everything is written already."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_records(
    path: Path | str, *, truncated: Literal["raise", "drop"] = "raise"
) -> list[Record]:
    """All records of a file.

    Raises ValueError naming file and line, also where the last line is cut off, unless truncated is
    "drop".
    """
    records, rest = _parsed(Path(path).read_bytes(), Path(path))
    if rest and truncated != "drop":
        place = f"{path}, line {len(records) + 1}"
        raise ValueError(f"{place}: the line is cut off; truncated='drop' drops it")
    return records


def forget(path: Path, is_forgotten: Callable[[Mapping[str, Any]], bool]) -> None:
    """Rewrite the file, whole or not at all, without some records: their work is open again."""
    records = [record.values for record in read_records(path, truncated="drop")]
    kept = [record for record in records if not is_forgotten(record)]
    if len(kept) < len(records):
        write_whole(path, b"".join(map(_encoded, kept)))


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, once all of it is on the disk."""
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def json_digest(value: object) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_claim(
    found: Mapping[str, object], claim: Mapping[str, object], *, what: str, place: object
) -> None:
    """Raise ValueError naming the first field in which `found` is another job's than `claim`."""
    for name, value in claim.items():
        if found.get(name) != value:
            raise ValueError(
                f"{place}: {name}={found.get(name)!r} belongs to another {what}; "
                f"this one has {value!r}"
            )


def _check_start(
    records: Sequence[Record], rest: bytes, claim: Mapping[str, object], what: str, path: Path
) -> None:
    """The first record, whole or cut off, begins with `claim`."""
    head = _encoded(claim)
    if records:
        check_claim(records[0].values, json.loads(head), what=what, place=records[0].place)
        return
    starts = [head.removesuffix(b"}\n") + end for end in (b"}", b", ")]
    if claim and not any(rest[: len(start)] == start[: len(rest)] for start in starts):
        raise ValueError(f"{path}, line 1: {rest[:40]!r} does not start a {what} of {dict(claim)}")


def _lock(file: BinaryIO, path: Path) -> None:
    """Hold `file` until it is closed or the process ends, however it ends."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another process is writing to {path}") from error


def _encoded(record: Mapping[str, object]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"


def _parsed(content: bytes, path: Path) -> tuple[list[Record], bytes]:
    """The whole lines, and what follows the last of them."""
    *whole, rest = content.split(b"\n")
    records, end = [], 0
    for number, line in enumerate(whole, start=1):
        place = f"{path}, line {number}"
        end += len(line) + 1
        records.append(Record(_values(line, place), place, end))
    return records, rest


def _values(line: bytes, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: the line is not a JSON object in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{place}: {line[:40]!r} is not a JSON object")
    return values
