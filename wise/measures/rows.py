"""Rows: one measured item each, kept in a ledger that survives a kill at any moment.

A file holds one run: one editor, model, stream and seed. It is written block by block; a block is
the unit of work, and is done again if it was cut off. No row holds a time, so the same command
gives the same bytes. Files of several runs may be joined to be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from wise.edits import fields_of
from wise.jobs.ledger import Ledger, Record, check_claim, read_records

__all__ = [
    "ASIDE",
    "ASKED_BEFORE",
    "REPORTED",
    "UNSTOPPED",
    "Row",
    "RowWriter",
    "Run",
    "check_rows",
    "read_rows",
]

# By metric: the kinds that it has, in words and as a pattern.
_KINDS = {
    "reliability": ("none", ""),
    "generalization": ("a level from 1 up, or none where ungraded", "|[1-9][0-9]*"),
    "locality": ("far, near-subject or near-relation", "far|near-subject|near-relation"),
    "portability": ("portability", "portability"),
    "routing": (
        "edit, paraphrase or paraphrase-LEVEL, far, near-subject, near-relation, threshold",
        "edit|paraphrase(-[1-9][0-9]*)?|far|near-subject|near-relation|threshold",
    ),
    "knowledge": ("none", ""),
    "drift": (
        "divergence or log-perplexity, with -seen where the editor was given the text",
        "(divergence|log-perplexity)(-seen)?",
    ),
    "fluency": ("none", ""),
}
# Metrics by a protocol of their name, that are reported as quantities and never judged.
REPORTED = ("drift", "fluency")
# Metrics whose rows no mean of scores has: these, and what tells something about other items.
ASIDE = frozenset({"routing", "knowledge", *REPORTED})
# Protocols by which the unedited model is asked, too.
ASKED_BEFORE = ("compared", *REPORTED)
_CHOICES = {
    "protocol": ("free", "forced", "likelihood", *ASKED_BEFORE),
    "when": ("unedited", "at-edit", "final"),
    "metric": tuple(_KINDS),
}
# What a free-run answer that did not end with EOS ends in.
UNSTOPPED = " [did not stop]"
_VALUED = frozenset({"routing", *REPORTED})
_NOT_BLANK = ("editor", "model", "stream", "cluster", "prompt", "block")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Run(NamedTuple):
    """What makes the rows of one run comparable, and different from those of any other."""

    editor: str
    model: str
    stream: str
    stream_sha256: str
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One measured item: what was asked, expected and answered, by whom, when, and its score.

    `score` is in [0, 1]. `t` counts the edits made when the item was measured, `age` those since
    its own (0 at-edit). `cluster` is what is resampled together: the subject, or the item itself
    where it has none. `kind` is a paraphrase level or a kind of probe. Where the metric is
    "routing", `value` is the routing activation of the prompt in place of a score, or, in the one
    row of kind "threshold", what it is compared with. Where it is "drift", `value` is of the text
    in `prompt`, in nats a token: the divergence from the unedited model, or the logarithm of the
    perplexity. Where it is "fluency", `value` is the generation entropy of `answer`, a long
    continuation of the prompt, in bits. Where it is "knowledge", the score is the share of the
    ground truth's tokens that the unedited model predicts: 1 if it knows the fact that is edited
    later. All other unedited items are by a protocol of ASKED_BEFORE: what is likelier to the
    model, how likely a text is, and how it goes on, before any edit. An item that could not be
    measured has the reason in `excluded`, and no number.
    `aliases` are answers as right as `expected`; in a file, only rows with any have the field.
    Raises ValueError naming field, value and what is allowed.
    """

    editor: str
    model: str
    stream: str
    stream_sha256: str
    seed: int
    protocol: str
    when: str
    t: int
    metric: str
    kind: str
    edit_id: str
    cluster: str
    age: int
    prompt: str
    expected: str
    answer: str
    score: float | None
    block: str
    excluded: str = ""
    value: float | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in _TEXTS:
            value = getattr(self, field)
            if not isinstance(value, str):
                self._refuse(field, "is not a text")
            if field in _NOT_BLANK and not value.strip():
                self._refuse(field, "is not a non-blank text")
            if _SURROGATE.search(value):
                self._refuse(field, "is not Unicode text: it holds a lone surrogate")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                self._refuse(field, f"is none of {', '.join(choices)}")
        if not re.fullmatch("[0-9a-f]{64}", self.stream_sha256):
            self._refuse("stream_sha256", "is not 64 lower-case hexadecimal digits")
        for field in ("seed", "t", "age"):
            value = getattr(self, field)
            if type(value) is not int or value < 0:
                self._refuse(field, "is not an int >= 0")
        if self.when != "final" and self.age:
            self._refuse("age", f"is not 0, which it is {self.when}")
        is_unedited = self.when == "unedited"
        if is_unedited != (self.metric == "knowledge") and (
            not is_unedited or self.protocol not in ASKED_BEFORE
        ):
            self._refuse(
                "when",
                f"does not go with {self.metric}, {self.protocol}; knowledge is asked unedited, "
                f"and {', '.join(ASKED_BEFORE)} may be",
            )
        if self.protocol != self.metric and {self.protocol, self.metric} & {*REPORTED}:
            self._refuse(
                "metric",
                f"does not go with the protocol {self.protocol}; {' and '.join(REPORTED)} are "
                "by the protocols of their names alone",
            )
        allowed, pattern = _KINDS[self.metric]
        if not re.fullmatch(pattern, self.kind):
            self._refuse("kind", f"is no kind of {self.metric}; allowed: {allowed}")
        self._check_aliases()
        self._check_score()

    def _check_aliases(self) -> None:
        if not isinstance(self.aliases, list | tuple):
            self._refuse("aliases", "is not an array of texts")
        object.__setattr__(self, "aliases", tuple(self.aliases))
        for text in self.aliases:
            if not isinstance(text, str) or not text.strip() or _SURROGATE.search(text):
                self._refuse("aliases", f"holds {text!r}, which is not a non-blank Unicode text")
        if self.aliases and (self.protocol != "free" or not self.expected):
            self._refuse("aliases", "are not of an answer that is expected free-run")

    def _check_score(self) -> None:
        """Check that the metric's own number is set, or none where the item is excluded."""
        numbers = ("value", "score") if self.metric in _VALUED else ("score", "value")
        measured, other = (getattr(self, name) for name in numbers)
        if other is not None:
            self._refuse(numbers[1], f"is not None, as {self.metric} has a {numbers[0]}")
        if (measured is None) != bool(self.excluded):
            self._refuse(
                "excluded",
                f"with {numbers[0]}={measured}; an item has either a {numbers[0]} or a reason",
            )
        if measured is None:
            return
        if not isinstance(measured, int | float):
            self._refuse(numbers[0], "is not a number")
        if self.metric in _VALUED:
            if not math.isfinite(measured):
                self._refuse("value", "is not a finite number")
            if self.metric in REPORTED and measured < 0:
                self._refuse("value", f"is below 0, which no {self.metric} is")
        elif not 0 <= measured <= 1:
            self._refuse("score", "is not a number in [0, 1]")
        object.__setattr__(self, numbers[0], float(measured) + 0.0)  # -0.0 becomes 0.0

    def _refuse(self, field: str, reason: str) -> NoReturn:
        raise ValueError(f"Row.{field}={getattr(self, field)!r} {reason}")

    @property
    def run(self) -> Run:
        """What the row shares with all others of its run."""
        return Run(self.editor, self.model, self.stream, self.stream_sha256, self.seed)


_TEXTS = tuple(field.name for field in fields(Row) if field.type == "str")


class RowWriter(Ledger):
    """The ledger of one run, which takes whole blocks; a context manager.

    `resume` drops the last block of the file, which may be incomplete; `blocks` names those before
    it, in order. An error leaves the file as it was: FileExistsError where it holds rows and is not
    resumed; ValueError for a bad line, a row of another run (naming the field) or a repeated block;
    RuntimeError where another process has it open.
    """

    def __init__(self, path: Path | str, run: Run, *, resume: bool = False) -> None:
        if not resume and Path(path).exists() and Path(path).stat().st_size:
            raise FileExistsError(f"{path} holds rows already; resume it or name another file")
        self._run, self.blocks = run, list[str]()
        super().__init__(path, claim=run._asdict(), what="run", keep=self._whole_blocks)

    def _whole_blocks(self, records: list[Record]) -> int:
        """How many records stand before the last block."""
        starts = _blocks(records, self._run)
        n_kept = starts.popitem()[1] if starts else 0
        self.blocks = list(starts)
        return n_kept

    def write_block(self, rows: Sequence[Row]) -> None:
        """Append the rows of one block in one write; they are on disk when it returns.

        Raises ValueError where `rows` are not one block of the run, or a block that the file
        already holds; OSError where the write is incomplete, with the file as before.
        """
        if not rows:
            raise ValueError(
                "rows=[] is not a block; an item that could not be measured is a row too"
            )
        block = rows[0].block
        if block in self.blocks:
            raise ValueError(f"block={block!r} is in {self.path} already; a block is written once")
        for row in rows:
            check_claim(row.run._asdict(), self._run._asdict(), what="run", place=self.path)
            if row.block != block:
                raise ValueError(f"Row.block={row.block!r} is written with block {block!r}")
        self.append(*map(fields_of, rows))
        self.blocks.append(block)


def check_rows(path: Path | str, run: Run) -> None:
    """Raise ValueError, as a resuming `RowWriter` does, where `path` holds other than `run`."""
    _blocks(read_records(path, truncated="drop"), run)


def _blocks(records: Sequence[Record], run: Run) -> dict[str, int]:
    """The blocks of `run` in order, each with the number of its first record."""
    starts: dict[str, int] = {}
    for number, record in enumerate(records):
        row = _row(record)
        check_claim(row.run._asdict(), run._asdict(), what="run", place=record.place)
        if row.block in starts and row.block != next(reversed(starts)):
            raise ValueError(
                f"{record.place}: block={row.block!r} is there twice; a file holds one run"
            )
        starts.setdefault(row.block, number)
    return starts


def read_rows(path: Path | str, *, truncated: Literal["raise", "drop"] = "raise") -> list[Row]:
    """All rows of a file, of one run or of several.

    Raises ValueError naming file, line and field, also where the last line is cut off, unless
    truncated is "drop".
    """
    return [_row(record) for record in read_records(path, truncated=truncated)]


def _row(record: Record) -> Row:
    try:
        return Row(**record.values)
    except (TypeError, ValueError) as error:  # TypeError: a field is missing or unknown
        raise ValueError(f"{record.place}: {error}") from error
