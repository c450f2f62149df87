"""The JSON objects of a file, one after the other, each with its line and number.

A file is an array of objects, or one object, or holds one a line (blank lines are skipped); gzip
or plain; UTF-8 with or without a byte-order mark; its lines end in LF, CRLF or CR. Lines count from
1, records from 0. Stricter than `json`: constants such as NaN, a repeated key in one object and a
lone surrogate are errors. A number with a fraction, an exponent or thousands of digits is a
`Numeral`. No more of a file is held than its longest record takes.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

from wise.evaluation.fields import Field, Numeral, RecordError, shown_key
from wise.evaluation.file_kinds import LONGEST_SIGNATURE, kind_of

__all__ = ["read_objects"]

_BLOCK = 1 << 20  # bytes
_GZIP = b"\x1f\x8b"
_LONGEST_CHARACTER = 4  # bytes
_BLANKS = b" \t\r\n"
_JSON_BLANKS = re.compile(r"[ \t\r\n]*")
# A record is searched only where it may hold what is not JSON: constants, lone surrogates.
_SUSPECT = re.compile(r"NaN|Infinity|\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LAST_COMMA = re.compile(r",[ \t\r\n]*\Z")
_NOT_JSON = "it is not JSON"
_TOO_DEEP = "it is nested too deep"
_MOST_DIGITS = 4000  # of a whole number, below what Python reads
_SHOWN = 40  # bytes of a file that is neither
_NEARLY = 20  # characters before the end of what is read, where an error may be a cut word


def _stop(error: RecordError) -> None:
    raise error


def read_objects(path: Path, refuse: Callable[[RecordError], None] = _stop) -> Iterator[Field]:
    """The objects of `path`. `refuse` takes the error of a bad record; where it returns, the next
    record follows.

    Raises ValueError naming file and line where nothing can follow: in an array after text that is
    not JSON or nested too deep, in a file that is empty, damaged or starts otherwise; OSError
    naming a file that cannot be read, and why.
    """
    blocks = _with_line_feeds(_blocks(path))
    head = b""
    for block in blocks:
        head += block
        if len(head.removeprefix(codecs.BOM_UTF8).strip()) >= _LONGEST_CHARACTER:
            break
    text = head.removeprefix(codecs.BOM_UTF8)
    start = text.lstrip(_BLANKS)
    line = 1 + text.count(b"\n", 0, len(text) - len(start))
    place = f"{path}, line {line}"
    if not start.strip():
        raise ValueError(f"{path}, line 1: the file is empty; it must hold a record")
    is_text = b"\0" not in start[:_LONGEST_CHARACTER]
    if is_text and start[:1] == b"[":
        return _array(_Window(path, chain([text], blocks)), path, refuse)
    if is_text and start[:1] == b"{":
        return _lines(chain([text], blocks), path, refuse)
    needed = "it must hold a JSON array of objects, or one JSON object a line"
    if kind := kind_of(_first_bytes(path)):
        raise ValueError(f"{path}, line 1: the file {kind}; {needed}")
    try:
        start[:_LONGEST_CHARACTER].decode()
    except UnicodeDecodeError as error:
        if error.start == 0:
            raise ValueError(f"{place}: {_not_utf8(error)}") from error
    raise ValueError(f"{place}: the file starts with {_opening(start)!r}; {needed}")


def _first_bytes(path: Path) -> bytes:
    found = b""
    for block in _blocks(path):
        found += block
        if len(found) >= LONGEST_SIGNATURE:
            break
    return found.removeprefix(codecs.BOM_UTF8)[:LONGEST_SIGNATURE]


def _opening(text: bytes) -> str:
    """The beginning of the first line, as a text."""
    return text[:_SHOWN].partition(b"\n")[0].decode(errors="ignore").rstrip()


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as plain:
            is_zipped = plain.read(len(_GZIP)) == _GZIP
            plain.seek(0)
            file = gzip.GzipFile(fileobj=plain) if is_zipped else plain
            while block := file.read(_BLOCK):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the gzip file is damaged: {error}") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from error


def _with_line_feeds(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks, with a line feed for each end of a line: no value in JSON holds one as it is."""
    held = b""
    for block in blocks:
        text = held + block
        held = text[-1:] if text.endswith(b"\r") else b""  # a line feed may follow
        if text := text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n"):
            yield text
    if held:
        yield b"\n"


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"


class _Repeats:
    """A decoder of JSON, and a key that stands more than once in one object of the last value, with
    how often it does."""

    def __init__(self) -> None:
        self.repeated: tuple[str, int] | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._members, parse_float=Numeral, parse_int=_whole,
            parse_constant=Numeral,
        )  # fmt: skip

    def _members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            [self.repeated] = Counter(key for key, _ in pairs).most_common(1)
        return members

    def decode(self, text: str, start: int) -> tuple[Any, int]:
        self.repeated = None
        return self._decoder.raw_decode(text, start)


def _whole(written: str) -> float:
    """A whole number; where it is longer than Python takes one for, as it is written."""
    return int(written) if len(written) <= _MOST_DIGITS else Numeral(written)


def _checked(value: Any, repeated: tuple[str, int] | None, source: str, start: int, end: int,
             place: str) -> Field:  # fmt: skip
    """The record that `source` holds from `start` to `end`."""
    if repeated is not None:
        key, n = repeated
        what, times = f"the key {shown_key(key)!r} occurs", "twice" if n == 2 else f"{n} times"
        told = f"the record is not JSON: {what} {times} in one object"
        raise RecordError(place, told, f"{what} more than once in one object")
    record = Field(value, place)
    record.members()
    if _SUSPECT.search(source, start, end):
        for leaf in record.leaves():
            if isinstance(leaf.value, float) and not math.isfinite(leaf.value):
                raise leaf.error("JSON, in which every number is finite")
            if isinstance(leaf.value, str) and _SURROGATE.search(leaf.value):
                raise leaf.error("Unicode text: it holds a lone surrogate")
    return record


class _Window:
    """The text of a file from `at` on, read as far as it is needed; `line` is that of `at`."""

    def __init__(self, path: Path, blocks: Iterable[bytes]) -> None:
        self.text, self.at, self.line = "", 0, 1
        self._path, self._blocks = path, iter(blocks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._n_read, self._n_before = 0, 0  # lines; characters of this line before the text

    def more(self) -> bool:
        """Read at least as much as there is, once more; false at the end of the file."""
        wanted, parts, n_new = len(self.text) - self.at, [self.text[self.at :]], 0
        for block in chain(self._blocks, [b""]):
            parts.append(self._decoded(block))
            n_new += len(parts[-1])
            if n_new > wanted:
                break
        if not n_new:
            return False
        line_start = self.text.rfind("\n", 0, self.at) + 1
        self._n_before = self.at - line_start + (0 if line_start else self._n_before)
        self.text, self.at = "".join(parts), 0
        return True

    def _decoded(self, block: bytes) -> str:
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = 1 + self._n_read + error.object.count(b"\n", 0, error.start)
            raise ValueError(f"{self._path}, line {line}: {_not_utf8(error)}") from error
        self._n_read += text.count("\n")
        return text

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def next_character(self) -> str:
        """Moves to the next character that is not blank, and gives it; "" at the end."""
        while True:
            found = _JSON_BLANKS.match(self.text, self.at)
            self.move(found.end() if found else self.at)
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def where(self, at: int) -> str:
        line = self.line + self.text.count("\n", self.at, at)
        start = self.text.rfind("\n", 0, at) + 1
        column = 1 + at - start + (0 if start else self._n_before)
        return f"at line {line} column {column}"

    def is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may be that the value goes on behind what is read."""
        return self.ends_before(error) or error.pos > len(self.text) - _NEARLY

    def ends_before(self, error: json.JSONDecodeError) -> bool:
        """Whether what is read ends where the value does not."""
        is_open = error.msg.startswith("Unterminated string")
        return is_open or error.pos >= len(self.text.rstrip())


def _array(window: _Window, path: Path, refuse: Callable[[RecordError], None]) -> Iterator[Field]:
    window.next_character()
    line = window.line
    window.move(window.at + 1)  # behind the [
    if window.next_character() == "]":
        raise ValueError(f"{path}, line {line}: the array is empty; it must hold a record")
    decoder = _Repeats()
    for index in count():
        place = f"{path}, line {window.line}, record {index}"
        value, end = _decoded_in(window, decoder, place)
        try:
            record = _checked(value, decoder.repeated, window.text, window.at, end, place)
        except RecordError as error:
            refuse(error)
        else:
            yield record
        window.move(end)
        found = window.next_character()
        if found == "]":
            break
        if found != ",":
            shown = repr(found) if found else "the end of the file"
            raise ValueError(f"{place}: found {shown} after the record, not ',' or ']'")
        window.move(window.at + 1)
        if window.next_character() == "]":
            place = f"{path}, line {window.line}, record {index + 1}"
            what = "a comma after the last record, and then ']'; take the comma away"
            refuse(RecordError(place, what, "a comma follows the last record"))
            break
    window.move(window.at + 1)
    if found := window.next_character():
        raise ValueError(
            f"{path}, line {window.line}: found {found!r} after the array, not the end"
        )


def _decoded_in(window: _Window, decoder: _Repeats, place: str) -> tuple[Any, int]:
    """The value at the window's place, and its end; the window may be read on."""
    while True:
        try:
            return decoder.decode(window.text, window.at)
        except json.JSONDecodeError as error:
            if not (window.is_cut(error) and window.more()):
                told = _why_not_json(error, window.where(error.pos))
                ends = "; the file ends before the record does" * window.ends_before(error)
                raise ValueError(f"{place}: the record is not JSON: {told}{ends}") from error
        except RecursionError as error:
            raise ValueError(str(_too_deep(place))) from error


def _lines(
    blocks: Iterable[bytes], path: Path, refuse: Callable[[RecordError], None]
) -> Iterator[Field]:
    decoder, index = _Repeats(), 0
    for number, line in enumerate(_split(blocks), start=1):
        if not line.strip(_BLANKS):
            continue
        try:
            record = _decoded_line(line, decoder, f"{path}, line {number}, record {index}", number)
        except RecordError as error:
            try:
                one = None if index else _one_object(path)
            except RecordError as of_whole:
                refuse(of_whole)
                return
            if one:
                yield one
                return
            refuse(error)
        else:
            yield record
        index += 1


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file, without their ends."""
    parts: list[bytes] = []
    for block in blocks:
        first, *lines = block.split(b"\n")
        parts.append(first)
        for line in lines:
            yield b"".join(parts)
            parts = [line]
    yield b"".join(parts)


def _decoded_line(line: bytes, decoder: _Repeats, place: str, number: int) -> Field:
    try:
        text = line.decode()
        start = len(text) - len(text.lstrip(" \t\r\n"))
        value, end = decoder.decode(text, start)
    except UnicodeDecodeError as error:
        raise RecordError(place, _not_utf8(error), "it is not UTF-8") from error
    except json.JSONDecodeError as error:
        told = _why_not_json(error, f"at line {number} column {error.colno}")
        raise RecordError(place, f"the record is not JSON: {told}", _NOT_JSON) from error
    except RecursionError as error:
        raise _too_deep(place) from error
    if rest := text[end:].strip(" \t\r\n"):
        raise _more_in_line(place, rest)
    return _checked(value, decoder.repeated, text, start, end, place)


def _why_not_json(error: json.JSONDecodeError, where: str) -> str:
    """What the decoder says, and what it found there."""
    found = error.doc[error.pos : error.pos + 1]
    if found in ("}", "]") and _LAST_COMMA.search(error.doc, 0, error.pos):
        return f"found {found!r} {where} after a comma; the last value has none behind it"
    told = f"{error.msg.removesuffix(' at')} {where}"
    return f"{told}, found {found!r}" if found.strip() and found != '"' else told


def _more_in_line(place: str, rest: str) -> RecordError:
    if rest == ",":
        what = "a comma ends the line; only in an array do records have commas between them"
        return RecordError(place, what, "a comma ends the line")
    what = f"found {rest[:40]!r} after the object; a line holds one"
    is_object = rest.lstrip(", \t").startswith("{")
    told = "more than one object is in the line" if is_object else "other text follows its object"
    return RecordError(place, what, told)


def _too_deep(place: str) -> RecordError:
    what = "the record has arrays or objects in each other, hundreds deep; a format has at most ten"
    return RecordError(place, what, _TOO_DEEP)


def _one_object(path: Path) -> Field | None:
    """The object that is the whole file, over several lines; None where the file starts with none.

    Raises RecordError where another follows it.
    """
    decoder = _Repeats()
    try:
        text = b"".join(_with_line_feeds(_blocks(path))).decode("utf-8-sig").strip()
        value, end = decoder.decode(text, 0)
    except (ValueError, RecursionError):
        return None
    place = f"{path}, line 1, record 0"
    if end == len(text):
        return _checked(value, decoder.repeated, text, 0, end, place)
    if "\n" not in text[:end]:
        return None
    what = f"the object goes on to line {1 + text.count(chr(10), 0, end)}, and more follows it"
    told = "several objects are an array, or stand one a line"
    raise RecordError(place, f"{what}; {told}", "more follows an object of several lines")
