"""A file of a published format -> its stream, and the format that a file has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.fields import BlankTextError, Field, RecordError, did_you_mean, shown_key
from wise.evaluation.formats.schema import ID_KEYS, Case, Keys, Schema
from wise.evaluation.loading_notes import LoadingNotes
from wise.measures.text import by_number

__all__ = [
    "AllKeys",
    "Format",
    "check_keys",
    "read_published",
    "recognised",
    "unfolded",
    "unused",
]

_Kind = TypeVar("_Kind", bound=Keys)
_MOST_LOOKED_AT = 100  # records, of which the first that fits one format tells it
_MOST_NEAR = 3  # formats that an error names as near
_MOST_KEYS = 20  # of a record, that it names


@dataclass(frozen=True, slots=True)
class Format:
    """How the records of a file become a stream, and by what keys they are recognised.

    `makes_probes` says that its probes are made of other records, as it has none.
    """

    read: Callable[[Iterable[Field], LoadingNotes], EditStream]
    kinds: tuple[Keys, ...]
    makes_probes: bool = False


@dataclass(frozen=True)
class AllKeys:
    """The kinds of records of all formats, by name."""

    kinds: Mapping[str, tuple[Keys, ...]]

    @cached_property
    def read_by_some(self) -> frozenset[str]:
        return frozenset(key for kinds in self.kinds.values() for kind in kinds
                         for key in kind.reads)  # fmt: skip

    def readers(self, key: str) -> list[str]:
        """The formats that read a key."""
        return [name for name, kinds in self.kinds.items() if any(key in k.reads for k in kinds)]

    def fitting(self, record: Field) -> list[tuple[str, Keys]]:
        """The formats that a record fits: it lacks no key, and has none that only others read."""
        return [(name, kind) for name, kind, _, misfit in self.misfits(record) if not misfit]

    def misfits(self, record: Field) -> list[tuple[str, Keys, float, str]]:
        """For each format and its kinds: how much of the record does not fit, from 0 to 1, and
        that in words. A kind is that of the first format which has it."""
        keys, found, seen = record.members(), [], set[Keys]()
        for name, kinds in self.kinds.items():
            for kind in kinds:
                if kind in seen:
                    continue
                seen.add(kind)
                lacks = kind.lacks(keys)
                foreign = sorted(keys.keys() & self.read_by_some - kind.known)
                words = [f"lacks {', '.join(lacks)}"] * bool(lacks)
                words += [f"does not read {', '.join(foreign)}"] * bool(foreign)
                share = (len(lacks) + len(foreign)) / (len(kind.needs.split()) + len(foreign))
                found.append((name, kind, share, " and ".join(words)))
        return found


def read_published(
    name: str,
    schemas: tuple[Schema, ...],
    all_keys: AllKeys,
    records: Iterable[Field],
    notes: LoadingNotes,
) -> EditStream:
    """The stream of the format `name`, whose records are of these schemas.

    An edit's id is NAME-N, N being the record's own case_id or id, else its number from 0,
    counting JSON objects; a repeated id gets the number appended. A record in which a text is blank
    that must not be is left out, and noted. Duplicate prompts are kept: published streams
    contradict themselves.
    """
    edits: list[Edit] = []
    probes: list[Probe] = []
    holders = dict[str, str]()  # the place of the record with an id
    for index, record in enumerate(records):
        try:
            own = _own_id(record)
            schema = check_keys(name, schemas, all_keys, record, notes)
            wanted = f"{name}-{index if own is None else own}"
            edit_id = unused(wanted, index, holders)
            holders[edit_id] = record.place
            made, made_for_them = schema.parse(Case(record, edit_id, notes))
        except BlankTextError as error:
            notes.blank(error)
        except RecordError as error:
            notes.refuse(error)
        else:
            if own is not None and edit_id != wanted:
                notes.rename(record.place, wanted, holders[wanted], edit_id)
            edits += made
            notes.places += [record.place] * len(made)
            probes += made_for_them
            notes.probe_places += [record.place] * len(made_for_them)
    if not edits and (why := notes.nothing_left()):
        raise why
    return EditStream(tuple(edits), tuple(probes))


def _own_id(record: Field) -> str | None:
    """The record's own id, a whole number or a text; None where it has none, or null."""
    for key in ID_KEYS:
        if key in record and (field := record[key]).value is not None:
            is_number = isinstance(field.value, int) and not isinstance(field.value, bool)
            if not is_number and not (isinstance(field.value, str) and field.value.strip()):
                raise field.error("a whole number or a non-blank text")
            return str(field.value)
    return None


def unused(candidate: str, index: int, taken: Container[str]) -> str:
    """The candidate, with the index appended until no edit has it."""
    while candidate in taken:
        candidate = f"{candidate}-{index}"
    return candidate


def check_keys(
    name: str,
    kinds: tuple[_Kind, ...],
    all_keys: AllKeys,
    record: Field,
    notes: LoadingNotes,
) -> _Kind:
    """The kind of a record. A key that only another format reads is an error; one that none reads
    is noted."""
    found = [kind for kind in kinds if any(key in record for key in kind.tells)]
    if not found:
        raise record.missing(*(key for kind in kinds for key in kind.tells))
    known = found[0].known
    others = sorted(record.members().keys() - known)
    for key in others:
        if key in all_keys.read_by_some:
            raise _foreign(record, key, name, known, all_keys)
    notes.unread(others, known - record.members().keys())
    return found[0]


def _foreign(
    record: Field, key: str, name: str, known: Collection[str], all_keys: AllKeys
) -> RecordError:
    """The error for a key of a record that is not read in the format `name`."""
    if fitting := [each for each, _ in all_keys.fitting(record)]:
        why = f"the record is one of {' and '.join(fitting)}, and the file is read as {name}"
    else:
        readers = ", ".join(all_keys.readers(key))
        why = f"a key of {readers}; this {name} has {', '.join(sorted(known))}"
    error = record[key].error("read here")
    return RecordError(error.place, f"{error.what}: {why}", f"{key} is no key of {name}")


def recognised(
    path: Path, records: Iterator[Field], formats: Mapping[str, Format], notes: LoadingNotes
) -> tuple[str, Iterator[Field]]:
    """The format of the records, by their keys, and all of them.

    A record fits a format that it lacks no key for, where it has none that only others read. The
    first that fits one format tells it. Raises ValueError naming the formats that come near.
    """
    all_keys = AllKeys({name: each.kinds for name, each in formats.items()})
    seen: list[Field] = []
    for record in islice(records, _MOST_LOOKED_AT):
        seen.append(record)
        if len(fitting := all_keys.fitting(record)) == 1:
            [(name, kind)] = fitting
            notes.alike(name, [each for each, of in formats.items() if kind in of.kinds])
            return name, chain(seen, records)
    if not seen:
        raise notes.nothing_left() or ValueError(f"{path}: no record can be read")
    advice = "prompt and target are all that a record of the format jsonl needs"
    if not any(each.members() for each in seen):
        what = "the record has no keys" if len(seen) == 1 else "the records have no keys"
        raise ValueError(f"{seen[0].place}: {what}; {advice}")
    first = next(each for each in seen if each.members())
    near = dict[str, str]()  # the nearest kind of each format
    for name, _, _, misfit in sorted(all_keys.misfits(first), key=itemgetter(2)):
        near.setdefault(name, misfit or "fits")
    keys = list(map(shown_key, first.members()))
    there = ", ".join(keys[:_MOST_KEYS])
    more = f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
    nearest = "; ".join(f"{name} {misfit}" for name, misfit in islice(near.items(), _MOST_NEAR))
    if "image" in first:
        advice = "a record with an image asks a model that sees, and only text is edited here"
    elif len(seen) == 1 and (within := _records_within(first, all_keys)):
        advice = within
    known = all_keys.read_by_some
    for key in first.members():
        if key not in known and (meant := did_you_mean(key, known - first.members().keys())):
            advice += f"; by {shown_key(key)},{meant}"
    told = f"no format is recognised by the keys {there}{more}"
    if known.isdisjoint(first.members()):
        told += f", none of which any format reads; {advice}"
    else:
        told += f"; {advice}; nearest: {nearest}"
    raise ValueError(
        f"{first.place}: {told}; FORMAT:FILE names one of {', '.join(sorted(formats))}"
    )


def unfolded(
    records: Iterator[Field], formats: Iterable[Format], notes: LoadingNotes
) -> Iterator[Field]:
    """The records, or those that the only one holds: an object of objects, not of these formats."""
    seen = list(islice(records, 2))
    if len(seen) == 1 and (held := seen[0].members()):
        tells = {key for each in formats for kind in each.kinds for key in kind.tells}
        if all(isinstance(each, dict) for each in held.values()) and tells.isdisjoint(held):
            file = seen[0].place.rpartition(", record")[0]
            seen = [Field(each, f"{file}, record {n}") for n, each in enumerate(held.values())]
            notes.add("record|records of one object, whose keys are not read", len(seen))
    return chain(seen, records)


def _records_within(holder: Field, all_keys: AllKeys) -> str:
    """How to get at the records of an object that holds nothing but arrays of them, and plain
    values; empty for any other."""
    arrays = {key: v for key, v in holder.members().items() if isinstance(v, dict | list)}
    for array in arrays.values():
        first = array[0] if isinstance(array, list) and array else None
        if not isinstance(first, dict) or not all_keys.fitting(Field(first, "")):
            return ""
    for key, array in arrays.items():
        held = by_number(len(array), "record|records")
        return f"its {shown_key(key)} holds {held}: keep that array alone"
    return ""
