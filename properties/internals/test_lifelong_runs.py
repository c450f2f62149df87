"""Laws of `wise.evaluation.lifelong`: turns, checkpoints, and the rows that a run leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tqdm import tqdm

from properties.internals.tiny_wise import EDITS
from properties.internals.watched import KINDS, RUN, STREAM, T, Watched, go
from wise.editor import Editor, Persistent
from wise.edits import Edit, EditStream
from wise.evaluation import lifelong
from wise.evaluation.asked import final_questions
from wise.evaluation.lifelong import reader_of
from wise.evaluation.metrics import BaseAnswers, measure
from wise.lm.decoding import Reader, Unedited
from wise.measures.estimates import estimates_of_runs, in_order, long_table
from wise.measures.rows import Row, read_rows

pytestmark = pytest.mark.internals


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows file of a run by an editor without saved states."""
    path = tmp_path_factory.mktemp("run") / "rows.jsonl"
    go(path, Watched())
    return path


@pytest.fixture(scope="module")
def rows(path: Path) -> list[Row]:
    return read_rows(path)


def test_the_watched_editors_have_the_capabilities_of_their_kind() -> None:
    assert isinstance(Watched(), Editor)
    assert [isinstance(KINDS[kind](), Persistent) for kind in KINDS] == [True, False]


def test_a_run_that_saves_states_gives_the_same_bytes_and_leaves_no_state(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifelong, "_SAVE_EVERY", 2)
    go(tmp_path / "rows.jsonl", KINDS["with saved states"]())
    assert (tmp_path / "rows.jsonl").read_bytes() == path.read_bytes()
    assert {child.name for child in tmp_path.iterdir()} == {"rows.jsonl", "rows.jsonl.run.json"}


def test_the_bar_of_a_run_knows_how_much_will_be_asked(tmp_path: Path) -> None:
    ends: dict[str, tuple[int, int]] = {}

    class WatchedBar(tqdm):
        def close(self) -> None:
            ends[self.unit] = self.n, self.total
            super().close()

    go(tmp_path / "rows.jsonl", Watched(), progress=True, bar_of=WatchedBar)
    n, total = ends["question"]
    assert 0 < n <= total < 1.1 * n
    assert ends["edit"] == (T, T)


def test_a_run_returns_the_rows_of_its_file(tmp_path: Path) -> None:
    found = go(tmp_path / "rows.jsonl", Watched(), replace(RUN, checkpoints=(1,)))
    assert found == read_rows(tmp_path / "rows.jsonl")


def test_a_run_of_what_is_judged_has_the_last_rows_of_the_first_protocol(
    rows: list[Row], tmp_path: Path
) -> None:
    found = go(tmp_path / "rows.jsonl", Watched(), RUN.judged())
    judged = [row for row in rows if (row.when, row.t, row.protocol) == ("final", T, "free")]
    assert [row for row in found if row.when == "final"] == judged != []


def test_blocks_stand_in_the_order_of_the_work(rows: list[Row]) -> None:
    at_edit = [f"edit {t}" for t in range(1, T + 1)]
    final = [f"checkpoint {t} {protocol}" for t in (2, 6) for protocol in ("free", "forced")]
    expected = [*at_edit[:2], *final[:2], *at_edit[2:], *final[2:]]
    assert list(dict.fromkeys(row.block for row in rows)) == expected


def test_every_row_is_stamped_with_the_block_that_it_is_of(rows: list[Row]) -> None:
    for row in rows:
        what, t, *protocol = row.block.split()
        when = "at-edit" if what == "edit" else "final"
        assert (row.t, row.when, [row.protocol]) == (int(t), when, protocol or ["free"])
        assert row.run == RUN.identity
        assert (row.stream, row.stream_sha256) == (STREAM.name, STREAM.sha256)


def test_both_protocols_ask_the_same_questions(rows: list[Row]) -> None:
    asked = {
        protocol: [
            (row.t, row.metric, row.kind, row.prompt)
            for row in rows
            if row.protocol == protocol and row.when == "final"
        ]
        for protocol in ("free", "forced")
    }
    assert asked["free"] == asked["forced"]
    assert len(asked["free"]) == 3 * 2 + 3 * 6  # prompt, paraphrase and probe of each edit made


def test_a_checkpoint_asks_only_for_the_edits_made(rows: list[Row]) -> None:
    assert {row.edit_id for row in rows if row.block == "checkpoint 2 free"} == {"e0", "e1"}


def test_edits_are_made_in_turns_and_each_is_asked_once_at_edit(tmp_path: Path) -> None:
    run = replace(RUN, edits_per_turn=4, checkpoints=(5,))
    found = [row for row in go(tmp_path / "rows.jsonl", Watched(), run) if row.when == "at-edit"]
    assert [row.edit_id for row in found] == [edit.id for edit in STREAM.edits]
    assert [row.t for row in found] == [4, 4, 4, 4, 5, 6]


@pytest.mark.parametrize("edits_per_turn", range(1, T + 2))
@pytest.mark.parametrize("checkpoints", [(), (1,), (2, 6), (5, 3, 5), (6, 1, 2, 3, 4, 5)])
def test_turns_cover_the_stream_in_order_and_never_cross_a_checkpoint(
    edits_per_turn: int, checkpoints: tuple[int, ...]
) -> None:
    run = replace(RUN, edits_per_turn=edits_per_turn, checkpoints=checkpoints)
    turns = list(dict.fromkeys((block.begin, block.end) for block in run.plan(is_routed=False)))
    assert [edit for turn in turns for edit in range(*turn)] == list(range(T))
    assert all(1 <= end - begin <= edits_per_turn for begin, end in turns)
    assert {*checkpoints} <= {end for _, end in turns}
    assert len(turns) <= -(-T // edits_per_turn) + len({*checkpoints})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"checkpoints": (0,)}, "checkpoint 0 is outside the stream's 1..6 edits"),
        ({"checkpoints": (1, 7)}, "checkpoint 7 is outside the stream's 1..6 edits"),
        ({"protocols": ("free", "greedy")}, "protocol='greedy' is none of free, forced"),
        ({"edits_per_turn": 0}, "edits_per_turn=0 must be >= 1"),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        replace(RUN, **changes)


def test_edits_without_subject_and_id_are_clusters_of_their_own(tmp_path: Path) -> None:
    bare = EditStream(EDITS[:2])
    found = go(tmp_path / "rows.jsonl", Watched(), replace(RUN, stream=bare, checkpoints=(2,)))
    assert {row.cluster for row in found} == {edit.prompt for edit in EDITS[:2]}


def test_aliases_are_in_the_rows_that_they_count_in_and_no_editor_sees_them(
    rows: list[Row], tmp_path: Path
) -> None:
    class Spy(Watched):
        seen: ClassVar[list[Edit]] = []

        def edit(self, edits: Sequence[Edit]) -> None:
            self.seen.extend(edits)
            super().edit(edits)

    named = tuple(replace(edit, aliases=(edit.target[:1],)) for edit in STREAM.edits)
    run = replace(RUN, stream=replace(STREAM, edits=named))
    found = go(tmp_path / "rows.jsonl", Spy(), run)
    assert Spy.seen == [edit.as_taught() for edit in STREAM.edits]
    with_any = {(row.protocol, row.metric) for row in found if row.aliases}
    assert with_any == {("free", "reliability"), ("free", "generalization")}
    bare = [replace(row, stream_sha256=STREAM.sha256, aliases=()) for row in found]
    assert bare == rows  # as it says no alias


def test_what_the_unedited_model_knows_is_told_before_all_else_and_changes_no_other_row(
    tmp_path: Path,
) -> None:
    wise = Watched().wise
    base, prompts = Unedited(wise.lm.model, wise.tokenizer), [edit.prompt for edit in STREAM.edits]
    truths = [f"{edit.target} or {edit.subject}" for edit in STREAM.edits]
    edits = [replace(e, ground_truth=t) for e, t in zip(STREAM.edits, truths, strict=True)]
    stream = EditStream(tuple(edits), STREAM.probes, STREAM.name)
    told = go(tmp_path / "told", Watched(), replace(RUN, stream=stream, tells_knowledge=True))
    untold = go(tmp_path / "untold", Watched(), replace(RUN, stream=stream))
    first, rest = told[: len(edits)], told[len(edits) :]
    assert rest == untold
    assert {(row.metric, row.when, row.protocol, row.t) for row in first} == {
        ("knowledge", "unedited", "forced", 0)
    }
    assert [(row.edit_id, row.expected) for row in first] == [
        (edit.id, edit.ground_truth) for edit in edits
    ]
    answers = Reader(wise.tokenizer).forced(base, prompts, truths)
    assert [row.score for row in first] == [answer.share_right for answer in answers]


def test_what_the_unedited_model_finds_likelier_is_told_beside_what_the_edited_one_does(
    tmp_path: Path,
) -> None:
    wise = Watched().wise
    edits = tuple(replace(edit, ground_truth=f"no {edit.target}") for edit in STREAM.edits)
    stream = EditStream(edits, STREAM.probes, STREAM.name)
    run = replace(RUN, stream=stream, protocols=("free", "compared"))
    path = tmp_path / "rows.jsonl"
    found = go(path, Watched(), run)
    base = Unedited(wise.lm.model, wise.tokenizer)
    reader = reader_of(wise.lm.model, wise.tokenizer, stream)
    questions = final_questions(stream)
    expected = measure(base, reader, questions, "compared", BaseAnswers({}, {}))
    before = [row for row in found if row.when == "unedited"]
    after = [row for row in found if row.block == f"checkpoint {T} compared"]
    assert [row.score for row in before] == [each.score for each in expected]
    assert [row.prompt for row in before] == [row.prompt for row in after]
    assert {(row.block, row.t, row.age) for row in before} == {("unedited compared", 0, 0)}
    told = estimates_of_runs(found)
    rates = told[told.when == "unedited"].set_index("metric")
    assert set(rates.t) == {T}
    n_right = sum(row.score == 1 for row in before if row.metric == "reliability")
    assert rates.loc["reliability", "mean"] == n_right / T
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    go(path, Watched(), run, resume=True)
    assert path.read_bytes() == whole


def test_no_estimate_is_made_of_what_the_unedited_model_knows(rows: list[Row]) -> None:
    more = replace(rows[0], metric="knowledge", when="unedited", protocol="forced", t=0, block="k")
    assert (
        in_order(long_table([more, *rows])).metric.nunique()
        == in_order(long_table(rows)).metric.nunique()
    )
