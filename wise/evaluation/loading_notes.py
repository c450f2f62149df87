"""What the reader of a file changed or left out, counted, and told in a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from wise.evaluation.fields import RecordError, shown_key

__all__ = ["LoadingNotes"]

_MOST_KEYS = 8  # that one line names


class LoadingNotes:
    """The notes on one file. With `skip_bad`, a bad record is one of them in place of an error."""

    def __init__(self, *, skip_bad: bool = False) -> None:
        self.counts = Counter[str]()
        self._unread, self._n_with_unread = Counter[str](), 0
        self._first_bad: dict[str, RecordError] = {}  # by reason
        self._n_bad = Counter[str]()
        self._skip_bad = skip_bad

    def add(self, note: str, n: int = 1) -> None:
        self.counts[note] += n

    def unread(self, keys: Iterable[str]) -> None:
        """Keys of a record that no format reads."""
        found = list(keys)
        self._unread.update(found)
        self._n_with_unread += bool(found)

    def refuse(self, error: RecordError) -> None:
        """Leave out the record of `error`, or raise it."""
        if not self._skip_bad:
            raise error
        self._first_bad.setdefault(error.reason, error)
        self._n_bad[error.reason] += 1

    @property
    def first_bad(self) -> RecordError | None:
        return next(iter(self._first_bad.values()), None)

    def lines(self) -> list[str]:
        """How often each holds: bad records first, each kind with the first of them."""
        told = []
        for reason, n in self._n_bad.most_common():
            first = self._first_bad[reason]
            line = ", ".join(first.place.split(", ")[-2:])
            told.append(f"{n} bad records left out, as {reason}; the first: {line}: {first.what}")
        told += [f"{n} {note}" for note, n in self.counts.items()]
        if self._unread:
            keys = [repr(shown_key(key)) for key, _ in self._unread.most_common(_MOST_KEYS)]
            more = f" and {len(self._unread) - len(keys)} more" * (len(self._unread) > len(keys))
            told.append(
                f"{self._n_with_unread} records with keys that are not read: "
                f"{', '.join(keys)}{more}"
            )
        return told
