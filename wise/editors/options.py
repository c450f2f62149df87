"""What the editors' configurations ask of their fields, and presets with some fields changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "check_field",
    "check_flags",
    "check_numbers",
    "check_one_of",
    "check_whole",
    "configured",
]

C = TypeVar("C", bound="DataclassInstance")


def configured(
    cls: type[C], presets: Mapping[str, Mapping[str, Any]], preset: str, options: Mapping[str, Any]
) -> C:
    """A preset with some fields changed. ValueError lists the presets, or fields, there are."""
    if preset not in presets:
        raise ValueError(f"preset={preset!r} is none of {', '.join(presets)}")
    known = [field.name for field in fields(cls)]
    for name in options:
        if name not in known:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(known)}")
    return cls(**{**presets[preset], **options})


def check_field(config: object, name: str, holds: bool, allowed: str) -> None:
    """Raise ValueError where a field of `config` does not hold what is allowed."""
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)!r} is not allowed; it must be {allowed}")


def check_one_of(config: object, **allowed: Collection[str]) -> None:
    """Each named field is one of these words."""
    for name, words in allowed.items():
        check_field(config, name, getattr(config, name) in words, f"one of {', '.join(words)}")


def check_flags(config: object, *names: str) -> None:
    """Each of these fields is true or false."""
    for name in names:
        check_field(config, name, isinstance(getattr(config, name), bool), "true or false")


def check_whole(config: object, **least: int) -> None:
    """Each named field is a whole number from its least on."""
    for name, bound in least.items():
        value = getattr(config, name)
        holds = _is_number(value, int) and value >= bound
        check_field(config, name, holds, f"a whole number >= {bound}")


def check_numbers(config: object, *names: str, positive: bool = False) -> None:
    """Each of these fields is a number, and not negative or, with `positive`, above zero."""
    for name in names:
        value = getattr(config, name)
        holds = _is_number(value, int, float) and (value > 0 if positive else value >= 0)
        check_field(config, name, holds, "a number > 0" if positive else "a number >= 0")


def _is_number(value: object, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
