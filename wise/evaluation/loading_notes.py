"""What the reader of a file changed or left out, counted, and told in a line each."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from wise.evaluation.fields import BlankTextError, RecordError, did_you_mean, shown_key
from wise.measures.text import by_number

__all__ = ["COUNTED", "LoadingNotes", "NothingLeftError", "line_at", "to_go_on"]

COUNTED = "lines count from 1, records from 0"
_MOST_KEYS = 8  # that one line names
_MOST_NUMBERS = 5


def to_go_on(dataset: str) -> str:
    """What to do where a run stops at a bad record of `dataset`."""
    how = f"python -m reports lint {shlex.quote(dataset)}"
    return (
        f"{COUNTED}; `{how}` tells all that is wrong, and --skip-bad-records leaves bad records out"
    )


class LoadingNotes:
    """The notes on one file. With `skip_bad`, a bad record is one of them in place of an error."""

    def __init__(self, *, skip_bad: bool = False) -> None:
        self.counts = Counter[str]()
        self.places: list[str] = []  # of the edits that are read
        self.probe_places: list[str] = []
        self._unread, self._n_with_unread = Counter[str](), 0
        self._meant = dict[str, str]()  # by key that is not read
        self._bad: dict[str, list[RecordError]] = {}  # by reason
        self._blank: dict[str, list[RecordError]] = {}
        self._renamed: list[tuple[str, str]] = []  # place, and what is told of it
        self._skip_bad = skip_bad
        self._alike = ""

    def add(self, note: str, n: int = 1) -> None:
        """Count `n` of what `note` says; of `record|records` it tells one or the other, by n."""
        self.counts[note] += n

    def alike(self, chosen: str, formats: Iterable[str]) -> None:
        """Tell where the records that were taken for those of one format are other formats' too."""
        if others := " and ".join(name for name in formats if name != chosen):
            self._alike = (
                f"recognised as {chosen}; records of {others} have these keys too, and are read "
                "alike but for the ids of edits"
            )

    def unread(self, keys: Iterable[str], lacking: Iterable[str] = ()) -> None:
        """Keys of a record that no format reads; each may be one of those that it lacks."""
        found = list(keys)
        self._meant.update({key: did_you_mean(key, lacking) for key in found})
        self._unread.update(found)
        self._n_with_unread += bool(found)

    def rename(self, place: str, edit_id: str, first: str, new_id: str) -> None:
        """Tell an edit whose id the edit at the place `first` has, and its new one."""
        told = f"has {edit_id!r} as line {line_at(first)} does, and is {new_id!r}"
        self._renamed.append((place, told))

    def refuse(self, error: RecordError) -> None:
        """Leave out the record of `error`, or raise it."""
        if not self._skip_bad:
            raise error
        self._bad.setdefault(error.reason, []).append(error)

    def blank(self, error: BlankTextError) -> None:
        """Leave out the record of `error`, whether or not bad ones are."""
        self._blank.setdefault(error.reason, []).append(error)

    def nothing_left(self) -> RecordError | None:
        """The error of a file of which no record is left; None where none was left out."""
        left_out = [error for errors in (*self._blank.values(), *self._bad.values())
                    for error in errors]  # fmt: skip
        return NothingLeftError(left_out, self.lines()) if left_out else None

    def _shown(self, key: str) -> str:
        meant = self._meant[key].strip()
        return f"{shown_key(key)!r}" + f" ({meant})" * bool(meant)

    def lines(self) -> list[str]:
        """How often each holds: bad records first, each kind with the first of them."""
        told = [_left_out(errors) for errors in sorted(self._bad.values(), key=len, reverse=True)]
        told += [self._alike] * bool(self._alike)
        if self._renamed:
            count = by_number(len(self._renamed), "edit|edits with the id of an earlier one")
            numbers = _numbers([place for place, _ in self._renamed])
            first, why = self._renamed[0]
            told.append(f"{count}: {numbers}; line {line_at(first)} {why}")
        told += [by_number(n, note) for note, n in self.counts.items()]
        for reason, errors in self._blank.items():
            field = reason.removesuffix(" is not a non-blank text")
            what = by_number(len(errors), f"record|records with a blank {field}, left out")
            told.append(f"{what}: {_numbers([error.place for error in errors])}")
        if self._unread:
            keys = [self._shown(key) for key, _ in self._unread.most_common(_MOST_KEYS)]
            more = f" and {len(self._unread) - len(keys)} more" * (len(self._unread) > len(keys))
            what = by_number(self._n_with_unread, "record|records with keys that are not read")
            told.append(f"{what}: {', '.join(keys)}{more}")
        return told


class NothingLeftError(RecordError):
    """All records of a file are bad; `notes` tell how often each is what."""

    def __init__(self, errors: Sequence[RecordError], notes: Sequence[str]) -> None:
        first = errors[0]
        what = f"{first.what}; no record of the file can be read" * (len(errors) > 1)
        super().__init__(first.place, what or first.what, first.reason)
        self.notes = tuple(notes)


def _left_out(errors: Sequence[RecordError]) -> str:
    """Bad records of one kind, and what is wrong with the first."""
    places, what = [error.place for error in errors], errors[0].what
    if len(errors) == 1:
        return f"1 bad record left out: {_numbers(places)}, line {line_at(places[0])}: {what}"
    counted = f"{len(errors):,} bad records of one kind left out"
    return f"{counted}: {_numbers(places)}; the first, line {line_at(places[0])}: {what}"


def line_at(place: str) -> int:
    """3 of `FILE, line 3, record 2`."""
    return int(place.split(", ")[-2].removeprefix("line "))


def _numbers(places: Sequence[str]) -> str:
    """`records 3, 7 and 12` of their places; of many the first."""
    numbers = [place.rpartition(" ")[2] for place in places]
    if len(numbers) > _MOST_NUMBERS:
        return (
            f"records {', '.join(numbers[:_MOST_NUMBERS])} and {len(numbers) - _MOST_NUMBERS} more"
        )
    start, last = ", ".join(numbers[:-1]), numbers[-1]
    return f"records {start} and {last}" if start else f"record {last}"
