"""The project's own format, which any stream can be written in and read from: JSON lines.

A line is an edit, with exactly the fields of `Edit` and the probes made for it:

    {"prompt": "Ada Lorn's employer is", "target": "CERN", "subject": "Ada Lorn",
     "paraphrases": ["Ada Lorn works for"], "ground_truth": "MIT", "id": "17", "levels": [1],
     "aliases": ["European Organization for Nuclear Research"],
     "probes": [{"prompt": "Bo Rask's employer is", "kind": "near-relation", "answer": "MIT"}]}

(on one line). Only `prompt` and `target` are required, and `prompt` and `kind` of a probe, whose
`ground_truth` is the answer to a consequence before the edit, and `aliases` as of an edit. Without
`id` an edit has the id jsonl-N; a given id is kept, even if empty, unless an earlier edit has it:
then the number of the record is put behind it, which is noted. A line of nothing but `probes` holds
probes made for no edit; a line of `id` and `probes` holds more probes of the edit with that id, so
that any order of probes can be written. An answer may be a number, and is its text. Edits and
probes are in the order of the file. One line {"probes": []} is the empty stream. An unknown key is
an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from itertools import compress, groupby
from pathlib import Path

from wise.edits import LEVELS, Edit, EditStream, Probe, fields_of
from wise.evaluation.fields import Field, RecordError
from wise.evaluation.formats.published_files import unused
from wise.evaluation.formats.schema import Keys, answer_of
from wise.evaluation.loading_notes import LoadingNotes
from wise.jobs.ledger import write_whole

__all__ = ["OWN", "read_own", "write_jsonl"]

_EDIT_KEYS = (*(field.name for field in fields(Edit)), "probes")
_PROBE_KEYS = ("prompt", "kind", "answer", "ground_truth", "aliases")
OWN = (
    Keys(needs="prompt target", may="subject paraphrases ground_truth levels aliases probes"),
    Keys(needs="probes"),
)


def read_own(records: Iterable[Field], notes: LoadingNotes) -> EditStream:
    """The stream of records in the own format."""
    edits: list[Edit] = []
    probes: list[Probe] = []
    # To be named: the id, the record, the edit, and its probes' first and end.
    unnamed: list[tuple[str, int, int, int, int]] = []
    first = dict[str, str]()  # where an id is given
    references: list[Field] = []  # ids that lines of more probes name
    for index, record in enumerate(records):
        try:
            edit, made_for_it = _parse(record, notes)
        except RecordError as error:
            notes.refuse(error)
            continue
        if edit is None and _has_id(record):
            references.append(record["id"])
        if edit is not None:
            n = len(probes), len(probes) + len(made_for_it)
            if not _has_id(record):
                unnamed.append((f"jsonl-{index}", index, len(edits), *n))
            elif edit.id in first:
                unnamed.append((edit.id, index, len(edits), *n))
            elif edit.id:
                first[edit.id] = record.place
            edits.append(edit)
            notes.places.append(record.place)
        probes += made_for_it
        notes.probe_places += [record.place] * len(made_for_it)
    given = {edit.id for edit in edits}
    for wanted, index, at, start, end in unnamed:
        edit_id = unused(wanted, index, given)
        given.add(edit_id)
        if edits[at].id:
            notes.rename(notes.places[at], wanted, first[wanted], edit_id)
        edits[at] = replace(edits[at], id=edit_id)
        probes[start:end] = [replace(probe, edit_id=edit_id) for probe in probes[start:end]]
    known = {"", *(edit.id for edit in edits)}
    for field in references:
        if str(field.value) not in known:
            notes.refuse(field.error("the id of an edit in this file"))
            kept = [probe.edit_id != str(field.value) for probe in probes]
            probes = list(compress(probes, kept))
            notes.probe_places = list(compress(notes.probe_places, kept))
    if not edits and not probes and (why := notes.nothing_left()):
        raise why
    return EditStream(tuple(edits), tuple(probes))


def _parse(record: Field, notes: LoadingNotes) -> tuple[Edit | None, list[Probe]]:
    """A line's edit, if it has one, and its probes; the id is "" where none is given."""
    record.only(*_EDIT_KEYS)
    edit_id = _id_of(record)
    is_edit = record.members().keys() not in ({"probes"}, {"id", "probes"})
    edit = _edit_of(record, edit_id, notes) if is_edit else None
    items = record["probes"].items() if "probes" in record else []
    if items and _has_id(record) and not edit_id:
        raise record["id"].error("an id that probes can refer to; without `id`, one is made")
    return edit, [_probe_of(item, edit_id, notes) for item in items]


def _has_id(record: Field) -> bool:
    return "id" in record and record["id"].value is not None


def _id_of(record: Field) -> str:
    """The id of a line, a text or a whole number; "" where it has none."""
    if not _has_id(record):
        return ""
    field = record["id"]
    if isinstance(field.value, bool) or not isinstance(field.value, int | str):
        raise field.error("a text or a whole number")
    return str(field.value)


def _edit_of(record: Field, edit_id: str, notes: LoadingNotes) -> Edit:
    levels = record["levels"].items() if "levels" in record else []
    for level in levels:
        if type(level.value) is not int or level.value not in LEVELS:
            raise level.error("a level: a whole number from 1 to 5")
    return record.build(
        Edit,
        prompt=record["prompt"].text(),
        target=answer_of(record["target"], notes),
        paraphrases=tuple(text.text() for text in _items(record, "paraphrases")),
        aliases=tuple(answer_of(alias, notes) for alias in _items(record, "aliases")),
        levels=tuple(level.value for level in levels),
        id=edit_id,
        **{key: field.text(blank=True) for key, field in _given(record, "subject")},
        **_answers(record, notes, "ground_truth"),
    )


def _items(record: Field, key: str) -> list[Field]:
    return record[key].items() if key in record else []


def _given(record: Field, *keys: str) -> Iterator[tuple[str, Field]]:
    """Those of `keys` that the record has, with their values; null is none."""
    found = ((key, record[key]) for key in keys if key in record)
    return ((key, field) for key, field in found if field.value is not None)


def _answers(record: Field, notes: LoadingNotes, *keys: str) -> dict[str, str]:
    return {key: answer_of(field, notes, blank=True) for key, field in _given(record, *keys)}


def _probe_of(item: Field, edit_id: str, notes: LoadingNotes) -> Probe:
    item.only(*_PROBE_KEYS)
    kind = item["kind"].text()
    if kind == "portability" and not item["answer"].is_number:  # a consequence has an answer
        item["answer"].text()
    return item.build(
        Probe,
        prompt=item["prompt"].text(),
        kind=kind,
        edit_id=edit_id,
        aliases=tuple(answer_of(alias, notes) for alias in _items(item, "aliases")),
        **_answers(item, notes, "answer", "ground_truth"),
    )


def _objects(stream: EditStream) -> Iterator[dict[str, object]]:
    """The lines of a stream; probes go with their edit where their order allows it."""
    runs = [
        (edit_id, [_object(probe) for probe in run])
        for edit_id, run in groupby(stream.probes, key=lambda probe: probe.edit_id)
    ]
    runs.reverse()
    for edit in stream.edits:
        is_next = bool(runs) and edit.id == runs[-1][0] != ""
        yield {**fields_of(edit), "probes": runs.pop()[1] if is_next else []}
    while runs:
        edit_id, probes = runs.pop()
        yield {"id": edit_id, "probes": probes} if edit_id else {"probes": probes}
    if not stream.edits and not stream.probes:
        yield {"probes": []}


def _object(probe: Probe) -> dict[str, object]:
    """A probe as its edit's line has it."""
    found = fields_of(probe)
    return {key: found[key] for key in _PROBE_KEYS if key in found}


def write_jsonl(stream: EditStream, path: str | os.PathLike[str]) -> None:
    """Write a stream in the own format; reading it gives the same edits, probes and sha256, where
    no two edits have one id.

    Atomic: after an error the file is as it was. The stream's name is not kept. Raises
    UnicodeEncodeError (a ValueError) where a text holds a lone surrogate.
    """
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _objects(stream))
    write_whole(Path(path), "".join(lines).encode())
