"""Laws of `wise.editors.key_value.restraint`: what RECT and PRUNE leave of a change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures.tiny import tiny_model
from properties.internals.tiny_editors import EDITS, logits_of, make
from wise.editors.base import added
from wise.editors.key_value.restraint import most_changed, restrained
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited

pytestmark = pytest.mark.internals


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
def test_the_entries_of_the_largest_relative_change_are_kept_and_no_other(share: float) -> None:
    change, weight = drawn(9, 5), drawn(9, 5, seed=1)
    order = np.argsort(-np.abs(change.numpy() / weight.numpy()), axis=None)
    wanted = np.zeros(45)
    kept = order[: math.ceil(share * 45)]
    wanted[kept] = change.numpy().flat[kept]
    assert most_changed(change, weight, share=share).equal(torch.from_numpy(wanted.reshape(9, 5)))


def test_a_weight_of_zero_is_changed_most_and_an_entry_that_stays_least() -> None:
    change, weight = torch.tensor([[1.0, 0.0, 5.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert most_changed(change, weight, share=0.3).tolist() == [[1.0, 0.0, 0.0]]
    assert most_changed(change, weight, share=0.6).tolist() == [[1.0, 0.0, 5.0]]


def test_singular_values_beyond_the_weights_largest_grow_by_their_logarithm() -> None:
    change, sigma, base = drawn(9, 5), 2.0, 3.0
    U, s, V = np.linalg.svd(change.numpy(), full_matrices=False)
    assert (s > sigma).any()
    assert (s < sigma).any()
    F = np.where(s > sigma, np.log(s) / np.log(base) - np.log(sigma) / np.log(base) + sigma, s)
    found = restrained(change, sigma=sigma, base=base)
    torch.testing.assert_close(found, torch.from_numpy(U @ np.diag(F) @ V))


def test_a_restraint_never_adds_and_leaves_a_small_change_as_it_is() -> None:
    change = drawn(9, 5)
    largest = float(torch.linalg.matrix_norm(change, 2))
    assert restrained(change, sigma=1.01 * largest, base=math.e) is change
    torch.testing.assert_close(restrained(change, sigma=1.0, base=1.001), change)


def test_a_turn_changes_its_share_of_the_entries() -> None:
    editor = make("rome", kept_share=0.25)
    for n, edit in enumerate(EDITS[:2], start=1):
        editor.edit([edit])
        n_changed = int(editor._state.changes[1].count_nonzero())
        assert 0.2 * n <= n_changed / editor._state.changes[1].numel() <= 0.25 * n


def test_the_edited_model_is_restrained_and_what_it_is_edited_on_is_the_sum() -> None:
    raw, held = (make("rome", edits=EDITS[:3], restraint=base) for base in (None, 10.0))
    change = raw._state.changes[1]
    assert held._state.changes[1].equal(change)
    weight = held.lm.value_weight(1).detach()
    s, sigma = (float(torch.linalg.matrix_norm(each, 2)) for each in (change, weight))
    assert s > 1.1 * sigma
    shown = restrained(change, sigma=sigma, base=10.0)
    assert float(torch.linalg.matrix_norm(shown, 2)) == pytest.approx(
        sigma + math.log10(s / sigma), rel=1e-4
    )
    bare = tiny_model("gpt2")
    with torch.no_grad(), added(LanguageModel(bare), {1: shown}):
        assert logits_of(held).equal(logits_of(Unedited(bare, held.tokenizer)))
    assert not logits_of(held).equal(logits_of(raw))
