"""Laws of `wise.editors.mend`: gradients by token, the network, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import EDITS, FACTS, taught
from properties.internals.tiny_wise import is_same
from wise.editors.mend import MENDConfig, Network
from wise.editors.trained import lessons, trained
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel

pytestmark = pytest.mark.internals


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


def test_training_lowers_its_loss() -> None:
    editor = taught("mend", n_steps=30, lr=1e-3)
    found = editor.training()
    start = taught("mend", n_steps=0).network
    losses = [sum(found.loss(net, step).item() for step in range(20)) for net in
              (start, editor.network)]  # fmt: skip
    assert losses[1] < 0.9 * losses[0]


def test_statistics_are_those_of_the_background_and_stay() -> None:
    editor = taught("mend", n_steps=3, n_layers=2)
    rows = torch.cat([each for reading in editor.training().readings for each in reading]).double()
    net = editor.network
    torch.testing.assert_close(net.mean, rows.mean(0).float())
    torch.testing.assert_close(net.deviation, rows.std(0, correction=0).float())
    before = {name: each.clone() for name, each in net.tensors.items()}
    for edit in EDITS:
        editor.edit([edit])
    assert editor._state.network is net
    assert is_same(net.tensors, before)


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


def test_a_training_ends_at_the_loss_it_is_told() -> None:
    seen: list[float] = []

    def loss_of(found: Mapping[str, Tensor], _step: int) -> Tensor:
        loss = found["a"].sum()
        seen.append(loss.item())
        return loss

    found = trained({"a": torch.ones(1)}, loss_of, lr={"a": 0.5}, n_steps=9, clip=torch.inf,
                    early_stop=0.5)  # fmt: skip
    assert seen[0] == 1.0
    assert min(seen[:-1]) > 0.5 >= seen[-1] == found["a"].item()


def test_a_step_that_ends_in_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr=0\.1 of it made a non-finite a; lower lr"):
        trained({"a": torch.zeros(2)}, lambda found, _: found["a"].sqrt().sum(),
                lr={"a": 0.1}, n_steps=1, clip=torch.inf, name="it")  # fmt: skip


def test_no_parameter_falls_below_its_least() -> None:
    start = {"a": torch.tensor([0.15, 1.0]), "b": torch.tensor([0.15, 1.0])}

    def loss_of(found: Mapping[str, Tensor], _step: int) -> Tensor:
        return (found["a"] + found["b"]).sum()

    found = trained(start, loss_of, lr={"a": 0.1, "b": 0.1}, n_steps=4, clip=9.0, least={"a": 0.05})
    torch.testing.assert_close(found["a"], torch.tensor([0.05, 0.75]))
    torch.testing.assert_close(found["b"], torch.tensor([-0.1, 0.75]))


def test_a_bad_option_is_refused() -> None:
    with pytest.raises(ValueError, match="scale=0 is not allowed"):
        MENDConfig(scale=0)
    with pytest.raises(ValueError, match="n_edits=0 is not allowed"):
        MENDConfig(n_edits=0)
