"""What a file is that is not JSON, told by its first bytes, and how to get at its records."""

from __future__ import annotations

import re

__all__ = ["LONGEST_SIGNATURE", "kind_of"]

LONGEST_SIGNATURE = 4096  # bytes
_AS_LINES = (
    "pandas.{}(FILE).to_json('facts.jsonl', orient='records', lines=True) writes its records"
)
_COMPRESSED = "is compressed by {}: unpack it, or compress it by gzip"
_UTF_16 = "is UTF-16: save it as UTF-8"
_KINDS = (
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the data: `git lfs pull` fetches it",
    ),
    (b"/annex/objects/", "is a pointer of git-annex, not the data: `git annex get` fetches it"),
    (b"PAR1", f"is Parquet: {_AS_LINES.format('read_parquet')}"),
    (b"ARROW1", f"is Arrow: {_AS_LINES.format('read_feather')}"),
    (b"PK\x03\x04", "is a zip archive: unpack it"),
    (b"\x1f\x8b", "is compressed by gzip twice: unpack it once"),
    (b"BZh", _COMPRESSED.format("bzip2")),
    (b"\xfd7zXZ\x00", _COMPRESSED.format("xz")),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED.format("zstd")),
    (b"\xff\xfe\0\0", "is UTF-32: save it as UTF-8"),
    *((start, _UTF_16) for start in (b"\xff\xfe", b"\xfe\xff", b"{\0", b"[\0", b"\0{", b"\0[")),
    *((bytes([0x80, n]), "is a pickle, which can run code and is not read") for n in range(2, 6)),
)
_PAGES = (b"<!doctype html", b"<html")
_TAR, _AT = b"ustar", 257  # its mark, and where that is
_TABLES = {",": "read_csv", "\t": "read_table"}
_COLUMN = re.compile(r'"?[\w .()/-]{1,60}"?')


def kind_of(start: bytes) -> str:
    """A predicate of the file that starts so, such as "is a zip archive: unpack it"; "" if unknown.

    `start` has LONGEST_SIGNATURE bytes, or all.
    """
    for signature, told in _KINDS:
        if start.startswith(signature):
            return told
    if start.lstrip().lower().startswith(_PAGES):
        return "is a web page, not the data that a link on it leads to"
    if start[_AT:].startswith(_TAR):
        return "is a tar archive: unpack it"
    if b"\0" in start:
        return "is binary: it holds NUL bytes, which no text has"
    return _table(start.decode(errors="replace").splitlines())


def _table(lines: list[str]) -> str:
    """A table has its columns' names in the first line, and as many cells in the next."""
    for mark, reader in _TABLES.items():
        cells = lines[0].split(mark) if len(lines) > 1 else []
        is_table = len(cells) > 1 and lines[1].count(mark) >= len(cells) - 1
        if is_table and all(map(_COLUMN.fullmatch, cells)):
            return f"is a table of {', '.join(cells)}: {_AS_LINES.format(reader)}"
    return ""
