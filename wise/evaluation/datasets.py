"""FORMAT:FILE -> EditStream, for published formats and for the project's own JSON lines.

Formats: `zsre` (the schemas of KnowEdit and of MEND, told apart per record), `knowedit`,
`counterfact` (EasyEdit's flat schema and ROME's), `hallucination` and `temporal` (WISE's files),
`qaedit`: each a JSON array, described in `wise.evaluation.formats`. An edit's id is FORMAT-N, N
being the record's own case_id or id, else its index from 0; a repeated id gets the index appended.
Duplicate prompts are kept: published streams contradict themselves.

`jsonl`, the project's own format, is UTF-8 with one JSON object a line; blank lines are skipped. A
line is an edit, with exactly the fields of `Edit` and the probes made for it:

    {"prompt": "Ada Lorn's employer is", "target": "CERN", "subject": "Ada Lorn",
     "paraphrases": ["Ada Lorn works for"], "ground_truth": "MIT", "id": "17", "levels": [1],
     "probes": [{"prompt": "Bo Rask's employer is", "kind": "near-relation", "answer": "MIT"}]}

(on one line). Only `prompt` and `target` are required, and `prompt` and `kind` of a probe, whose
`ground_truth` is the answer to a consequence before the edit. Without
`id` an edit has the id jsonl-N; a given id is kept, even if empty or repeated, so that any stream
can be written. A line of nothing but `probes` holds probes made for no edit; a line of `id` and
`probes` holds more probes of the edit with that id, so that any order of probes can be written.
Edits and probes are in the order of the file. One line {"probes": []} is the empty stream. An
unknown key is an error.

Nothing is dropped in silence: a bad record raises ValueError naming file, line, record and field. A
record of a published file in which a text is blank that must not be is left out, and counted in
the notes.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.fields import BlankTextError, Field, read_array, read_lines
from wise.evaluation.formats import ID_KEYS, SCHEMAS, Case, parse
from wise.jobs.ledger import write_whole

__all__ = ["FORMATS", "drawn", "load_stream", "read_dataset", "write_jsonl"]

_log = logging.getLogger(__name__)

_EDIT_KEYS = (*(field.name for field in fields(Edit)), "probes")
_PROBE_KEYS = ("prompt", "kind", "answer", "ground_truth")
_Read = tuple[EditStream, Counter[str]]  # a file's stream, and how often each note holds of it


def _unused(candidate: str, index: int, taken: set[str]) -> str:
    """The candidate, with the index appended until no edit has it; taken from now on."""
    while candidate in taken:
        candidate = f"{candidate}-{index}"
    taken.add(candidate)
    return candidate


def _own_id(record: Field) -> str | None:
    """The record's own id, a whole number or a text."""
    for key in ID_KEYS:
        if key in record:
            field = record[key]
            is_number = isinstance(field.value, int) and not isinstance(field.value, bool)
            return str(field.value) if is_number else field.text()
    return None


def _read_published(format_name: str, path: Path) -> _Read:
    edits: list[Edit] = []
    probes: list[Probe] = []
    notes: Counter[str] = Counter()
    taken: set[str] = set()
    for index, record in enumerate(read_array(path)):
        own = _own_id(record)
        edit_id = _unused(f"{format_name}-{index if own is None else own}", index, taken)
        try:
            edit, made_for_it = parse(format_name, Case(record, edit_id, notes))
        except BlankTextError as error:
            notes[f"records with a blank {error.name}, left out"] += 1
            blank = error
            continue
        edits.append(edit)
        probes.extend(made_for_it)
    if not edits:
        raise blank
    return EditStream(tuple(edits), tuple(probes)), notes


def _read_jsonl(path: Path) -> _Read:
    records = list(read_lines(path))
    given = {record["id"].text(blank=True) for record in records if "id" in record}
    edits: list[Edit] = []
    probes: list[Probe] = []
    for index, record in enumerate(records):
        record.only(*_EDIT_KEYS)
        edit_id = record["id"].value if "id" in record else ""
        if record.members().keys() not in ({"probes"}, {"id", "probes"}):
            edit_id = edit_id if "id" in record else _unused(f"jsonl-{index}", index, given)
            edits.append(_edit_of(record, edit_id))
        items = record["probes"].items() if "probes" in record else []
        if items and "id" in record and not edit_id:
            raise record["id"].error("an id that probes can refer to; without `id`, one is made")
        probes.extend(_probe_of(item, edit_id) for item in items)
    known = {"", *(edit.id for edit in edits)}
    for record in records:
        if "id" in record and record["id"].value not in known:
            raise record["id"].error("the id of an edit in this file")
    return EditStream(tuple(edits), tuple(probes)), Counter()


def _edit_of(record: Field, edit_id: str) -> Edit:
    levels = record["levels"].items() if "levels" in record else []
    for level in levels:
        if not isinstance(level.value, int) or isinstance(level.value, bool):
            raise level.error("a whole number")
    texts = record["paraphrases"].items() if "paraphrases" in record else []
    optional = [key for key in ("subject", "ground_truth") if key in record]
    return record.build(
        Edit,
        prompt=record["prompt"].text(),
        target=record["target"].text(),
        paraphrases=tuple(text.text() for text in texts),
        levels=tuple(level.value for level in levels),
        id=edit_id,
        **{key: record[key].text(blank=True) for key in optional},
    )


def _probe_of(item: Field, edit_id: str) -> Probe:
    item.only(*_PROBE_KEYS)
    return item.build(
        Probe,
        prompt=item["prompt"].text(),
        kind=item["kind"].text(),
        edit_id=edit_id,
        **{key: item[key].text(blank=True) for key in ("answer", "ground_truth") if key in item},
    )


def _objects(stream: EditStream) -> Iterator[dict[str, object]]:
    """The lines of a stream; probes go with their edit where their order allows it."""
    runs = [
        (edit_id, [{key: getattr(probe, key) for key in _PROBE_KEYS} for probe in run])
        for edit_id, run in groupby(stream.probes, key=lambda probe: probe.edit_id)
    ]
    runs.reverse()
    for edit in stream.edits:
        is_next = bool(runs) and edit.id == runs[-1][0] != ""
        yield {**asdict(edit), "probes": runs.pop()[1] if is_next else []}
    while runs:
        edit_id, probes = runs.pop()
        yield {"id": edit_id, "probes": probes} if edit_id else {"probes": probes}
    if not stream.edits and not stream.probes:
        yield {"probes": []}


def write_jsonl(stream: EditStream, path: str | os.PathLike[str]) -> None:
    """Write a stream in the `jsonl` format; reading it gives the same edits, probes and sha256.

    Atomic: after an error the file is as it was. The stream's name is not kept. Raises
    UnicodeEncodeError (a ValueError) where a text holds a lone surrogate.
    """
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _objects(stream))
    write_whole(Path(path), "".join(lines).encode())


# Format name -> parser of a whole file.
FORMATS: dict[str, Callable[[Path], _Read]] = {
    "jsonl": _read_jsonl,
    **{format_name: partial(_read_published, format_name) for format_name in SCHEMAS},
}


def load_stream(spec: str, *, n_edits: int | None = None, seed: int | None = None) -> EditStream:
    """The edit stream of FORMAT:FILE (split at the first colon), named by FORMAT and base name.

    It is `drawn` from the whole file, which is checked, whatever n. Warnings in the log are the
    notes of `read_dataset`. Raises as these two do.
    """
    whole, notes = read_dataset(spec)
    for note in notes:
        _log.warning("%s", note)
    return drawn(whole, n_edits=n_edits, seed=seed)


def read_dataset(spec: str) -> tuple[EditStream, tuple[str, ...]]:
    """All edits of FORMAT:FILE, and notes that count what was changed or left out.

    Raises ValueError for a spec of another form, an unknown format and a bad record (with file,
    line, record and field); OSError naming FILE where it cannot be read.
    """
    format_name, _, file = spec.partition(":")
    known = ", ".join(sorted(FORMATS))
    if not format_name or not file:
        raise ValueError(f"dataset {spec!r} is not FORMAT:FILE; FORMAT is one of {known}")
    if format_name not in FORMATS:
        raise ValueError(
            f"dataset format {format_name!r} in {spec!r} is unknown; FORMAT is one of {known}"
        )
    stream, notes = FORMATS[format_name](Path(file))
    told = tuple(f"{file}: {n} {note}" for note, n in notes.items())
    return replace(stream, name=f"{format_name}:{Path(file).name}"), told


def drawn(whole: EditStream, *, n_edits: int | None = None, seed: int | None = None) -> EditStream:
    """The first `n_edits` of a stream, or with a seed as many drawn without replacement.

    Those are in the order drawn (without `n_edits`: all, shuffled); the stream of n begins that of
    every larger n. Probes come with their edits, in their order, and so do all probes made for no
    edit. Raises ValueError for an `n_edits` outside 0..the number of edits.
    """
    n_all = len(whole.edits)
    if n_edits is not None and not 0 <= n_edits <= n_all:
        raise ValueError(f"n_edits={n_edits} is outside 0..{n_all}: {whole.name} has {n_all} edits")
    order: Sequence[int] = range(n_all)
    if seed is not None:
        order = random.Random(seed).sample(order, n_all)
    edits = tuple(whole.edits[index] for index in order[:n_edits])
    kept = {"", *(edit.id for edit in edits)}
    probes = tuple(probe for probe in whole.probes if probe.edit_id in kept)
    return EditStream(edits, probes, whole.name)
