"""FILE or FORMAT:FILE -> EditStream.

The formats are those of `wise.evaluation.formats`; without a name, a file's is told by the keys of
its records. A file is read as `wise.evaluation.json_records` says, whatever its format: an array or
a record a line, plain or gzip.

Nothing is dropped in silence: a bad record raises ValueError naming file, line, record and field,
or is left out where the caller wants that, and counted in the notes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.fields import did_you_mean
from wise.evaluation.formats import FORMATS
from wise.evaluation.formats.own import write_jsonl
from wise.evaluation.formats.published_files import recognised, unfolded
from wise.evaluation.json_records import read_objects
from wise.evaluation.loading_notes import LoadingNotes, line_at

__all__ = [
    "FORMATS",
    "drawn",
    "load_stream",
    "makes_probes",
    "named_file",
    "place_of",
    "read_dataset",
    "read_with_lines",
    "require_edits",
    "write_jsonl",
]

_log = logging.getLogger(__name__)


def named_file(spec: str) -> tuple[str, Path]:
    """(format, file) of FORMAT:FILE, split at the first colon, or of FILE, of the format "".

    Raises ValueError where there is no such file, or none that can be looked at.
    """
    format_name, _, file = spec.partition(":")
    if format_name not in FORMATS:
        format_name, file = "", spec
    try:
        path = Path(file).expanduser()
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # of a folder without access, of a ~USER unknown
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"dataset={spec!r} cannot be read: {why}") from error
    if not is_file:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        what = f"there is no file {file!r}"
        if not file:
            what, where = "it names no file", ""
        elif path.exists():
            what = f"{file!r} is {'a folder' if path.is_dir() else 'no regular file'}"
        elif path.is_symlink():
            what = f"{file!r} is a link to no file"
        first, _, rest = file.partition(":")
        if rest and not path.exists() and Path(rest).expanduser().is_file():
            meant = did_you_mean(first, FORMATS)
            what, where = f"{first!r} is no format" + f";{meant}" * bool(meant), ""
        raise ValueError(
            f"dataset={spec!r}: {what}{where}; a dataset is FILE or FORMAT:FILE, FORMAT one of "
            f"{', '.join(sorted(FORMATS))}"
        )
    return format_name, path


def load_stream(
    spec: str,
    *,
    n_edits: int | None = None,
    seed: int | None = None,
    skip_bad_records: bool = False,
) -> EditStream:
    """The edit stream of FILE or FORMAT:FILE, named by format and base name.

    It is `drawn` from the whole file, which is checked, whatever n. Warnings in the log are the
    notes of `read_dataset`. Raises as these two do.
    """
    whole, notes = read_dataset(spec, skip_bad_records=skip_bad_records)
    for note in notes:
        _log.warning("%s: %s", whole.name, note)
    return drawn(whole, n_edits=n_edits, seed=seed)


def read_dataset(
    spec: str, *, skip_bad_records: bool = False
) -> tuple[EditStream, tuple[str, ...]]:
    """All edits of FILE or FORMAT:FILE, and notes that count what was changed or left out.

    Raises ValueError where there is no such file, for keys that tell no format, and for a bad
    record (with file, line, record and field). With `skip_bad_records` bad records are left out and
    noted, by their reason, unless no record is left or none can follow: in an array, after text
    that is not JSON. Raises OSError naming FILE where it cannot be read.
    """
    notes = LoadingNotes(skip_bad=skip_bad_records)
    return _read(spec, notes), tuple(notes.lines())


def place_of(spec: str, record: Edit | Probe) -> str:
    """`FILE, line N, record N` of the first such edit or probe that FILE or FORMAT:FILE holds; FILE
    alone where there is none. Raises as `read_dataset`."""
    notes = LoadingNotes(skip_bad=True)
    whole = _read(spec, notes)
    return _places(whole, notes).get(record, str(named_file(spec)[1]))


def read_with_lines(
    spec: str, *, skip_bad_records: bool = False
) -> tuple[EditStream, tuple[str, ...], dict[Edit | Probe, int]]:
    """As `read_dataset`, and the line of each edit and probe, of equal ones that of the first.

    No lines where the file has all in one.
    """
    notes = LoadingNotes(skip_bad=skip_bad_records)
    whole = _read(spec, notes)
    lines = {each: line_at(place) for each, place in _places(whole, notes).items()}
    several = len(set(lines.values())) > 1
    return whole, tuple(notes.lines()), lines if several else {}


def _places(whole: EditStream, notes: LoadingNotes) -> dict[Edit | Probe, str]:
    """Where each edit and probe is, of equal ones the first."""
    places: list[tuple[Edit | Probe, str]] = [
        *zip(whole.edits, notes.places, strict=True),
        *zip(whole.probes, notes.probe_places, strict=True),
    ]
    return dict(reversed(places))


def _read(spec: str, notes: LoadingNotes) -> EditStream:
    format_name, path = named_file(spec)
    formats = {format_name: FORMATS[format_name]} if format_name else FORMATS
    records = unfolded(read_objects(path, notes.refuse), formats.values(), notes)
    if not format_name:
        format_name, records = recognised(path, records, FORMATS, notes)
    stream = FORMATS[format_name].read(records, notes)
    return replace(stream, name=f"{format_name}:{path.name}")


def require_edits(whole: EditStream, notes: Sequence[str] = ()) -> None:
    """Raise ValueError where a dataset has no edit, with the `notes` on what was left out of it."""
    if not whole.edits:
        told = "; ".join([f"{whole.name} has no edits; at least one is needed", *notes])
        raise ValueError(told)


def makes_probes(stream: EditStream) -> bool:
    """Whether the reader of the stream's format made its probes of other edits."""
    name = stream.name.partition(":")[0]
    return name in FORMATS and FORMATS[name].makes_probes


def drawn(whole: EditStream, *, n_edits: int | None = None, seed: int | None = None) -> EditStream:
    """The first `n_edits` of a stream, or with a seed as many drawn without replacement.

    Those are in the order drawn (without `n_edits`: all, shuffled); the stream of n begins that of
    every larger n. Edits of one case, whose ids differ only behind a "#", stay together and in
    order. Probes come with their edits, in their order, and so do all probes made for no edit.
    Raises ValueError for an `n_edits` that is negative or more than there are.
    """
    n_all = len(whole.edits)
    if n_edits is not None and n_edits > n_all:
        raise ValueError(f"{n_edits:,} edits are asked for, and {whole.name} has {n_all:,}")
    if n_edits is not None and n_edits < 0:
        raise ValueError(f"n_edits={n_edits} is negative; allowed is 0 to {n_all:,}")
    order: Sequence[int] = range(n_all)
    if seed is not None:
        cases = [list(case) for _, case in groupby(order, key=lambda i: _case(whole, i))]
        order = [i for case in random.Random(seed).sample(cases, len(cases)) for i in case]
    return whole.with_only([whole.edits[index] for index in order[:n_edits]])


def _case(whole: EditStream, index: int) -> str | int:
    case, mark, _ = whole.edits[index].id.rpartition("#")
    return case if mark else index
