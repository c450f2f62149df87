"""Laws of `wise.lm.tokens`: where prompts, targets, labels and subjects stand in a padded batch."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fixtures.tiny import tiny_tokenizer
from wise.lm.tokens import IGNORED, encode, joined, pad, position_ids, subject_span

pytestmark = pytest.mark.internals

# Any text without lone surrogates, which no UTF-8 tokenizer can read.
unicode_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
prompts = st.one_of(unicode_texts, st.sampled_from(["Ada lives in", "a ", " b", "\t", "x  ", "é"]))
targets = st.one_of(prompts, st.sampled_from([" Paris", "  two", "Oslo "])).filter(str.strip)
pairs = st.lists(st.tuples(prompts, targets), min_size=1, max_size=4)
sides = st.sampled_from(["left", "right"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4), sides)
def test_positions_count_from_the_first_real_token_and_are_0_on_padding(
    rows: list[tuple[int, int]], side: str
) -> None:
    width = max(n_padding + n_real for n_padding, n_real in rows)
    mask, expected = [], []
    for _, n_real in rows:
        empty = [0] * (width - n_real)
        ones, counted = [1] * n_real, list(range(n_real))
        mask.append(empty + ones if side == "left" else ones + empty)
        expected.append(empty + counted if side == "left" else counted + empty)
    assert position_ids(torch.tensor(mask)).tolist() == expected


@given(pairs, sides, st.booleans())
def test_labels_are_the_tokens_that_follow_and_stand_on_the_target_alone(
    pairs: list[tuple[str, str]], side: str, append_eos: bool
) -> None:
    tokenizer = tiny_tokenizer()
    texts, answers = zip(*pairs, strict=True)
    batch = encode(tokenizer, texts, answers, padding_side=side, append_eos=append_eos)
    for row, text in enumerate(texts):
        real = batch.attention_mask[row].bool()
        ids, labels = batch.input_ids[row][real].tolist(), batch.labels[row][real].tolist()
        n_prompt = len(tokenizer(text).input_ids)
        assert labels[: n_prompt - 1] == [IGNORED] * (n_prompt - 1)
        target = labels[n_prompt - 1 :]
        assert IGNORED not in target
        assert ids[n_prompt:] == target[:-1]
        assert (target[-1] == tokenizer.eos_token_id) == append_eos
        assert batch.labels[row][~real].eq(IGNORED).all()


@given(pairs, sides)
@example([("Ada lives in ", " Paris")], "left")
@example([("Ada lives in", "Paris"), ("Ada ", "sou")], "right")  # " sou" is one token
def test_the_prompt_of_a_teacher_forced_row_has_the_tokens_of_the_bare_prompt(
    pairs: list[tuple[str, str]], side: str
) -> None:
    texts, answers = zip(*pairs, strict=True)
    forced = encode(tiny_tokenizer(), texts, answers, padding_side=side)
    bare = encode(tiny_tokenizer(), texts, padding_side=side)
    assert bare.prompt_mask.equal(bare.attention_mask.bool())
    assert bare.labels.eq(IGNORED).all()
    for row in range(len(texts)):
        own = forced.input_ids[row][forced.prompt_mask[row]]
        assert own.equal(bare.input_ids[row][bare.prompt_mask[row]])


@given(prompts, targets)
@example("Ada lives in", "Paris")
@example("Ada lives in ", "Paris")
@example("Ada lives in", " Paris")
@example("Ada lives in ", " Paris")
@example("Ada ", "sou")  # " sou" is one token, but the prompt keeps its own
def test_a_row_reads_as_the_target_joined_to_the_prompt(prompt: str, target: str) -> None:
    tokenizer = tiny_tokenizer()
    batch = encode(tokenizer, [prompt], [target])
    ids = batch.input_ids[0].tolist() + batch.labels[0, -1:].tolist()
    text = tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
    assert ids[-1] == tokenizer.eos_token_id
    assert text == joined(prompt, target)


@given(pairs)
def test_padding_sides_differ_in_nothing_but_the_place_of_the_padding(
    pairs: list[tuple[str, str]],
) -> None:
    texts, answers = zip(*pairs, strict=True)
    left, right = (
        encode(tiny_tokenizer(), texts, answers, padding_side=side) for side in ("left", "right")
    )
    for row in range(len(texts)):
        kept = [batch.attention_mask[row].bool() for batch in (left, right)]
        for name in ("input_ids", "labels", "prompt_mask", "position_ids"):
            one, other = getattr(left, name)[row][kept[0]], getattr(right, name)[row][kept[1]]
            assert one.equal(other), name


def test_the_default_side_is_left_and_the_mask_is_next_to_the_end() -> None:
    batch = encode(tiny_tokenizer(), ["a", "a b c d"])
    assert batch.attention_mask[:, -1].all()
    assert batch.attention_mask[0].sum() == 1


@given(unicode_texts, unicode_texts, unicode_texts)
@example("", "Ada Lorn", " said that Ada Lorn slept")
@example("x", "ana", "na")
def test_the_subject_span_decodes_to_a_text_with_the_subject_in_it(
    before: str, subject: str, after: str
) -> None:
    tokenizer = tiny_tokenizer()
    prompt = before + subject + after
    begin, end = subject_span(tokenizer, prompt, subject)
    ids = tokenizer(prompt).input_ids
    assert 0 <= begin < end <= len(ids)
    assert subject in tokenizer.decode(ids[begin:end], clean_up_tokenization_spaces=False)


@given(st.sampled_from(["Ada Lorn", "é", "Bo", "  "]), unicode_texts)
def test_of_a_repeated_subject_the_last_is_taken(subject: str, between: str) -> None:
    tokenizer = tiny_tokenizer()
    prompt = f"{subject}{between}{subject}"
    begin, end = subject_span(tokenizer, prompt, subject)
    ids = tokenizer(prompt).input_ids
    assert end == len(ids)
    later = tokenizer.decode(ids[begin + 1 :], clean_up_tokenization_spaces=False)
    assume("�" not in later)
    assert subject not in later


@pytest.mark.parametrize("subject", ["", "Bo"])
def test_a_subject_that_is_not_in_the_prompt_is_named(subject: str) -> None:
    with pytest.raises(ValueError, match=f"subject {subject!r} is not in the prompt 'Ada Lorn'"):
        subject_span(tiny_tokenizer(), "Ada Lorn", subject)


@pytest.mark.parametrize(
    ("texts", "answers", "named"),
    [
        ([], None, r"prompts=\[\] holds nothing"),
        ([""], None, "prompt '' encodes to no token"),
        (["a", ""], ["x", "y"], "prompt '' encodes to no token"),
        (["a"], [""], "target '' encodes to no token"),
        (["a "], [""], "target '' encodes to no token"),
        (["a"], [" \n"], r"target ' \\n' is only white space"),
        (["a"], ["b<|endoftext|>"], r"target '.*' holds the special token '<\|endoftext\|>'"),
        (
            ["a"],
            ["b c d e f g h i j k l m n o"],
            r"target 'b c d e .* has \d+ tokens;",
        ),
        (["a b c d e f g h"], ["i j k"], r"prompt 'a b c d e f g h' with its target has \d+ tok"),
        (["a"], ["x", "y"], "longer"),
    ],
)
def test_what_cannot_be_encoded_is_named(
    texts: list[str], answers: list[str] | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        encode(tiny_tokenizer(), texts, answers, max_length=10)


def test_a_row_may_be_as_long_as_the_limit() -> None:
    n_tokens = len(tiny_tokenizer()("a b c").input_ids)
    encode(tiny_tokenizer(), ["a b c"], max_length=n_tokens)
    with pytest.raises(ValueError, match=f"reads at most {n_tokens - 1}"):
        encode(tiny_tokenizer(), ["a b c"], max_length=n_tokens - 1)


@pytest.mark.parametrize("side", ["", "middle", "LEFT"])
def test_another_padding_side_is_refused(side: str) -> None:
    with pytest.raises(ValueError, match=f"padding_side={side!r} is neither 'left' nor 'right'"):
        pad([[1]], 0, padding_side=side)


def test_an_end_of_sequence_is_needed_only_where_it_is_appended() -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.eos_token = None
    encode(tokenizer, ["a"], ["b"], append_eos=False)
    with pytest.raises(ValueError, match="needs a tokenizer with an end-of-sequence token"):
        encode(tokenizer, ["a"], ["b"])
