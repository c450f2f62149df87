"""Laws of `wise.editors.mend`: gradients by token, the network, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import EDITS, KINDS, log_p, logits_of, make, tiny
from properties.internals.tiny_wise import is_same
from wise.editor import load_editor
from wise.editors import trained as training
from wise.editors.hypernetwork import with_gradient
from wise.editors.mend import MENDConfig, Network
from wise.editors.trained import lessons, trained
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited
from wise.lm.tokens import encode

pytestmark = pytest.mark.internals

FACTS = Background(
    ("Gus lives in Rome.", "Hal has seen the north.", "Rivers run into the sea."),
    tuple(
        Edit(f"{name} {verb}", new, name, (f"So {name} {verb}",), old, f"{name} {verb}")
        for name in ("Gus", "Hal", "Ina", "Joe", "Kim")
        for verb, new, old in (("lives in", "Oslo", "Rome"), ("speaks", "French", "soup"))
    ),
)


def taught(**options: Any) -> Any:
    """An editor that is trained on facts."""
    name, quick = KINDS["mend"]
    return tiny(load_editor(name), "gpt2", background=FACTS, **{**quick, **options})


def network(seed: int = 0, *, is_start: bool = False) -> Network:
    """One of two matrices, with M = 5 and D = 3; its start is the identity."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, 8, generator=generator) * 3 + 1 for n in (6, 9)]
    found = Network.start(rows, rank=4, alpha=[0.1, 0.2], seed=seed)
    if is_start:
        return found
    given = ("mean", "deviation")
    return Network(**{
        name: each if name in given else each + torch.randn(each.shape, generator=generator)
        for name, each in found.tensors.items()
    })  # fmt: skip


def change(net: Network, rows: Tensor, index: int) -> Tensor:
    """That of matrix `index` by an edit of these rows."""
    (found,) = net.factors([[(rows, rows)]], index, 5)
    return found[:, :5].T @ found[:, 5:]


def rows_of(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


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


def test_at_its_start_a_change_is_the_normalised_gradient() -> None:
    net, rows = network(is_start=True), rows_of(7)
    every = (rows - net.mean) / (net.deviation + 1e-7)
    u, delta = every[:, :5], every[:, 5:]
    expected = -0.2 * sum(torch.outer(a, b) for a, b in zip(u, delta, strict=True))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(change(net, rows, 1), expected)


def test_a_block_is_that_of_its_formula() -> None:
    net, row = network(), rows_of(1)[0]
    h = (row - net.mean) / (net.deviation + 1e-7)
    for k in range(2):
        h = h + torch.relu(net.s[k, 1] * (net.U[k] @ (net.V[k] @ h) + net.b[k]) + net.o[k, 1])
    torch.testing.assert_close(net(row[None], 1)[0], h)
    assert not torch.allclose(net(row[None], 0)[0], h)  # s and o are of a matrix


def test_the_untrained_network_has_a_gradient() -> None:
    """Though every block's sum is 0 there, where relu has none."""
    net = network(is_start=True)
    net.U.requires_grad_(True)
    change(net, rows_of(4), 0).square().sum().backward()
    assert net.U.grad is not None
    assert float(net.U.grad.abs().sum()) > 0


@pytest.mark.parametrize("n", [1, 2])
def test_the_rank_of_a_change_is_at_most_the_number_of_tokens(n: int) -> None:
    found = change(network(), rows_of(n), 0).double()
    assert int(torch.linalg.matrix_rank(found, rtol=1e-5)) <= n < 3


def test_the_order_of_tokens_does_not_matter() -> None:
    net, rows = network(), rows_of(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(change(net, rows[order], 0), change(net, rows, 0))


def test_in_training_a_turn_without_a_change_costs_no_locality() -> None:
    """The loss of a network with alpha = 0 is that of the edits alone."""
    options: dict[str, Any] = dict(n_steps=0, edit_weight=0.0)
    for n_layers, n_edits in ((1, 1), (2, 2)):
        editor = taught(n_layers=n_layers, n_edits=n_edits, **options)
        found = editor.training()
        net = editor.network
        still = Network(**{**net.tensors, "alpha": torch.zeros_like(net.alpha)})
        assert found.loss(still, 0).item() == 0.0
        assert found.loss(net, 0).item() > 0.0


@pytest.mark.parametrize("n_edits", [1, 2])
def test_the_loss_of_training_is_that_of_editors_that_make_the_turns(n_edits: int) -> None:
    """Each turn by itself, on the unedited model, asked for its edits in other words."""
    options: dict[str, Any] = dict(n_steps=3, n_turns=2, locality_weight=0.0, append_eos=False)
    editor = taught(n_edits=n_edits, **options)
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
    expected = editor.config.edit_weight * total / n_tokens
    assert found.loss(editor.network, 5).item() == pytest.approx(expected, rel=1e-4)


def test_training_lowers_its_loss() -> None:
    editor = taught(n_steps=30, lr=1e-3)
    found = editor.training()
    start = taught(n_steps=0).network
    losses = [sum(found.loss(net, step).item() for step in range(20)) for net in
              (start, editor.network)]  # fmt: skip
    assert losses[1] < 0.9 * losses[0]


def test_statistics_are_those_of_the_background_and_stay() -> None:
    editor = taught(n_steps=3, n_layers=2)
    rows = torch.cat([each for reading in editor.training().readings for each in reading]).double()
    net = editor.network
    torch.testing.assert_close(net.mean, rows.mean(0).float())
    torch.testing.assert_close(net.deviation, rows.std(0, correction=0).float())
    before = {name: each.clone() for name, each in net.tensors.items()}
    for edit in EDITS:
        editor.edit([edit])
    assert editor._state.network is net
    assert is_same(net.tensors, before)


class CutOffError(Exception):
    """What stops a training."""


def test_a_training_that_was_stopped_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_KEPT_EVERY", 0.0)
    whole, n_losses = taught(n_steps=6).network, 0
    loss_of = type(taught().training()).loss

    def stopping(self: Any, net: Network, step: int) -> Tensor:
        nonlocal n_losses
        n_losses += 1
        if n_losses == 4:
            raise CutOffError
        return loss_of(self, net, step)

    monkeypatch.setattr(type(taught().training()), "loss", stopping)
    with pytest.raises(CutOffError):
        taught(n_steps=6, cache=tmp_path).edit(EDITS[:1])
    assert [path.suffix for path in tmp_path.iterdir()] == [".unfinished"]
    resumed = taught(n_steps=6, cache=tmp_path)
    assert is_same(resumed.network, whole)
    assert n_losses == 4 + 3
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    assert is_same(taught(n_steps=6, cache=tmp_path).network, whole)
    assert n_losses == 7


def test_what_is_kept_serves_its_own_options_background_and_seed_alone(tmp_path: Path) -> None:
    for options in ({}, {"lr": 2e-4}, {"n_layers": 2}, {"seed": 1}, {"rank": 7}):
        assert is_same(taught(cache=tmp_path, **options).network, taught(**options).network)
    less = Background(FACTS.texts, FACTS.edits[2:])
    name, quick = KINDS["mend"]
    kept, alone = (
        tiny(load_editor(name), "gpt2", background=less, cache=folder, **quick).network
        for folder in (tmp_path, None)
    )
    assert is_same(kept, alone)


def test_a_loaded_state_goes_on_by_the_network_it_was_made_with(tmp_path: Path) -> None:
    editor, other = make("mend", edits=EDITS[:2]), make("mend")
    editor.save(tmp_path)
    other.load(tmp_path)
    vars(other)["network"] = None  # never asked for
    for each in (editor, other):
        each.edit(EDITS[2:])
    assert logits_of(other).equal(logits_of(editor))


def test_what_is_removed_was_never_taught() -> None:
    editor = make("mend", edits=EDITS)
    editor.remove(EDITS[:2])
    assert is_same(editor._state, make("mend", edits=EDITS[2:])._state)
    editor.remove(EDITS[2:])
    assert is_same(editor._state, editor.empty)
    assert logits_of(editor).equal(logits_of(Unedited(editor.lm.model, editor.tokenizer)))


def test_lessons_are_the_edits_of_the_background_and_else_its_texts() -> None:
    lm, tokenizer = LanguageModel(tiny_model("gpt2")), tiny_tokenizer()

    def of(background: Background, **options: Any) -> Any:
        return lessons(lm, tokenizer, background, **{"n": 100, "seed": 0, **options})

    found = of(FACTS)
    assert set(found.edits) == set(FACTS.edits)
    assert found.edits != of(FACTS, seed=1).edits
    assert of(FACTS, n=3).edits == found.edits[:3]
    assert found.texts[0] == ("Gus lives", "in Rome.")
    told = of(Background(FACTS.texts)).edits
    whole = {f"{e.prompt} {e.ground_truth}" for e in told}
    assert whole == set(FACTS.texts) == {" ".join(each) for each in found.texts}
    assert all(e.target != e.ground_truth for e in told)
    assert len(of(Background()).edits) > 3  # of what the model writes
    long = Edit("word " * 80, "Oslo")
    assert (
        of(Background((), (*FACTS.edits[:2], long))).edits
        == of(Background((), FACTS.edits[:2])).edits
    )
    with pytest.raises(ValueError, match="the background has 1 edits and texts to train on"):
        of(Background((), (long,)))


def test_what_an_edit_must_leave_alone_is_near_it_or_about_something_else() -> None:
    found = lessons(LanguageModel(tiny_model("gpt2")), tiny_tokenizer(), FACTS, n=99, seed=0)
    number = [edit.prompt for edit in found.edits].index("Hal lives in")
    told = [("Hal speaks", "soup")]
    alike = [(f"{name} lives in", "Rome") for name in ("Gus", "Ina", "Joe", "Kim")]
    far = [each for each in found.texts if "Hal" not in each[0]]
    firsts = set[int]()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        three = found.others(number, 3, generator)
        kinds = [next(n for n, kind in enumerate((told, alike, far)) if each in kind)
                 for each in three]  # fmt: skip
        assert sorted(kinds) == [0, 1, 2]
        firsts.add(kinds[0])
    assert len(firsts) == 3  # where there is one text alone, it is of any kind


def test_rates_fall_and_each_parameter_has_its_own() -> None:
    start = {"a": torch.zeros(2), "b": torch.zeros(2)}

    def loss_of(found: Mapping[str, Tensor], _step: int) -> Tensor:
        return -(found["a"] + found["b"]).sum()

    found = trained(start, loss_of, lr={"a": 0.1, "b": 0.2}, n_steps=4, clip=1.0)
    torch.testing.assert_close(found["a"], torch.full((2,), 0.1 * (1 + 0.75 + 0.5 + 0.25)))
    torch.testing.assert_close(found["b"], 2 * found["a"])
    assert is_same(trained(start, loss_of, lr={"a": 1.0, "b": 1.0}, n_steps=0, clip=1.0), start)
    with pytest.raises(ValueError, match="loss=nan at step 0 of training; lower lr"):
        trained(start, lambda found, _: found["a"].sum() * torch.nan,
                lr={"a": 0.1, "b": 0.1}, n_steps=1, clip=1.0)  # fmt: skip


def test_a_step_that_ends_in_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr=0\.1 of it made a non-finite a; lower lr"):
        trained({"a": torch.zeros(2)}, lambda found, _: found["a"].sqrt().sum(),
                lr={"a": 0.1}, n_steps=1, clip=torch.inf, name="it")  # fmt: skip


def test_a_bad_option_is_refused() -> None:
    with pytest.raises(ValueError, match="scale=0 is not allowed"):
        MENDConfig(scale=0)
    with pytest.raises(ValueError, match="n_edits=0 is not allowed"):
        MENDConfig(n_edits=0)
