"""Laws of editing in context: what stands before a prompt, where it goes, and what is cut off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import asked, tiny
from properties.internals.tiny_wise import BACKGROUND, EDITS, is_same
from wise.editor import Erasable, Generates, Persistent, Routed
from wise.editors.incontext import (
    Retriever,
    demonstrations,
    make_ike,
    make_retrieval,
    statement,
)
from wise.editors.prefixed import placed
from wise.edits import Background, Edit
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import Unedited

pytestmark = pytest.mark.internals

MAKES: dict[str, Any] = {"ike": make_ike, "retrieval": make_retrieval}
QUICK: dict[str, Any] = dict(reserve=6)


@given(
    prefixes=st.lists(st.lists(st.integers(100, 199), max_size=4), min_size=3, max_size=3),
    rows=st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=4), min_size=3, max_size=3),
    side=st.sampled_from(["left", "right"]),
    n_lead=st.integers(0, 1),
)
def test_a_row_is_its_beginning_its_prefix_and_its_rest_without_gaps(
    prefixes: list[list[int]], rows: list[list[int]], side: str, n_lead: int
) -> None:
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    padded = [
        pad + row if side == "left" else row + pad for pad, row in zip(pads, rows, strict=True)
    ]
    ids = torch.tensor(padded)
    found, mask, places = placed(prefixes, ids, (ids > 0).long(), n_lead=n_lead)
    for row, prefix, whole, own in zip(rows, prefixes, found, mask.bool(), strict=True):
        assert whole[own].tolist() == row[:n_lead] + prefix + row[n_lead:]
        assert own.tolist() == sorted(own.tolist())
    assert int(mask.sum(-1).max()) == found.shape[1]
    assert torch.equal(found.gather(1, places)[ids > 0], ids[ids > 0])


def test_the_best_text_is_the_one_that_shares_rare_words() -> None:
    retriever = Retriever(["Ada lives in", "Bo lives in", "What does Ada speak?"])
    scores = retriever.scores("In which city does Ada live, ada lives")
    assert max(range(3), key=scores.__getitem__) == 0
    assert retriever.scores("zebra, giraffe") == [0.0, 0.0, 0.0]
    assert Retriever([]).scores("Ada") == []


def test_texts_without_words_are_no_error() -> None:
    assert Retriever(["?!"]).scores("...")[0] >= 0
    assert Retriever(["?!", "Ada"]).scores("Bo") == [0.0, 0.0]


def test_a_text_without_words_is_found_by_itself_alone() -> None:
    retriever = Retriever(["?!", "Ada", "#"])
    assert retriever.scores("...") == [0.0, 0.0, 0.0]
    found = retriever.scores(" # ")
    assert found[2] > 0
    assert found[:2] == [0.0, 0.0]


def test_of_eight_demonstrations_one_copies_three_paraphrase_and_four_retain() -> None:
    edits = tuple(
        Edit(f"p{n}", f"new{n}", paraphrases=(f"q{n}",), ground_truth=f"old{n}") for n in range(8)
    )
    shown = demonstrations(Background((), edits), n=8, style="ike", seed=0)
    asked = [text.split("Prompt: ")[1] for text in shown]
    assert sum(question.startswith("q") for question in asked) == 3
    assert sum("old" in question for question in asked) == 4
    assert all(text.startswith("New Fact: ") for text in shown)
    assert shown == demonstrations(Background((), edits), n=8, style="ike", seed=0)
    assert shown != demonstrations(Background((), edits), n=8, style="ike", seed=1)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("kind", MAKES)
def test_an_empty_store_is_the_model_bitwise(kind: str, model_type: str) -> None:
    editor, batch = tiny(MAKES[kind], model_type), asked()
    arguments = batch.input_ids, batch.attention_mask
    bare = Unedited(editor.lm.model, tiny_tokenizer())
    assert torch.equal(editor.logits(*arguments), bare.logits(*arguments))
    assert torch.equal(editor.generate(*arguments, 6), bare.generate(*arguments, 6))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("kind", MAKES)
def test_it_answers_as_the_model_does_with_the_fact_before_the_prompt(
    kind: str, model_type: str
) -> None:
    editor = tiny(MAKES[kind], model_type, **QUICK)
    editor.edit(EDITS[:1])
    told = statement(EDITS[0], "plain")
    ids = tiny_tokenizer()(told).input_ids + tiny_tokenizer()(EDITS[0].prompt).input_ids
    n_own = len(tiny_tokenizer()(EDITS[0].prompt).input_ids)
    with torch.no_grad():
        expected = editor.lm.model(input_ids=torch.tensor([ids])).logits[0, -n_own:]
    for side in ("left", "right"):
        batch = asked([EDITS[0].prompt, "a longer prompt than the first is"], padding_side=side)
        found = editor.logits(batch.input_ids, batch.attention_mask)[0]
        own = found[batch.attention_mask[0].bool()]
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)


def test_what_has_no_room_goes_from_the_front() -> None:
    editor = tiny(make_ike, n_demonstrations=2, n_edits=3, reserve=6)
    editor.edit(EDITS[:1])
    editor.edit(EDITS[1:2])
    parts = list(editor._demonstrations)
    parts += [editor._ids(statement(edit, "plain")) for edit in EDITS[:2]]
    for room in range(1, sum(map(len, parts)) + 2):
        ids = editor._prefix(editor.edits, 64 - 6 - room)
        n_kept = next(n for n in range(5) if sum(map(len, parts[n:])) <= room)
        assert ids == [token for part in parts[n_kept:] for token in part]


def test_the_newest_edits_stand_last_and_the_best_found_too() -> None:
    stream = [Edit("Ada lives in", "Oslo"), Edit("Bo lives in", "Riga"), Edit("Cy eats", "figs")]
    newest = tiny(make_ike, n_edits=2)
    found = tiny(make_retrieval, n_edits=2)
    for editor in (newest, found):
        editor.edit(stream)
    batch = asked(["Ada lives in", "zebra"])
    assert [*map(list, newest._shown(batch.input_ids, batch.attention_mask))] == [stream[1:]] * 2
    shown = found._shown(batch.input_ids, batch.attention_mask)
    assert [*map(list, shown)] == [[stream[1], stream[0]], []]


@pytest.mark.parametrize("others", [[], [EDITS[0].prompt]])
def test_a_prompt_without_a_shared_word_gets_the_model_itself_beside_any_other(
    others: list[str],
) -> None:
    editor, batch = tiny(make_retrieval), asked([*others, "zebra", "giraffes", *others])
    editor.edit(EDITS[:2])
    arguments = batch.input_ids, batch.attention_mask
    bare = Unedited(editor.lm.model, tiny_tokenizer())
    closed = editor.routing_activation(*arguments) <= editor.threshold
    assert closed.tolist() == [False] * len(others) + [True, True] + [False] * len(others)
    found, plain = editor.logits(*arguments), bare.logits(*arguments)
    assert torch.equal(found[closed], plain[closed])
    assert torch.equal(found, plain) == (not others)
    for options in ({}, dict(num_beams=2, num_return_sequences=2)):
        said, told = (each.generate(*arguments, 6, **options) for each in (editor, bare))
        n = len(said) // len(closed)
        assert said.view(len(closed), n, -1)[closed].equal(told.view(len(closed), n, -1)[closed])
    own = asked([EDITS[0].prompt])
    assert bool(editor.routing_activation(own.input_ids, own.attention_mask) > editor.threshold)


def test_a_target_does_not_change_what_is_found() -> None:
    editor = tiny(make_retrieval, reserve=6)
    editor.edit([EDITS[0], Edit("Riga is", "old")])
    prompt, row = asked([EDITS[0].prompt]), asked([f"{EDITS[0].prompt} Riga"])
    width = prompt.input_ids.shape[1]
    mask = torch.arange(row.input_ids.shape[1])[None] < width
    forced = editor.logits(row.input_ids, row.attention_mask, prompt_mask=mask)
    free = editor.logits(prompt.input_ids, prompt.attention_mask)
    torch.testing.assert_close(forced[:, :width], free, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MAKES)
def test_what_is_removed_leaves_no_trace_and_a_prompt_holds_its_last_target(kind: str) -> None:
    editor, never = (tiny(MAKES[kind]) for _ in range(2))
    again = Edit(EDITS[1].prompt, "Lima")
    editor.edit(EDITS[:3])
    editor.edit([again])
    editor.remove([EDITS[0]])
    never.edit([EDITS[2], again])
    assert is_same(editor._state, never._state)
    with pytest.raises(KeyError, match="no edit of the prompt"):
        editor.remove([EDITS[0]])


def test_an_answer_longer_than_its_reserve_is_refused_by_name() -> None:
    editor = tiny(make_ike, n_demonstrations=2, reserve=0)
    editor.edit(EDITS[:3])
    batch = asked([EDITS[0].prompt])
    with pytest.raises(ValueError, match=r"exceed the model's 64; raise reserve=0"):
        editor.generate(batch.input_ids, batch.attention_mask, 40)


def test_only_retrieval_routes_and_both_do_the_rest() -> None:
    for kind, make in MAKES.items():
        editor = tiny(make)
        assert isinstance(editor, Routed) == (kind == "retrieval")
        for capability in (Generates, Persistent, Erasable):
            assert isinstance(editor, capability)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(style="x"), "style='x' is not allowed: it should be 'plain' or 'ike'"),
        (dict(n_edits=0), "n_edits=0 is not allowed: it should be greater than 0"),
        (dict(layer=1), "there is no option 'layer'; there are reserve, style"),
    ],
)
def test_a_bad_option_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ike(tiny_model("llama"), tiny_tokenizer(), BACKGROUND, seed=0, **option)


def test_a_long_context_does_not_multiply_the_logits_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = tiny(make_ike, n_edits=3, **QUICK)
    editor.edit(EDITS[:3])
    batch = asked([edit.prompt for edit in EDITS[:6]])
    whole = editor.logits(batch.input_ids, batch.attention_mask)
    sizes: list[int] = []

    def watched(self: Unedited, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        sizes.append(input_ids.numel() * len(tiny_tokenizer()))
        return plain(self, input_ids, attention_mask)

    plain, most = Unedited.logits, whole.numel()
    monkeypatch.setattr("wise.lm.decoding._MOST_LOGITS", most)
    monkeypatch.setattr(Unedited, "logits", watched)
    found = editor.logits(batch.input_ids, batch.attention_mask)
    assert max(sizes) <= most < sum(sizes)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
