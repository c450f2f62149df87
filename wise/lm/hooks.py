"""Hooks that undo themselves, also on error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

from torch import Tensor, nn

__all__ = ["Stop", "frozen", "observe", "reparametrized", "replace", "replace_input"]


class Stop(Exception):  # noqa: N818 - not an error: it ends a forward early
    """Raised by an observer to end the forward; `observe` swallows it."""


@contextmanager
def observe(
    module: nn.Module, see: Callable[[tuple[Any, ...], dict[str, Any]], None], *, stop: bool = False
) -> Iterator[None]:
    """Give `see` the arguments of every call of `module`; with `stop`, end the forward there."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args, kwargs)
        if stop:
            raise Stop

    with suppress(Stop), module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def replace(
    module: nn.Module, change: Callable[[Any, Tensor], Tensor], *, ahead: bool = False
) -> Iterator[None]:
    """Replace the output of every call of `module` by `change(input, output)`.

    The input is the first positional argument, None where all are named; of an output that is a
    tuple, the first part is replaced. With `ahead`, hooks that are there already see the change.
    """

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        first = args[0] if args else None
        if isinstance(output, tuple):
            return (change(first, output[0]), *output[1:])
        return change(first, output)

    with module.register_forward_hook(hook, prepend=ahead):
        yield


@contextmanager
def replace_input(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the hidden state that every call of `block` reads by `change(hidden state)`.

    It is the first positional argument, or `hidden_states` where all are named.
    """

    def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    with block.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; both are restored on exit."""
    training = [module for module in model.modules() if module.training]
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for module in training:
            module.training = False
        for weight in learned:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def reparametrized(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The module with `weights` in place of its parameters of these names; none is written to.

    Raises KeyError where it has no parameter of a name.
    """
    own = dict(module.named_parameters())
    before = {name: own[name] for name in weights}
    try:
        _put(module, weights)
        yield
    finally:
        _put(module, before)


def _put(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        path, _, last = name.rpartition(".")
        parameters = cast(dict[str, Tensor], module.get_submodule(path)._parameters)
        parameters[last] = weight  # a plain tensor will do: torch.func.functional_call puts one too
