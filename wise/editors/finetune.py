"""Fine-tuning of one W_v, or of neighbouring ones: FT-L, FT-M, FT-EWC and LocFT-BF, which differ by
their settings alone.

The state is tau = W_v' - W_v of each layer in float32; hooks add A(x) tau to the outputs of W_v.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.editors.base import ValueEditorBase, factory, floats, live, prepared, without
from wise.editors.key_value.facts import Corrupts
from wise.editors.options import Checked, Objective, Units
from wise.edits import Edit, edits_of
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import background_texts, own_texts
from wise.lm.tail import Tail
from wise.lm.tokens import IGNORED, Batch, last_column, pad, subject_mask
from wise.seeds import seeded

__all__ = [
    "PRESETS", "FineTuneConfig", "FineTuned", "FineTuning", "fisher", "make_ft_ewc", "make_ft_l",
    "make_ft_m", "make_locft_bf", "penalty", "weight_scale",
]  # fmt: skip


_MOST_NUMBERS = 2**25  # in the changes that are learned side by side
_USUAL_RMS = 0.02  # of a weight's entries in the models that learning rates were released for


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneConfig(Checked):
    """How W_v is fine-tuned. Raises ValueError naming the field, its value and what is allowed.

    layer: the block whose W_v is tuned; None = at three quarters of the depth.
    n_layers: how many neighbouring blocks are tuned together, `layer` at their centre, cut off at
        the model's ends (Hase et al. 2023: one, and five).
    loss: "target" = -log p of each target token where it stands (FT-M); "prompt-last" = of all
        of them at the last prompt token, as ROME's FT baseline released it (FT-L).
    objective: "raise" p(target), by -log p of its tokens, or "lower" p of the whole target.
    lr, n_epochs, batch_size: Adam; an epoch goes through a turn's edits in a new order, in batches
        (0 = the whole turn). A batch whose loss is below `early_stop` makes no step.
    norm_constraint: L-infinity bound on what one turn changes (Zhu et al. 2020, eq. 3).
    ewc, n_fisher: weight lambda of lambda/2 sum F tau^2, F the diagonal Fisher information of
        `n_fisher` background texts (Kirkpatrick et al. 2017, eq. 3).
    replay: earlier edits, drawn anew for every turn, that are learned again with it.
    units: learning rate and bound "absolute", or in units of the "model": times the root mean
        square of W_v's entries / .02, where .02 is that of the models they were released for.
    n_draws: rows of each edit where embeddings are corrupted, each with noise of its own that is
        drawn anew at every step (Hase et al. 2023: 10).
    append_eos: a raised target ends with EOS, so that free-run answers stop.
    """

    layer: int | None = None
    n_layers: PositiveInt = 1
    loss: Literal["target", "prompt-last"] = "target"
    objective: Objective = "raise"
    lr: NonNegativeFloat = 5e-4
    n_epochs: PositiveInt = 25
    batch_size: NonNegativeInt = 0
    early_stop: NonNegativeFloat = 0.01
    norm_constraint: NonNegativeFloat = math.inf
    ewc: NonNegativeFloat = 0.0
    n_fisher: PositiveInt = 64
    replay: NonNegativeInt = 0
    units: Units = "model"
    n_draws: PositiveInt = 10
    append_eos: bool = True


# FT-L: that of ROME (5e-5 bound; WISE appendix A.3: Adam, 5e-4, 50 steps). FT-M: 25 steps.
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


@dataclass(frozen=True)
class FineTuned:
    """The state: tau, None before the first turn, and the edits in force."""

    tau: Float[Tensor, "L M D"] | None = None
    edits: tuple[Edit, ...] = ()
    n_turns: int = 0


class FineTuning(ValueEditorBase[FineTuneConfig, FineTuned]):
    """An editor that fine-tunes W_v."""

    empty = FineTuned()

    def __init__(self, *args: Any, corruption: Corrupts | None = None, **options: Any):
        super().__init__(*args, **options)
        self._prepared: dict[Edit, Float[Tensor, "L M D"]] = {}
        self.layers = self.lm.around(self.layer, self.config.n_layers)
        self._corruption = corruption  # of embeddings while learning (fact forcing)

    def _record(self, state: FineTuned) -> dict[str, Any]:
        return {**super()._record(state), "n_turns": state.n_turns}

    def _weights(self, state: FineTuned) -> dict[int, Float[Tensor, "M D"]]:
        return {} if state.tau is None else dict(zip(self.layers, state.tau, strict=True))

    def _after(self, state: FineTuned, edits: tuple[Edit, ...]) -> FineTuned:
        number = state.n_turns
        if state.tau is None and len(edits) == 1 and edits[0] in self._prepared:
            tau = self._prepared[edits[0]]
        else:
            earlier = without(state.edits, {edit.prompt for edit in edits})
            generator = seeded(self.seed, "turn", number)
            order = torch.randperm(len(earlier), generator=generator)
            chosen = order[: self.config.replay].tolist()
            turn = (*edits, *(earlier[index] for index in chosen))
            (tau,) = self._learned(state.tau, [turn], generator)
        return FineTuned(tau, live(state.edits, edits), number + 1)

    def prepare(self, edits: Sequence[Edit]) -> None:
        """Tune for single edits side by side, unless two would take too much memory; see
        `wise.editor.Prepares`."""
        n = _MOST_NUMBERS // math.prod(self._shape)
        if n > 1:
            with hooks.frozen(self.lm.model):
                self._prepared |= prepared(
                    edits, lambda some: self._learned(
                        None, [[edit] for edit in some], seeded(self.seed, "turn", 0)
                    ),
                    n_columns=lambda edit: self._rows([edit]).input_ids.shape[1], most=n,
                )  # fmt: skip

    def _learned(
        self,
        tau: Float[Tensor, "L M D"] | None,
        turns: Sequence[Sequence[Edit]],
        generator: torch.Generator,
    ) -> Float[Tensor, "N L M D"]:
        """tau after each of N turns of as many edits, all from the same `tau`, or none."""
        config = self.config
        if self._corruption is not None:
            turns = [[edit for edit in turn for _ in range(config.n_draws)] for turn in turns]
        before = torch.zeros(self._shape, device=self.lm.device) if tau is None else tau
        unit = self._unit if config.units == "model" else 1.0
        bound = config.norm_constraint * unit
        learned = before.expand(len(turns), *before.shape).clone().requires_grad_()
        optimizer = torch.optim.Adam([learned], lr=config.lr * unit)
        running = torch.ones(len(turns), dtype=torch.bool, device=self.lm.device)
        tails: dict[tuple[int, ...], Tail] = {}
        n_steps = 0
        for _ in range(config.n_epochs):
            losses = []
            for rows in _batches(len(turns[0]), config.batch_size, generator):
                # A whole turn is captured once; mini-batches and noised rows at each step.
                if rows not in tails or self._corruption is not None:
                    asked = [turn[row] for turn in turns for row in rows]
                    tails = {rows: self._capture(asked, n_steps)}
                n_steps += 1
                losses.append(self._step(tails[rows], learned, running, optimizer))
                with torch.no_grad():
                    if math.isfinite(bound):
                        learned.copy_(learned.clamp(before - bound, before + bound))
            running &= torch.stack(losses).mean(0) >= config.early_stop
            if not bool(running.any()):
                break
        learned = learned.detach()
        if not learned.isfinite().all():
            raise ValueError(f"lr={config.lr} made a non-finite weight; lower lr")
        return learned

    def _step(
        self,
        tail: Tail,
        tau: Float[Tensor, "N L M D"],
        running: Bool[Tensor, " N"],
        optimizer: torch.optim.Optimizer,
    ) -> Float[Tensor, " N"]:
        """One step of each turn under way whose loss is not low enough; the losses before it.

        The rows of a turn are together, as many for each.
        """
        config, N = self.config, len(tau)
        information = self._fisher if config.ewc else None  # of the unedited model
        of_layers = zip(self.layers, tau.unbind(1), strict=True)

        def changed(by: Tensor, inputs: Tensor, value: Tensor) -> Tensor:
            change = inputs.to(by.dtype).reshape(N, -1, inputs.shape[-1]) @ by
            return value + change.view(value.shape).to(value.dtype)

        with torch.enable_grad():
            logits = tail.changed({at: partial(changed, by) for at, by in of_layers}).float()
            loss = _losses(logits, tail, N, config.objective)
            total = loss
            if information is not None:
                total = loss + config.ewc * penalty(information, tau)
        if not bool(total.isfinite().all()):
            raise ValueError(f"loss={total.tolist()} at lr={config.lr}; lower lr")
        loss = loss.detach()
        moving = running & (loss >= config.early_stop)
        if bool(moving.any()):
            (tau.grad,) = torch.autograd.grad(total.sum(), tau)
            held = tau.detach()[~moving]
            optimizer.step()
            with torch.no_grad():
                tau[~moving] = held
        return loss

    def _capture(self, edits: list[Edit], step: int = 0) -> Tail:
        batch = self._rows(edits)
        with self._corrupted(batch, edits, step):
            tail = Tail.capture(self.lm, self.layers[0], batch)
        if self.config.loss == "target":
            return tail
        return replace(tail, columns=last_column(batch.prompt_mask)[tail.rows])

    def _rows(self, edits: Sequence[Edit]) -> Batch:
        config = self.config
        ends = config.append_eos and config.objective == "raise" and config.loss == "target"
        return self._encoded(edits, append_eos=ends)

    def _corrupted(
        self, batch: Batch, edits: Sequence[Edit], step: int
    ) -> AbstractContextManager[None]:
        """The model on `batch`, with corrupted embeddings where there is a corruption."""
        corruption = self._corruption
        if corruption is None:
            return nullcontext()
        prompts, subjects = [e.prompt for e in edits], [e.subject for e in edits]
        subject = subject_mask(self.tokenizer, batch, prompts, subjects)

        def change(_ids: Tensor, embeddings: Tensor) -> Tensor:
            return corruption(embeddings, subject, edits, step)

        return hooks.replace(self.lm.embedding, change)

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FineTuned:
        edits = edits_of(record["edits"])
        tau = floats(tensors, "tau", *self._shape)
        return FineTuned(tau, edits, int(record["n_turns"]))

    @property
    def _shape(self) -> tuple[int, ...]:
        """L M D."""
        return len(self.layers), *self._weight.shape

    @cached_property
    def _unit(self) -> float:
        return weight_scale(self.lm, self.layers)

    @cached_property
    def _fisher(self) -> Float[Tensor, "L M D"]:
        """F of background texts or, without background, of texts that the model draws."""
        n, generator = self.config.n_fisher, seeded(self.seed, "fisher")
        texts = background_texts(self.background, n=n, generator=generator)
        texts = texts or own_texts(self.lm, self.tokenizer, n=n, seed=self.seed)

        def compute() -> dict[str, Tensor]:
            each = [fisher(self.lm, self.tokenizer, at, texts) for at in self.layers]
            return {"F": torch.stack(each)}

        return self.kept.get(f"fisher {self.layers}", texts, compute)["F"]


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[tuple[int, ...]]:
    """All of 0..n-1 at once or, in a new order, in batches of `size`."""
    if not 0 < size < n:
        yield tuple(range(n))
        return
    for rows in torch.randperm(n, generator=generator).split(size):
        yield tuple(rows.tolist())


def _losses(
    logits: Float[Tensor, "P V"], tail: Tail, n_turns: int, objective: str
) -> Float[Tensor, " N"]:
    """To raise targets, -log p of their tokens; to lower them, p of each target. Means over a
    turn's rows.

    Source of lowering: Hase et al. 2023, section 5.1 (fact erasure).
    """
    nll = nn.functional.cross_entropy(logits, tail.labels, reduction="none")
    n_rows = len(tail.value)
    total = nll.new_zeros(n_rows).index_add(0, tail.rows, nll)
    each = total / tail.rows.bincount(minlength=n_rows) if objective == "raise" else (-total).exp()
    return each.view(n_turns, -1).mean(-1)


def weight_scale(lm: LanguageModel, layers: Sequence[int]) -> float:
    """The size of W_v's entries, relative to the models that learning rates were released for."""
    weights = [lm.value_weight(layer).detach().float() for layer in layers]
    return float(torch.stack(weights).square().mean().sqrt()) / _USUAL_RMS


def penalty(
    information: Float[Tensor, "*L M D"], tau: Float[Tensor, "*N L M D"]
) -> Float[Tensor, "*N"]:
    """1/2 sum F tau^2, the cost of leaving W_v. Source: Kirkpatrick et al. 2017, eq. 3."""
    each = information * tau.square()
    return each.flatten(tau.ndim - information.ndim).sum(-1) / 2


def fisher(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "M D"]:
    """The diagonal Fisher information of W_v: the mean over texts of (d log p(text) / d W_v)^2.

    Texts are cut off at the model's context; a text of one token has no gradient.
    Source: Kirkpatrick et al. 2017, section 2 (empirical, one gradient a text).
    """
    total = torch.zeros(lm.value_weight(layer).shape, device=lm.device)
    for start in range(0, len(texts), batch_size):
        batch = _next_tokens(tokenizer, texts[start : start + batch_size], lm.context_length)
        tail = Tail.capture(lm, layer, batch.to(lm.device))
        with torch.enable_grad():
            value = tail.value.detach().requires_grad_()
            log_p = -tail.loss(value, "sum")
        (gradients,) = torch.autograd.grad(log_p, value)  # B T D
        for inputs, gradient in zip(tail.inputs.float(), gradients.float(), strict=True):
            total += (inputs.T @ gradient).square()
    return total / len(texts)


def _next_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None
) -> Batch:
    """Texts with every next token as a label."""
    rows = [ids[:max_length] for ids in tokenizer(list(texts)).input_ids]
    input_ids, mask = pad(rows, tokenizer.pad_token_id or 0)
    labels, _ = pad([[*ids[1:], IGNORED] for ids in rows], IGNORED)
    return Batch(input_ids, mask, mask.bool(), labels)


_factory = partial(factory, FineTuning, FineTuneConfig, own=("corruption",))
make_ft_l = _factory(PRESETS["ft-l"])
make_ft_m = _factory(PRESETS["ft-m"])
make_ft_ewc = _factory(PRESETS["ft-ewc"])
make_locft_bf = _factory(PRESETS["locft-bf"])
