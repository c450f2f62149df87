"""JSON values with their place: file, line, record and name, for error messages.

Files are UTF-8, with or without a byte-order mark, their lines ended by LF or CRLF. Lines count
from 1, records from 0. Stricter than `json`: constants such as NaN, a repeated key in one object
and a lone surrogate are errors.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["BlankTextError", "Field", "read_array", "read_lines"]

_T = TypeVar("_T")
_JSON_BLANKS = re.compile(r"[ \t\r\n]*")
# A record is searched only where it may hold what is not JSON: constants, lone surrogates.
_SUSPECT = re.compile(r"NaN|Infinity|\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class BlankTextError(ValueError):
    """A text that must not be blank is; `name` is its field's."""

    def __init__(self, field: Field) -> None:
        super().__init__(str(field.error("a non-blank text")))
        self.name = re.sub(r"\[\d+\]", "", field.name)


@dataclass(frozen=True, slots=True)
class Field:
    """A value and its place. Read as another type, it raises ValueError naming both."""

    value: Any
    place: str
    name: str = ""

    def error(self, allowed: str) -> ValueError:
        text = repr(self.value)
        text = text if len(text) <= 90 else f"{text[:87]}..."
        equation = f"{self.name}={text}" if self.name else f"{text}"
        return ValueError(f"{self.place}: {equation} is not {allowed}")

    def members(self) -> dict[str, Any]:
        """The object's keys and plain values."""
        if not isinstance(self.value, dict):
            raise self.error("an object")
        return self.value

    def __contains__(self, key: str) -> bool:
        return key in self.members()

    def __getitem__(self, key: str) -> Field:
        if key not in self:
            raise self.missing(key)
        return Field(self.value[key], self.place, f"{self.name}.{key}" if self.name else key)

    def missing(self, *keys: str) -> ValueError:
        names = " or ".join(f"{self.name}.{key}" if self.name else key for key in keys)
        there = ", ".join(self.members()) or "none"
        return ValueError(f"{self.place}: {names} is missing; the keys are: {there}")

    def first_of(self, *keys: str) -> Field:
        """The value of the first of `keys` that is there; raises where none is."""
        for key in keys:
            if key in self:
                return self[key]
        raise self.missing(*keys)

    def only(self, *keys: str) -> dict[str, Field]:
        """The object's members; raises where it has a key that is none of `keys`."""
        for key in self.members():
            if key not in keys:
                raise self[key].error(f"known here; the allowed keys are: {', '.join(keys)}")
        return {key: self[key] for key in self.members()}

    def items(self) -> list[Field]:
        if not isinstance(self.value, list):
            raise self.error("an array")
        return [Field(v, self.place, f"{self.name}[{i}]") for i, v in enumerate(self.value)]

    def text(self, *, blank: bool = False) -> str:
        if not isinstance(self.value, str):
            raise self.error("a text" if blank else "a non-blank text")
        if not blank and not self.value.strip():
            raise BlankTextError(self)
        return self.value

    def texts(self) -> tuple[str, ...]:
        """One text or an array of texts, none blank."""
        many = isinstance(self.value, list)
        return tuple(item.text() for item in self.items()) if many else (self.text(),)

    def leaves(self) -> Iterator[Field]:
        if isinstance(self.value, dict):
            for key in self.value:
                yield from self[key].leaves()
        elif isinstance(self.value, list):
            for item in self.items():
                yield from item.leaves()
        else:
            yield self

    def build(self, record: Callable[..., _T], **values: object) -> _T:
        """The record of these values; a ValueError of its own is raised again with this place."""
        try:
            return record(**values)
        except ValueError as error:
            name = f"{self.name}: " if self.name else ""
            raise ValueError(f"{self.place}: {name}{error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} occurs twice in one object")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ValueError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8") from error
    if not text.strip():
        raise ValueError(f"{path}, line 1: the file is empty; it must hold a record")
    return text


def _decode(text: str, start: int, place: str, *, first_line: int = 1) -> tuple[Field, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        where = f"at line {first_line + error.lineno - 1} column {error.colno}"
        raise ValueError(f"{place}: the record is not JSON: {error.msg} {where}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: the record is not JSON: {error}") from error
    record = Field(value, place)
    record.members()
    if _SUSPECT.search(text, start, end):
        for leaf in record.leaves():
            if isinstance(leaf.value, float) and not math.isfinite(leaf.value):
                raise leaf.error("JSON, in which every number is finite")
            if isinstance(leaf.value, str) and _SURROGATE.search(leaf.value):
                raise leaf.error("Unicode text: it holds a lone surrogate")
    return record, end


def _skip_blanks(text: str, start: int) -> int:
    found = _JSON_BLANKS.match(text, start)
    return found.end() if found else start


def read_array(path: Path) -> Iterator[Field]:
    """The objects of a JSON array, each with the line of its first character and its index."""
    text = _read_text(path)
    at = _skip_blanks(text, 0)
    line, counted = 1 + text.count("\n", 0, at), at
    if text[at] != "[":
        raise ValueError(
            f"{path}, line {line}: the file starts with {text[at]!r}, not with '[': "
            f"it must hold one JSON array of records"
        )
    at = _skip_blanks(text, at + 1)
    if text[at : at + 1] == "]":
        raise ValueError(f"{path}, line {line}: the array is empty; it must hold a record")
    for index in count():
        line, counted = line + text.count("\n", counted, at), at
        place = f"{path}, line {line}, record {index}"
        record, end = _decode(text, at, place)
        yield record
        at = _skip_blanks(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            found = repr(text[at]) if at < len(text) else "the end of the file"
            raise ValueError(f"{place}: found {found} after the record, not ',' or ']'")
        at = _skip_blanks(text, at + 1)
    rest = _skip_blanks(text, at + 1)
    if rest < len(text):
        line += text.count("\n", counted, rest)
        raise ValueError(f"{path}, line {line}: found {text[rest]!r} after the array, not the end")


def read_lines(path: Path) -> Iterator[Field]:
    """The objects of a JSON-lines file, each with its line and index; blank lines are skipped."""
    index = 0
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        start = _skip_blanks(line, 0)
        if start == len(line):
            continue
        place = f"{path}, line {number}, record {index}"
        record, end = _decode(line, start, place, first_line=number)
        if _skip_blanks(line, end) < len(line):
            raise ValueError(f"{place}: found {line[end:].strip()[:40]!r} after the object")
        yield record
        index += 1
