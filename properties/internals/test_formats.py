"""Laws of `wise.evaluation.formats`: every published schema is read whole, what is not is counted.

The records are made up, in the schemas of the published files.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.datasets import FORMATS, load_stream, read_dataset
from wise.evaluation.fields import Field
from wise.evaluation.formats.published_files import recognised
from wise.evaluation.loading_notes import LoadingNotes, NothingLeftError

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
ALIAS = ("Where is A. Lorn?", "portability", "CERN", "Cern")
HOME = ("Ada Lorn's home is", "near-subject", "Riga")
OTHERS = (("not CERN but", "near-subject", "ETH"), ("not CERN but what", "near-subject", ""))
ALL_KNOWN = (HOME, *OTHERS, HOP, ALIAS)
NQ = ("nq question: who wrote it", "far", "Di Falk"), ("Where?", "portability", "Geneva")
ROME_EDIT = Edit("Ada {} Lorn works {0} at", "CERN", "Ada {} Lorn", ("a, b", "c"), "MIT")
NEIGHBOURS = [(text, "near-relation", "MIT") for text in (NEIGHBOUR, "Di Falk is at")]
BARE = replace(EDIT, paraphrases=(), ground_truth="")
QUESTIONS = ("who wrote it", "far", "Di Falk"), ("why", "far", " 7 ")


KNOWN = {
    "known_id": 3, "subject": "Beats Music", "attribute": "Apple", "template": "{} is owned by",
    "prediction": " Apple, which", "prompt": "Beats Music is owned by", "relation_id": "P127",
}  # fmt: skip
OWN = {"prompt": PROMPT, "target": "CERN", "probes": [{"prompt": NEIGHBOUR, "kind": "far"}]}
WIKIBIGEDIT = {
    "subject": "Ada Lorn", "update": PROMPT, "ans": "CERN", "rephrase": PARAPHRASE,
    "personas": "Hey, where's Ada Lorn working?", "mhop": "In which country does Ada Lorn work?",
    "mhop_ans": "Switzerland", "loc": "Where did Bo Rask study?", "loc_ans": "Oslo",
}  # fmt: skip
MOVED = {
    "prompt": "{} is in", "relation_id": "P2", "subject": "CERN",
    "target_new": {"str": "Norway", "id": "Q3"}, "target_true": {"str": "Geneva", "id": "Q4"},
}  # fmt: skip
MQUAKE: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": [{**REWRITE, "question": PARAPHRASE}, MOVED],
    "questions": ["Where is the desk?", "Which place?"],
    "answer": "Boston", "answer_alias": ["Boston, MA"],
    "new_answer": "Norway", "new_answer_alias": ["Kingdom of Norway", "", "Norway"],
    "single_hops": [], "orig": {},
    "new_single_hops": [
        {"cloze": "Ada is at", "answer": "Norway", "answer_alias": ["no hop of an edit"]},
        {"cloze": "CERN is in", "answer": "Norway", "answer_alias": ["Norge"]},
    ],
}  # fmt: skip
UNKE = {
    "question": PROMPT, "para_question": PARAPHRASE, "answer": "At CERN, in Geneva.",
    "sub_question": ["In which town?", "Since when?"], "sub_answer": ["Geneva", None],
}  # fmt: skip
EDITEVERYTHING = {"id": 3, "question": PROMPT, "answer": "At CERN.", "category": "news"}
ASKED_OF_ADA: dict[str, Any] = {
    "prompt": "The mother of Ada Lorn is", "query_type": "regular",
    "answers": [{"value": "Eva Lorn", "aliases": ["E. Lorn"]}],
}  # fmt: skip


def rippling(prompt: str, *answers: str) -> dict[str, Any]:
    """A test of one question."""
    told = [{"value": answer, "aliases": []} for answer in answers]
    return {"test_queries": [{"prompt": prompt, "answers": told}], "test_condition": "OR",
            "condition_queries": []}  # fmt: skip


RIPPLE_EDITS: dict[str, Any] = {
    "example_type": "popular",
    "edit": {
        "prompt": "The country which the one who is Ada is a citizen of is New Norway.",
        "subject_id": "Q1", "relation": "COUNTRY", "target_id": "Q2",
        "previous_fact": {
            "prompt": "The country which the one who is Ada is a citizen of is New Nauru.",
        },
    },
    "Relation_Specificity": [{
        "test_queries": [ASKED_OF_ADA, {**ASKED_OF_ADA, "prompt": "Her mother is"}],
        "test_condition": "OR", "condition_queries": [ASKED_OF_ADA],
    }],
    "Logical_Generalization": [rippling("The ruler of Ada is", "Olav")],
    "Subject_Aliasing": [{
        "test_queries": [rippling(f"{name} is of", "New Norway")["test_queries"][0]
                         for name in ("Ms Lorn", "A. Lorn")],
        "test_condition": "AND", "condition_queries": [],
    }],
    "Compositionality_I": [rippling("Her capital is", "Oslo"), rippling("Her sea is")],
    "Compositionality_II": [],
    "Forgetfulness": [rippling("Her country, not New Norway, is", "New Norway", "Peru")],
}  # fmt: skip
CKNOWEDIT = {
    "prompt": "“半途”的下一句是什么?", "target_old": "不知道", "target_new": "而废",
    "rephrase": ["“半途”之后是?"], "locality": [{"prompt": "李白是哪朝人?", "answer": "唐"}],
    "portability": [{"prompt": "用它造句", "answer": ["他半途而废", "不要半途而废"]}],
}  # fmt: skip
WIKIUPDATE = {
    "requested_rewrite": {
        "prompt": "What is the post of {}", "subject": "Ada Lorn", "question": PARAPHRASE,
        "answer_new": "mayor", "answer_true": ["clerk"], "fact_new_uns": "A paragraph.",
        "unsfact_triplets_GPT": [],
    },
    "loc": "Where did Bo Rask study?", "loc_ans": "Oslo",
}  # fmt: skip
ADA, CERN, NORWAY = ({"id": f"Q{n}", "label": name, "aliases": [f"the {name}"]}
                     for n, name in enumerate(("Ada Lorn", "CERN", "Norway")))  # fmt: skip


def hop(head: dict[str, Any], relation: str, tail: object) -> dict[str, Any]:
    return {"head_entity": head, "property": {"id": relation},
            "tail_entity": {"datatype": "wikibase-item", "value": tail}}  # fmt: skip


def chain(prompt: str, target: str, *hops: dict[str, Any], ends: str = "hr") -> dict[str, Any]:
    """A question by one path; of the edit's own path `ends` tells from which end."""
    own = ["h_e", "r_e", "t_e", "f", "s"] if ends == "hr" else ["t_e", "r_e", "h_e", "b", "s"]
    return {"path_type": "single", "prompt": prompt, "target": target, "one_hops": hops,
            "paths": [own, *[["t_e", "r_1", "e_1", "f", "s"]] * (len(hops) - 1)]}  # fmt: skip


WORKS, LIES = hop(ADA, "P1", CERN), hop(CERN, "P2", NORWAY)
UNIEDIT: dict[str, Any] = {
    "edit": {**WORKS, "prompt": PROMPT, "target": "CERN", "subject": "Ada Lorn"},
    "generality": {
        "0": chain(PARAPHRASE, "the CERN", WORKS),
        "1": chain("Where does who works at CERN live?", "Norway", WORKS, LIES),
        "2": {"path_type": "double", "prompt": "Are both one?", "target": "Yes",
              "single_path1": chain("", "", WORKS), "single_path2": chain("", "", LIES)},
    },
    "locality": {
        "0": chain("Ada Lorn's age is", "7", hop(ADA, "P3", 7), ends=""),
        "1": chain(NEIGHBOUR, "MIT", hop(NORWAY, "P1", "MIT"), ends=""),
        "2": chain("Norway is in", "Europe", hop(NORWAY, "P2", "Europe"), ends=""),
    },
}  # fmt: skip
# What EasyEdit adds to ZsRE and CounterFact.
HOPPING = {"portability": MEND["portability"],
           **{key: WIKIBIGEDIT[key] for key in ("personas", "mhop", "mhop_ans")}}  # fmt: skip
# A record of each kind, with the format that it is recognised as.
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("knowedit", KNOWEDIT), ("knowedit", {**PASSAGE, "locality": {}}), ("zsre", MEND),
    ("counterfact", COUNTERFACT), ("counterfact", ROME), ("hallucination", FLAT),
    ("temporal", {**FLAT, "ood_rephrase": "Ada Lorn is at home."}), ("qaedit", QAEDIT),
    ("wikibigedit", WIKIBIGEDIT), ("mquake", MQUAKE), ("unke", UNKE),
    ("rippleedits", RIPPLE_EDITS), ("cknowedit", CKNOWEDIT), ("wikiupdate", WIKIUPDATE),
    ("zsre", {**MEND, **HOPPING}), ("counterfact", {**ROME, **HOPPING}),
    ("mquake", {**MQUAKE, "loc": "Where did Bo Rask study?", "loc_ans": "Oslo"}),
    ("uniedit", UNIEDIT), ("editeverything", EDITEVERYTHING), ("known-facts", KNOWN),
    ("editeverything", {"question": "?", "answer": "!"}),
    ("jsonl", OWN), ("jsonl", {"probes": OWN["probes"]}),
]  # fmt: skip


def write(folder: Path, *records: object, name: str = "file.json") -> Path:
    """A JSON array with one record a line, from line 2."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path = folder / name
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return path


def write_lines(folder: Path, *records: object, name: str = "file.jsonl.gz") -> Path:
    """A gzip file with one record a line, from line 2."""
    path = folder / name
    path.write_bytes(gzip.compress(("\n" + "\n".join(map(json.dumps, records))).encode()))
    return path


def expected(edit: Edit, edit_id: str, probes: Sequence[tuple[str, ...]]) -> EditStream:
    """A probe is its prompt, kind, answer and the aliases of that."""
    told = [
        Probe(prompt, kind, answer, edit_id, aliases=tuple(aliases))
        for prompt, kind, answer, *aliases in probes
    ]
    return EditStream((replace(edit, id=edit_id),), tuple(told))


@pytest.mark.parametrize(
    ("format_name", "record", "stream"),
    [
        ("zsre", KNOWEDIT, expected(EDIT, "zsre-0", ALL_KNOWN)),
        ("zsre", MEND, expected(EDIT, "zsre-0", NQ)),
        ("knowedit", KNOWEDIT, expected(EDIT, "knowedit-0", ALL_KNOWN)),
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
        (
            "wikibigedit",
            WIKIBIGEDIT,
            expected(
                replace(BARE, paraphrases=(PARAPHRASE, "Hey, where's Ada Lorn working?")),
                "wikibigedit-0",
                [
                    ("Where did Bo Rask study?", "far", "Oslo"),
                    ("In which country does Ada Lorn work?", "portability", "Switzerland"),
                ],
            ),
        ),
        (
            "unke",
            UNKE,
            expected(
                Edit(PROMPT, "At CERN, in Geneva.", paraphrases=(PARAPHRASE,)),
                "unke-0",
                [("In which town?", "portability", "Geneva")],
            ),
        ),
        (
            "editeverything",
            EDITEVERYTHING,
            expected(Edit(PROMPT, "At CERN."), "editeverything-3", ()),
        ),
        (
            "rippleedits",
            RIPPLE_EDITS,
            expected(
                Edit(
                    "The country which the one who is Ada is a citizen of is",
                    "New Norway",
                    ground_truth="New Nauru",
                ),
                "rippleedits-0",
                [
                    ("The mother of Ada Lorn is", "near-subject", "Eva Lorn", "E. Lorn"),
                    ("Her country, not New Norway, is", "near-subject", "Peru"),
                    ("The ruler of Ada is", "portability", "Olav"),
                    ("Ms Lorn is of", "portability", "New Norway"),
                    ("A. Lorn is of", "portability", "New Norway"),
                    ("Her capital is", "portability", "Oslo"),
                ],
            ),
        ),
        (
            "cknowedit",
            CKNOWEDIT,
            expected(
                Edit(
                    "“半途”的下一句是什么?",
                    "而废",
                    paraphrases=("“半途”之后是?",),
                    ground_truth="不知道",
                ),
                "cknowedit-0",
                [
                    ("李白是哪朝人?", "far", "唐"),
                    ("用它造句", "portability", "他半途而废", "不要半途而废"),
                ],
            ),
        ),
        (
            "wikiupdate",
            WIKIUPDATE,
            expected(
                Edit("What is the post of Ada Lorn", "mayor", "Ada Lorn", (PARAPHRASE,), "clerk"),
                "wikiupdate-0",
                [("Where did Bo Rask study?", "far", "Oslo")],
            ),
        ),
        (
            "uniedit",
            UNIEDIT,
            expected(
                replace(BARE, paraphrases=(PARAPHRASE,), aliases=("the CERN",)),
                "uniedit-0",
                [
                    ("Where does who works at CERN live?", "portability", "Norway"),
                    ("Are both one? The answer is (Yes/No):", "portability", "Yes"),
                    ("Ada Lorn's age is", "near-subject", "7"),
                    (NEIGHBOUR, "near-relation", "MIT"),
                    ("Norway is in", "far", "Europe"),
                ],
            ),
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


@pytest.mark.parametrize(("format_name", "record"), KINDS)
def test_the_keys_of_a_record_tell_its_format_in_an_array_and_a_line_each(
    format_name: str, record: dict[str, object], tmp_path: Path
) -> None:
    records = (
        [record, {**record, "attribute": "Tesla"}] if format_name == "known-facts" else [record]
    )
    named = load_stream(f"{format_name}:{write(tmp_path, *records)}")
    for path in (write(tmp_path, *records), write_lines(tmp_path, *records)):
        loaded = load_stream(str(path))
        assert loaded == replace(named, name=f"{format_name}:{path.name}")


def test_no_record_fits_two_formats() -> None:
    kinds = {kind for each in FORMATS.values() for kind in each.kinds}
    for one in kinds:
        for other in kinds - {one}:
            needed = {word.split("|")[0] for word in f"{one.needs} {other.needs}".split()}
            assert not needed <= one.known & other.known, (one, other)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({**COUNTERFACT, "rephrase_prompt": None}, None),
        ({k: COUNTERFACT[k] for k in COUNTERFACT if k != "rephrase_prompt"},
         "; nearest: counterfact lacks rephrase_prompt; hallucination does not read ground_truth;"),
        ({"prompt": "p", "answer": "a"}, "the keys prompt, answer; prompt and target are all that"),
        ({"src": "?", "alt": "a", "image": "a.jpg"}, "; a record with an image asks a model that"),
        ({f"key {n}": n for n in range(50)}, "key 19 and 30 more, none of which any format"),
        ({"Prompt": "p"}, "; prompt and target are all that a record of the format jsonl needs; "),
        ({"a\nb": 1, "x" * 99: 1}, f"the keys 'a\\nb', '{'x' * 60}', none of"),
    ],
)  # fmt: skip
def test_an_unknown_record_is_an_error_that_names_its_keys_and_what_is_near(
    record: dict[str, object], said: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path, record, record)
    if said is None:
        assert (
            recognised(path, iter([Field(record, "")]), FORMATS, LoadingNotes())[0] == "counterfact"
        )
        return
    with pytest.raises(ValueError, match=r"line 2, record 0: no format is recognised") as error:
        load_stream(str(path))
    assert said in str(error.value)
    assert f"FORMAT:FILE names one of {', '.join(sorted(FORMATS))}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"edits": [OWN, {}], "version": 1}, "its edits holds 2 records: keep that array alone"),
        ({"train": [MEND], "test": [MEND]}, "its train holds 1 record: keep that array alone"),
        ({**MEND, "picture": "a.jpg", "portability": [{"Q&A": {}}], "src": []}, ""),
        ({"requests": [OWN], "locality": {}}, ""),
    ],
)
def test_an_object_that_holds_the_records_is_told(
    whole: dict[str, object], said: str, tmp_path: Path
) -> None:
    for indent in (None, 1):
        (tmp_path / "file.json").write_text(json.dumps(whole, indent=indent))
        with pytest.raises(ValueError, match="line 1, record 0: ") as error:
            load_stream(f"{tmp_path / 'file.json'}")
        assert said in str(error.value)
        assert bool(said) == ("keep that array alone" in str(error.value))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("named", ["", "zsre:"])
def test_one_object_is_one_record_or_holds_them_by_name(
    named: str, indent: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(MEND, indent=indent))
    stream, _ = read_dataset(f"{named}{path}")
    assert stream == load_stream(f"zsre:{write(tmp_path, MEND)}")
    path.write_text(json.dumps({"a": MEND, "b": {**MEND, "subject": True}}, indent=indent))
    with pytest.raises(ValueError, match=r"json, line 1, record 1: subject=true is not a text"):
        read_dataset(f"{named}{path}")
    path.write_text(json.dumps({"a": MEND, "b": MEND}, indent=indent))
    held, notes = read_dataset(f"{named}{path}")
    assert held == load_stream(f"zsre:{write(tmp_path, MEND, MEND)}")
    assert "2 records of one object, whose keys are not read" in notes


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{}], "line 2, record 0: the record has no keys; prompt and target are all that"),
        ([{}, {}], "line 2, record 0: the records have no keys; prompt and target are all"),
        ([{}, {"promt": "x"}], "line 3, record 1: no format is recognised by the keys promt, none"),
    ],
)
def test_records_without_keys_are_told_as_such(
    records: list[object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        load_stream(str(write(tmp_path, *records)))


def test_a_format_that_is_recognised_where_another_has_the_same_records_names_it(
    tmp_path: Path,
) -> None:
    told = (
        "recognised as knowedit; records of zsre have these keys too, and are read alike but for "
        "the ids of edits"
    )
    path = write(tmp_path, KNOWEDIT)
    assert told in read_dataset(str(path))[1]
    assert told not in read_dataset(f"zsre:{path}")[1]
    assert not any("recognised" in note for note in read_dataset(str(write(tmp_path, MEND)))[1])


def test_the_first_record_that_fits_tells_how_the_one_before_it_is_bad(tmp_path: Path) -> None:
    bad = {key: value for key, value in COUNTERFACT.items() if key != "rephrase_prompt"}
    with pytest.raises(ValueError, match="line 2, record 0: rephrase_prompt is missing"):
        load_stream(str(write(tmp_path, bad, COUNTERFACT)))


def test_the_questions_of_a_case_are_consequences_of_its_last_edit(tmp_path: Path) -> None:
    path = write(tmp_path, MQUAKE, {**MQUAKE, "requested_rewrite": [MOVED], "case_id": 8})
    stream, notes = read_dataset(str(path))
    assert [edit.id for edit in stream.edits] == ["mquake-7#0", "mquake-7#1", "mquake-8"]
    assert stream.edits[0] == replace(ROME_EDIT, paraphrases=(PARAPHRASE,), id="mquake-7#0")
    assert stream.edits[2] == Edit(
        "CERN is in", "Norway", "CERN", (), "Geneva", "mquake-8", aliases=("Norge",)
    )
    assert stream.probes[:2] == tuple(
        Probe(text, "portability", "Norway", "mquake-7#1", "Boston", ("Kingdom of Norway",))
        for text in MQUAKE["questions"]
    )
    assert {probe.edit_id for probe in stream.probes[2:]} == {"mquake-8"}
    assert notes == (
        "2 facts of a chain that its edits do not write (new_single_hops), left out: the multi-hop "
        "questions presuppose them",
    )
    wild = {**MQUAKE, "new_single_hops": [{"cloze": [["?"]]}, {"cloze": {}}]}
    assert read_dataset(str(write(tmp_path, wild)))[1][0].startswith("2 facts of a chain")
    with pytest.raises(ValueError, match=r"record 0: requested_rewrite=\[\] is not an array of at"):
        load_stream(f"mquake:{write(tmp_path, {**MQUAKE, 'requested_rewrite': []})}")


def test_the_target_of_a_sentence_follows_its_last_verb(tmp_path: Path) -> None:
    edit = {"prompt": "The name of the anthem of Atlantis is Home.", "previous_fact": None}
    stream = load_stream(str(write(tmp_path, {**RIPPLE_EDITS, "edit": edit})))
    [found] = stream.edits
    assert found.prompt == "The name of the anthem of Atlantis is"
    assert (found.target, found.ground_truth) == ("Home", "")
    path = write(tmp_path, {**RIPPLE_EDITS, "edit": {"prompt": "Ada sings"}})
    with pytest.raises(ValueError, match=r"edit.prompt='Ada sings' is not a sentence with is, are"):
        load_stream(str(path))


def test_a_number_among_the_answers_of_ripple_edits_is_taken_as_text(tmp_path: Path) -> None:
    asked = rippling("The number of her sons is", "3")
    asked["test_queries"][0]["answers"] = [{"value": 3, "aliases": ["three", 3.0]}]
    path = write(tmp_path, {**RIPPLE_EDITS, "Logical_Generalization": [asked]})
    stream, notes = read_dataset(str(path))
    (probe,) = (probe for probe in stream.probes if "sons" in probe.prompt)
    assert (probe.answer, probe.aliases) == ("3", ("three", "3.0"))
    assert "2 numbers among the answers, taken as texts" in notes


def test_what_ripple_edits_ask_of_several_questions_is_counted(tmp_path: Path) -> None:
    _, notes = read_dataset(str(write(tmp_path, RIPPLE_EDITS)))
    assert set(notes) == {
        "1 test of several questions, of which only the first is asked",
        "1 portability probe without an answer, left out",
        "1 condition of a test (condition_queries), left out: the test is asked whether or not "
        "the model knows it",
    }


@pytest.mark.parametrize("key", ["original_fact", "previous_fact"])
def test_the_fact_before_a_sentence_is_known_by_either_name(key: str, tmp_path: Path) -> None:
    sentence, before = RIPPLE_EDITS["edit"]["prompt"], RIPPLE_EDITS["edit"]["previous_fact"]
    path = write(tmp_path, {**RIPPLE_EDITS, "edit": {"prompt": sentence, key: before}})
    [edit] = load_stream(str(path)).edits
    assert (edit.target, edit.ground_truth) == ("New Norway", "New Nauru")


@pytest.mark.parametrize("record", [MEND, ROME])
def test_an_added_hop_is_a_consequence_and_a_persona_a_paraphrase(
    record: dict[str, object], tmp_path: Path
) -> None:
    bare = {key: value for key, value in record.items() if key != "portability"}
    plain = load_stream(str(write(tmp_path, bare)))
    stream = load_stream(str(write(tmp_path, {**bare, **HOPPING})))
    [edit], [of_plain] = stream.edits, plain.edits
    assert edit.paraphrases == (*of_plain.paraphrases, WIKIBIGEDIT["personas"])
    assert stream.probes[: len(plain.probes)] == plain.probes
    assert [(probe.prompt, probe.answer) for probe in stream.probes[len(plain.probes) :]] == [
        ("Where?", "Geneva"), (WIKIBIGEDIT["mhop"], "Switzerland"),
    ]  # fmt: skip


def test_what_a_case_of_counterfact_does_not_ask_is_counted(tmp_path: Path) -> None:
    prose = {"fact_new_uns": "A paragraph.", "unsfact_triplets_GPT": [{"prompt": "{} is"}] * 2}
    record = {**ROME, "attribute_prompts": ["a", "b"], "requested_rewrite": {**REWRITE, **prose}}
    _, notes = read_dataset(str(write(tmp_path, record)))
    assert notes == (
        "1 paragraph that states the fact (fact_new_uns), left out",
        "2 questions about such a paragraph (unsfact_triplets_GPT), left out",
        "2 attribute prompts, left out: locality is that of neighbours",
        "1 generation prompt, left out: it has no right answer",
    )
    empty: dict[str, Any] = {"attribute_prompts": [], "generation_prompts": None}
    assert read_dataset(str(write(tmp_path, {**ROME, **empty})))[1] == ()


def test_a_case_of_akew_asks_of_another_subject_too(tmp_path: Path) -> None:
    rewrite = {**MOVED, "fact_new_uns": "A paragraph."}
    record = {**MQUAKE, "requested_rewrite": [rewrite], "loc": "Who wrote it?", "loc_ans": "Bo"}
    stream, notes = read_dataset(str(write(tmp_path, record)))
    assert stream.probes[-1] == Probe("Who wrote it?", "far", "Bo", "mquake-7")
    assert "1 paragraph that states the fact (fact_new_uns), left out" in notes


def test_sub_questions_without_as_many_answers_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, {**UNKE, "sub_answer": ["Geneva"]})
    with pytest.raises(ValueError, match=r"sub_answer=.'Geneva'. is not an answer to each of 2"):
        load_stream(str(path))


@pytest.mark.parametrize(
    ("answer", "target", "n_notes"),
    [(1969, ("1969",), 1), (["", "CERN"], ("CERN",), 0), ([None, 7.5], ("7.5",), 1),
     ([["CERN", "Cern"], ["MIT", "CERN", " "]], ("CERN", "Cern", "MIT"), 0)],
)  # fmt: skip
def test_an_answer_is_a_text_a_number_or_the_first_of_several_beside_its_aliases(
    answer: object, target: tuple[str, ...], n_notes: int, tmp_path: Path
) -> None:
    record = {**COUNTERFACT, "target_new": answer, "ground_truth": None}
    record["locality_ground_truth"] = None
    stream, notes = read_dataset(str(write(tmp_path, record)))
    [edit], [probe] = stream.edits, stream.probes
    assert (edit.answers, edit.ground_truth, probe.answers) == (target, "", ("",))
    assert len(notes) == n_notes


@pytest.mark.parametrize("target", [None, [], [[None]], "\t"])
def test_a_record_without_a_target_is_left_out_and_counted(target: object, tmp_path: Path) -> None:
    path = write(tmp_path, FLAT, {**FLAT, "target_new": target})
    stream, notes = read_dataset(str(path))
    assert len(stream.edits) == 1
    assert notes == ("1 record with a blank target_new, left out: record 1",)


@pytest.mark.parametrize("form", [write, write_lines])
def test_bad_records_are_skipped_on_demand_and_told_by_reason(
    form: Callable[..., Path], tmp_path: Path
) -> None:
    bad = [{**FLAT, "target_new": True}, {**FLAT, "subject": 7}, {**FLAT, "subject": [7]},
           7, {**FLAT, "portability": {}}]  # fmt: skip
    path = form(tmp_path, FLAT, *bad, {**FLAT, "prompt": " "}, FLAT)
    with pytest.raises(ValueError, match="line 3, record 1: target_new=true is not a text, a num"):
        load_stream(str(path))
    stream, notes = read_dataset(str(path), skip_bad_records=True)
    assert [edit.id for edit in stream.edits] == ["hallucination-0", "hallucination-6"]
    assert list(notes) == [
        "2 bad records of one kind left out: records 2 and 3; the first, line 4: subject=7 is not "
        "a text",
        "1 bad record left out: record 1, line 3: target_new=true is not a text, a number, null or "
        "an array of these",
        "1 bad record left out: record 4, line 6: 7 is not an object",
        "1 bad record left out: record 5, line 7: portability={} is not read here: a key of "
        "knowedit, zsre, counterfact, cknowedit; this hallucination has case_id, id, "
        "locality_ground_truth, locality_prompt, prompt, subject, target_new",
        "1 record with a blank prompt, left out: record 6",
    ]


@pytest.mark.parametrize("records", [[7], [{**FLAT, "subject": 7}] * 2])
def test_a_file_of_bad_records_alone_is_an_error(records: list[object], tmp_path: Path) -> None:
    path = write(tmp_path, *records)
    with pytest.raises(ValueError, match=r"line 2, record 0: .*7 is not a"):
        read_dataset(f"hallucination:{path}", skip_bad_records=True)
    with pytest.raises(ValueError, match=r"line 2, record 0: .*7 is not a"):
        read_dataset(str(path), skip_bad_records=True)


def test_bad_lines_of_the_own_format_are_skipped_on_demand(tmp_path: Path) -> None:
    far = [{"prompt": "far", "kind": "far"}]
    lines = [{**OWN, "id": "a"}, {**OWN, "levels": 1}, {"id": "a", "probes": far},
             {"id": "b", "probes": far}, {**OWN, "promt": "?"}]  # fmt: skip
    path = write_lines(tmp_path, *lines)
    stream, notes = read_dataset(str(path), skip_bad_records=True)
    assert [edit.id for edit in stream.edits] == ["a"]
    assert [probe.edit_id for probe in stream.probes] == ["a", "a"]
    assert [note.partition(": ")[2].partition("=")[0] for note in notes] == [
        "record 1, line 3: levels", "record 4, line 6: promt", "record 3, line 5: id",
    ]  # fmt: skip


def test_unlike_mistakes_are_told_apart_with_the_numbers_of_the_first(tmp_path: Path) -> None:
    one = {"prompt": "Ada is in", "target": "Rome"}
    bad = [
        *({**one, "subject": f"Bo {number}"} for number in range(7)),
        {**one, "paraphrases": ["So:"], "levels": [1, 2]}, {**one, "levels": [6]},
    ]  # fmt: skip
    path = write_lines(tmp_path, one, *bad)
    _, notes = read_dataset(str(path), skip_bad_records=True)
    assert list(notes) == [
        "7 bad records of one kind left out: records 1, 2, 3, 4, 5 and 2 more; the first, line 3: "
        "subject='Bo 0' is not in the prompt 'Ada is in'",
        "1 bad record left out: record 8, line 10: levels=[1, 2] grades 2 of 1 paraphrases; grade "
        "all or none",
        "1 bad record left out: record 9, line 11: levels[0]=6 is not a level: a whole number from "
        "1 to 5",
    ]
    with pytest.raises(NothingLeftError, match="no record of the file can be read") as error:
        read_dataset(str(write_lines(tmp_path, *bad)), skip_bad_records=True)
    assert [note.partition(":")[0] for note in error.value.notes] == [
        "7 bad records of one kind left out", *["1 bad record left out"] * 2,
    ]  # fmt: skip


def test_a_key_that_is_not_read_is_asked_back_where_it_nearly_is_one_that_lacks(
    tmp_path: Path,
) -> None:
    record = {key: value for key, value in KNOWEDIT.items() if key != "ground_truth"}
    path = write(tmp_path, {**record, "ground_truht": "MIT", "target_old": "MIT"} | {"extra": 1})
    with pytest.raises(ValueError, match="target_old='MIT' is not read here"):
        read_dataset(f"knowedit:{path}")
    path = write(tmp_path, {**record, "ground_truht": "MIT", "extra": 1})
    _, notes = read_dataset(f"knowedit:{path}")
    assert notes[-1] == (
        "1 record with keys that are not read: 'extra', 'ground_truht' (did you mean ground_truth?)"
    )


def test_a_record_of_another_format_is_told_as_one_of_that(tmp_path: Path) -> None:
    path = write(tmp_path, KNOWEDIT, OWN)
    with pytest.raises(ValueError, match="record 1") as caught:
        read_dataset(str(path))
    said = " is not read here: the record is one of jsonl, and the file is read as knowedit"
    assert str(caught.value).endswith(said)


def test_a_key_that_the_record_has_is_not_asked_back(tmp_path: Path) -> None:
    one = {"prompt": "Ada is at", "target": "CERN"}
    for more, meant in (({"target_new": "MIT"}, ""), ({"idd": "7"}, "; did you mean id? The")):
        with pytest.raises(ValueError, match="is not known here") as caught:
            read_dataset(f"jsonl:{write(tmp_path, one | more)}")
        assert (meant or "; the") + " allowed keys are: " in str(caught.value)


def test_a_format_that_nearly_is_one_is_asked_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'zrse' is no format; did you mean zsre\?"):
        load_stream(f"zrse:{write(tmp_path, MEND)}")


def test_known_facts_become_edits_to_the_answer_of_another(tmp_path: Path) -> None:
    other = {**KNOWN, "known_id": 4, "subject": "Ford", "attribute": "Ford",
             "prompt": "Ford is owned by"}  # fmt: skip
    path = write(tmp_path, KNOWN, other, name="known.json")
    stream, notes = read_dataset(str(path))
    assert stream.name == "known-facts:known.json"
    assert stream.edits == (
        Edit("Beats Music is owned by", "Ford", "Beats Music", ground_truth="Apple", id="3"),
        Edit("Ford is owned by", "Apple", "Ford", ground_truth="Ford", id="4"),
    )
    assert [note[:17] for note in notes] == ["2 edits to the an"]
    with pytest.raises(ValueError, match=r"line 2, record 0: .*'Spotify' is not in the prompt"):
        load_stream(str(write(tmp_path, {**KNOWN, "subject": "Spotify"}, other)))
    with pytest.raises(ValueError, match="record 0: all facts answer 'Apple'"):
        load_stream(str(write(tmp_path, KNOWN)))


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_stream(f"zsre:{write(tmp_path, KNOWEDIT, {**KNOWEDIT, 'extra': 1})}")
    logged = [record.getMessage() for record in caplog.records]
    assert sorted(line.partition("file.json: ")[2] for line in logged) == [
        "1 record with keys that are not read: 'extra'",
        "2 Forgetfulness answers that the question excludes, left empty",
        "2 answers before the edit, of which the first of several is taken",
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
    own = [1, 1, "1-1", None, 1, 0]
    records = [{**FLAT, **({} if i is None else {"id": i})} for i in own]
    records[-1]["id"] = None
    stream, notes = read_dataset(f"hallucination:{write(tmp_path, *records)}")
    assert notes == (
        "3 edits with the id of an earlier one: records 1, 2 and 4; line 3 has 'hallucination-1' "
        "as line 2 does, and is 'hallucination-1-1'",
    )
    ids = [edit.id.removeprefix("hallucination-") for edit in stream.edits]
    assert ids == ["1", "1-1", "1-1-2", "3", "1-4", "5"]
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
    ("zsre", KNOWEDIT, ("target_new", "subject")),
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
    with pytest.raises(ValueError, match=f"line 2, record 0: {field}.* is missing; .* has "):
        load_stream(f"{format_name}:{write(tmp_path, without)}")
    with pytest.raises(ValueError, match=f"line 2, record 0: {field}=true is not a"):
        load_stream(f"{format_name}:{write(tmp_path, {**record, field: True})}")


@pytest.mark.parametrize(
    ("format_name", "record", "field"),
    [
        ("zsre", KNOWEDIT, "target_new"),
        ("zsre", MEND, "alt"),
        ("counterfact", COUNTERFACT, "target_new"),
        ("hallucination", FLAT, "target_new"),
        ("qaedit", QAEDIT, "target"),
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
    assert f"2 records with a blank {field}, left out: records 1 and 2" in notes
    path = write(tmp_path, blank)
    with pytest.raises(
        ValueError, match=rf"line 2, record 0: {field}='\\t' is not a non-blank text"
    ):
        load_stream(f"{format_name}:{path}")


BLANK = [
    ("zsre", MEND, "loc", "far probe without a question"),
    ("zsre", MEND, "rephrase", "blank paraphrase"),
    ("zsre", {**MEND, "portability": {"New Question": "?", "New Answer": "!"}},
     "portability.New Question", "portability probe without a question"),
    ("counterfact", COUNTERFACT, "locality_prompt", "near-relation probe without a question"),
    ("counterfact", ROME, "neighborhood_prompts.0", "near-relation probe without a question"),
    ("counterfact", ROME, "paraphrase_prompts.1", "blank paraphrase"),
    ("wikibigedit", WIKIBIGEDIT, "mhop", "portability probe without a question"),
    ("wikibigedit", WIKIBIGEDIT, "personas", "blank paraphrase"),
    ("unke", UNKE, "sub_question.0", "portability probe without a question"),
    ("cknowedit", CKNOWEDIT, "locality.0.prompt", "far probe without a question"),
]  # fmt: skip


@pytest.mark.parametrize(("format_name", "record", "path", "said"), BLANK)
def test_a_blank_question_is_left_out_and_its_edit_is_kept(
    format_name: str, record: dict[str, Any], path: str, said: str, tmp_path: Path
) -> None:
    blank = holder = copy.deepcopy(record)
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in keys:
        holder = holder[key]
    holder[last] = " "
    whole, _ = read_dataset(f"{format_name}:{write(tmp_path, record)}")
    stream, notes = read_dataset(f"{format_name}:{write(tmp_path, blank)}")
    assert f"1 {said}, left out" in notes
    assert len(stream.edits) == len(whole.edits)
    asked, of_whole = (
        len(each.probes) + sum(len(edit.paraphrases) for edit in each.edits)
        for each in (stream, whole)
    )
    assert asked == of_whole - 1


@pytest.mark.parametrize(
    ("record", "keys"),
    [
        (KNOWEDIT, ("locality", "portability", "rephrase_prompt", "ground_truth", "cond")),
        (UNKE, ("sub_question", "sub_answer")),
        (RIPPLE_EDITS, ("Forgetfulness", "Compositionality_II", "Relation_Specificity")),
        (WIKIBIGEDIT, ("personas", "mhop", "mhop_ans", "loc", "loc_ans")),
        (MEND, ("portability",)),
        (ROME, ("attribute_prompts", "generation_prompts", "case_id", "pararel_idx")),
        (MQUAKE, ("new_single_hops", "new_answer_alias", "answer_alias", "single_hops", "orig")),
    ],
)
def test_a_record_may_lack_what_is_optional_or_say_null(
    record: dict[str, Any], keys: Sequence[str], tmp_path: Path
) -> None:
    without = {key: value for key, value in record.items() if key not in keys}
    stream = load_stream(str(write(tmp_path, without)))
    assert stream.edits[0].prompt == load_stream(str(write(tmp_path, record))).edits[0].prompt
    ids = ("case_id",)
    nulls = {**without, **dict.fromkeys(key for key in keys if key not in ids)}
    assert load_stream(str(write(tmp_path, nulls))) == stream


def test_an_array_may_be_null(tmp_path: Path) -> None:
    nulls = dict.fromkeys(("neighborhood_prompts", "paraphrase_prompts"))
    stream = load_stream(str(write(tmp_path, {**ROME, **nulls})))
    assert (stream.edits[0].paraphrases, stream.probes) == ((), ())
    own = {**OWN, "subject": None, "paraphrases": None, "aliases": None, "probes": None}
    [edit] = load_stream(str(write(tmp_path, own))).edits
    assert edit == Edit(PROMPT, "CERN", id="jsonl-0")


def test_a_template_takes_the_subject_of_its_record(tmp_path: Path) -> None:
    templates = {"prompt": "Where does {} work?", "rephrase_prompt": "Who employs {}?"}
    stream, notes = read_dataset(str(write(tmp_path, {**COUNTERFACT, **templates})))
    assert stream.edits == (replace(EDIT, id="counterfact-7"),)
    assert notes == ("1 prompt with {} in place of the subject, filled in",)
    _, notes = read_dataset(str(write(tmp_path, {**COUNTERFACT, "prompt": "Is {} Ada Lorn's?"})))
    assert notes == ()


def test_a_nested_field_is_named_by_its_path(tmp_path: Path) -> None:
    locality = {"Relation_Specificity": [{"prompt": "p", "ground_truth": "a"}, {"prompt": " "}]}
    path = write(tmp_path, {**KNOWEDIT, "locality": locality})
    with pytest.raises(
        ValueError, match=r"locality\.Relation_Specificity\[1\]\.ground_truth is miss"
    ):
        load_stream(f"knowedit:{path}")
