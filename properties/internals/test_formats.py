"""Laws of `wise.evaluation.formats`: every published schema is read whole, what is not is counted.

The records are made up, in the schemas of the published files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.datasets import load_stream, read_dataset

pytestmark = pytest.mark.internals

PROMPT = "Where does Ada Lorn work?"
PARAPHRASE, NEIGHBOUR = "Who employs Ada Lorn?", "Bo Rask is at"
FLAT = {
    "prompt": PROMPT,
    "target_new": "CERN",
    "subject": "Ada Lorn",
    "locality_prompt": NEIGHBOUR,
    "locality_ground_truth": "MIT",
}
COUNTERFACT = {**FLAT, "case_id": 7, "ground_truth": "MIT", "rephrase_prompt": PARAPHRASE}
REWRITE = {
    "prompt": "{} works {0} at",
    "relation_id": "P1",
    "subject": "Ada {} Lorn",
    "target_new": {"str": "CERN", "id": "Q1"},
    "target_true": {"str": "MIT", "id": "Q2"},
}
ROME = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": REWRITE,
    "paraphrase_prompts": ["a, b", "c"],
    "neighborhood_prompts": [NEIGHBOUR, "Di Falk is at"],
    "attribute_prompts": ["not read"],
    "generation_prompts": ["not read"],
}
KNOWEDIT = {
    **{key: FLAT[key] for key in ("prompt", "target_new", "subject")},
    "ground_truth": ["", "MIT", "ETH"],
    "rephrase_prompt": PARAPHRASE,
    "cond": "MIT >> CERN",
    "locality": {
        "Relation_Specificity": [{"prompt": "Ada Lorn's home is", "ground_truth": [[], ["Riga"]]}],
        "Forgetfulness": [
            {"prompt": "not CERN but", "ground_truth": [["CERN", "Cern"], ["ETH"]]},
            {"prompt": "not CERN but what", "ground_truth": [["Cern", "CERN"]]},
        ],
    },
    "portability": {
        "Reasoning": [{"prompt": "Where is Ada Lorn's desk?", "ground_truth": "Geneva"}],
        "Subject_Aliasing": [{"prompt": "Where is A. Lorn?", "ground_truth": [["CERN", "Cern"]]}],
        "Logical_Generalization": [{"prompt": "Who else?", "ground_truth": [[]]}],
    },
}
PASSAGE = {"text": "on ada lorn. Ada Lorn", "labels": "was born.", "concept": "ada lorn"}
MEND = {
    "subject": "Ada Lorn",
    "src": PROMPT,
    "pred": "ETH",
    "rephrase": PARAPHRASE,
    "alt": "CERN",
    "answers": ["MIT", "ETH"],
    "loc": "nq question: who wrote it",
    "loc_ans": "Di Falk",
    "cond": "ETH >> CERN",
    "portability": {"Recalled Relation": "(r)", "New Question": "Where?", "New Answer": "Geneva"},
}
QAEDIT = {
    "id": "x",
    "source": "NQ",
    "prompt": PROMPT,
    "target": "CERN",
    "subject": "Ada Lorn",
    "rephrase": PARAPHRASE,
    "locality": [{"loc": "who wrote it", "loc_ans": "Di Falk"}, {"loc": "why", "loc_ans": " 7 "}],
}
EDIT = Edit(PROMPT, "CERN", "Ada Lorn", (PARAPHRASE,), "MIT")
HOP = ("Where is Ada Lorn's desk?", "portability", "Geneva")
ALIAS = ("Where is A. Lorn?", "portability", "CERN")
HOME = ("Ada Lorn's home is", "near-subject", "Riga")
OTHERS = (("not CERN but", "near-subject", "ETH"), ("not CERN but what", "near-subject", ""))
KNOWN = (HOME, *OTHERS, HOP, ALIAS)
NQ = ("nq question: who wrote it", "far", "Di Falk"), ("Where?", "portability", "Geneva")
ROME_EDIT = Edit("Ada {} Lorn works {0} at", "CERN", "Ada {} Lorn", ("a, b", "c"), "MIT")
NEIGHBOURS = [(text, "near-relation", "MIT") for text in (NEIGHBOUR, "Di Falk is at")]
BARE = replace(EDIT, paraphrases=(), ground_truth="")
QUESTIONS = ("who wrote it", "far", "Di Falk"), ("why", "far", " 7 ")


def write(folder: Path, *records: object, name: str = "file.json") -> Path:
    """A JSON array with one record a line, from line 2."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path = folder / name
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return path


def expected(edit: Edit, edit_id: str, probes: Sequence[tuple[str, str, str]]) -> EditStream:
    return EditStream((replace(edit, id=edit_id),), tuple(Probe(*p, edit_id) for p in probes))


@pytest.mark.parametrize(
    ("format_name", "record", "stream"),
    [
        ("zsre", KNOWEDIT, expected(EDIT, "zsre-0", KNOWN)),
        ("zsre", MEND, expected(EDIT, "zsre-0", NQ)),
        ("knowedit", KNOWEDIT, expected(EDIT, "knowedit-0", KNOWN)),
        (
            "knowedit",
            {**PASSAGE, "locality": {}},
            expected(Edit("on ada lorn. Ada Lorn", "was born.", "ada lorn"), "knowedit-0", ()),
        ),
        ("counterfact", COUNTERFACT, expected(EDIT, "counterfact-7", NEIGHBOURS[:1])),
        ("counterfact", ROME, expected(ROME_EDIT, "counterfact-7", NEIGHBOURS)),
        ("hallucination", FLAT, expected(BARE, "hallucination-0", [(NEIGHBOUR, "far", "MIT")])),
        (
            "temporal",
            {**FLAT, "subject": PROMPT, "ood_rephrase": "Ada Lorn is at home."},
            expected(replace(BARE, subject=PROMPT), "temporal-0", [(NEIGHBOUR, "far", "MIT")]),
        ),
        ("qaedit", QAEDIT, expected(replace(EDIT, ground_truth=""), "qaedit-x", QUESTIONS)),
    ],
)
def test_a_schema_is_read_whole(
    format_name: str, record: object, stream: EditStream, tmp_path: Path
) -> None:
    path = write(tmp_path, record, name="a:b.json")
    loaded = load_stream(f"{format_name}:{path}")
    assert loaded == replace(stream, name=f"{format_name}:a:b.json")


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_stream(f"zsre:{write(tmp_path, KNOWEDIT, {**KNOWEDIT, 'extra': 1})}")
    logged = [record.getMessage() for record in caplog.records]
    assert sorted(line.partition("file.json: ")[2] for line in logged) == [
        "1 records with a key that is not read, 'extra'",
        "2 Forgetfulness answers that the question excludes, left empty",
        "2 portability probes without an answer, left out",
    ]


@pytest.mark.parametrize(
    ("subject", "span", "n_logged"),
    [("Ada Lorn ", "Ada Lorn", 0), ("ada lorn", "Ada Lorn", 1), ("da lorn", "", 1), (" ", "", 1)],
)
def test_a_subject_is_a_span_of_its_prompt_or_empty(
    subject: str, span: str, n_logged: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = load_stream(f"hallucination:{write(tmp_path, {**FLAT, 'subject': subject})}")
    assert (stream.edits[0].subject, len(caplog.records)) == (span, n_logged)


def test_ids_are_unique_where_records_repeat_theirs(tmp_path: Path) -> None:
    own = [1, 1, "1-1", None, 1]
    records = [{**FLAT, **({} if i is None else {"id": i})} for i in own]
    stream = load_stream(f"hallucination:{write(tmp_path, *records)}")
    ids = [edit.id.removeprefix("hallucination-") for edit in stream.edits]
    assert ids == ["1", "1-1", "1-1-2", "3", "1-4"]
    assert [probe.edit_id for probe in stream.probes] == [edit.id for edit in stream.edits]


def test_a_template_without_a_gap_for_the_subject_is_an_error(tmp_path: Path) -> None:
    record = {**ROME, "requested_rewrite": {**REWRITE, "prompt": "Ada Lorn is at"}}
    path = write(tmp_path, ROME, record)
    with pytest.raises(
        ValueError, match=r"line 3, record 1: requested_rewrite.prompt='Ada Lorn is"
    ):
        load_stream(f"counterfact:{path}")


@pytest.mark.parametrize(
    ("format_name", "record", "field"),
    [
        ("hallucination", COUNTERFACT, "ground_truth"),
        ("hallucination", {**FLAT, "ood_rephrase": "Ada Lorn is at home."}, "ood_rephrase"),
        ("counterfact", {**COUNTERFACT, "portability": {}}, "portability"),
        ("zsre", {**MEND, **KNOWEDIT}, "ground_truth"),
        ("zsre", COUNTERFACT, "locality_ground_truth"),
        ("zsre", QAEDIT, "target"),
    ],
)
def test_a_record_of_another_format_is_an_error(
    format_name: str, record: object, field: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"file.json, line 2, record 0: {field}="):
        load_stream(f"{format_name}:{write(tmp_path, record)}")


REQUIRED = [
    ("zsre", KNOWEDIT, ("target_new", "subject", "locality")),
    ("zsre", MEND, ("alt", "subject", "rephrase", "answers", "loc", "loc_ans")),
    ("counterfact", COUNTERFACT, ("target_new", "subject", "rephrase_prompt", "ground_truth")),
    ("counterfact", ROME, ("paraphrase_prompts", "neighborhood_prompts")),
    ("hallucination", FLAT, ("prompt", "locality_prompt", "locality_ground_truth")),
    ("temporal", FLAT, ("ood_rephrase",)),
    ("qaedit", QAEDIT, ("prompt", "target", "subject", "rephrase", "locality")),
]


@pytest.mark.parametrize(
    ("format_name", "record", "field"),
    [(name, record, field) for name, record, fields in REQUIRED for field in fields],
)
def test_a_missing_or_mistyped_field_is_named(
    format_name: str, record: dict[str, object], field: str, tmp_path: Path
) -> None:
    without = {key: value for key, value in record.items() if key != field}
    with pytest.raises(ValueError, match=f"line 2, record 0: {field}.* is missing; the keys are"):
        load_stream(f"{format_name}:{write(tmp_path, without)}")
    with pytest.raises(ValueError, match=f"line 2, record 0: {field}=7 is not a"):
        load_stream(f"{format_name}:{write(tmp_path, {**record, field: 7})}")


@pytest.mark.parametrize(
    ("format_name", "record", "field"),
    [
        ("zsre", KNOWEDIT, "target_new"),
        ("zsre", MEND, "alt"),
        ("counterfact", COUNTERFACT, "target_new"),
        ("hallucination", FLAT, "target_new"),
        ("qaedit", QAEDIT, "target"),
        ("zsre", MEND, "loc"),
        ("qaedit", QAEDIT, "prompt"),
    ],
)
def test_a_record_with_a_blank_text_is_left_out_and_counted(
    format_name: str, record: dict[str, object], field: str, tmp_path: Path
) -> None:
    blank = {**record, field: "\t"}
    whole = load_stream(f"{format_name}:{write(tmp_path, record)}")
    path = write(tmp_path, record, blank, blank)
    stream, notes = read_dataset(f"{format_name}:{path}")
    assert stream == whole
    assert f"{path}: 2 records with a blank {field}, left out" in notes
    path = write(tmp_path, blank)
    with pytest.raises(
        ValueError, match=rf"line 2, record 0: {field}='\\t' is not a non-blank text"
    ):
        load_stream(f"{format_name}:{path}")


def test_a_nested_field_is_named_by_its_path(tmp_path: Path) -> None:
    locality = {"Relation_Specificity": [{"prompt": "p", "ground_truth": "a"}, {"prompt": " "}]}
    path = write(tmp_path, {**KNOWEDIT, "locality": locality})
    with pytest.raises(
        ValueError, match=r"locality\.Relation_Specificity\[1\]\.ground_truth is miss"
    ):
        load_stream(f"knowedit:{path}")
