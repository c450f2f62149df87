"""Every command takes a folder and a file of facts, and tells what the model knows of them."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import search
from fixtures import scenes
from fixtures.encyclopedia import Encyclopedia
from fixtures.models import load_context_length, load_model, load_tokenizer
from fixtures.scenes import dataset_scene, scene_of, stream_seed
from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.checks import check_editor
from properties.internals.watched import STREAM
from properties.meta.test_options import settings_of
from properties.session import Session
from reports.__main__ import main
from wise.editor import load_editor
from wise.editors.corners import make_unedited
from wise.edits import Edit, EditStream, Probe
from wise.evaluation.askable import askable, check_askable
from wise.evaluation.datasets import load_stream, read_dataset, write_jsonl
from wise.lm.decoding import answer_length
from wise.lm.tokens import prompt_tokens
from wise.measures.rows import read_rows

pytestmark = pytest.mark.internals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that was never taught a world."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("facts") / "six.jsonl"
    edits = [replace(edit, ground_truth="Ada") for edit in STREAM.edits]
    write_jsonl(EditStream(tuple(edits), STREAM.probes), path)
    return f"jsonl:{path}"


def test_seeds_of_looks_do_not_collide() -> None:
    seeds = [stream_seed(seed, look) for seed in range(100) for look in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert seeds[::100] == list(range(100))


def test_streams_of_looks_share_facts_as_often_as_independent_ones() -> None:
    """n = 200 pairs; their mean has a standard error of .085 around 20^2 / 256, of 256 facts.

    The bound is four of them: a false fail for one seed in 16 000; that a split's facts were fewer
    by a quarter, which moves the mean by .5, is seen with a probability above .95.
    """
    world = Encyclopedia(0, n_people=64, n_cities=16, n_firms=16)
    streams = [world.stream(stream_seed(0, look), 20) for look in range(400)]
    assert len({stream.sha256 for stream in streams}) == 400
    drawn = [{edit.id for edit in stream.edits} for stream in streams]
    shared = [len(one & other) for one, other in zip(drawn[::2], drawn[1::2], strict=True)]
    assert sum(shared) / 200 == pytest.approx(20**2 / 256, abs=0.34)


def test_a_stream_of_a_file_is_drawn_by_seed_and_apart_from_its_background(
    folder: str, facts: str
) -> None:
    one, other = (dataset_scene(folder, seed, 4, source=facts) for seed in (0, 1))
    assert one.stream.sha256 != other.stream.sha256
    asked = {edit.prompt for edit in one.stream.edits}
    left = {edit.prompt for edit in load_stream(facts).edits} - asked
    seen = {edit.prompt for edit in one.background.edits}
    assert left <= seen
    assert not asked & seen
    assert one.tells_knowledge
    assert not scene_of(load_model("gptj"), 0, 1).tells_knowledge


def test_every_edit_that_is_left_keeps_its_probes(folder: str) -> None:
    """Also where the records are more than an editor may see, and the stream takes most of them."""
    edits = tuple(Edit(f"{n} is next to", "one", str(n), id=str(n)) for n in range(1000, 3100))
    probes = [Probe(f"{edit.id} is far from", "near-subject", "it", edit.id) for edit in edits]
    whole = EditStream(edits, tuple(each for probe in probes for each in (probe,) * 2))
    seen = scene_of(load_model(folder), 0, 1900, whole=whole).background
    assert len(seen.edits) == 200
    assert {f"{edit.id} is far from it" for edit in seen.edits} <= set(seen.texts)


@pytest.mark.parametrize(("n_records", "with_the_worlds"), [(103, False), (102, True)])
def test_a_worlds_edits_stand_in_where_a_file_leaves_few(
    n_records: int, with_the_worlds: bool
) -> None:
    loaded = load_model("gptj")
    edits = tuple(Edit(f"Fact number {n} is", "so", id=f"{n}") for n in range(n_records))
    scene = scene_of(loaded, 0, 3, whole=EditStream(edits))
    own = {edit.prompt for edit in loaded.own_world.background().edits}
    assert bool(own & {edit.prompt for edit in scene.background.edits}) == with_the_worlds
    assert set(scene.background.texts) == set(loaded.own_world.background().texts)


def test_a_league_of_a_folder_and_a_file_ends_in_its_table(
    folder: str, facts: str, tmp_path: Path
) -> None:
    words = ["league", "--editors=none,retrieval", f"--models={folder}", f"--dataset={facts}",
             "--options=tuned", "--edits=3", "--seeds=1", "--jobs=1"]  # fmt: skip
    found = CliRunner().invoke(main, [*words, f"--out={tmp_path / 'league'}"])
    assert found.exit_code == 0, found.output
    assert "| retrieval, default |" in found.output
    for path in (tmp_path / "league").glob("*.jsonl"):
        first, *_, last = read_rows(path)
        assert (first.metric, first.stream) == ("knowledge", "jsonl:six.jsonl")
        assert last.t == 3
    other = shutil.copy(facts.partition(":")[2], tmp_path / "other.jsonl")
    words[3] = f"--dataset=jsonl:{other}"
    found = CliRunner().invoke(main, [*words, f"--out={tmp_path / 'league'}"])
    assert "belongs to another league" in found.output


def test_a_league_says_once_which_records_it_skipped_and_on_its_page(
    folder: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.jsonl"
    names = ("Al", "Bo", "Cy", "Di", "Ed", "Fa")
    write_jsonl(EditStream(tuple(Edit(f"{name} is", "Rome", name) for name in names)), path)
    with path.open("a") as file:
        file.write('{"prompt": "Who?"}\n')
    words = ["league", "--editors=none", f"--models={folder}", f"--dataset={path}",
             "--options=tuned", "--edits=2", "--seeds=2", "--jobs=1"]  # fmt: skip
    words.append(f"--out={tmp_path / 'league'}")
    refused = CliRunner().invoke(main, words)
    assert "record 6: target is missing" in refused.output
    assert f"reports lint {path}` tells all that is wrong, and --skip-bad-records" in refused.output
    found = CliRunner().invoke(main, [*words, "--skip-bad-records"])
    assert found.exit_code == 0, found.output
    note = "1 bad record left out: record 6, line 7: target is missing"
    assert found.output.count(note) == 1
    assert (tmp_path / "league" / "league.md").read_text().count(note) == 1


def test_a_league_tells_the_faults_of_its_file_and_reads_it_once_in_a_process(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(STREAM.edits[0], target="Lima", id="again")
    path = tmp_path / "some.jsonl"
    write_jsonl(EditStream((*STREAM.edits, again)), path)
    n_read = []

    def read(spec: str, *, skip_bad_records: bool) -> tuple[EditStream, tuple[str, ...]]:
        n_read.append(spec)
        return read_dataset(spec, skip_bad_records=skip_bad_records)

    monkeypatch.setattr(scenes, "read_dataset", read)
    words = ["league", "--editors=none", f"--models={folder}", f"--dataset={path}",
             "--options=tuned", "--edits=7", "--seeds=2", "--jobs=1"]  # fmt: skip
    found = CliRunner().invoke(main, [*words, f"--out={tmp_path / 'league'}"])
    assert found.exit_code == 0, found.output
    told = "jsonl:some.jsonl, T=7, seed 0: 1 of 7 edits is contradicted by a later edit"
    assert found.output.count(told) == 1
    assert len(n_read) == 1
    path.write_text(path.read_text() + '{"prompt": "A new one is", "target": "Rome"}\n')
    assert len(dataset_scene(folder, 0, 8, source=str(path)).stream.edits) == 8


def test_a_league_tells_what_only_the_tokenizers_of_its_models_show(
    folder: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<e>"]})
    tokenizer.save_pretrained(other)
    path = tmp_path / "some.jsonl"
    edits = [replace(STREAM.edits[0], aliases=("Rome<e>",)), *STREAM.edits[1:]]
    write_jsonl(EditStream(tuple(edits)), path)
    words = ["league", "--editors=no-such", f"--dataset={path}", f"--out={tmp_path / 'league'}"]
    told = "some.jsonl, T=6, seed 0{}: 1 of 1 aliases is such as the tokenizer cannot write"
    alone = CliRunner().invoke(main, [*words, f"--models={other}"])
    assert told.format("") in alone.output
    both = CliRunner().invoke(main, [*words, f"--models={folder},{other}"])
    assert told.format(f", {other}") in both.output
    assert f"T=6, seed 0, {folder}: no " in both.output
    same = CliRunner().invoke(main, [*words, f"--models={folder},gpt2"])
    assert same.output.count("T=6, seed 0: no ") == 1


def test_edits_that_are_too_long_for_a_model_are_left_out_on_demand(
    folder: str, tmp_path: Path
) -> None:
    """The model reads 64 tokens: 16 of what is asked, and 45 of an answer."""
    ask, good = "Who is it, and where and when and why?", Edit("Bo is", "Rome", "Bo", id="good")
    long = [Edit("Al is", "Rome " * 40, "Al", id="answer"), Edit(ask, "Rome", id="prompt"),
            Edit("Cy is", "Rome", "Cy", id="probe")]  # fmt: skip
    probes = Probe("Di is", "far", edit_id="good"), Probe(ask, "far", edit_id="probe")
    write_jsonl(EditStream((good, *long), probes), tmp_path / "some.jsonl")
    words = f"--dataset={tmp_path / 'some.jsonl'}", f"--model={folder}"
    found, notes = settings_of(*words, "--skip-bad-records").facts
    assert (found.edits, found.probes) == ((good,), probes[:1])
    limits = "what is asked has at most 16 tokens, and an answer 45"
    told = f"3 edits with a text that is too long for {folder} ({limits}): "
    named = ("answer (target 'Rome Rome Rome Rome Rome...': 161 tokens), "
             "prompt (prompt 'Who is it, and where and...': 30 tokens), "
             "probe (far probe 'Who is it, and where and...': 30 tokens)")  # fmt: skip
    assert notes == (f"{told}{named}; left out",)
    settings = settings_of(*words)
    assert len(settings.facts[0].edits) == 4
    place = rf"{tmp_path}/some.jsonl, line 2, record 1"
    said = (
        rf"{place}: edit 'answer': target 'Rome .*' has 161 tokens; at most 61 are allowed, as the "
        "model reads 64 with its prompt; --skip-bad-records leaves it out"
    )
    with pytest.raises(ValueError, match=rf"^{said}$"):
        Session(settings, tmp_path).scene(0)
    write_jsonl(EditStream((good, replace(long[1], prompt=ask * 5))), tmp_path / "some.jsonl")
    said = rf"{place}: edit 'prompt': prompt 'Who is it.*; --skip-bad-records leaves it out"
    with pytest.raises(ValueError, match=f"^{said}$"):
        Session(settings_of(*words), tmp_path).scene(0)
    linted = CliRunner().invoke(main, ["lint", str(tmp_path / "some.jsonl"), "--model", folder])
    assert linted.exit_code == 1
    would = "Error: lint read on, and a run would stop at"
    assert re.search(rf"{would} {said}; lines count from 1", linted.output)
    many = [replace(long[1], prompt=ask * n, id=f"{n}") for n in range(5, 12)]
    write_jsonl(EditStream((long[0], *many)), tmp_path / "some.jsonl")
    lint = ["lint", str(tmp_path / "some.jsonl"), "--model", folder, "--edits=2", "--seed=0"]
    with pytest.raises(ValueError, match="leaves it out") as stopped:  # exact laws take all eight
        Session(settings_of(*words, "--edits=2"), tmp_path).bench("none")
    assert f"a run would stop at {stopped.value}" in CliRunner().invoke(main, lint).output


ASK = "Who is it, and where and when and why?" * 3
TOO_LONG = {
    "paraphrase": (Edit("Bo is", "Rome", id="bo", paraphrases=("Bo:", ASK)), "edit 'bo': "),
    "near-relation probe": (Probe(ASK, "near-relation", edit_id="al"), "edit 'al': "),
    "far probe": (Probe(ASK, "far"), ""),
    "portability answer": (Probe("Bo has", "portability", "Rome " * 40), ""),
}


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_text_that_does_not_fit_is_named_with_its_line_its_length_and_what_is_allowed(
    what: str, folder: str, tmp_path: Path
) -> None:
    record, of = TOO_LONG[what]
    path = tmp_path / "some.jsonl"
    edits = [Edit(f"{name} is", "Rome", id=name) for name in ("di", "al")]
    probes = [Probe("Cy is", "far"), record]
    if isinstance(record, Edit):
        edits, probes = [*edits, record], []
    write_jsonl(EditStream(tuple(edits), tuple(probes)), path)
    lines = path.read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "why" in text or "Rome Rome" in text)
    words = f"--dataset={path}", f"--model={folder}"
    allowed = "61 are allowed" if "answer" in what else "56 are allowed"
    said = (
        rf"{path}, line {line}, .*: {of}{what} '.*' has \d+ tokens; at most {allowed}, as the model"
    )
    with pytest.raises(ValueError, match=f"^{said}"):
        Session(settings_of(*words), tmp_path).scene(0)
    skipping = settings_of(*words, "--skip-bad-records")
    (note,) = skipping.facts[1]
    assert f"{what} '" in note
    assert Session(skipping, tmp_path).scene(0).stream.edits


def test_what_may_be_asked_and_answered_fits_in_the_longest_together(folder: str) -> None:
    """A quarter of the context is asked, and what is answered has three, less its end."""
    tokenizer, most = load_tokenizer(folder), load_context_length(folder)
    assert most == 64
    asked = next(
        text for n in range(60) if len(prompt_tokens(tokenizer, [text := "o" * n])[0]) > 16
    )
    answer = next(text for n in range(2, 60) if answer_length(tokenizer, text := "o" * n) > 45)
    for prompt, target, n_left in [
        (asked[:-1], answer[:-1], 1), (asked, "x", 0), ("x", answer, 0),
    ]:  # fmt: skip
        left, _ = askable(EditStream((Edit(prompt, target),)), tokenizer, most)
        assert len(left.edits) == n_left
        check_askable(tokenizer, left, most)


def test_a_text_that_is_left_out_as_too_long_but_fits_stops_no_run(
    folder: str, tmp_path: Path
) -> None:
    """Of the 64 tokens that the model reads a prompt may have 16, where others are left out."""
    ask = "Who is it, and where and when and why?"
    path = tmp_path / "some.jsonl"
    edits = Edit("Bo is", "Rome", id="short"), Edit(ask, "Rome", id="long")
    write_jsonl(EditStream(edits), path)
    words = f"--dataset={path}", f"--model={folder}"
    assert len(Session(settings_of(*words), tmp_path).scene(0).stream.edits) == 2
    for skip, n_edits, told in ([], "2 edits", False), (["--skip-bad-records"], "1 edit", True):
        linted = CliRunner().invoke(main, ["lint", str(path), "--model", folder, *skip])
        assert linted.exit_code == 0, linted.output
        assert f"after {n_edits}:" in linted.output
        assert (
            "): long (prompt 'Who is it, and where and" in " ".join(linted.output.split())
        ) == told


def test_edits_with_an_answer_that_is_no_text_are_left_out_on_demand(
    folder: str, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(folder)
    end = tokenizer.eos_token
    good = Edit("Bo is", "Rome", "Bo", id="good")
    edits = good, Edit("Al is", f"Rome {end} x", id="target"), Edit("Cy is", "Rome", id="chain")
    probes = (Probe("Di is", "portability", answer=end, edit_id="chain"),)
    write_jsonl(EditStream(edits, probes), tmp_path / "some.jsonl")
    words = f"--dataset={tmp_path / 'some.jsonl'}", f"--model={folder}"
    why = f"holds the special token {end!r}, which is not text"
    found, notes = settings_of(*words, "--skip-bad-records").facts
    assert (found.edits, found.probes) == ((good,), ())
    named = f"target (target 'Rome {end} x' {why}), chain (portability answer {end!r} {why})"
    told = f"2 edits with a text that {folder} cannot read or write: {named}"
    assert notes == (f"{told}; left out",)
    place = r"some.jsonl, line 2, record 1"
    with pytest.raises(ValueError, match=rf"{place}: edit 'target': target .*; --skip-bad"):
        Session(settings_of(*words), tmp_path).scene(0)
    said = CliRunner().invoke(main, ["lint", str(tmp_path / "some.jsonl"), "--model", folder])
    assert said.exit_code == 1
    output = " ".join(said.output.split())
    assert f"{told}; left out" in output
    assert "Error: lint read on, and a run would stop at" in output


def test_a_league_leaves_out_what_a_model_cannot_be_asked_on_demand(
    folder: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.jsonl"
    edits = [Edit(f"{name} is", "Rome", name, id=name) for name in ("Al", "Bo", "Cy")]
    write_jsonl(EditStream((*edits, Edit("Di is", "Rome " * 70, "Di", id="long"))), path)
    words = ["league", "--editors=none", f"--models={folder}", f"--dataset={path}",
             "--options=tuned", "--seeds=1", "--jobs=1"]  # fmt: skip
    words.append(f"--out={tmp_path / 'league'}")
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert f"a run stops at {path}, line 4, record 3: edit 'long': target 'Rome" in refused.output
    assert not (tmp_path / "league").exists()
    found = CliRunner().invoke(main, [*words, "--skip-bad-records"])
    assert found.exit_code == 0, found.output
    page = (tmp_path / "league" / "league.md").read_text()
    assert "1 edit with a text that is too long for" in page
    assert "1 edit with a text that is too long for" in found.output
    (rows,) = (tmp_path / "league").glob("*.jsonl")
    assert max(row.t for row in read_rows(rows)) == 3


def test_a_league_of_more_edits_than_its_file_has_is_refused(facts: str, tmp_path: Path) -> None:
    words = ["league", f"--dataset={facts}", "--edits=7", f"--out={tmp_path / 'league'}"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 1
    assert "7 edits are asked for, and jsonl:six.jsonl has 6" in found.output


def test_a_search_on_a_file_goes_to_a_file_of_its_own(
    folder: str, facts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--editor=retrieval", f"--model={folder}", f"--dataset={facts}", "--edits=3"]
    with pytest.raises(SystemExit):
        search.main(words)
    assert "--dataset needs --csv" in capsys.readouterr().err
    search.main([*words, "--trials=1", f"--csv={tmp_path / 'trials.csv'}"])
    with (tmp_path / "trials.csv").open(newline="") as file:
        (trial,) = csv.DictReader(file)
    assert (trial["model"], trial["error"]) == ("tiny", "")
    assert capsys.readouterr().out.startswith("retrieval        {")


def test_the_checks_from_python_take_a_file(folder: str, facts: str) -> None:
    checks = ["reset-restores-the-base-model", "reliability"]
    found = check_editor(
        make_unedited, model=folder, dataset=facts, n_edits=3, checks=checks, on_fail=None
    )
    assert [each.outcome for each in found] == ["pass", "fail"]


def test_laws_make_edits_of_wordings_that_spell_the_subject_otherwise(
    folder: str, tmp_path: Path
) -> None:
    names = ["Ada Lorn", "Bo Rask", "Cleo Vane", "Dov Pell", "Eve Moss", "Finn Hale"]
    cities = ["Oslo", "Rome", "Riga", "Turin", "Paris", "Bern"]
    edits = [
        Edit(f"{name} lives in", city, name, (f"Where is {name.lower()}?", f"{name.lower()} is in"))
        for name, city in zip(names, cities, strict=True)
    ]
    write_jsonl(EditStream(tuple(edits)), tmp_path / "lower.jsonl")
    checks = [
        "an-editor-is-what-its-turns-made-it", "a-refused-turn-leaves-nothing",
        "removing-a-close-edit-undoes-it", "removing-an-edit-leaves-the-others",
        "removing-one-wording-leaves-the-other", "a-refused-removal-changes-nothing",
    ]  # fmt: skip
    found = check_editor(
        load_editor("grace"), model=folder, dataset=str(tmp_path / "lower.jsonl"),
        n_edits=len(edits), checks=checks, on_fail=None,
    )  # fmt: skip
    assert [each.outcome for each in found] == ["pass"] * len(checks)
