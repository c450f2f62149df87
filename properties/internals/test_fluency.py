"""Laws of fluency: entropies by hand, continuations that do not stop, and what is told of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.measured import ROW
from properties.internals.notebook import STREAM, Notebook
from properties.internals.tiny_wise import EDITS, FAR, make_wise
from properties.internals.watched import RUN, T, Watched, go
from wise.edits import Edit, EditStream
from wise.evaluation import metrics
from wise.evaluation.asked import fluency_questions
from wise.evaluation.metrics import BaseAnswers, measure
from wise.lm.decoding import Reader, Unedited, answer_of, greedy_by_logits
from wise.lm.tokens import encode
from wise.measures.fluency import generation_entropy
from wise.measures.quantities import told_of
from wise.measures.rows import Row

pytestmark = pytest.mark.internals

TOKENIZER = tiny_tokenizer()
READER = Reader(TOKENIZER, max_length=64)
EOS = TOKENIZER.eos_token_id


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("no " * 40, 0.0),
        ("a b c", 1 / 3),  # two 2-grams, one 3-gram
        ("a b c d", (math.log2(3) + 2 * 1) / 3),
        ("a b a b a", (1 + 2 * (math.log2(3) - 2 / 3)) / 3),  # aba twice, bab once
        ("a, b, a", (2 + 2 * math.log2(3)) / 3),  # the comma is a word
        ("的的的的", 0.0),
        ("我在北京", (math.log2(3) + 2 * 1) / 3),
        ("Naïve's!", (math.log2(3) + 2 * 1) / 3),
    ],
)
def test_an_entropy_is_as_computed_by_hand(text: str, bits: float) -> None:
    assert generation_entropy(text) == pytest.approx(bits, abs=1e-12)


def released(words: Sequence[str]) -> float:
    """As ROME's evaluation weighs them, with numpy."""
    entropies = []
    for n in (2, 3):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = np.unique(grams, return_counts=True)[1]
        shares = counts / max(1, counts.sum())
        entropies.append(float(np.sum(-shares * np.log(shares) / np.log(2))))
    return float(np.mean(np.array(entropies) * np.array([2 / 3, 4 / 3])))


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_an_entropy_is_that_of_the_released_evaluation(words: list[str]) -> None:
    assert generation_entropy(" ".join(words)) == pytest.approx(released(words), abs=1e-9)
    assert generation_entropy("  \n".join(words)) == generation_entropy(" ".join(words))


class StopsAtOnce:
    """Finds the end of the sequence the likeliest everywhere."""

    def __init__(self) -> None:
        self.bare = Unedited(tiny_model("llama"), TOKENIZER)

    def edit(self, edits: Sequence[Edit]) -> None: ...
    def reset(self) -> None: ...

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.bare.logits(input_ids, attention_mask)
        found[..., EOS] = 1e3
        return found


def test_a_continuation_goes_on_where_an_answer_would_stop() -> None:
    editor = StopsAtOnce()
    assert {answer.token_ids for answer in READER.free(editor, FAR)} == {()}
    for prompt, text in zip(FAR, READER.endless(editor, FAR, 20), strict=True):
        batch = encode(TOKENIZER, [prompt])
        ids = batch.input_ids
        for _ in range(20):
            logits = editor.logits(ids, torch.ones_like(ids))[0, -1]
            logits[EOS] = -torch.inf
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
        assert text == TOKENIZER.decode(ids[0, batch.input_ids.shape[1] :]).strip()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_continuations_are_the_same_by_generate_and_by_logits_in_any_batch(family: str) -> None:
    wise = make_wise(family, edits=EDITS[:2])
    prompts = [*FAR, *(edit.prompt for edit in EDITS)]
    found = READER.endless(wise, prompts, 12)
    for prompt, text in zip(prompts, found, strict=True):
        batch = encode(TOKENIZER, [prompt])
        asked = batch.input_ids, batch.attention_mask, 12
        (ids,) = greedy_by_logits(wise, TOKENIZER, *asked, stops=False).tolist()
        assert EOS not in ids
        assert answer_of(TOKENIZER, ids).text == text
    turned = Reader(TOKENIZER, batch_size=3).endless(wise, prompts[::-1], 12)
    assert turned == found[::-1]


def test_each_prompt_of_an_edit_is_continued_once_whatever_it_is_edited_to() -> None:
    edits = (
        Edit("Ada is", "x", "Ada", ("Who is Ada?", "Ada, who is"), levels=(1, 4)),
        Edit("Bo is", "y", "Bo", ("Who is Bo?",)),
        Edit("Ada is", "z", "Ada", ("Who is Ada?",), levels=(2,)),
    )
    asked = fluency_questions(EditStream(edits))
    assert [(q.prompt, q.subject) for q in asked] == [
        ("Ada is", "Ada"), ("Who is Ada?", "Ada"), ("Ada, who is", "Ada"),
        ("Bo is", "Bo"), ("Who is Bo?", "Bo"),
    ]  # fmt: skip
    assert {(q.metric, q.kind, q.expected, q.excluded) for q in asked} == {("fluency", "", "", "")}


@pytest.fixture
def _in_a_small_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Continuations of 20 tokens, where tiny models read 64."""
    monkeypatch.setattr(metrics, "_N_CONTINUED", 20)


@pytest.mark.usefixtures("_in_a_small_context")
def test_a_prompt_that_leaves_no_room_is_excluded_and_the_others_are_continued() -> None:
    stream = EditStream((Edit("a b" * 30, "x"), *STREAM.edits))
    questions = fluency_questions(stream)
    editor = Notebook(tiny_model("llama"), TOKENIZER, stream)
    first, *others = measure(editor, READER, questions, "fluency", BaseAnswers({}, {}))
    assert (first.value, first.score) == (None, None)
    n = len(TOKENIZER("a b" * 30).input_ids)
    assert first.question.excluded == f"the prompt has {n} tokens; 20 more are beyond the context"
    for each in others:
        assert each.value == generation_entropy(each.answer)
        assert len(TOKENIZER(each.answer).input_ids) > 10


@pytest.mark.usefixtures("_in_a_small_context")
def test_a_run_continues_the_prompts_before_any_edit_and_those_made_at_each_checkpoint(
    tmp_path: Path,
) -> None:
    run, path = replace(RUN, protocols=("free", "fluency")), tmp_path / "rows.jsonl"
    rows = [row for row in go(path, Watched(), run) if row.metric == "fluency"]
    assert {(row.when, row.t): 0 for row in rows} == {
        ("unedited", 0): 0, ("final", 2): 0, ("final", T): 0,
    }  # fmt: skip
    prompts = [text for edit in RUN.stream.edits for text in (edit.prompt, *edit.paraphrases)]
    asked = {t: [row.prompt for row in rows if row.t == t] for t in (0, 2, T)}
    assert asked == {0: prompts, 2: prompts[:4], T: prompts}
    model = Unedited(tiny_model("llama"), TOKENIZER)
    texts = Reader(TOKENIZER).endless(model, prompts, 20)
    assert [row.answer for row in rows if row.t == 0] == texts
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    go(path, Watched(), run, resume=True)
    assert path.read_bytes() == whole


def item(when: str, t: int, prompt: str, value: float | None) -> Row:
    return replace(
        ROW, protocol="fluency", when=when, t=t, metric="fluency", kind="", age=0, prompt=prompt,
        expected="", score=None, value=value, excluded="" if value is not None else "too long",
    )  # fmt: skip


def test_what_is_told_are_means_beside_the_unedited_model_on_the_same_prompts() -> None:
    before = [item("unedited", 0, "a", 6.0), item("unedited", 0, "b", 4.0)]
    last = [item("final", 9, "a", 1.0), item("final", 9, "b", 2.0), item("final", 9, "c", None)]
    (told,) = told_of([*before, item("final", 1, "a", 3.0), *last])
    assert told.at == (
        "T=1: 3.00, unedited 6.00, n=1", "T=9: 1.50, unedited 5.00, n=2, 1 excluded",
    )  # fmt: skip
    with pytest.raises(ValueError, match="is below 0, which no fluency is"):
        item("final", 1, "a", -0.5)
