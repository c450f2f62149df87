"""Laws of `wise.lm.decoding`: an answer depends on its prompt alone, however it is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from fixtures.tiny import VOCAB_SIZE, tiny_model, tiny_tokenizer
from wise.lm.architectures import ARCHITECTURES, context_length
from wise.lm.decoding import Answer, ForcedAnswer, Reader, Unedited
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

every_architecture = pytest.mark.parametrize("model_type", ARCHITECTURES)
PROMPTS = ("Ada Lorn lives in", "Why", "The sun sets over the", "Dov speaks ", "a b c d e f")
EOS = 0


@every_architecture
def test_a_row_beyond_the_context_is_refused(model_type: str) -> None:
    model = tiny_model(model_type)
    length = context_length(model)
    assert length is not None
    ids = torch.full((1, length + 1), 5)
    mask = torch.ones_like(ids)
    bare = Unedited(model, tiny_tokenizer())
    with pytest.raises(ValueError, match=f"a row has {length + 1} tokens; .* at most {length}"):
        bare.logits(ids, mask)
    mask[0, 0] = 0  # padding is not read
    assert bare.logits(ids, mask).shape[:2] == ids.shape


@pytest.mark.parametrize(
    ("said", "begins"),
    [("Ada Lorn", True), ("Ada Lorn lives in", True), ("Ada Lorn.", True),
     ("Ada Lorns", False), ("in Ada Lorn", False), ("Ada", False)],
)  # fmt: skip
def test_an_answer_begins_with_whole_words(said: str, begins: bool) -> None:
    for stopped in (True, False):
        answer = Answer(said, (), stopped)
        assert answer.begins_with("Ada Lorn", tiny_tokenizer()) == begins


class ByLogits:
    """An editor without `generate`."""

    def __init__(self, inner: Unedited):
        self.inner = inner

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inner.logits(input_ids, attention_mask)

    def edit(self, edits: Sequence[object]) -> None: ...

    def reset(self) -> None: ...


class Scripted(ByLogits):
    """After a prompt: its last token `n_of` times again, then the end of sequence."""

    def __init__(self, n_of: Mapping[int, int]):
        self.n_of = n_of

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        B, T = input_ids.shape
        logits = torch.zeros(B, T, VOCAB_SIZE)
        for row in range(B):
            ids = input_ids[row][attention_mask[row].bool()].tolist()
            n_said = 0
            while n_said + 1 < len(ids) and ids[-2 - n_said] == ids[-1]:
                n_said += 1
            logits[row, -1, ids[-1] if n_said < self.n_of.get(ids[-1], 0) else EOS] = 1.0
        return logits


def stopping(model_type: str) -> PreTrainedModel:
    """A tiny model whose likeliest second token is the end of sequence for the first prompt."""
    model = tiny_model(model_type)
    ids = tiny_tokenizer()(PROMPTS[0], return_tensors="pt").input_ids
    for _ in range(2):
        token = int(model(ids).logits[0, -1].argmax())
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    head = model.get_output_embeddings()
    with torch.no_grad():
        for weight in head.parameters():
            weight[[EOS, token]] = weight[[token, EOS]]
    return model


def unedited(model: PreTrainedModel) -> Unedited:
    return Unedited(model, tiny_tokenizer())


@every_architecture
def test_generate_and_logits_give_the_same_answers(model_type: str) -> None:
    editor = unedited(stopping(model_type))
    by_generate = Reader(tiny_tokenizer(), max_new_tokens=6).free(editor, PROMPTS)
    by_logits = Reader(tiny_tokenizer(), max_new_tokens=6).free(ByLogits(editor), PROMPTS)
    assert by_logits == by_generate
    assert by_generate[0].stopped
    assert not all(answer.stopped for answer in by_generate)


@pytest.mark.parametrize(
    "option", [{"do_sample": True}, {"eos_token_id": 0}, {"pad_token_id": 0}], ids=str
)
def test_an_option_of_generation_may_be_any(option: dict[str, Any]) -> None:
    editor = unedited(tiny_model("llama"))
    batch = encode(tiny_tokenizer(), PROMPTS)
    assert len(editor.generate(batch.input_ids, batch.attention_mask, 2, **option)) == len(PROMPTS)


def test_a_reader_tells_of_every_batch() -> None:
    read: list[int] = []
    reader = Reader(tiny_tokenizer(), batch_size=2, on_batch=read.append)
    editor = unedited(tiny_model("llama"))
    prompts = ["Ada", "Bo lives in", "Cleo"]
    reader.free(editor, prompts)
    reader.forced(editor, prompts, ["x"] * 3)
    assert read == [2, 1, 2, 1]


@pytest.mark.parametrize("decode", ["free", "forced"])
def test_the_logits_of_a_batch_are_bounded(decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**15
    monkeypatch.setattr("wise.lm.decoding._MOST_LOGITS", most)
    shapes: list[tuple[int, int, int]] = []

    class Sized(ByLogits):
        def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            shapes.append((*input_ids.shape, VOCAB_SIZE))
            return self.inner.logits(input_ids, attention_mask)

    editor = Sized(unedited(tiny_model("llama")))
    read = getattr(Reader(tiny_tokenizer(), max_new_tokens=4), decode)
    prompts = [f"{prompt} {n}" for prompt in PROMPTS for n in range(9)]
    targets = [["Lorn"] * len(prompts)] if decode == "forced" else []
    together = read(editor, prompts, *targets)
    assert max(map(math.prod, shapes)) <= most
    assert max(rows for rows, _, _ in shapes) > 4  # and no smaller than it must be
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = read(editor, [prompt], *([target[0]] for target in targets))
        assert _tokens(alone) == _tokens(answer)


def _tokens(answer: Answer | ForcedAnswer) -> tuple[int, ...]:
    return answer.token_ids if isinstance(answer, Answer) else answer.predicted_ids


@every_architecture
@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_an_answer_alone_is_its_answer_in_any_batch_and_order(
    model_type: str, batch_size: int
) -> None:
    editor = unedited(stopping(model_type))
    ask = dict(max_new_tokens=5, batch_size=batch_size)
    forwards = Reader(tiny_tokenizer(), **ask).free(editor, PROMPTS)
    backwards = Reader(tiny_tokenizer(), **ask).free(editor, PROMPTS[::-1])
    assert backwards[::-1] == forwards
    for prompt, answer in zip(PROMPTS, forwards, strict=True):
        assert Reader(tiny_tokenizer(), max_new_tokens=5).free(editor, [prompt]) == [answer]


@every_architecture
def test_a_generation_configuration_that_came_with_the_model_does_not_count(
    model_type: str,
) -> None:
    model = tiny_model(model_type)
    plain = Reader(tiny_tokenizer(), max_new_tokens=5).free(unedited(model), PROMPTS)
    own = GenerationConfig(
        repetition_penalty=9.0, num_beams=3, do_sample=True, temperature=5.0, min_new_tokens=4,
        suppress_tokens=[answer.token_ids[0] for answer in plain], max_length=7, use_cache=False,
    )  # fmt: skip
    model.generation_config = own
    assert Reader(tiny_tokenizer(), max_new_tokens=5).free(unedited(model), PROMPTS) == plain
    assert model.generation_config is own


def test_a_natural_stop_is_told_from_an_answer_cut_off() -> None:
    tokenizer = tiny_tokenizer()
    a, b, c = (tokenizer(f"7{letter}").input_ids[-1] for letter in "abc")
    editor = Scripted({a: 2, b: 4, c: 0})
    answers = Reader(tokenizer, max_new_tokens=4).free(editor, ["7a", "7b", "7c"])
    assert answers == [
        Answer("aa", (a, a), stopped=True),
        Answer("bbbb", (b, b, b, b), stopped=False),
        Answer("", (), stopped=True),
    ]


def test_a_row_that_has_stopped_waits_for_the_others_without_a_word() -> None:
    tokenizer = tiny_tokenizer()
    a, b = (tokenizer(f"7{letter}").input_ids[-1] for letter in "ab")
    editor = Scripted({a: 1, b: 3})
    together = Reader(tokenizer, max_new_tokens=6).free(editor, ["7a", "7b"])
    assert [answer.text for answer in together] == ["a", "bbb"]


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (Answer("Oslo", (1,), True), "Oslo", True),
        (Answer("Oslo", (1,), True), "  Oslo\n", True),
        (Answer("New \n York", (1,), True), "New York", True),
        (Answer("Oslo", (1,), False), "Oslo", False),
        (Answer("Oslo.", (1,), True), "Oslo", False),
        (Answer("oslo", (1,), True), "Oslo", False),
        (Answer("", (), True), "Oslo", False),
    ],
)
def test_exact_is_to_the_letter_and_stopped(answer: Answer, target: str, expected: bool) -> None:
    assert answer.is_exactly(target, tiny_tokenizer()) == expected


@every_architecture
def test_teacher_forced_is_what_a_plain_forward_of_prompt_and_target_says(model_type: str) -> None:
    model, tokenizer = tiny_model(model_type), tiny_tokenizer()
    targets = ["Oslo", "because of it", "sea", "French", "g"]
    found = Reader(tokenizer, batch_size=2).forced(unedited(model), PROMPTS, targets)
    for prompt, target, answer in zip(PROMPTS, targets, found, strict=True):
        begin = tokenizer(prompt).input_ids
        space = "" if prompt.endswith(" ") else " "
        end = tokenizer(space + target).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([begin + end])).logits[0, len(begin) - 1 : -1]
        log_p = logits.log_softmax(-1)
        expected = float(log_p[range(len(end)), end].sum())
        assert answer.target_ids == tuple(end)
        assert answer.predicted_ids == tuple(logits.argmax(-1).tolist())
        assert answer.log_probability == pytest.approx(expected, abs=1e-4)


def test_shares_count_places() -> None:
    one = ForcedAnswer((1, 2, 3, 4), (1, 2, 9, 9), -1.0)
    other = ForcedAnswer((1, 2, 3, 4), (1, 7, 9, 9), -1.0)
    assert one.share_right == 0.5
    assert one.agreement(other) == other.agreement(one) == 0.75


def test_rows_padded_on_the_right_are_not_generated_from() -> None:
    batch = encode(tiny_tokenizer(), ["a", "a b c"], padding_side="right")
    with pytest.raises(ValueError, match="generation needs padding_side='left'"):
        unedited(tiny_model("llama")).generate(batch.input_ids, batch.attention_mask, 2)


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused() -> None:
    editor, tokenizer = unedited(tiny_model("llama")), tiny_tokenizer()
    prompt = "a" + " a" * 9
    n_tokens = len(tokenizer(prompt).input_ids)
    Reader(tokenizer, max_new_tokens=4, max_length=n_tokens + 4).free(editor, [prompt])
    told = (
        f"' has {n_tokens} tokens; .* reads at most {n_tokens + 3}, 4 of them kept for the answer"
    )
    with pytest.raises(ValueError, match=told):
        Reader(tokenizer, max_new_tokens=4, max_length=n_tokens + 3).free(editor, [prompt])


@pytest.mark.parametrize("decode", ["free", "forced"])
def test_no_prompts_have_no_answers(decode: str) -> None:
    editor, tokenizer = unedited(tiny_model("llama")), tiny_tokenizer()
    if decode == "free":
        assert Reader(tokenizer).free(editor, []) == []
    else:
        assert Reader(tokenizer).forced(editor, [], []) == []


def test_decoding_leaves_the_models_modes_and_flags_as_they_are() -> None:
    model = tiny_model("gpt2").train()
    before = [m.training for m in model.modules()]
    Reader(tiny_tokenizer(), max_new_tokens=2).free(unedited(model), PROMPTS)
    assert [m.training for m in model.modules()] == before
    assert all(weight.requires_grad for weight in model.parameters())
