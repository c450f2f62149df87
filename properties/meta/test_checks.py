"""No law is forgotten: each function of a bench that is called check_... is a check."""

from __future__ import annotations

import ast
import gc
import gzip
import io
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from conftest import OF_THEIR_ROWS
from fixtures.models import load_model
from fixtures.perfect import Perfect
from properties import patterns, retention
from properties.bench import Bench
from properties.checks import CHECKS, Check, laws_of
from properties.findings import Broken, for_metrics, needs
from properties.internals.test_reach import bench_of, rows_of, stream_of
from properties.laws.batches import questions
from properties.laws.states import _pickle_in
from properties.laws.writes import (
    check_a_mass_turn_writes_all_of_its_edits,
    check_every_edit_of_a_turn_leaves_its_mark,
)
from properties.machine import check_any_sequence_of_operations
from properties.meta.called import ROOT
from properties.outcomes import run_as_test
from properties.rates import check_rate
from properties.runs import world_bench
from properties.snapshots import Snapshot, require_same_answers
from wise.editor import Editor, Persistent, Routed
from wise.editors.corners import make_unedited
from wise.edits import Edit
from wise.lm.decoding import Answer, Unedited

pytestmark = pytest.mark.meta


def laws_written(root: Path) -> Iterator[str]:
    """`module.function` of each law under `root`; the suite's own tests have none."""
    for path in sorted((root / "properties").rglob("*.py")):
        place = path.relative_to(root)
        if {"internals", "meta"} & set(place.parts):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("check_"):
                continue
            if [each.arg for each in node.args.args][:1] == ["bench"]:
                yield f"{'.'.join(place.with_suffix('').parts)}.{node.name}"


def laws_run() -> set[str]:
    laws = [check.law for check in CHECKS.values()]
    functions = [law.func if isinstance(law, partial) else law for law in laws]
    return {f"{function.__module__}.{function.__qualname__}" for function in functions}


def test_every_law_that_is_written_is_a_check_and_no_other() -> None:
    assert set(laws_written(ROOT)) == laws_run()


def test_a_law_that_is_no_check_is_named(tmp_path: Path) -> None:
    laws = tmp_path / "properties" / "laws"
    laws.mkdir(parents=True)
    (laws / "manners.py").write_text("def check_it_is_polite(bench): ...\ndef check_list(n): ...\n")
    (laws.parent / "rates.py").write_text("def check_speed(bench, metric): ...\n")
    planted = {"properties.laws.manners.check_it_is_polite", "properties.rates.check_speed"}
    assert set(laws_written(tmp_path)) - laws_run() == planted


def test_a_law_says_its_name_its_needs_and_its_metrics() -> None:
    module = ModuleType("manners")

    @needs(Persistent, Routed)
    def check_it_is_polite(bench: object) -> None: ...

    @for_metrics("far", "near")
    def check_speed(bench: object, metric: str) -> None: ...

    def check_of_elsewhere(bench: object) -> None: ...

    for law in (check_it_is_polite, check_speed):
        law.__module__ = "manners"
    for law in (check_it_is_polite, check_speed, check_of_elsewhere):
        setattr(module, law.__name__, law)
    found = list(laws_of(module))
    assert [check.name for check in found] == ["it-is-polite", "far", "near"]
    assert [check.needs for check in found] == [(Persistent, Routed), (), ()]


def test_no_two_checks_share_a_name() -> None:
    assert len(CHECKS) == len(list(CHECKS.values()))
    assert all(check.name == name for name, check in CHECKS.items())


def test_text_is_told_from_a_pickle_without_a_warning() -> None:
    with warnings.catch_warnings(action="error"):
        assert not _pickle_in(rb"S'\?'" + b"\n")


@pytest.mark.parametrize("objects", [False, True])
def test_an_archive_of_arrays_is_no_pickle_unless_one_holds_objects(objects: bool) -> None:
    file = io.BytesIO()
    np.savez(file, keys=np.zeros((2, 3)), values=np.array([1], dtype=object if objects else int))
    found = "a zip archive, and values.npy in it an array of pickled objects"
    assert _pickle_in(file.getvalue()) == (found if objects else "")


@pytest.mark.parametrize(
    ("packed", "found"),
    [
        (lambda content: content, "a pickle"),
        (lambda content: content + bytes(16), "a pickle"),  # with raw tensors after it
        (gzip.compress, "packed by gzip, and in it a pickle"),
    ],
)
def test_a_pickle_is_found_however_it_is_packed(
    packed: Callable[[bytes], bytes], found: str
) -> None:
    assert _pickle_in(packed(pickle.dumps({"keys": [0.5]}))) == found


def test_what_torch_saves_is_an_archive_with_a_pickle() -> None:
    file = io.BytesIO()
    torch.save({"keys": torch.zeros(2)}, file)
    assert _pickle_in(file.getvalue()) == "a zip archive, and archive/data.pkl in it a pickle"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return world_bench(make_unedited, load_model("gptj"), tmp_path, n_edits=5)


def test_a_law_that_is_broken_keeps_no_editor_alive(bench: Bench) -> None:
    made = list[weakref.ref[object]]()

    def law(bench: Bench) -> None:
        editor = bench.editor()
        made.append(weakref.ref(editor))
        raise Broken("it is not kept")

    with pytest.raises(pytest.fail.Exception, match="a-law: it is not kept") as kept:
        run_as_test(Check("a-law", law), bench, lambda name, value: None)
    gc.collect()
    assert kept.value.__traceback__ is not None  # as pytest keeps it
    assert made[0]() is None


def test_checks_of_one_bench_ask_the_unedited_model_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, found = list[str](), dict[str, object]()
    ask = Bench.ask

    def counted(self: Bench, editor: Editor, prompts: Sequence[str]) -> list[Answer]:
        asked.extend(prompts)
        return ask(self, editor, prompts)

    def law(bench: Bench) -> None:
        bench.base_answers(bench.prompts)
        bench.record("n_prompts", len(bench.prompts))

    monkeypatch.setattr(Bench, "ask", counted)
    for name in ("one", "other"):
        run_as_test(Check(name, law), bench, found.__setitem__)
        assert found.pop("n_prompts") == len(bench.prompts)
    assert asked == list(bench.prompts)
    bench.record("n_prompts", 0)
    assert "n_prompts" not in found


def test_a_sequence_of_operations_lets_go_of_its_editors_when_it_ends(bench: Bench) -> None:
    made = list[weakref.ref[object]]()

    def factory(*args: Any, **options: Any) -> Unedited:
        editor = make_unedited(*args, **options)
        made.append(weakref.ref(editor))
        return editor

    bench = replace(bench, factory=factory, thresholds={"reliability": 0.01}, n_examples=4)
    gc.disable()
    try:
        check_any_sequence_of_operations(bench)
        assert len(made) > 4
        assert [each() for each in made if each() is not None] == [bench.example]
    finally:
        gc.enable()


def test_a_law_asks_short_questions_where_the_vocabulary_is_large(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, n = bench.loaded.tokenizer, 60
    lengths = [len(ids) for ids in tokenizer(questions(bench, n)).input_ids]
    most = sorted(lengths)[n // 2]
    monkeypatch.setattr("wise.lm.decoding._MOST_LOGITS", n * most * len(tokenizer))
    asked = questions(bench, n)
    assert len(asked) == n
    assert max(len(ids) for ids in tokenizer(asked).input_ids) == most < max(lengths)


@pytest.mark.parametrize("is_of_place", [False, True], ids=["never-written", "last-of-a-turn"])
def test_a_place_in_a_turn_is_blamed_for_what_is_written_elsewhere(
    is_of_place: bool, tmp_path: Path
) -> None:
    lost = set[str]()

    class Losing(Perfect):
        def edit(self, edits: Sequence[Edit]) -> None:
            self.check(edits)
            for edit in edits[:-1] if is_of_place and len(edits) > 1 else edits:
                if is_of_place or edit.prompt not in lost:
                    self.remember(edit)

    bench = world_bench(
        Losing, load_model("gptj"), tmp_path, n_edits=20, thresholds={"reliability": 0.85}
    )
    lost |= {edit.prompt for edit in bench.edits(10)}
    with (
        pytest.raises(Broken, match="2 edits, the one at place 2") if is_of_place else nullcontext()
    ):
        check_a_mass_turn_writes_all_of_its_edits(bench)


@pytest.mark.parametrize("is_asked", [True, False])
def test_prompts_that_a_space_sets_apart_may_be_one_if_both_are_answered(
    is_asked: bool, tmp_path: Path
) -> None:
    class TakesThemForOne(Perfect):
        def remember(self, edit: Edit) -> None:
            held = [own for own in self.live if own.strip() == edit.prompt.strip()]
            for own in held:
                del self.live[own]
            self.notes = {} if held else self.notes
            super().remember(edit)

        def answer(self, prompt: str) -> str | None:
            asked = {own.strip(): own for own in self.live} if is_asked else {}
            return super().answer(asked.get(prompt.strip(), prompt))

    bench = world_bench(TakesThemForOne, load_model("gptj"), tmp_path, n_edits=5)
    with nullcontext() if is_asked else pytest.raises(Broken, match="but for a space at its end"):
        check_every_edit_of_a_turn_leaves_its_mark(bench)


def test_an_answer_without_text_is_told_in_words() -> None:
    said, unsaid = Answer("Oslo", (7, 0), True), Answer("", (0,), True)
    found, expected = (
        Snapshot(("Where?",), (answer,), torch.zeros(1, 1, 2), None, None, ())
        for answer in (said, unsaid)
    )
    with pytest.raises(Broken, match=r"'Where\?' is answered 'Oslo'; needed: an empty text$"):
        require_same_answers(found, expected, "now")
    stream = stream_of(60)
    rows = [replace(row, expected="") for row in rows_of(stream, direct=[], harder=[])]
    said_of_rates = "'prompt 0' is answered an empty text, needed: an empty text"
    with pytest.raises(Broken, match=said_of_rates):
        check_rate(bench_of(stream, rows), "reliability")


def test_whatever_reads_the_rows_of_rates_goes_to_their_process() -> None:
    assert {check.name for check in laws_of(retention, patterns)} == set(OF_THEIR_ROWS)
