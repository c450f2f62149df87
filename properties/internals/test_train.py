"""Laws of `fixtures.train`, on a training of seconds: it learns, and it repeats itself bitwise."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fixtures.corpus import IGNORED, batches
from fixtures.models import Family, WorldSize, load_model, new_model
from fixtures.train import exact_match, save, train
from fixtures.world import LEVELS

pytestmark = pytest.mark.internals

SIZE = WorldSize(n_people=8, n_cities=8, n_firms=8)
TINY = Family(
    "llama",
    dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
         max_position_embeddings=256, tie_word_embeddings=True),
    vocab_size=320, size=SIZE, n_steps=40,
)  # fmt: skip


class Trained(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    moved_the_global_generator: bool


@cache
def trained(run: int) -> Trained:
    """One run; runs differ in nothing but the state of the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run)
        before = torch.get_rng_state()
        model, tokenizer = train(TINY, SIZE.world(), seed=0)
        moved = not torch.get_rng_state().equal(before)
    return Trained(model, tokenizer, moved)


@torch.no_grad()
def loss_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Nats a token of text that the training did not show."""
    shown = batches(SIZE.world(), tokenizer, n_rows=32, length=64, seed=99)
    losses = [
        nn.functional.cross_entropy(model(ids).logits.mT, labels, ignore_index=IGNORED)
        for ids, labels, _ in islice(shown, 2)
    ]
    return float(torch.stack(losses).mean())


def test_training_lowers_the_loss() -> None:
    model, tokenizer, _ = trained(0)
    untrained = new_model(TINY, seed=0, eos_token_id=tokenizer.eos_token_id).eval()
    assert loss_of(model, tokenizer) < loss_of(untrained, tokenizer) - 0.5


def test_two_trainings_give_bitwise_the_same_weights_and_tokenizer() -> None:
    one, other = trained(0), trained(1)
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    weights = other.model.state_dict()
    assert all(weights[name].equal(weight) for name, weight in one.model.state_dict().items())


def test_training_does_not_move_the_global_generator() -> None:
    assert not trained(0).moved_the_global_generator


def test_a_new_model_is_the_same_by_seed_and_otherwise_different() -> None:
    one, same, other = (
        new_model(TINY, seed=seed, eos_token_id=0).lm_head.weight for seed in (1, 1, 2)
    )
    assert one.equal(same)
    assert not one.equal(other)


def test_a_saved_model_loads_as_its_half_precision_with_its_world(tmp_path: Path) -> None:
    model, tokenizer, _ = trained(0)
    rounded = {name: weight.half().float() for name, weight in model.state_dict().items()}
    family = new_model(TINY, seed=0, eos_token_id=tokenizer.eos_token_id)
    family.load_state_dict(model.state_dict())
    save(tmp_path / "tiny", family, tokenizer, TINY, {"family": "tiny"})
    found = load_model(str(tmp_path / "tiny"))
    weights = found.model.state_dict()
    assert all(weights[name].equal(weight) for name, weight in rounded.items())
    assert found.world is not None
    assert found.world.facts == SIZE.world().facts
    assert json.loads((tmp_path / "tiny" / "card.json").read_text()) == {"family": "tiny"}


def test_exact_match_has_a_share_for_every_kind_of_question() -> None:
    model, tokenizer, _ = trained(0)
    shares = exact_match(model, tokenizer, SIZE.world(), n=4)
    assert list(shares) == [
        *(f"level {level}" for level in LEVELS), "far", "far, unseen", "two hops",
    ]  # fmt: skip
    assert all(0 <= share <= 1 for share in shares.values())
