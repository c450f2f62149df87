"""The checks of the editors' configurations, and presets with some fields changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from transformers import PreTrainedModel

__all__ = [
    "Base", "Checked", "Fraction", "Lengths", "Objective", "Share", "Units", "configured",
    "is_large",
]  # fmt: skip

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Base = Annotated[float, Field(gt=1)]  # of a logarithm
Lengths = Annotated[Sequence[PositiveInt], Field(min_length=1)]
Objective = Literal["raise", "lower"]
Units = Literal["absolute", "model"]

C = TypeVar("C", bound="DataclassInstance")
_LARGE = 50_000_000  # parameters


def configured(
    cls: type[C], presets: Mapping[str, Mapping[str, Any]], preset: str, options: Mapping[str, Any]
) -> C:
    """A preset with some fields changed; a list, as JSON has it, stands for a tuple.

    ValueError lists the presets, or the fields.
    """
    if preset not in presets:
        raise ValueError(f"preset={preset!r} is none of {', '.join(presets)}")
    known = [field.name for field in fields(cls)]
    for name in options:
        if name not in known:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(known)}")
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    return cls(**{**presets[preset], **given})


def is_large(model: PreTrainedModel) -> bool:
    """Whether a model is one for which there are presets of their own."""
    return model.num_parameters() >= _LARGE


class Checked:
    """A dataclass checked by its annotations: ValueError names field, value and what is allowed."""

    __slots__ = ()

    def __post_init__(self) -> None:
        cls: type = type(self)
        for name, adapter in _adapters(cls).items():
            value = getattr(self, name)
            try:
                adapter.validate_python(value, strict=True)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].replace("Input", "it")
                raise ValueError(f"{name}={value!r} is not allowed: {reason}") from None


@cache
def _adapters(cls: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: TypeAdapter(hint) for name, hint in hints.items()}
