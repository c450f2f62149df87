"""One turn of WISE: gradient descent on a side memory alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wise.editors.router import margin_loss
from wise.editors.routing_inputs import RoutingInputs
from wise.editors.wise.config import WISEConfig
from wise.lm.tail import Tail

__all__ = ["Objective", "learn"]


@dataclass(frozen=True)
class Objective:
    """L_edit = -log P(y_e | x_e) + L_a as a function of tau, on fixed rows.

    Source: WISE section 2.2.
    """

    tail: Tail
    routing: RoutingInputs  # A(x_e) of every row
    irrelevant: RoutingInputs | None  # A(x_i)
    config: WISEConfig
    unit: float  # of the margins
    activation: nn.Module | None = None  # of the routing activation, where configured
    value_weight: Tensor | None = None

    def __call__(self, tau: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
        change = self.tail.inputs.float() @ tau  # B T D
        logits = self.tail.logits(self.tail.value + change.to(self.tail.value.dtype))
        return self.negative_log_likelihood(logits) + self._margin(tau)

    def negative_log_likelihood(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, ""]:
        """Mean over a row's target tokens, then over rows."""
        losses = nn.functional.cross_entropy(logits.float(), self.tail.labels, reduction="none")
        n_rows = len(self.tail.inputs)
        per_token = 1.0 / torch.bincount(self.tail.rows, minlength=n_rows)[self.tail.rows]
        return (losses * per_token).sum() / n_rows

    def _margin(self, tau: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
        edited = self.delta(tau, self.routing)
        unrelated = edited[:0] if self.irrelevant is None else self.delta(tau, self.irrelevant)
        return margin_loss(
            edited / self.unit,
            unrelated / self.unit,
            alpha=self.config.alpha,
            beta=self.config.beta,
            gamma=self.config.gamma,
            reduction=self.config.margin_reduction,
        )

    def delta(self, tau: Float[Tensor, "M D"], inputs: RoutingInputs) -> Float[Tensor, " N"]:
        """Delta_act of each row of `inputs`."""
        return inputs.delta(
            inputs.keys.float() @ tau, self.config.routing_tokens,
            weight=self.value_weight, activation=self.activation,
        )  # fmt: skip


def learn(
    objective: Objective, tau: Float[Tensor, "M D"], mask: Bool[Tensor, "M D"] | None, *, lr: float
) -> tuple[Float[Tensor, "M D"], int]:
    """`tau` after masked gradient descent, and the number of steps. The argument is not written to.

    `mask` None stands for all ones. Entries outside the mask keep their bits. Raises ValueError
    where the loss stops being a number. Source: WISE eq. 7.
    """
    config = objective.config
    tau = tau.clone()
    for step in range(config.n_steps):
        with torch.enable_grad():
            variable = tau.detach().requires_grad_()
            loss = objective(variable)
        if not torch.isfinite(loss):
            raise ValueError(f"loss={loss.item()} after {step} steps at lr={config.lr}; lower lr")
        if loss.item() <= config.early_stop:
            return tau, step
        (gradient,) = torch.autograd.grad(loss, variable)
        if mask is not None:
            gradient *= mask
        tau -= lr * gradient
        if config.norm_constraint < float("inf"):
            tau.clamp_(-config.norm_constraint, config.norm_constraint)
    return tau, config.n_steps
