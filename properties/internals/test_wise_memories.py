"""Laws of `wise.editors.wise.sharding`: shards and memories, overwriting, unediting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_wise import EDITS, is_same, make_wise, prompts_of
from wise.editors.router import RoutingInputs
from wise.editors.wise.learning import Learner
from wise.editors.wise.memory import Memory, WISEState
from wise.editors.wise.merge import MERGES, merge
from wise.editors.wise.wise import WISE
from wise.edits import Background, Edit
from wise.lm.decoding import Reader

pytestmark = pytest.mark.internals

MERGE: dict[str, Any] = dict(memory="merge", n_shards=2, edits_per_shard=1, mask_ratio=0.5)
RETRIEVE: dict[str, Any] = dict(memory="retrieve", n_shards=1, edits_per_shard=2)
RETRIEVE_MERGED: dict[str, Any] = dict(
    memory="retrieve", n_shards=2, edits_per_shard=1, mask_ratio=0.5
)

Shape = tuple[list[list[int]], list[int]]


def shape_of(state: WISEState) -> Shape:
    """Edits of each shard of each merge of each memory; edits of each open shard."""
    memories = [
        [sum(len(turn.edits) for _, turns in group for turn in turns) for group in memory.merges]
        for memory in state.memories
    ]
    return memories, [len(shard.edits) for shard in state.shards]


def shapes(options: dict[str, Any], n: int = 6, size: int = 1) -> list[Shape]:
    editor = make_wise(**options, n_steps=1)
    stream = [Edit(f"{edit.prompt} {i}", edit.target) for i in range(2) for edit in EDITS]
    found = []
    for start in range(0, n * size, size):
        editor.edit(stream[start : start + size])
        found.append(shape_of(editor._state))
    return found


def test_merge_keeps_one_memory_and_joins_every_k_shards_to_it() -> None:
    assert shapes(MERGE) == [
        ([], [1, 0]),
        ([[2]], []),
        ([[2]], [1, 0]),
        ([[2, 2]], []),
        ([[2, 2]], [1, 0]),
        ([[2, 2, 2]], []),
    ]


def test_retrieve_keeps_every_memory() -> None:
    assert shapes(RETRIEVE) == [
        ([], [1]),
        ([[2]], []),
        ([[2]], [1]),
        ([[2], [2]], []),
        ([[2], [2]], [1]),
        ([[2], [2], [2]], []),
    ]


def test_retrieve_with_k_shards_merges_each_memory_of_k() -> None:
    assert shapes(RETRIEVE_MERGED)[1::2] == [([[2]], []), ([[2], [2]], []), ([[2], [2], [2]], [])]


def test_a_mass_turn_fills_the_live_shard_and_as_many_more_as_it_needs() -> None:
    assert shapes(RETRIEVE, n=2, size=3) == [([[2]], [1]), ([[2], [2], [2]], [])]
    assert shapes(dict(MERGE, edits_per_shard=2), n=1, size=11) == [([[4, 4]], [2, 1])]


def test_a_mass_turn_that_fails_half_way_leaves_all_as_it_was() -> None:
    editor = make_wise(edits=EDITS[:1], **RETRIEVE, background=Background())
    before = editor._state
    with pytest.raises(ValueError, match="reads at most 64"):
        editor.edit([*EDITS[1:4], Edit("very " * 70 + "long", "x")])
    assert editor._state is before


def test_a_mass_turn_is_one_turn_whose_edits_can_be_removed_one_by_one() -> None:
    editor = make_wise(**RETRIEVE)
    editor.edit(EDITS[:5])
    assert (editor.edits, editor._state.n_turns) == (EDITS[:5], 1)
    whole = editor._state
    editor.remove(EDITS[:1])
    assert editor.edits == EDITS[1:5]
    assert editor._state.memories[1] is whole.memories[1]
    assert editor._state.shards[0] is whole.shards[0]


@pytest.mark.parametrize("options", [RETRIEVE, RETRIEVE_MERGED, dict(RETRIEVE, replay=2)])
@pytest.mark.parametrize("position", range(4))
def test_overwriting_an_edit_relearns_only_what_held_it(
    options: dict[str, Any], position: int
) -> None:
    editor = make_wise(edits=EDITS[:5], **options)
    before = editor._state
    editor.edit([replace(EDITS[position], target="Bonn")])
    untouched = [m for m in before.memories if EDITS[position] not in m.edits]
    assert untouched
    assert all(any(m is kept for kept in editor._state.memories) for m in untouched)


@pytest.mark.parametrize("memory", ["merge", "retrieve"])
@pytest.mark.parametrize("n_before", range(1, 5))
def test_replay_draws_from_every_earlier_shard_and_not_from_the_live_one(
    memory: str, n_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = dict(
        memory=memory, n_shards=3, edits_per_shard=1, mask_ratio=0.5, replay=9
    )
    editor = make_wise(edits=EDITS[:n_before], **options, n_steps=1)
    asked: list[str] = []
    own = Learner._inputs_of

    def see(learner: Learner, prompts: Sequence[str]) -> RoutingInputs:
        asked.extend(prompts)
        return own(learner, prompts)

    monkeypatch.setattr(Learner, "_inputs_of", see)
    monkeypatch.setattr(Learner, "epsilon", lambda learner, memory: memory.epsilon)
    editor.edit(EDITS[n_before : n_before + 1])
    assert sorted(asked) == sorted(edit.prompt for edit in EDITS[:n_before])


def test_replay_keeps_earlier_prompts_out_of_a_later_memory() -> None:
    """Of two memories, the second is activated less by the first one's prompts with replay."""
    excess = []
    for replay in (0, 2):
        editor = make_wise(edits=EDITS[:4], **RETRIEVE, replay=replay, background=Background())
        batch = prompts_of([edit.prompt for edit in EDITS[:2]])
        rows = editor._rows(batch.input_ids, batch.attention_mask)
        router, later = editor._learner.router, editor._state.memories[1]
        unit = editor._learner._scales[0]
        excess.append(float((router.activations(rows, [later])[0] / unit - 0.2).relu().mean()))
    assert excess[1] < 0.7 * excess[0]


@pytest.mark.parametrize("method", sorted({*MERGES} - {"dare", "dare-ties"}))  # they draw
def test_a_memory_is_the_merge_of_its_shards(method: str) -> None:
    waiting = make_wise(edits=EDITS[:2], **dict(MERGE, n_shards=3))._state.shards
    (memory,) = make_wise(edits=EDITS[:2], **MERGE, merge=method)._state.memories
    taus = [shard.change.dense() for shard in waiting[:2]]
    assert memory.change.dense().equal(merge(method, torch.zeros(48, 32), taus, density=0.53))


@pytest.mark.parametrize("options", [MERGE, RETRIEVE])
def test_all_edits_in_force_are_known_in_order(options: dict[str, Any]) -> None:
    editor = make_wise(edits=EDITS[:5], **options)
    assert editor.edits == EDITS[:5]


@pytest.mark.parametrize("threshold", ["running", "recomputed"])
def test_the_epsilon_of_a_merge_is_the_smallest_then_or_now(threshold: str) -> None:
    editor = make_wise(edits=EDITS[:1], **MERGE, threshold=threshold)
    known = editor._state.shards[0].epsilon
    editor.edit(EDITS[1:2])
    (memory,) = editor._state.memories
    batch = prompts_of([edit.prompt for edit in EDITS[:2]])
    now = float(editor.routing_activation(batch.input_ids, batch.attention_mask).min())
    if threshold == "running":
        assert memory.epsilon <= known
        assert memory.epsilon != pytest.approx(now, rel=1e-3)
    else:
        assert memory.epsilon == pytest.approx(now, rel=1e-5)


def answers(editor: WISE, edits: list[Edit]) -> list[str]:
    found = Reader(tiny_tokenizer(), max_new_tokens=8).free(editor, [edit.prompt for edit in edits])
    return [answer.text for answer in found]


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("n_between", [0, 1, 2, 3])
def test_the_last_write_of_a_prompt_wins(n_shards: int, n_between: int) -> None:
    first, last = EDITS[1], replace(EDITS[1], target="French")
    stream = [first, EDITS[3], *EDITS[4:6], EDITS[2]]
    editor = make_wise(
        "gptj", edits=[*stream[: 1 + n_between], last], memory="retrieve", n_steps=60,
        n_shards=n_shards, edits_per_shard=2,
    )  # fmt: skip
    assert answers(editor, [last]) == ["French"]
    in_force = [edit for edit in editor.edits if edit.prompt == first.prompt]
    assert in_force == [last]


def edited_at(turns: dict[int, Edit], **options: Any) -> WISE:
    """An editor after these edits, each at its turn; the turns between held nothing."""
    editor = make_wise(**options)
    for turn, edit in turns.items():
        editor._state = replace(editor._state, n_turns=turn)
        editor.edit([edit])
    return editor


@pytest.mark.parametrize("n_shards", [1, 3])
def test_an_overwritten_edit_leaves_a_full_shard_as_if_it_had_never_been(n_shards: int) -> None:
    options: dict[str, Any] = dict(RETRIEVE, n_shards=n_shards)
    last = replace(EDITS[0], target="Bonn")
    editor = make_wise(edits=[*EDITS[:3], last], **options)
    kept: list[Any] = [*editor._state.memories, *editor._state.shards]
    full = kept[0]
    never = edited_at({1: EDITS[1]}, **options)._state.shards[0]
    assert full.edits == never.edits == EDITS[1:2]
    assert full.change.dense().equal(never.change.dense())
    assert full.epsilon == never.epsilon


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("options", [RETRIEVE, dict(RETRIEVE, edits_per_shard=9), RETRIEVE_MERGED])
def test_removing_an_edit_is_bitwise_never_having_made_it(
    position: int, options: dict[str, Any]
) -> None:
    """In its own shard; turns keep their numbers, from which everything random is drawn."""
    editor = make_wise(edits=EDITS[:5], **options)
    shards = editor._state
    editor.remove([EDITS[position]])
    never = edited_at({t: e for t, e in enumerate(EDITS[:5]) if t != position}, **options)
    assert editor.edits == tuple(e for i, e in enumerate(EDITS[:5]) if i != position)
    assert shards.n_turns == editor._state.n_turns
    if options.get("edits_per_shard") == 9:  # one shard: the whole state
        assert is_same(editor._state.shards, never._state.shards)
    untouched = [m for m in shards.memories if EDITS[position] not in m.edits]
    assert all(any(is_same(m, kept) for kept in editor._state.memories) for m in untouched)


@pytest.mark.parametrize("options", [RETRIEVE, MERGE, dict(MERGE, edits_per_shard=9)])
def test_removing_all_edits_leaves_the_bare_model(options: dict[str, Any]) -> None:
    editor = make_wise(edits=EDITS[:5], **options)
    batch = prompts_of([edit.prompt for edit in EDITS])
    arguments = batch.input_ids, batch.attention_mask
    assert not editor.logits(*arguments).equal(make_wise().logits(*arguments))
    editor.remove(EDITS[:5])
    assert editor.edits == ()
    assert editor.logits(*arguments).equal(make_wise().logits(*arguments))
    assert editor.threshold == float("inf")


@pytest.mark.parametrize("options", [RETRIEVE, MERGE])
def test_what_is_not_in_force_cannot_be_removed(options: dict[str, Any]) -> None:
    editor = make_wise(edits=EDITS[:3], **options)
    state = editor._state
    with pytest.raises(KeyError, match="Dov speaks"):
        editor.remove([EDITS[0], EDITS[3]])
    assert editor._state is state
    editor.remove(EDITS[:1])
    with pytest.raises(KeyError, match="Ada Lorn lives in"):
        editor.remove(EDITS[:1])


@pytest.mark.parametrize("method", MERGES)
def test_a_shard_left_empty_does_not_weaken_the_merge(method: str) -> None:
    editor = make_wise(edits=EDITS[:1], **MERGE, merge=method)
    editor.remove(EDITS[:1])
    editor.edit(EDITS[1:2])
    alone = make_wise(edits=EDITS[:2], **dict(MERGE, n_shards=3))._state.shards[1]
    (memory,) = editor._state.memories
    assert memory.change.dense().equal(alone.change.dense())
    assert memory.edits == EDITS[1:2]


def test_a_removed_edit_can_be_made_again() -> None:
    editor = make_wise(edits=EDITS[:3], **RETRIEVE)
    editor.remove(EDITS[1:2])
    editor.edit(EDITS[1:2])
    assert set(editor.edits) == set(EDITS[:3])
    assert isinstance(editor._state.memories[0], Memory)
