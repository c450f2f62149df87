"""Laws of `wise.editors.external`: what a prompt or token finds, and what that says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fixtures.tiny import tiny_tokenizer
from properties.internals.tiny_editors import (
    EDITS,
    NEAR,
    TEXTS,
    asked,
    log_p,
    logits_of,
    make,
    tiny,
)
from properties.internals.tiny_wise import BACKGROUND, FAR, is_same
from wise.editor import Erasable, Growing, Layered, Retrieves, Routed, load_editor
from wise.editors.external import SPALM_PRESETS, SPALMConfig, near_keys, recalled, stands_in
from wise.edits import Background, Edit
from wise.lm.architectures import ARCHITECTURES
from wise.lm.decoding import Unedited
from wise.lm.hooks import observe
from wise.lm.tokens import IGNORED, Batch, encode

pytestmark = pytest.mark.internals

NAMES = ("Ada Lorn", "Bo Rask", "Cleo Vane", "Dov Hale", "Eve Moss", "Finn Oak")
PEOPLE = Background((), tuple(Edit(f"{name} lives in", "Oslo", subject=name) for name in NAMES))


def bare(editor: Any) -> Unedited:
    return Unedited(editor.lm.model, tiny_tokenizer())


def forced(texts: Sequence[str] = TEXTS, target: str = "Oslo", side: str = "left") -> Batch:
    return encode(tiny_tokenizer(), texts, [target] * len(texts), padding_side=side)


def states(editor: Any, batch: Batch) -> Tensor:
    """What the head of the unedited model reads."""
    seen = list[Tensor]()
    with observe(editor.lm.model.lm_head, lambda args, _: seen.append(args[0])):
        logits_of(bare(editor), batch)
    return seen[0]


def test_the_nearest_keys_count_below_tau_alone() -> None:
    keys = torch.tensor([[0.0, 1.0], [3.0, 4.0], [0.0, 0.0]])
    states = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])  # the first at the distances 1, 5 and 0
    for tau, expected in ((6.0, [[2, 0]]), (1.0, [[2]]), (0.5, [[2]]), (0.0, [])):
        at, is_near, index = near_keys(keys, states, n=2, tau=tau)
        assert at.tolist() == [[bool(expected), False]]
        assert [row[near].tolist() for row, near in zip(index, is_near, strict=True)] == expected
    assert near_keys(keys, states, n=9, tau=6.0)[2].tolist() == [[2, 0, 1]]


def test_of_equally_near_keys_the_newest_are_taken() -> None:
    _, _, index = near_keys(torch.ones(40, 2), torch.zeros(1, 2), n=3, tau=9.0)
    assert index.tolist() == [[39, 38, 37]]


@pytest.mark.parametrize(
    ("tokens", "is_near", "expected"),
    [
        ([2], [True], [0.125, 0.075, 0.8]),  # m = (0, 0, 1)
        ([1, 2, 0], [True, True, False], [0.125, 0.525, 0.35]),  # m = (0, .6, .4)
        ([1, 1, 2], [True, True, True], [0.125, 0.6375, 0.2375]),  # m = (0, .75, .25)
    ],
)
def test_a_distribution_is_that_of_its_formula(
    tokens: list[int], is_near: list[bool], expected: list[float]
) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log() + 7.0
    found = recalled(logits, torch.tensor([tokens]), torch.tensor([is_near]), 0.25)
    torch.testing.assert_close(found.softmax(-1), torch.tensor([expected]))
    others = [n for n in range(3) if n not in tokens]
    assert found[:, others].equal(logits[:, others])
    alone = recalled(logits, torch.tensor([tokens]), torch.tensor([is_near]), 1.0)
    assert alone.equal(logits)


@given(st.integers(0, 2**31), st.floats(0.01, 0.25), st.sampled_from(["float32", "bfloat16"]))
def test_at_a_low_gate_what_alone_is_near_is_said(seed: int, gate: float, dtype: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (10 * torch.randn(5, 30, generator=generator)).to(getattr(torch, dtype))
    tokens = torch.randint(30, (5, 1), generator=generator)
    found = recalled(logits, tokens, torch.ones(5, 1, dtype=torch.bool), gate)
    assert found.dtype == logits.dtype
    assert found.argmax(-1).equal(tokens[:, 0])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_edits_own_prompt_is_answered_by_its_target_and_eos(model_type: str, side: str) -> None:
    editor = make("spalm-lite", model_type, edits=EDITS)
    prompts, targets = [edit.prompt for edit in EDITS], [edit.target for edit in EDITS]
    batch = encode(tiny_tokenizer(), prompts, targets, padding_side=side)
    at = batch.labels != IGNORED
    assert logits_of(editor, batch)[at].argmax(-1).equal(batch.labels[at])
    for edit in (NEAR, EDITS[3]):
        editor.reset()
        editor.edit([edit])
        assert log_p(editor, [edit])[0] > log_p(bare(editor), [edit])[0] + 0.5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt", "gemma2"])
def test_what_is_beyond_tau_of_every_key_is_the_unedited_model(model_type: str, side: str) -> None:
    editor = make("spalm-lite", model_type, edits=EDITS)
    batch = forced(side=side)
    keys, states_of = editor._state.keys, states(editor, batch)
    distance = (states_of[:, :, None] - keys).norm(dim=-1).amin(-1)  # B T
    own = batch.attention_mask.bool()
    tau = float(distance[own].median())  # half of the tokens are near
    editor = make("spalm-lite", model_type, edits=EDITS, tau=tau)
    before, after = logits_of(bare(editor), batch), logits_of(editor, batch)
    is_far = own & (distance > tau * (1 + 1e-4))
    is_near = own & (distance < tau * (1 - 1e-4))
    assert is_far.any()
    assert after[is_far].equal(before[is_far])
    assert is_near.any()
    assert (after[is_near] != before[is_near]).any(-1).all()


def test_no_token_behind_it_changes_a_logit_and_no_mask_does() -> None:
    editor = make("spalm-lite", edits=EDITS)
    one, other = (forced([EDITS[0].prompt], target) for target in ("Oslo", "Riga"))
    n_same = int(one.prompt_mask.sum())
    found = [logits_of(editor, each)[:, :n_same] for each in (one, other)]
    assert found[0].equal(found[1])
    masked = editor.logits(one.input_ids, one.attention_mask, one.prompt_mask)
    assert masked.equal(logits_of(editor, one))


@pytest.mark.parametrize("options", [dict(gate=1.0), dict(tau=0.0)])
def test_with_the_gate_shut_or_nothing_near_it_is_the_unedited_model(
    options: dict[str, float],
) -> None:
    editor, batch = make("spalm-lite", edits=EDITS, **options), asked()
    assert logits_of(editor, batch).equal(logits_of(bare(editor), batch))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_tau_opens_for_as_many_prompts_of_others_as_it_says(share: float) -> None:
    factory = load_editor("spalm-lite")
    editor = tiny(factory, background=PEOPLE, false_positives=share)
    batch = asked([edit.prompt for edit in PEOPLE.edits])
    last = states(editor, batch)[:, -1]
    nearest = (torch.cdist(last, last) + 1e9 * torch.eye(len(last))).amin(-1)
    below, within = (int((nearest < factor * editor._tau).sum()) for factor in (0.9999, 1.0001))
    assert below <= share * len(last) <= within
    assert tiny(factory, background=PEOPLE, tau=0.7)._tau == 0.7


@pytest.mark.parametrize("background", [Background(), BACKGROUND, PEOPLE])
def test_tau_is_finite_with_any_background(background: Background) -> None:
    assert 0 < tiny(load_editor("spalm-lite"), background=background)._tau < math.inf


def test_keys_are_the_states_before_each_token_of_the_target() -> None:
    editor = make("spalm-lite", "llama")
    editor.edit(EDITS[:2])
    keys, tokens = [], []
    for edit in EDITS[:2]:
        batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
        at = batch.labels != IGNORED
        keys.append(states(editor, batch)[at])
        tokens.append(batch.labels[at])
    assert all(each[-1] == tiny_tokenizer().eos_token_id for each in tokens)
    assert editor._state.keys.equal(torch.cat(keys))
    assert editor._state.tokens.equal(torch.cat(tokens))
    assert editor._state.owners.tolist() == [n for n, own in enumerate(tokens) for _ in own]


def test_a_removed_edit_leaves_no_trace_and_an_edit_made_twice_is_one() -> None:
    editor = make("spalm-lite", edits=EDITS[:3])
    editor.remove([EDITS[1]])
    assert is_same(editor._state, make("spalm-lite", edits=[EDITS[0], EDITS[2]])._state)
    editor.edit([EDITS[2]])
    assert is_same(editor._state, make("spalm-lite", edits=[EDITS[0], EDITS[2]])._state)
    editor.remove([EDITS[0], EDITS[2]])
    assert is_same(editor._state, make("spalm-lite")._state)


@pytest.mark.parametrize("n_nearest", [1, 4])
def test_a_prompt_retrieves_the_edits_of_its_nearest_keys(n_nearest: int) -> None:
    editor, batch = make("spalm-lite", n_nearest=n_nearest), asked([*TEXTS[:4], FAR[0]])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [()] * 5
    editor.edit(EDITS)
    found = editor.retrieved(batch.input_ids, batch.attention_mask)
    for edit, opened in zip(EDITS, found, strict=False):
        assert edit in opened
        assert len(opened) <= n_nearest
    shut = make("spalm-lite", edits=EDITS, tau=1e-3)
    assert shut.retrieved(batch.input_ids, batch.attention_mask)[:4] == [(edit,) for edit in EDITS]
    assert shut.retrieved(batch.input_ids, batch.attention_mask)[4] == ()


def test_it_decides_at_each_token_and_not_once_for_a_prompt() -> None:
    editor = make("spalm-lite", edits=EDITS[:1])
    assert all(isinstance(editor, each) for each in (Erasable, Growing, Retrieves))
    assert not any(isinstance(editor, each) for each in (Layered, Routed))
    assert make("spalm-lite").growth_per_edit == 0
    assert editor.growth_per_edit > 0


def test_released_options_of_spalm_are_the_papers() -> None:
    assert (SPALMConfig().n_nearest, SPALM_PRESETS["released"]) == (4, {})
    with pytest.raises(ValueError, match=r"gate=0.0 is not allowed"):
        SPALMConfig(gate=0.0)


KNOWN = Background(
    (),
    (
        Edit("Gus Hale lives in", "Rome", subject="Gus Hale", paraphrases=("Home of Gus Hale is",)),
        Edit("Hal Moss speaks", "Irish", subject="Hal Moss", paraphrases=("Hal Moss says",)),
    ),
)


def triples(*edits: Edit, model_type: str = "llama", **options: Any) -> Any:
    """MemLLM-lite after edits one by one."""
    options = dict(background=KNOWN, reserve=6, threshold=0.999) | options
    editor = tiny(load_editor("memllm-lite"), model_type, **options)
    for edit in edits:
        editor.edit([edit])
    return editor


def opened(editor: Any, *texts: str) -> list[tuple[Edit, ...]]:
    batch = asked(texts)
    return editor.retrieved(batch.input_ids, batch.attention_mask)


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("Ada Lorn lives in", True),
        ("Where is Ada Lorn's home?", True),
        ("It rains. (Ada Lorn) sings", True),
        ("Ada Lornsen lives in", False),
        ("Maada Lorn lives in", False),
        ("Lorn, Ada lives in", False),
        ("ada lorn lives in", False),
    ],
)
def test_a_subject_stands_in_a_text_word_by_word(text: str, stands: bool) -> None:
    assert stands_in("Ada Lorn", text) == stands


def test_a_subject_of_a_script_without_spaces_stands_among_its_letters() -> None:
    assert stands_in("\u6771\u4eac", "\u5927\u6771\u4eac\u90fd")
    assert not stands_in("\u041e\u0441", "\u041e\u0441\u043b\u043e")


def test_the_longest_subject_in_a_prompt_is_the_one_that_is_asked_about() -> None:
    short, long = (Edit(f"{name} lives in", place, subject=name)
                   for name, place in (("Ada", "Oslo"), ("Ada Lorn", "Riga")))  # fmt: skip
    for edits in ((short, long), (long, short)):
        editor = triples(*edits)
        found = opened(editor, "Ada Lorn lives in", "Ada lives in", "Lorn lives in")
        assert found == [(long,), (short,), ()]


def test_a_key_is_the_subject_and_the_prompt_with_another_in_its_place() -> None:
    editor = triples(*EDITS[:2], EDITS[3])
    assert editor._state.keys == (
        ("Ada Lorn", "Gus Hale lives in"),
        ("Bo Rask", "The employer of Gus Hale is"),
        ("Dov speaks", "Gus Hale"),  # without a subject, the whole prompt is one
    )
    batch = asked([relation for _, relation in editor._state.keys])
    read = nn.functional.normalize(states(editor, batch)[:, -1], dim=-1)
    torch.testing.assert_close(editor._state.relations, read, atol=1e-5, rtol=1e-5)


def test_a_likeness_is_the_cosine_of_relations_and_1_for_the_same() -> None:
    editor = triples(EDITS[0], replace(EDITS[0], prompt="Ada Lorn speaks", target="soup"))
    texts = ["Ada Lorn lives in", "Ada Lorn has seen", "Cleo Vane lives in"]
    batch = asked(texts)
    found = editor.routing_activation(batch.input_ids, batch.attention_mask).tolist()
    read = editor._read(["Gus Hale has seen"])["Gus Hale has seen"]
    best = float((editor._state.relations @ read).max())
    assert (found[0], found[2]) == (1.0, -1.0)
    assert found[1] == pytest.approx(best, abs=1e-4)
    open_at = triples(*editor.edits, threshold=max(0.0, best - 0.01))
    likest = editor.edits[int((editor._state.relations @ read).argmax())]
    assert opened(open_at, texts[1]) == [(likest,)]


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_edit_stands_before_its_own_prompt_and_other_rows_are_the_unedited_model(
    model_type: str, side: str
) -> None:
    editor = triples(*EDITS[:2], model_type=model_type)
    texts = [EDITS[0].prompt, *FAR, "Ada Lornsen lives in", EDITS[1].prompt]
    batch = forced(texts, side=side)
    found = editor.logits(batch.input_ids, batch.attention_mask, batch.prompt_mask)
    before = logits_of(bare(editor), batch)
    assert found[1:-1].equal(before[1:-1])
    told = [f"{edit.prompt} {edit.target}. {edit.prompt}" for edit in EDITS[:2]]
    for row, text in ((0, told[0]), (-1, told[1])):
        alone = forced([text])
        expected = logits_of(bare(editor), alone)[0]
        own = found[row][batch.attention_mask[row].bool()]
        n_own = len(own)
        torch.testing.assert_close(own, expected[-n_own:], atol=1e-3, rtol=1e-3)


def test_the_threshold_is_below_all_but_the_missed_paraphrases() -> None:
    pairs = (("Gus Hale lives in", "Home of Gus Hale is"), ("Gus Hale speaks", "Gus Hale says"))
    editor = triples(threshold=None, missed=0.5)
    alike = []
    for pair in pairs:
        one, other = (editor._read([text])[text] for text in pair)
        alike.append(float(one @ other))
    assert editor._least == pytest.approx(sum(alike) / 2, abs=1e-5)  # the median of two
    lowest = triples(threshold=None, missed=1e-9)._least
    assert lowest == pytest.approx(min(alike), abs=1e-5)
    for background in (Background(), BACKGROUND):  # without a subject in a paraphrase
        assert triples(background=background, threshold=None)._least == 0.8


def test_the_order_of_edits_does_not_matter_and_a_removed_one_leaves_no_trace() -> None:
    one, other = triples(*EDITS[:3]), triples(*EDITS[2::-1])
    assert set(one._state.keys) == set(other._state.keys)
    assert opened(one, *TEXTS) == opened(other, *TEXTS)
    one.remove([EDITS[1]])
    assert is_same(one._state, triples(EDITS[0], EDITS[2])._state)
    one.remove([EDITS[0], EDITS[2]])
    assert is_same(one._state, triples()._state)


def test_memllm_is_routed_and_takes_edits_back() -> None:
    editor = triples()
    assert all(isinstance(editor, each) for each in (Erasable, Retrieves, Routed))
    assert not isinstance(editor, Growing)
    assert editor.threshold == math.inf
    editor.edit(EDITS[:1])
    assert editor.threshold == 0.999
