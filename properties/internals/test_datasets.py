"""Laws of `wise.evaluation.datasets`: its own format gives back any stream; n_edits, seed and spec.

The published files are read where they are: in ../shared/data or in the folder that the environment
variable MODEL_EDITOR_DATA names.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wise.editors.saved import background_digest
from wise.edits import PROBE_KINDS, Background, Edit, EditStream, Probe
from wise.evaluation.datasets import (
    FORMATS,
    drawn,
    load_stream,
    place_of,
    read_dataset,
    write_jsonl,
)

pytestmark = pytest.mark.internals

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DATA = Path(os.environ.get("MODEL_EDITOR_DATA", SHARED))

spaces = st.sampled_from(["", " ", "\n", "\r\n", "\u2028", "\x85", "\ufeff", "\x00", '"', "\\"])
texts = st.tuples(spaces, st.text(max_size=6), spaces).map("".join)
words = texts.filter(str.strip)


@st.composite
def streams(draw: st.DrawFn) -> EditStream:
    """Streams with empty ids, and with their probes in any order."""
    edits = []
    ids = st.permutations(["", "", "a", "b", "jsonl-1"])
    for edit_id in draw(ids)[: draw(st.integers(0, 4))]:
        prompt, paraphrases = draw(words), draw(st.lists(words, max_size=2))
        cut = draw(st.slices(len(prompt)).filter(lambda cut: cut.step in (None, 1)))
        levels = draw(st.sampled_from([(), tuple(range(1, 1 + len(paraphrases)))]))
        text, aliases = draw(texts), draw(st.lists(words, max_size=2))
        edits.append(
            Edit(prompt, draw(words), prompt[cut], tuple(paraphrases), text, edit_id, levels,
                 tuple(aliases))
        )  # fmt: skip
    owners = st.sampled_from(sorted({"", *(edit.id for edit in edits)}))
    answered = st.builds(Probe, words, st.sampled_from(PROBE_KINDS), words, owners,
                         aliases=st.lists(words, max_size=2))  # fmt: skip
    unanswered = st.builds(Probe, words, st.just("far"), texts, owners)
    return EditStream(tuple(edits), tuple(draw(st.lists(answered | unanswered, max_size=5))))


@given(streams())
@example(EditStream(()))
@example(EditStream((Edit("x", "y"),), (Probe("p", "far"),)))
@settings(deadline=None, max_examples=80)
def test_jsonl_gives_back_any_stream(stream: EditStream) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(stream, Path(folder) / "s.jsonl")
        loaded = load_stream(f"jsonl:{folder}/s.jsonl")
        assert os.listdir(folder) == ["s.jsonl"]
    assert replace(loaded, name=stream.name) == stream
    assert (loaded.sha256, loaded.name) == (stream.sha256, "jsonl:s.jsonl")


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ValueError, match="surrogates"):
        write_jsonl(EditStream((Edit("x", "y"), Edit("\ud800", "y"))), path)
    assert os.listdir(tmp_path) == ["s.jsonl"]
    assert path.read_text(encoding="utf-8") == "before"


def test_a_line_needs_prompt_and_target_only(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    lines = [
        {"prompt": "x", "target": "y", "probes": [{"prompt": "near", "kind": "near-subject"}]},
        {"probes": [{"prompt": "far", "kind": "far", "answer": "a"}]},
        {"prompt": "x", "target": "z", "id": "jsonl-0"},
        {"id": "jsonl-0", "probes": [{"prompt": "more", "kind": "far"}]},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    loaded = load_stream(f"jsonl:{path}")
    assert loaded.edits == (Edit("x", "y", id="jsonl-0-0"), Edit("x", "z", id="jsonl-0"))
    assert loaded.probes == (
        Probe("near", "near-subject", edit_id="jsonl-0-0"),
        Probe("far", "far", "a"),
        Probe("more", "far", edit_id="jsonl-0"),
    )


def test_edits_of_one_id_are_told_apart_with_their_probes_and_said_once(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    far = {"kind": "far", "prompt": "p"}
    lines = [
        {"prompt": "w", "target": "y", "id": 7, "probes": [far]},
        {"prompt": "x", "target": "y", "id": "7-3"},
        {"id": "7", "probes": [far | {"prompt": "q"}]},
        {"prompt": "y", "target": "y", "id": "7", "probes": [far | {"prompt": "r"}]},
        {"prompt": "z", "target": "y", "id": "7"},
        *([{"prompt": "v", "target": "y", "id": ""}] * 2),
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    stream, notes = read_dataset(str(path))
    assert [edit.id for edit in stream.edits] == ["7", "7-3", "7-3-3", "7-4", "", ""]
    assert [(probe.prompt, probe.edit_id) for probe in stream.probes] == [
        ("p", "7"), ("q", "7"), ("r", "7-3-3"),
    ]  # fmt: skip
    assert notes == (
        "2 edits with the id of an earlier one: records 3 and 4; line 4 has '7' as line 1 does, "
        "and is '7-3-3'",
    )


def test_an_id_may_be_a_whole_number(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    lines = [{"prompt": "x", "target": "y", "id": 7},
             {"id": 7, "probes": [{"prompt": "far", "kind": "far"}]}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    loaded = load_stream(f"jsonl:{path}")
    assert loaded.edits == (Edit("x", "y", id="7"),)
    assert loaded.probes == (Probe("far", "far", edit_id="7"),)


def test_probes_stand_with_their_edit(tmp_path: Path) -> None:
    probes = [Probe("p", "far", "", edit_id) for edit_id in ("a", "b", "b", "")]
    stream = EditStream((Edit("x", "y", id="a"), Edit("x", "y", id="b")), tuple(probes))
    write_jsonl(stream, tmp_path / "s.jsonl")
    lines = (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line)["probes"]) for line in lines] == [1, 2, 1]


def test_a_stream_without_aliases_has_the_file_and_the_digest_that_it_had_before_there_were_any(
    tmp_path: Path,
) -> None:
    stream = EditStream((Edit("x", "y"),), (Probe("p", "far"),))
    digest = "7a6302f552dd84deeb64933efd7022bb77740bde886f81e8db65fcb30c7487a8"
    assert stream.sha256 == digest
    write_jsonl(stream, tmp_path / "s.jsonl")
    assert "aliases" not in (tmp_path / "s.jsonl").read_text(encoding="utf-8")
    edit, probe = replace(stream.edits[0], aliases=("z",)), Probe("p", "far", "q", aliases=("r",))
    assert len({EditStream(*each).sha256 for each in (
        ((edit,), stream.probes), (stream.edits, (probe,)),
        (stream.edits, (replace(probe, aliases=()),)), (stream.edits, stream.probes),
    )}) == 4  # fmt: skip


def test_a_background_without_aliases_has_the_digest_that_it_had_before_there_were_any() -> None:
    """By which states are known as an editor's, and what is kept is found again."""
    edit = Edit("Ada Lorn lives in", "Oslo", "Ada Lorn", ("Where does Ada Lorn live?",))
    digest = "cd7488510006d374c475bd96f456c3723c933b81c7b5c6f79d0df99a8c433d13"
    assert background_digest(Background(("It rains.",), (edit,))) == digest
    aliased = replace(edit, aliases=("Kristiania",))
    assert background_digest(Background(("It rains.",), (aliased,))) != digest


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"aliases": "z"}, "aliases='z' is not an array"),
        ({"aliases": [" "]}, r"aliases\[0\]=' ' is not a non-blank text"),
        ({"probes": [{"prompt": "p", "kind": "far", "aliases": ["r"]}]},
         r"probes\[0\].aliases=\['r'\] are of no answer; give the answer"),
    ],
)  # fmt: skip
def test_aliases_that_are_none_are_an_error(
    record: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"prompt": "x", "target": "y", **record}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"record 0: {said}"):
        load_stream(f"jsonl:{path}")


def test_the_place_of_an_edit_or_a_probe_is_that_of_its_own_record(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    probe = {"kind": "far", "prompt": "p"}
    lines = [
        {"prompt": "x", "target": "y", "id": "a", "probes": [probe]},
        {"id": "no such edit", "probes": [probe | {"prompt": "q"}]},
        {"prompt": 7, "target": "y"},
        {"probes": [probe | {"prompt": "r"}]},
        {"id": "a", "probes": [probe | {"prompt": "s"}]},
        {"prompt": "z", "target": "y"},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    stream, _ = read_dataset(str(path), skip_bad_records=True)
    places = [place_of(str(path), each) for each in (*stream.edits, *stream.probes)]
    assert [place.partition(", ")[2] for place in places] == [
        "line 1, record 0", "line 11, record 5",
        "line 1, record 0", "line 7, record 3", "line 9, record 4",
    ]  # fmt: skip
    assert place_of(str(path), Edit("other", "y")) == str(path)


def test_neighbours_that_a_reader_made_have_the_place_of_their_edit(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    facts = [{"prompt": f"{name} is in", "subject": name, "attribute": place}
             for name, place in (("Ada", "Rome"), ("Bo", "Oslo"))]  # fmt: skip
    path.write_text(json.dumps(facts, indent=1))
    stream = load_stream(str(path))
    places = [place_of(str(path), each) for each in (*stream.edits, *stream.probes)]
    assert [place.partition(", ")[2] for place in places] == [
        "line 2, record 0", "line 7, record 1",
    ] * 2  # fmt: skip


NUMBERS = {
    "prompt": "Ada is born in", "target": 1815, "ground_truth": 1.50, "aliases": [18e2],
    "probes": [{"prompt": "Ada is aged", "kind": "portability", "answer": 36, "ground_truth": 35}],
}  # fmt: skip


def test_a_number_as_answer_is_the_text_that_the_file_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    text = json.dumps(NUMBERS).replace("1800.0", "1.80e3").replace("1.5,", "1.50,")
    path.write_text(text.replace("1815", "9" * 5000))
    stream, notes = read_dataset(str(path))
    (edit,), (probe,) = stream.edits, stream.probes
    assert (edit.target, edit.ground_truth, edit.aliases) == ("9" * 5000, "1.50", ("1.80e3",))
    assert (probe.answer, probe.ground_truth) == ("36", "35")
    assert notes == ("5 numbers among the answers, taken as texts",)
    known = [{"prompt": f"{name} is born in", "subject": name, "attribute": year}
             for name, year in (("Ada", 1815), ("Bo", 1.5))]  # fmt: skip
    path.write_text(json.dumps(known))
    assert [edit.target for edit in load_stream(str(path)).edits] == ["1.5", "1815"]


@pytest.mark.parametrize("field", ["target", "aliases", "ground_truth"])
def test_an_answer_that_is_neither_text_nor_number_is_refused(field: str, tmp_path: Path) -> None:
    value = [True] if field == "aliases" else True
    record = {"prompt": "Ada is", "target": "x"} | {field: value}
    (tmp_path / "s.jsonl").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"=true is not a (non-blank )?text or a number"):
        load_stream(str(tmp_path / "s.jsonl"))


@pytest.fixture
def two_dozen(tmp_path: Path) -> str:
    """The spec of a stream of two dozen edits, with two probes each and one of no edit."""
    edits = [Edit(f"Where is {i}?", "here", id=f"{i}") for i in range(24)]
    probes = [Probe(text, "far", "", edit.id) for edit in edits for text in ("p", "q")]
    write_jsonl(EditStream(tuple(edits), (*probes, Probe("r", "far"))), tmp_path / "s.jsonl")
    return f"jsonl:{tmp_path}/s.jsonl"


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_fewer_edits_are_a_prefix_of_more(two_dozen: str, seed: int | None) -> None:
    streams = [load_stream(two_dozen, n_edits=n, seed=seed) for n in (0, 1, 5, 24)]
    assert [(len(s.edits), len(s.probes)) for s in streams] == [(0, 1), (1, 3), (5, 11), (24, 49)]
    assert streams == [load_stream(two_dozen, seed=seed).prefix(len(s.edits)) for s in streams]


def test_a_seed_draws_other_edits_each_once(two_dozen: str) -> None:
    plain, once, again, other = (
        [edit.id for edit in load_stream(two_dozen, seed=seed).edits] for seed in (None, 1, 1, 2)
    )
    assert plain == [str(i) for i in range(24)]
    assert once == again != other
    assert plain != once
    assert sorted(once) == sorted(other) == sorted(plain)


@pytest.mark.parametrize(
    ("n_edits", "said"),
    [
        (-1, "n_edits=-1 is negative; allowed is 0 to 24"),
        (1025, "1,025 edits are asked for, and jsonl:s.jsonl has 24"),
    ],
)
def test_more_edits_than_there_are_is_an_error(two_dozen: str, n_edits: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        load_stream(two_dozen, n_edits=n_edits)


def test_a_bad_record_after_the_first_n_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"prompt": "x", "target": "y"}\n{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2, record 1: target is missing"):
        load_stream(f"jsonl:{path}", n_edits=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zsre.json", "'zsre.json': there is no file 'zsre.json' in .*, FORMAT one of "),
        ("zsre:", "'zsre:': it names no file; a dataset is FILE or FORMAT:FILE"),
        ("", "dataset='': it names no file; a dataset is FILE or FORMAT:FILE, FORMAT one of "),
        (":zsre.json", "':zsre.json': there is no file ':zsre.json' in "),
        (
            f"mend:{__file__}",
            "'mend' is no format; a dataset is FILE or FORMAT:FILE, FORMAT",
        ),
        ("C:zsre.json", "'C:zsre.json': there is no file 'C:zsre.json' in "),
        ("/", "'/': '/' is a folder; a dataset is FILE or FORMAT:FILE"),
        ("/dev/null", "'/dev/null': '/dev/null' is no regular file; a dataset is FILE"),
    ],
)
def test_a_spec_of_another_form_is_explained(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_stream(spec)


def test_a_link_to_nothing_is_told_from_no_file(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match=r"link\.jsonl' is a link to no file; a dataset is FILE"):
        load_stream(str(tmp_path / "link.jsonl"))


def test_a_file_that_cannot_be_looked_at_is_told_without_numbers_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"dataset='f+' cannot be read: File name too long$"):
        load_stream("f" * 5000)
    with pytest.raises(ValueError, match=r"dataset='~nobody-here/f' cannot be read: Could not det"):
        load_stream("~nobody-here/f")
    path = tmp_path / "s.jsonl"
    path.write_text('{"prompt": "x", "target": "y"}\n')

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=rf"^{path} cannot be read: Permission denied$"):
        load_stream(str(path))


def test_an_id_of_null_is_none_and_a_consequence_needs_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"prompt": "x", "target": "y", "id": null}\n', encoding="utf-8")
    assert [edit.id for edit in load_stream(str(path)).edits] == ["jsonl-0"]
    probe = '{"prompt": "p", "kind": "portability"}'
    path.write_text(f'{{"prompt": "x", "target": "y", "probes": [{probe}]}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"record 0: probes\[0\]\.answer is missing"):
        load_stream(str(path))


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_missing_file_is_named(format_name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*no:such\.json"):
        load_stream(f"{format_name}:{tmp_path}/no:such.json")


ANSWERS = 1304, 1304, {"near-subject": 2608, "portability": 1304}
RECENT = 200, 0, {"near-subject": 697, "portability": 220}


@pytest.mark.parametrize(
    ("spec", "n_edits", "n_paraphrases", "n_probes"),
    [
        ("knowedit:zsre_knowedit_test.json", *ANSWERS),
        ("knowedit:wiki_recent_train.json", *RECENT),
        ("counterfact:counterfact_edit.json", 2000, 2000, {"near-relation": 2000}),
        ("hallucination:wise_hallucination_edit.json", 300, 0, {"far": 300}),
        ("temporal:wise_temporal_edit.json", 75, 0, {"far": 75}),
        ("qaedit:QAEdit.json", 300, 300, {"far": 1500}),
        ("known-facts:known_1000_models.json", 1209, 0, {"near-relation": 8048}),
    ],
)
def test_every_record_of_a_published_file_is_read_and_its_format_recognised(
    spec: str, n_edits: int, n_paraphrases: int, n_probes: dict[str, int], tmp_path: Path
) -> None:
    _, _, name = spec.partition(":")
    if not (DATA / name).is_file():
        pytest.skip(f"{DATA / name} is not there; MODEL_EDITOR_DATA can name its folder")
    stream = load_stream(str(DATA / name))
    assert stream.name == spec
    assert (len(stream.edits), Counter(p.kind for p in stream.probes)) == (n_edits, n_probes)
    assert sum(len(edit.paraphrases) for edit in stream.edits) == n_paraphrases
    assert all(edit.subject for edit in stream.edits)
    assert len({edit.id for edit in stream.edits}) == n_edits
    write_jsonl(stream, tmp_path / "s.jsonl")
    assert load_stream(f"{tmp_path}/s.jsonl").sha256 == stream.sha256


@pytest.mark.parametrize("name", ["zsre_knowedit_test.json", "wiki_recent_train.json"])
def test_knowedit_is_read_under_its_other_name_too(name: str) -> None:
    if not (DATA / name).is_file():
        pytest.skip(f"{DATA / name} is not there; MODEL_EDITOR_DATA can name its folder")
    one, other = load_stream(f"zsre:{DATA / name}"), load_stream(f"knowedit:{DATA / name}")
    assert [edit.target for edit in one.edits] == [edit.target for edit in other.edits]
    assert one.edits[0].id == "zsre-0"


def test_edits_of_one_case_are_drawn_together_and_in_order() -> None:
    ids = ["a", "b#0", "b#1", "b#2", "c#0", "c#1", "d", "", ""]
    edits = tuple(Edit(f"Fact {n} is", "so", id=edit_id) for n, edit_id in enumerate(ids))
    for seed in range(8):
        found = [edit.id for edit in drawn(EditStream(edits), seed=seed).edits]
        at = found.index("b#0")
        assert found[at : at + 3] == ["b#0", "b#1", "b#2"]
        assert found.index("c#1") == found.index("c#0") + 1
