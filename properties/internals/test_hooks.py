"""Laws of `wise.lm.hooks`: what a context changes is undone when it is left, also on error."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from wise.lm.hooks import frozen, observe, reparametrized, replace, replace_input

pytestmark = pytest.mark.internals


def small_net() -> nn.Sequential:
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    last.weight.requires_grad_(False)
    net = nn.Sequential(first, nn.Dropout(), last).train()
    net[1].eval()
    return net


def n_hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def settings(net: nn.Module) -> list[bool]:
    modes = [module.training for module in net.modules()]
    return modes + [weight.requires_grad for weight in net.parameters()]


def contexts(net: nn.Sequential) -> list[AbstractContextManager[None]]:
    seen: list[object] = []
    return [
        observe(net[0], lambda args, kwargs: seen.append((args, kwargs))),
        observe(net[0], lambda args, kwargs: None, stop=True),
        replace(net[2], lambda inputs, output: output),
        replace_input(net[2], lambda hidden: hidden),
        frozen(net),
    ]


@pytest.mark.parametrize("index", range(5))
def test_nothing_is_left_after_the_context(index: int) -> None:
    net = small_net()
    before = settings(net)
    with contexts(net)[index]:
        assert n_hooks(net) == (index < 4)
        net(torch.ones(1, 2))
    assert n_hooks(net) == 0
    assert settings(net) == before


@pytest.mark.parametrize("index", range(5))
def test_nothing_is_left_after_an_error(index: int) -> None:
    net = small_net()
    before = settings(net)
    with pytest.raises(ZeroDivisionError), contexts(net)[index]:
        raise ZeroDivisionError
    assert n_hooks(net) == 0
    assert settings(net) == before


def test_nothing_is_left_after_an_error_inside_the_hook() -> None:
    net = small_net()
    with pytest.raises(KeyError), observe(net[0], lambda args, kwargs: {}["missing"]):
        net(torch.ones(1, 2))
    with pytest.raises(KeyError), replace(net[0], lambda inputs, output: {}["missing"]):
        net(torch.ones(1, 2))
    assert n_hooks(net) == 0


def test_observe_sees_the_arguments_of_every_call_and_changes_nothing() -> None:
    net = small_net().eval()
    x, seen = torch.randn(3, 2), []
    alone = net(x)
    with observe(net[2], lambda args, kwargs: seen.append(args[0])):
        assert net(x).equal(alone)
        net(x)
    assert len(seen) == 2
    assert seen[0].equal(net[1](net[0](x)))


def test_stop_ends_the_forward_before_the_module_and_is_swallowed() -> None:
    net = small_net()
    called: list[str] = []
    for name, module in zip("abc", net, strict=True):
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    reached = []
    with observe(net[2], lambda args, kwargs: reached.append(1), stop=True):
        net(torch.ones(1, 2))
        called.append("after")
    assert called == ["a", "b"]
    assert reached == [1]


def test_replace_gives_the_modules_output_and_sees_its_input() -> None:
    net = small_net().eval()
    x = torch.randn(3, 2)
    with replace(net[2], lambda inputs, output: output + inputs):
        changed = net(x)
    inner = net[1](net[0](x))
    assert changed.equal(net[2](inner) + inner)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_replacement_ahead_is_seen_by_hooks_that_are_there(ahead: bool) -> None:
    net, seen = small_net().eval(), list[torch.Tensor]()
    x = torch.randn(3, 2)
    alone = net(x)
    net[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with replace(net[2], lambda _inputs, output: output + 1, ahead=ahead):
        assert net(x).equal(alone + 1)
    assert seen[0].equal(alone + 1 if ahead else alone)


def test_frozen_is_evaluation_without_parameter_gradients() -> None:
    net = small_net()
    with frozen(net):
        assert not any(settings(net))


def test_frozen_within_frozen_undoes_only_its_own() -> None:
    net = small_net()
    before = settings(net)
    with frozen(net):
        with frozen(net):
            pass
        assert not any(settings(net))
    assert settings(net) == before


def halved(net: nn.Sequential) -> dict[str, torch.Tensor]:
    return {name: w.detach() / 2 for name, w in net.named_parameters() if name.startswith("2.")}


def test_reparametrized_computes_with_other_weights_and_writes_to_none() -> None:
    net, x = small_net().eval(), torch.randn(3, 2)
    before, weights = [*net.parameters()], halved(net)
    values = [weight.detach().clone() for weight in before]
    with reparametrized(net, weights):
        found = net(x)
    assert found.equal(torch.func.functional_call(net, weights, (x,)))
    assert not found.equal(net(x))
    assert all(now is own for now, own in zip(net.parameters(), before, strict=True))
    assert all(map(torch.equal, net.parameters(), values))


def test_gradients_reach_the_weights_that_stand_in() -> None:
    net = small_net().eval()
    weights = {name: weight.requires_grad_() for name, weight in halved(net).items()}
    with reparametrized(net, weights):
        net(torch.ones(1, 2)).sum().backward()
    assert all(weight.grad is not None for weight in weights.values())
    assert all(weight.grad is None for weight in net[2].parameters())


def test_weights_are_put_back_after_an_error_and_unknown_ones_are_refused() -> None:
    net = small_net()
    before = [*net.parameters()]
    with pytest.raises(ZeroDivisionError), reparametrized(net, halved(net)):
        raise ZeroDivisionError
    for name in ("3.weight", "2.scale"):
        with (
            pytest.raises(KeyError, match=name),
            reparametrized(net, {**halved(net), name: torch.ones(2)}),
        ):
            raise AssertionError
    assert all(now is own for now, own in zip(net.parameters(), before, strict=True))
