"""Laws of the facts that are traced, of the tables of a trace, and of a planted truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from fixtures.models import load_model
from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.editor import Editor
from wise.edits import Edit
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Reader
from wise.lm.tail import value_inputs
from wise.lm.tokens import encode
from wise.localization.known_facts import (
    KnownFact,
    TracedQuestion,
    fact_of,
    known,
)
from wise.localization.records import ROLES, FactTrace, Site
from wise.localization.tracing import causal_trace

pytestmark = pytest.mark.internals


@torch.no_grad()
def plant(fact: KnownFact, layer: int) -> PreTrainedModel:
    """A GPT-2 whose one fact is a rank-one W_v at `layer`; no other block's MLP adds anything.

    The key of the subject, and no other of the prompt, brings the direction u about.
    The last block's attention adds up what it sees of u everywhere; the head answers to u.
    """
    model = tiny_model("gpt2", n_layers=4, n_inner=256)
    lm, question = LanguageModel(model), TracedQuestion.of(tiny_tokenizer(), fact)
    width = model.config.n_embd
    u = torch.nn.functional.normalize(torch.ones(width).cumsum(0) - (width + 1) / 2, dim=0)
    model.transformer.wte.weight.mul_(0.1)
    model.transformer.wpe.weight.mul_(0.1)
    head = model.lm_head.weight
    head -= torch.outer(head @ u, u)
    head[question.target_ids[0]] = 4.0 * u
    for block in lm.blocks:
        for module in (block.mlp.c_proj, block.attn.c_proj):
            module.weight.zero_()
            module.bias.zero_()
    reader = lm.blocks[-1].attn
    reader.c_attn.weight.zero_()
    reader.c_attn.bias.zero_()
    reader.c_attn.weight[:, 2 * width :] = torch.outer(u, u)
    reader.c_proj.weight.copy_(len(question.input_ids) * torch.eye(width))
    keys = value_inputs(lm, layer, encode(tiny_tokenizer(), [fact.prompt]))[0]  # T M
    place = question.span[1] - 1
    others = torch.cat([keys[:place], keys[place + 1 :]])
    own = keys[place] - others.T @ (torch.linalg.pinv(others.T) @ keys[place])
    lm.value_weight(layer).add_(torch.outer(own, 10.0 * u) / own.dot(keys[place]))
    return model


@pytest.mark.parametrize("site", ["mlp", "hidden"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_fact_planted_in_one_layer_is_localized_there(layer: int, site: Site) -> None:
    fact = KnownFact("Is B at sea", "B", "s", id="planted")
    model = plant(fact, layer)
    trace = causal_trace(model, tiny_tokenizer(), [fact], window=1, site=site, noise=10.0).facts[0]
    effects = torch.tensor(trace.effects("probability"))
    begin, end = trace.span
    assert trace.clean is not None
    assert trace.clean["probability"] > 0.9
    assert trace.total() > 0.3
    assert end - begin == 1
    strong = (effects[:, begin] > 0.9 * trace.total()).nonzero()[:, 0].tolist()
    # The stream carries the subject, then the fact, up to the block that reads it.
    assert strong == ([layer] if site == "mlp" else [0, 1, 2])
    effects[strong, begin] = 0.0
    assert effects[:3].abs().max() < 0.1 * trace.total()


def test_an_edit_overwrites_its_ground_truth() -> None:
    edit = Edit("Bo lives in", "Riga", subject="Bo", ground_truth="Oslo", id="7")
    assert fact_of(edit) == KnownFact("Bo lives in", "Bo", "Oslo", alternative="Riga", id="7")
    with pytest.raises(ValueError, match=r"Fact\.target='' is not a non-blank text"):
        fact_of(Edit("Bo lives in", "Riga", subject="Bo"))


def test_known_facts_are_those_that_the_model_begins_its_answer_with() -> None:
    loaded = load_model("gpt2")
    assert loaded.world is not None
    facts = [fact_of(edit) for edit in loaded.world.stream(0, 12, split="tuning").edits]
    wrong = [KnownFact(f.prompt, f.subject, f.alternative, id=f"not {f.id}") for f in facts]
    found = known(loaded.model, loaded.tokenizer, [*facts, *wrong])
    assert len(found) >= 11
    assert set(found) <= set(facts)


def test_a_fact_is_known_also_where_the_answer_goes_on() -> None:
    loaded = load_model("gpt2")
    facts = [fact_of(edit) for edit in loaded.own_world.stream(0, 40, split="tuning").edits]
    begun = [replace(fact, target=fact.target.split()[0]) for fact in facts if " " in fact.target]
    assert len(known(loaded.model, loaded.tokenizer, begun)) >= len(begun) - 1 >= 3


def test_no_more_facts_are_asked_than_it_takes_to_find_some_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = load_model("gpt2")
    facts = [fact_of(edit) for edit in loaded.own_world.stream(0, 80, split="tuning").edits]
    asked: list[str] = []
    forced = Reader.forced

    def watched(reader: Reader, editor: Editor, prompts: list[str], targets: list[str]) -> object:
        asked.extend(prompts)
        return forced(reader, editor, prompts, targets)

    monkeypatch.setattr(Reader, "forced", watched)
    found = known(loaded.model, loaded.tokenizer, facts, most=3)
    assert found == known(loaded.model, loaded.tokenizer, facts[:32])[:3]
    assert asked == [fact.prompt for fact in facts[:32]] * 2


def traced() -> FactTrace:
    """Clean .9, corrupted .1; a subject of three tokens from the second on, two layers."""
    tokens = ("So", "Bo", "Q", "Ra", "lives", "up", "at")
    effect = [[0.0, 0.1, -0.2, 0.4, 0.0, 0.0, 0.2], [0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.8]]
    return FactTrace(
        "f", "0", "So BoQRa lives up at", "BoQRa", "sea", tokens=tokens, span=(1, 4), layers=(2, 5),
        n_noise=2, clean={"probability": 0.9}, corrupted={"probability": 0.1},
        effect={"probability": effect}, standard_error={"probability": effect},
    )  # fmt: skip


def test_the_tracing_effect_is_the_largest_fraction_over_tokens() -> None:
    trace = traced()
    assert trace.total() == pytest.approx(0.8)
    assert trace.tracing_effect() == pytest.approx({2: 0.5, 5: 1.0})
    assert trace.tracing_effect(tokens="last-subject") == pytest.approx({2: 0.5, 5: 0.25})
    assert min(min(row) for row in trace.fractions()) == 0.0


def test_every_token_has_its_role_about_the_subject() -> None:
    assert traced().roles() == list(ROLES)
