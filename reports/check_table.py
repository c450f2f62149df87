"""The outcome of each check, for the page: passed, failed, inconclusive, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["OUTCOMES", "WORDS", "CheckRecord", "Tally", "read_checks", "tallies", "write_checks"]

# The page's words for each, in the order of the page.
OUTCOMES = {
    "error": "!",
    "fail": "✗",
    "inconclusive": "?",
    "excluded": "–",
    "xfail": "~",
    "pass": "✓",
}

WORDS = {
    "error": "ended in an error",
    "fail": "fails",
    "inconclusive": "undecided",
    "excluded": "not asked",
    "xfail": "known to fail",
    "pass": "hold",
}


class CheckRecord(NamedTuple):
    """The outcome of one check on one editor; `stream` and `replay` show and repeat a failure.

    `reason` says why a failure is known.
    """

    name: str
    editor: str
    outcome: str
    detail: str = ""
    stream: str = ""
    replay: str = ""
    reason: str = ""

    @property
    def told(self) -> str:
        """The detail without outcome, name and shortest sequence, which are shown beside it."""
        text = self.detail.removeprefix(f"{self.outcome}: ").removeprefix(f"{self.name} ")
        return text.partition(" Shortest sequence: ")[0] if self.stream else text


@dataclass(frozen=True)
class Tally:
    """The checks of one editor, worst first, each with its number on the page."""

    editor: str
    checks: tuple[tuple[int, CheckRecord], ...]

    def of(self, *outcomes: str) -> list[tuple[int, CheckRecord]]:
        """The checks that came out so."""
        return [(number, check) for number, check in self.checks if check.outcome in outcomes]

    @property
    def n_asked(self) -> int:
        return len(self.checks) - len(self.of("excluded"))

    @property
    def outcome(self) -> str:
        """The worst outcome, where an error is a failure; none where no check was asked."""
        if self.of("error", "fail"):
            return "fail"
        return next((each for each in ("inconclusive", "xfail", "pass") if self.of(each)), "")


def tallies(checks: Iterable[CheckRecord]) -> dict[str, Tally]:
    """The checks of each editor, in the order of the editors."""
    of_editors: dict[str, list[CheckRecord]] = {}
    for check in checks:
        of_editors.setdefault(check.editor, []).append(check)
    found, number = {}, 1
    for editor, own in of_editors.items():
        own.sort(key=lambda check: list(OUTCOMES).index(check.outcome))
        found[editor] = Tally(editor, tuple(enumerate(own, start=number)))
        number += len(own)
    return found


def write_checks(path: Path, checks: Iterable[CheckRecord]) -> None:
    """Write checks as `read_checks` reads them."""
    lines = (json.dumps(check._asdict()) + "\n" for check in checks)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_checks(path: Path | str) -> list[CheckRecord]:
    """Checks from JSON lines, by the fields of CheckRecord. Raises ValueError with the line."""
    found = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        try:
            check = CheckRecord(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is not a check: {error}") from error
        for field, value in zip(CheckRecord._fields, check, strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{path}, line {number}: {field}={value!r} is not a text")
        if check.outcome not in OUTCOMES:
            known = ", ".join(OUTCOMES)
            raise ValueError(f"{path}, line {number}: outcome={check.outcome!r} is none of {known}")
        found.append(check)
    return found
