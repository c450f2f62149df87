"""What a change of the caller's process is called."""

from __future__ import annotations

import sys

import pytest
import torch

from fixtures.tiny import tiny_model
from properties.surroundings import Surroundings


@pytest.mark.parametrize(
    ("own", "later", "words"),
    [
        (["a", "b"], ["b", "a"], "the import path, in its order alone"),
        (["a", "b"], ["b", "c"], "the import path, from ['a'] to ['c']"),
        (["a"], ["a", "a"], "the import path, from [] to ['a']"),
        (["a"], ["a"], ""),
    ],
)
def test_a_changed_list_is_told_by_what_only_one_has(
    own: list[str], later: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(sys, "path", own)
    before = Surroundings.of(model)
    monkeypatch.setattr(sys, "path", later)
    assert before.change_to(Surroundings.of(model)) == words


def test_a_forward_that_shows_its_hidden_states_leaves_no_hook_to_tell_of() -> None:
    model = tiny_model("llama")
    before = Surroundings.of(model)
    model(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    assert not before.change_to(Surroundings.of(model))
    model.model.layers[0].register_forward_hook(lambda _module, _args, _output: None)
    assert before.change_to(Surroundings.of(model)) == (
        "the number of forward hooks on module model.layers.0, from 0 to 1"
    )
