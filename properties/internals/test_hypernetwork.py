"""Laws of `wise.editors.hypernetwork`: gradients by token, and how networks are trained on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import EDITS, FACTS, log_p, logits_of, make, taught
from properties.internals.tiny_wise import is_same
from wise.editors import trained as training
from wise.editors.hypernetwork import with_gradient
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

every_kind = pytest.mark.parametrize("kind", ["mend", "ke"])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "olmo2", "falcon"])
def test_the_sum_over_tokens_is_the_gradient_of_the_weight(model_type: str) -> None:
    editor = make("mend", tiny_model(model_type).double(), layer=2, n_layers=2)
    lm = editor.lm
    batch = encode(tiny_tokenizer(), [e.prompt for e in EDITS], [e.target for e in EDITS])
    _, found = editor._gradients(editor.empty, EDITS)
    for layer in editor.layers:
        lm.part(layer, "value").weight.requires_grad_(True)
    logits = lm.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    ).logits  # fmt: skip
    nn.functional.cross_entropy(logits.mT, batch.labels, reduction="sum").backward()
    for layer, (u, delta) in zip(editor.layers, found, strict=True):
        weight: Any = lm.part(layer, "value").weight
        expected = weight.grad.T if isinstance(lm.part(layer, "value"), nn.Linear) else weight.grad
        total = torch.einsum("btm,btd->md", u, delta)
        assert float(expected.norm()) > 1e-3
        assert float((total - expected).abs().max()) < 1e-10
        rows, at = with_gradient((u, delta))
        assert len(rows) == int(at.sum()) < at.numel()
        assert torch.equal(batch.attention_mask.bool() & at, at)  # none of padding


@every_kind
@pytest.mark.parametrize("n_layers", [1, 2])
def test_in_training_a_turn_without_a_change_costs_no_locality(kind: str, n_layers: int) -> None:
    editor = taught(kind, n_layers=n_layers, n_steps=0)
    found, net = editor.training(), editor.network
    length = {"mend": "alpha", "ke": "scale"}[kind]
    still = replace(net, **{length: torch.zeros_like(getattr(net, length))})
    assert found.losses(still, found.turns(0))[1].item() == 0.0
    assert found.losses(net, found.turns(0))[1].item() > 0.0


@pytest.mark.parametrize(("kind", "options"), [("mend", {}), ("mend", {"n_edits": 2}), ("ke", {})])
def test_the_loss_of_training_is_that_of_editors_that_make_the_turns(
    kind: str, options: dict[str, Any]
) -> None:
    """Each turn by itself, on the unedited model, asked for its edits in other words."""
    editor = taught(kind, n_steps=3, n_turns=2, append_eos=False, **options)
    found = editor.training()
    total, n_tokens = 0.0, 0
    for turn in found.turns(5):
        editor.reset()
        editor.edit([found.lessons.edits[number] for number, _ in turn.edits])
        prompts = [wording for _, wording in turn.edits]
        targets = [found.lessons.edits[number].target for number, _ in turn.edits]
        asked = [Edit(*pair) for pair in zip(prompts, targets, strict=True)]
        total -= sum(log_p(editor, asked))
        n_tokens += int(
            (encode(tiny_tokenizer(), prompts, targets, append_eos=False).labels >= 0).sum()
        )
    L_e, _ = found.losses(editor.network, found.turns(5))
    assert L_e.item() == pytest.approx(total / n_tokens, rel=1e-4)


class CutOffError(Exception):
    """What stops a training."""


@every_kind
def test_a_training_that_was_stopped_ends_in_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_KEPT_EVERY", 0.0)
    whole, n_losses = taught(kind, n_steps=6).network, 0
    of = type(taught(kind).training())
    objective = of.objective

    def stopping(self: Any, learned: Any, step: int) -> Tensor:
        nonlocal n_losses
        n_losses += 1
        if n_losses == 4:
            raise CutOffError
        return objective(self, learned, step)

    monkeypatch.setattr(of, "objective", stopping)
    with pytest.raises(CutOffError):
        taught(kind, n_steps=6, cache=tmp_path).edit(EDITS[:1])
    assert [path.suffix for path in tmp_path.iterdir()] == [".unfinished"]
    resumed = taught(kind, n_steps=6, cache=tmp_path)
    assert is_same(resumed.network, whole)
    assert n_losses == 4 + 3
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    assert is_same(taught(kind, n_steps=6, cache=tmp_path).network, whole)
    assert n_losses == 7


@every_kind
def test_what_is_kept_serves_its_own_options_background_and_seed_alone(
    kind: str, tmp_path: Path
) -> None:
    for options in ({}, {"lr": 2e-4}, {"n_layers": 2}, {"seed": 1}, {"rank": 7}):
        kept, alone = (taught(kind, cache=folder, **options) for folder in (tmp_path, None))
        assert is_same(kept.network, alone.network)
    less = Background(FACTS.texts, FACTS.edits[2:])
    kept, alone = (taught(kind, background=less, cache=folder) for folder in (tmp_path, None))
    assert is_same(kept.network, alone.network)


@every_kind
def test_a_loaded_state_goes_on_by_the_network_it_was_made_with(kind: str, tmp_path: Path) -> None:
    editor, other = make(kind, edits=EDITS[:2]), make(kind)
    editor.save(tmp_path)
    other.load(tmp_path)
    vars(other)["network"] = None  # never asked for
    for each in (editor, other):
        each.edit(EDITS[2:])
    assert logits_of(other).equal(logits_of(editor))


@every_kind
def test_what_is_loaded_lies_in_memory_as_what_was_made(kind: str, tmp_path: Path) -> None:
    """Where it does not, products with one row may differ by a bit."""
    editor, loaded = (taught(kind, cache=tmp_path / "kept") for _ in range(2))
    editor.edit(EDITS[:2])
    editor.save(tmp_path / "state")
    loaded.load(tmp_path / "state")
    kept = taught(kind, cache=tmp_path / "kept").network
    for tensors in (loaded._tensors(loaded._state), kept.tensors):
        assert {each.data_ptr() % 64 for each in tensors.values()} == {0}


@every_kind
def test_what_is_removed_was_never_taught(kind: str) -> None:
    editor = make(kind, edits=EDITS)
    editor.remove(EDITS[:2])
    assert is_same(editor._state, make(kind, edits=EDITS[2:])._state)
    editor.remove(EDITS[2:])
    assert is_same(editor._state, editor.empty)
    assert logits_of(editor).equal(logits_of(Unedited(editor.lm.model, editor.tokenizer)))


@every_kind
def test_only_the_edited_blocks_change_and_only_their_values(kind: str) -> None:
    """As if these changes were written to their W_v."""
    editor = make(kind, edits=EDITS[:2])
    assert [*editor._state.changes] == [*editor.layers] == [0, 1]
    written = make(kind).lm
    with torch.no_grad():
        for layer, change in editor._state.changes.items():
            written.value_weight(layer).add_(change)
    torch.testing.assert_close(
        logits_of(Unedited(written.model, editor.tokenizer)), logits_of(editor)
    )
