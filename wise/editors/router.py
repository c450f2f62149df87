"""Routing: how strongly a prompt activates a side memory, and the loss that makes it tell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["ROUTING_TOKENS", "aggregate", "margin_loss", "routing_activation", "token_selection"]

ROUTING_TOKENS = ("last", "mean", "max")


def routing_activation(
    value_change: Float[Tensor, "... D"],
    value: Float[Tensor, "... D"] | None = None,
    activation: torch.nn.Module | None = None,
) -> Float[Tensor, "..."]:
    """Delta = || A(x) (W_v' - W_v) ||_2 per token, in float32.

    `value_change` is A(x) (W_v' - W_v). The paper takes its norm as it is; the released code first
    passes both outputs of W_v through the model's activation function, for which `value` and
    `activation` are given.

    Source: WISE eq. 3; released configuration for the activation function.
    """
    change = value_change.float()
    if activation is not None and value is not None:
        change = activation(value.float() + change) - activation(value.float())
    return torch.linalg.vector_norm(change, dim=-1)


def token_selection(prompt_mask: Bool[Tensor, "B T"], how: str) -> Bool[Tensor, "B T"]:
    """The tokens that decide a row's route: its last prompt token, or all of its prompt.

    The paper names none; the released code takes the mean over all tokens (`mean`).
    """
    if how not in ROUTING_TOKENS:
        raise ValueError(f"routing_tokens={how!r} is none of {', '.join(ROUTING_TOKENS)}")
    if how != "last":
        return prompt_mask
    positions = torch.arange(prompt_mask.shape[1], device=prompt_mask.device)
    last = (positions * prompt_mask).amax(-1, keepdim=True)
    return (positions == last) & prompt_mask


def aggregate(
    activation: Float[Tensor, "... B T"], selected: Bool[Tensor, "B T"], how: str
) -> Float[Tensor, "... B"]:
    """One activation a row from those of its selected tokens; never reads another token or row."""
    kept = torch.where(selected, activation, 0.0)  # activations are not negative
    if how == "mean":
        return kept.sum(-1) / selected.sum(-1).clamp(min=1)
    return kept.amax(-1)


def margin_loss(
    edit: Float[Tensor, " E"],
    irrelevant: Float[Tensor, " I"],
    *,
    alpha: float,
    beta: float,
    gamma: float,
    reduction: str = "rows",
) -> Float[Tensor, ""]:
    """L_a: irrelevant prompts below alpha, edited ones above beta, and gamma between each pair.

    `reduction` averages each hinge over all rows (the paper's expectation) or, as the released
    code, over the `violating` rows alone. Source: WISE eq. 5.
    """
    pairs = (gamma - (edit[:, None] - irrelevant[None, :])).flatten()  # E*I
    hinges = [torch.relu(term) for term in (irrelevant - alpha, beta - edit, pairs)]
    if reduction == "rows":
        return torch.stack([hinge.mean() if len(hinge) else hinge.sum() for hinge in hinges]).sum()
    if reduction == "violating":
        return torch.stack([hinge.sum() / (hinge > 0).sum().clamp(min=1) for hinge in hinges]).sum()
    raise ValueError(f"margin_reduction={reduction!r} is none of rows, violating")
