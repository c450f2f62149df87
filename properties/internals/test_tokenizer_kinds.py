"""Laws of `wise.lm.tokens` over kinds of tokenizers that read and write text differently."""

from __future__ import annotations

import unicodedata
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from wise.lm.decoding import Answer
from wise.lm.tokens import (
    IGNORED,
    canonical,
    encode,
    joined,
    prompt_tokens,
    reading_of,
    subject_span,
    why_no_answer,
)

pytestmark = pytest.mark.internals

SPECIAL = ["<s>", "</s>", "<unk>"]
CORPUS = [
    "Ada Lorn lives in Paris, and Bo in New York.", "The mother tongue of José is French.",
    "日本の首都は東京です", "It is on the path /usr/lib/x and \"here\" in 1984.",
    "ada lives in oslo",
]  # fmt: skip
LETTERS = sorted({letter for text in CORPUS for letter in unicodedata.normalize("NFD", text)})


def _byte_level(
    *, digits: bool = False, normalizer: normalizers.Normalizer | None = None
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split])
        if digits else split
    )  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    return tokenizer


def _metaspace(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        *([decoders.Strip(" ", 1, 0)] if scheme != "never" else []),
    ])  # fmt: skip
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=460, special_tokens=tokens, show_progress=False,
    ))  # fmt: skip
    return Tokenizer.from_str(tokenizer.to_str())


def _with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def _word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.WordPieceTrainer(
        vocab_size=250, special_tokens=SPECIAL, show_progress=False, initial_alphabet=LETTERS,
    ))  # fmt: skip
    return _with_template(tokenizer, "<s> $A </s>")


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False,
        initial_alphabet=LETTERS,
    ))  # fmt: skip
    return tokenizer


def _clip() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, show_progress=False, end_of_word_suffix="</w>",
        initial_alphabet=LETTERS,
    ))  # fmt: skip
    return _with_template(tokenizer, "<s> $A </s>")


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(
        special_tokens=SPECIAL, show_progress=False,
    ))  # fmt: skip
    return tokenizer


KINDS = {
    "byte-level": _byte_level,
    "byte-level, digits split": lambda: _byte_level(digits=True),
    "byte-level, NFC": lambda: _byte_level(normalizer=normalizers.NFC()),
    "byte-level, lower case": lambda: _byte_level(normalizer=normalizers.Lowercase()),
    "byte-level, adds BOS": lambda: _with_template(_byte_level(), "<s> $A"),
    "byte-level, adds EOS": lambda: _with_template(_byte_level(), "$A </s>"),
    "metaspace first, adds BOS": lambda: _with_template(_metaspace("first"), "<s> $A"),
    "metaspace never": lambda: _metaspace("never"),
    "word pieces": _word_pieces,
    "unigram, NFKC": _unigram,
    "CLIP": _clip,
    "words": _words,
}
FAITHFUL = sorted(kind for kind in KINDS if kind.startswith(("byte", "meta")))


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


kinds = st.sampled_from(sorted(KINDS))
words = st.sampled_from(["Ada", "lives", "in", "Paris", "New York", "José", "東京", "oslo", "1984"])
prompts = st.builds(
    str.__add__,
    st.lists(words, min_size=1, max_size=4).map(" ".join),
    st.sampled_from(["", " ", "/", ' "', ":", "は"]),
)
targets = st.lists(words, min_size=1, max_size=3).map(" ".join)


@given(st.sampled_from(FAITHFUL), prompts, targets)
@example("metaspace first, adds BOS", "Ada lives in ", "Paris")
@example("byte-level, adds EOS", "Ada lives in", "Paris")
def test_a_row_decodes_to_the_joined_text_as_the_tokenizer_writes_it(
    kind: str, prompt: str, target: str
) -> None:
    tokenizer = tokenizer_of(kind)
    batch = encode(tokenizer, [prompt], [target], append_eos=False)
    ids = batch.input_ids[0].tolist() + batch.labels[0, -1:].tolist()
    read = tokenizer(joined(prompt, target), add_special_tokens=False).input_ids
    assert tokenizer.decode(ids).removeprefix("<s>").lstrip() == tokenizer.decode(read).lstrip()


@given(kinds, prompts, targets)
def test_what_the_tokenizer_reads_after_the_prompt_is_the_target(
    kind: str, prompt: str, target: str
) -> None:
    tokenizer = tokenizer_of(kind)
    (begin,) = prompt_tokens(tokenizer, [prompt])
    bare = tokenizer(prompt, add_special_tokens=False).input_ids
    joint = tokenizer(joined(prompt, target), add_special_tokens=False).input_ids
    batch = encode(tokenizer, [prompt], [target], append_eos=False)
    labels = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    assert batch.input_ids[0][batch.prompt_mask[0]].tolist() == begin
    assert batch.input_ids[0].tolist() == begin + labels[:-1]
    if joint[: len(bare)] == bare and len(joint) > len(bare):
        assert labels == joint[len(bare) :]


@given(kinds, prompts, st.booleans())
def test_a_prompt_has_bos_at_most_once_and_no_eos(kind: str, prompt: str, written: bool) -> None:
    tokenizer = tokenizer_of(kind)
    (ids,) = prompt_tokens(tokenizer, [f"<s>{prompt}" if written else prompt])
    assert ids.count(tokenizer.bos_token_id) <= 1
    assert tokenizer.eos_token_id not in ids


@given(kinds, targets, targets)
def test_sameness_is_reflexive_and_symmetric_and_the_tokenizer_s_own(
    kind: str, one: str, other: str
) -> None:
    tokenizer = tokenizer_of(kind)
    assert Answer(one, (), True).is_exactly(one, tokenizer)
    there, back = (Answer(a, (), True).is_exactly(b, tokenizer)
                   for a, b in ((one, other), (other, one)))  # fmt: skip
    assert there == back
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is not None:
        assert Answer(normalizer.normalize_str(one), (), True).is_exactly(one, tokenizer)


@given(kinds, targets)
def test_an_answer_of_the_target_s_own_tokens_is_right(kind: str, target: str) -> None:
    tokenizer = tokenizer_of(kind)
    batch = encode(tokenizer, ["Ada lives in"], [target], append_eos=False)
    ids = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    if tokenizer.unk_token_id not in ids:
        assert Answer(tokenizer.decode(ids).strip(), tuple(ids), True).is_exactly(target, tokenizer)


@given(kinds, st.lists(st.integers(3, 149), min_size=1, max_size=6))
def test_what_a_model_writes_is_never_told_as_what_none_can_write(
    kind: str, ids: list[int]
) -> None:
    tokenizer = tokenizer_of(kind)
    text = tokenizer.decode([each for each in ids if each < len(tokenizer)]).strip()
    if text:
        assert why_no_answer(tokenizer, text) == ""


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("words", "Ada Zed", "holds 'Zed', for which the tokenizer has no tokens"),
        (
            "word pieces",
            "Paris \u0416uk",
            "holds '\u0416uk', for which the tokenizer has no tokens",
        ),
        ("word pieces", "\u200d", "encodes to no token of text"),
        ("CLIP", "\u0416", "holds '\u0416', for which the tokenizer has no tokens"),
        ("unigram, NFKC", "\u0416", "holds '\u0416', for which the tokenizer has no tokens"),
        ("word pieces", "New York", ""),  # is written in small letters, and is right so
        ("byte-level, lower case", "Oslo", ""),
        ("metaspace never", "\u0416", ""),  # byte by byte
        ("words", "Ada </s>", "holds the special token '</s>', which is not text"),
    ],
)
def test_an_answer_that_no_tokens_write_is_told_with_the_word(
    kind: str, text: str, why: str
) -> None:
    tokenizer = tokenizer_of(kind)
    assert why_no_answer(tokenizer, text) == why
    assert (reading_of(tokenizer).answer(text) is None) == bool(why)


def test_two_unknown_words_are_not_the_same() -> None:
    tokenizer = tokenizer_of("words")
    assert canonical(tokenizer, "Zed") != canonical(tokenizer, "Yan")


def test_letters_that_the_tokenizer_tells_apart_are_not_the_same() -> None:
    assert not Answer("oslo", (), True).is_exactly("Oslo", tokenizer_of("byte-level"))


@pytest.mark.parametrize("prompt", ["Ada Lorn", "<s>Ada Lorn"])
def test_a_subject_s_place_counts_what_stands_before_the_prompt(prompt: str) -> None:
    tokenizer = tokenizer_of("byte-level, adds BOS")
    begin, end = subject_span(tokenizer, prompt, "Ada")
    assert tokenizer.decode(prompt_tokens(tokenizer, [prompt])[0][begin:end]) == "Ada"


@pytest.mark.parametrize(
    ("prompt", "space"),
    [
        ("Ada lives in", " "), ("Ada lives in ", ""), ("首都は", ""), ("首都：", ""),
        ("수도는", " "),
        ('He said "', ""), ('The word "cat"', " "), ("the dogs'", " "), ("«", ""), ("«chat»", " "),
        ("He said “", ""), ("„Katze“", " "), ("see https://x.org/", ""), ("f(", ""), ("f(x)", " "),
        ("彼は「", ""), ("'", ""),
    ],
)  # fmt: skip
def test_a_space_stands_where_the_writing_has_one(prompt: str, space: str) -> None:
    assert joined(prompt, "x") == f"{prompt}{space}x"
