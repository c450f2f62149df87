"""Laws of drift: of text that no edit is about, by hand, in a run, and as it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.measured import ROW
from properties.internals.tiny_wise import BACKGROUND, FAR, make_wise
from properties.internals.watched import RUN, STREAM, T, Watched, go
from wise.edits import Background, Edit, EditStream, Probe
from wise.evaluation.asked import Question, drift_questions
from wise.evaluation.drift import drifts
from wise.evaluation.metrics import BaseAnswers, Measured, measure
from wise.lm.decoding import Reader, Unedited
from wise.lm.tokens import Batch, encode
from wise.measures.quantities import told_of
from wise.measures.rows import Row

pytestmark = pytest.mark.internals

TOKENIZER = tiny_tokenizer()
V = len(TOKENIZER)
READER = Reader(TOKENIZER, max_length=64)
TEXTS = ("Rivers run into the sea.", "Nobody knows why.", "It rains. It", "go on, go", "Why not?")


class SameEverywhere:
    """Gives every token the same logits: 0, but for those of some tokens."""

    def __init__(self, **logits: float):
        self.row = torch.zeros(V)
        for token, logit in logits.items():
            self.row[int(token.removeprefix("token_"))] = logit

    def edit(self, edits: Sequence[Edit]) -> None: ...
    def reset(self) -> None: ...

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.row.expand(*input_ids.shape, V).clone()
        found[attention_mask == 0] = 99.0  # what stands on padding does not count
        found[..., 1][attention_mask == 0] = -99.0
        return found


def token_of(text: str) -> int:
    (token,) = TOKENIZER(text).input_ids
    return int(token)


def test_drift_is_as_computed_by_hand() -> None:
    """Of p uniform over V tokens and q three times as likely at the first of them."""
    a, b = (token_of(each) for each in "ab")
    one, other = SameEverywhere(), SameEverywhere(**{f"token_{a}": math.log(3)})
    found = drifts(one, other, READER, ["aaa", "ab", "bba", "bbbb"])
    far = math.log((V + 2) / V) - math.log(3) / V
    log_q = {a: math.log(3 / (V + 2)), b: -math.log(V + 2)}
    read = [TOKENIZER(text).input_ids for text in ("aaa", "ab", "bba", "bbbb")]
    assert all(set(ids) <= {a, b} for ids in read)
    for ids, each in zip(read, found, strict=True):
        after = -sum(log_q[token] for token in ids[1:]) / (len(ids) - 1)
        assert tuple(each) == pytest.approx((far, math.log(V), after), abs=2e-6)
    p = 3 / (V + 2)
    back = p * math.log(3 * V / (V + 2)) + (1 - p) * math.log(V / (V + 2))
    (turned,) = drifts(other, one, READER, ["ab"])
    assert turned.divergence == pytest.approx(back, rel=1e-4)
    assert back != pytest.approx(far, rel=1e-2)


class OnTheRight(Reader):
    """Pads on the other side."""

    def encode(self, *texts: Sequence[str], **options: Any) -> Batch:
        return encode(self.tokenizer, *texts, padding_side="right", **options)


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5, unique=True),
    batch_size=st.integers(1, 5),
    kind=st.sampled_from([Reader, OnTheRight]),
)
def test_drift_depends_on_no_padding_batch_or_order(
    texts: list[str], batch_size: int, kind: type[Reader]
) -> None:
    one, other = (Unedited(tiny_model("llama", seed=seed), TOKENIZER) for seed in (0, 1))
    alone = [drifts(one, other, READER, [text])[0] for text in texts]
    found = drifts(one, other, kind(TOKENIZER, batch_size=batch_size), texts)
    for text, by_itself, each in zip(texts, alone, found, strict=True):
        assert tuple(each) == pytest.approx(tuple(by_itself), rel=1e-4)
        assert min(each) > 0
        ids = torch.tensor([TOKENIZER(text).input_ids])
        losses = [cross_entropy(editor.logits(ids, torch.ones_like(ids))[0, :-1], ids[0, 1:])
                  for editor in (one, other)]  # fmt: skip
        assert each[1:] == pytest.approx(tuple(map(float, losses)), rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_row_that_opens_no_memory_has_not_drifted_at_all(family: str) -> None:
    edit = Edit("Ada Lorn lives in", "Oslo")
    wise = make_wise(family, edits=[edit])
    batch = encode(TOKENIZER, [*TEXTS, *FAR, edit.prompt])
    opened = wise.routing_activation(batch.input_ids, batch.attention_mask) > wise.threshold
    texts = [text for text, is_open in zip([*TEXTS, *FAR], opened, strict=False) if not is_open]
    assert len(texts) > 3
    assert opened[-1]
    base = Unedited(tiny_model(family), TOKENIZER)
    found = drifts(base, wise, READER, [*texts, edit.prompt])
    for each in found[:-1]:
        assert each.divergence == 0
        assert each.after == each.before
    assert found[-1].divergence > 0


def asked_of(editor: Any, texts: Sequence[str], model_seed: int = 0) -> list[Measured]:
    background = Background(tuple(texts))
    questions = drift_questions(EditStream((Edit("Ada is", "x"),)), background)
    base = BaseAnswers.ask(tiny_model("llama", seed=model_seed), READER, questions)
    return measure(editor, READER, questions, "drift", base)


def test_what_cannot_be_read_is_excluded_with_the_reason() -> None:
    texts = ["a", "a b" * 100, TEXTS[0]]
    found = asked_of(Unedited(tiny_model("llama"), TOKENIZER), texts)
    n = len(TOKENIZER(texts[1]).input_ids)
    assert [each.question.excluded for each in found[::2]] == [
        "no token of the text has one before it",
        f"the text has {n} tokens; the model reads at most 64",
        "",
    ]
    assert [each.value is None for each in found] == [True] * 4 + [False] * 2
    assert {each.score for each in found} == {None}


@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_an_editor_without_numbers_has_a_reason_in_place_of_a_drift(logit: float) -> None:
    found = asked_of(SameEverywhere(token_5=logit), TEXTS)
    assert all("non-finite" in each.question.excluded for each in found)
    assert {each.value for each in found} == {None}


def test_a_reference_that_was_edited_itself_is_refused() -> None:
    model = tiny_model("llama")
    questions = drift_questions(STREAM, BACKGROUND)
    base = BaseAnswers.ask(model, READER, questions)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    with pytest.raises(RuntimeError, match=r"the unedited model has changed: .* its own copy"):
        measure(Unedited(model, TOKENIZER), READER, questions, "drift", base)


def kinds_of(questions: Sequence[Question]) -> dict[str, list[str]]:
    return {
        kind: [q.prompt for q in questions if q.kind == kind]
        for kind in dict.fromkeys(q.kind for q in questions)
    }


def test_the_texts_are_far_probes_with_their_answers_and_else_what_an_editor_was_given() -> None:
    probes = (
        Probe("Gold melts at", "far", "1064 degrees"),
        Probe("Gold melts at", "far", "1064 degrees"),
        Probe("It rains", "far"),
        Probe("Ada is", "far", "here"),
        Probe("Ann is", "near-relation", "away"),
    )
    stream = EditStream((Edit("Ada is", "x"),), probes)
    told = ["Gold melts at 1064 degrees", "It rains"]
    assert kinds_of(drift_questions(stream, BACKGROUND)) == {
        "divergence": told, "log-perplexity": told,
    }  # fmt: skip
    near = EditStream(stream.edits, probes[3:])
    given_texts = list(BACKGROUND.texts)
    assert kinds_of(drift_questions(near, BACKGROUND)) == {
        "divergence-seen": given_texts, "log-perplexity-seen": given_texts,
    }  # fmt: skip
    many = Background(tuple(f"Text {n}" for n in range(300)))
    assert len(drift_questions(near, many)) == 2 * 200
    assert drift_questions(near, Background()) == []
    with pytest.raises(ValueError, match="protocol='drift' has no text to read"):
        replace(RUN, stream=near, checkpoints=(1,), protocols=("free", "drift"))


DRIFTING = replace(RUN, protocols=("free", "drift"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    path = tmp_path_factory.mktemp("drifting") / "rows.jsonl"
    found = go(path, Watched(), DRIFTING)
    whole = path.read_bytes()
    for n_bytes in (len(whole) // 9, len(whole) - 9):
        path.write_bytes(whole[:n_bytes])
        go(path, Watched(), DRIFTING, resume=True)
        assert path.read_bytes() == whole
    return found


def test_a_run_reads_the_same_texts_before_any_edit_and_at_each_checkpoint(
    rows: list[Row], tmp_path: Path
) -> None:
    blocks = {row.block: [each for each in rows if each.block == row.block] for row in rows}
    before, *after = (blocks[each] for each in blocks if each.endswith("drift"))
    assert {(row.when, row.t, row.kind) for row in before} == {("unedited", 0, "log-perplexity")}
    assert [row.prompt for row in before] == list(FAR)
    for t, block in zip((2, T), after, strict=True):
        assert {(row.when, row.t, row.age) for row in block} == {("final", t, 0)}
        assert [row.prompt for row in block[::2]] == list(FAR)
    wise = Watched().wise
    base = Unedited(wise.lm.model, wise.tokenizer)
    expected = [each.before for each in drifts(base, base, Reader(wise.tokenizer), FAR)]
    assert [row.value for row in before] == pytest.approx(expected)
    scores = go(tmp_path / "rows.jsonl", Watched())
    assert [row for row in rows if row.protocol == "free"] == [
        row for row in scores if row.protocol == "free"
    ]


def item(when: str, t: int, kind: str, text: str, value: float | None) -> Row:
    return replace(
        ROW, protocol="drift", when=when, t=t, metric="drift", kind=kind, edit_id="", cluster=text,
        age=0, prompt=text, expected="", answer="", score=None, value=value,
        excluded="" if value is not None else "the value nan is non-finite",
    )  # fmt: skip


def planted(seen: str = "", lost: float | None = 4.0) -> list[Row]:
    """Two texts: perplexities e^1 and e^3, then e^2 and e^`lost`; divergences 0 and 1."""
    of_text = {"one": (1.0, 0.0, 2.0), "other": (3.0, 1.0, lost)}
    return [
        item(when, t, f"{kind}{seen}", text, value)
        for text, values in of_text.items()
        for (when, t, kind), value in zip(
            [("unedited", 0, "log-perplexity"), ("final", 7, "divergence"),
             ("final", 7, "log-perplexity")], values, strict=True,
        )
    ]  # fmt: skip


def test_what_is_told_are_means_over_texts() -> None:
    (told,) = told_of(planted())
    assert told.lines == (
        "Drift on 2 texts of far probes, KL from the unedited model in nats a token, and "
        "perplexity (unedited 7.389):",
        f"  T=7: KL 0.5, 95th percentile 0.95, perplexity {math.exp(3):.4g}, ratio 2.718",
    )
    (told,) = told_of(planted("-seen", None))
    assert "on 2 texts that the editor was given, KL" in told.what
    assert told.at == ("T=7: KL 0.5, 95th percentile 0.95, perplexity 7.389, ratio 2.718",)
    assert not list(told_of([ROW]))
    lost = [replace(row, value=None, excluded="x") if row.when == "final" else row
            for row in planted()]  # fmt: skip
    (told,) = told_of(lost)
    assert told.at == ("T=7: 2 texts have no finite number",)
    huge = [replace(row, value=1e4) if row.kind == "log-perplexity" else row for row in planted()]
    (told,) = told_of(huge)
    assert "perplexity inf, ratio 1" in told.at[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"value": -1.0}, "Row.value=-1.0 is below 0, which no drift is"),
        ({"value": math.inf}, "Row.value=inf is not a finite number"),
        ({"score": 1.0}, "Row.score=1.0 is not None, as drift has a value"),
        ({"kind": "far"}, "Row.kind='far' is no kind of drift"),
        ({"protocol": "free"}, "Row.metric='drift' does not go with the protocol free"),
        ({"metric": "reliability", "kind": ""}, "does not go with the protocol drift"),
    ],
)
def test_a_row_of_drift_is_by_its_protocol_and_has_a_value(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        replace(item("final", 7, "divergence", "a text", 1.0), **changes)
