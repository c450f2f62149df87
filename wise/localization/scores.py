"""What a tracing run is scored by: three metrics of the same logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["METRICS", "Target"]

METRICS = ("probability", "log-probability", "logit-difference")


@dataclass(frozen=True)
class Target:
    """The answer that is scored, and the token it is weighed against at `place` of its A."""

    ids: Int[Tensor, " A"]
    place: int
    alternative: int

    def scores(self, logits: Float[Tensor, "... A V"]) -> Float[Tensor, "... 3"]:
        """By METRICS: p and log p of all target tokens together, and a difference of two logits.

        The logits, teacher-forced, are those from which the A target tokens are predicted.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ids = self.ids.to(logits.device).expand(*logits.shape[:-2], -1)[..., None]
        chosen = logits.gather(-1, ids)[..., 0]  # ... A
        log_p = (chosen - logits.logsumexp(-1)).sum(-1)
        difference = chosen[..., self.place] - logits[..., self.place, self.alternative]
        return torch.stack([log_p.exp(), log_p, difference], dim=-1)  # ... 3
