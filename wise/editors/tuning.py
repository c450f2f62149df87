"""Hyper-parameters of fine-tuning, and what makes each method of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wise.editors.options import require_flags, require_numbers, require_one_of, require_whole

__all__ = ["PRESETS", "USUAL_RMS", "FineTuneConfig"]

USUAL_RMS = 0.02  # of a weight's entries in the models that learning rates were released for


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneConfig:
    """How W_v is fine-tuned. Raises ValueError naming the field, its value and what is allowed.

    layer: the block whose W_v is tuned; None = at three quarters of the depth.
    n_layers: how many neighbouring blocks are tuned together, `layer` at their centre, cut off at
        the model's ends (Hase et al. 2023: one, and five).
    loss: "target" = -log p of each target token where it stands (FT-M); "prompt-last" = of all
        of them at the last prompt token, as ROME's FT baseline released it (FT-L).
    objective: "raise" p(target) by -log p of its tokens, or "lower" p of the whole.
    lr, n_epochs, batch_size: Adam; an epoch goes through a turn's edits in a new order, in batches
        (0 = the turn at once). A batch whose loss is below `early_stop` makes no step.
    norm_constraint: L-infinity bound on what one turn changes (Zhu et al. 2020, eq. 3).
    ewc, n_fisher: weight lambda of lambda/2 sum F tau^2, F the diagonal Fisher information of
        `n_fisher` background texts (Kirkpatrick et al. 2017, eq. 3).
    replay: earlier edits, drawn anew for every turn, that are learned again with it.
    units: learning rate and bound "absolute", or for entries of the "model": times the root mean
        square of W_v over .02, that of the models they were released for.
    n_draws: rows of each edit where embeddings are corrupted, each with its own noise (Hase et al.
        2023: 10).
    append_eos: a raised target ends with the end of sequence, so that free-run answers stop.
    """

    layer: int | None = None
    n_layers: int = 1
    loss: str = "target"
    objective: str = "raise"
    lr: float = 5e-4
    n_epochs: int = 25
    batch_size: int = 0
    early_stop: float = 0.01
    norm_constraint: float = math.inf
    ewc: float = 0.0
    n_fisher: int = 64
    replay: int = 0
    units: str = "model"
    n_draws: int = 10
    append_eos: bool = True

    def __post_init__(self) -> None:
        require_one_of(
            self,
            loss=("target", "prompt-last"),
            objective=("raise", "lower"),
            units=("absolute", "model"),
        )
        require_flags(self, "append_eos")
        require_whole(self, n_layers=1, n_epochs=1, batch_size=0, n_fisher=1, n_draws=1, replay=0)
        require_numbers(self, "lr", "early_stop", "norm_constraint", "ewc")


# FT-L: ROME's baseline (5e-5 bound; WISE appendix A.3: Adam, 5e-4, 50 steps). FT-M: 25 steps.
# FT-EWC: WISE appendix A.3. LocFT-BF: released configuration (25 epochs, batches of 100).
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ft-l": {
        "released": dict(loss="prompt-last", lr=5e-4, n_epochs=50, norm_constraint=5e-5),
        "embedded": dict(lr=5e-4, n_epochs=50, norm_constraint=8e-3),
    },
    "ft-m": {
        "released": dict(lr=5e-4, n_epochs=25),
        "embedded": dict(lr=2e-4, n_epochs=50),
    },
    "ft-ewc": {
        "released": dict(lr=1e-2, n_epochs=50, ewc=0.1, replay=10),
        "embedded": dict(lr=2e-4, n_epochs=50, ewc=0.1, replay=10),
    },
    "locft-bf": {
        "released": dict(lr=5e-4, n_epochs=25, batch_size=100),
        "embedded": dict(lr=5e-4, n_epochs=50, batch_size=25),
    },
}
