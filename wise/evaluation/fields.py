"""JSON values with their place, for error messages: file, line, record and name."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

__all__ = ["BlankTextError", "Field", "Numeral", "RecordError", "did_you_mean", "shown_key"]

_T = TypeVar("_T")
_PLAIN_KEY = re.compile(r"[\w./()-][\w ./()-]{0,59}")
# What an error of a record's own says of one value, so that others of its kind are told with it.
_VALUE = re.compile(r"""=?('(\\.|[^'\\])*'|"(\\.|[^"\\])*"|\[[\d, ]*\])""")
_INDEX = re.compile(r"\[\d+\]")
_NUMBER = re.compile(r"\b\d+\b")
_NEAR = 0.75  # of two words, what share of their letters is in both, in order
_MOST_KEYS = 20  # that an error lists
_MOST_SHOWN = 90  # characters of a value
_LONGEST = 300  # characters of another class's error


class _InShort(reprlib.Repr):
    """Values cut, and in JSON's words."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring = 3, 3, 3, 30

    def repr_NoneType(self, value: None, level: int) -> str:  # noqa: N802 - named by its type
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return str(value).lower()


_SHORT = _InShort()


class Numeral(float):
    """A number that is shown as the file writes it, be it beyond what a float holds."""

    _written: str

    def __new__(cls, written: str) -> Numeral:
        made = super().__new__(cls, written)
        made._written = written
        return made

    def __repr__(self) -> str:
        return self._written


class RecordError(ValueError):
    """One record is bad, and those after it can be read; `reason` says why without its values."""

    def __init__(self, place: str, what: str, reason: str) -> None:
        super().__init__(f"{place}: {what}")
        self.place, self.what, self.reason = place, what, reason


class BlankTextError(RecordError):
    """A text that must not be blank is."""


def shown_key(key: str) -> str:
    """A key as an error shows it: itself, or quoted and cut where it is unusual or long."""
    return key if _PLAIN_KEY.fullmatch(key) else repr(key[:60])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` did you mean prompt?`, of the known word that is nearest; empty where none is near."""
    near = get_close_matches(word.casefold(), sorted(known), n=1, cutoff=_NEAR)
    return f" did you mean {near[0]}?" if near else ""


def _shown(value: object) -> str:
    """A value on one line, cut."""
    text = repr(value[:_MOST_SHOWN]) if isinstance(value, str) else _SHORT.repr(value)
    is_cut = len(text) > _MOST_SHOWN or (isinstance(value, str) and len(value) > _MOST_SHOWN)
    return f"{text[: _MOST_SHOWN - 3]}..." if is_cut else text


@dataclass(frozen=True, slots=True)
class Field:
    """A value and its place. Read as another type, it raises RecordError naming both."""

    value: Any
    place: str
    name: str = ""

    def error(self, allowed: str, kind: type[RecordError] | None = None) -> RecordError:
        equation = f"{self.name}={_shown(self.value)}" if self.name else _shown(self.value)
        name = _INDEX.sub("", self.name) or "the record"
        digits = repr(self.value).lstrip("-") if isinstance(self.value, Numeral) else ""
        why = f": it has {len(digits):,} digits" * digits.isdigit()  # else it were read as a number
        return (kind or RecordError)(
            self.place, f"{equation} is not {allowed}{why}", f"{name} is not {allowed}{why}"
        )

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
        return self._member(key)

    def _member(self, key: str) -> Field:
        name = shown_key(key)
        return Field(self.value[key], self.place, f"{self.name}.{name}" if self.name else name)

    def missing(self, *keys: str) -> RecordError:
        names = " or ".join(f"{self.name}.{key}" if self.name else key for key in keys)
        all_keys = list(map(shown_key, self.members()))
        more = f" and {len(all_keys) - _MOST_KEYS} more" if len(all_keys) > _MOST_KEYS else ""
        there = f"{', '.join(all_keys[:_MOST_KEYS])}{more}" if all_keys else "no keys"
        what = f"{names} is missing"
        told = f"{what}; {self.name or 'the record'} has {there}"
        return RecordError(self.place, told, _INDEX.sub("", what))

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
                meant = did_you_mean(key, set(keys) - self.members().keys())
                told = f";{meant} The" if meant else "; the"
                error = self[key].error(f"known here{told} allowed keys are: {', '.join(keys)}")
                name = _INDEX.sub("", self[key].name)
                raise RecordError(error.place, error.what, f"{name} is no known key")
        return {key: self[key] for key in self.members()}

    def items(self) -> list[Field]:
        """The array's values; null has none."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.error("an array")
        return [Field(v, self.place, f"{self.name}[{i}]") for i, v in enumerate(self.value)]

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, int | float) and not isinstance(self.value, bool)

    def text(self, *, blank: bool = False) -> str:
        if not isinstance(self.value, str):
            raise self.error("a text" if blank else "a non-blank text")
        if not blank and not self.value.strip():
            raise self.error("a non-blank text", BlankTextError)
        return self.value

    def leaves(self) -> Iterator[Field]:
        """All values that hold no others, and the keys of objects as texts, in any depth."""
        waiting = [self]
        while waiting:
            field = waiting.pop()
            if isinstance(field.value, dict):
                for key in field.value:
                    member = field._member(key)
                    waiting += [member, Field(key, field.place, f"a key of {field.name or 'it'}")]
            elif isinstance(field.value, list):
                waiting += field.items()
            else:
                yield field

    def build(self, record: type[_T], **values: object) -> _T:
        """The record of these values; a ValueError of its own, CLASS.FIELD..., is raised again with
        this place and name."""
        try:
            return record(**values)
        except ValueError as error:
            said = str(error).removeprefix(f"{record.__name__}.")
            said = f"{self.name}.{said}" if self.name else said
            reason = _INDEX.sub("", _NUMBER.sub("n", _VALUE.sub("", said)))
            said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
            raise RecordError(self.place, said, " ".join(reason.split())) from error
