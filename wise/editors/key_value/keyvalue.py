"""Facts as keys and values of W_v: what ROME, MEMIT and AlphaEdit share.

The key k* of a fact is the input of W_v at the last token of its subject (of its prompt, where an
edit names no subject); its value v* is the output of W_v there with which the model gives the
target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from wise.editors.key_value.facts import Facts, FactToken, Rows
from wise.editors.options import Base, Checked, Fraction, Lengths, Objective, Share
from wise.edits import Edit
from wise.lm.divergence import divergence
from wise.lm.tail import Tail, block_states
from wise.lm.tokens import IGNORED

__all__ = [
    "OBJECTIVES", "SITES", "KeyValueConfig", "Stood", "ValueConfig", "optimize", "read",
]  # fmt: skip

# Loss of a row from the negative log-likelihood of its target, mean over the target's tokens.
OBJECTIVES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "raise": lambda nll: nll,  # ROME eq. 4
    "lower": lambda nll: (-nll).exp(),  # fact erasure: Hase et al. 2023, section 5.1
}


@dataclass(frozen=True, slots=True)
class _Site:
    """A place in a block where a value is optimised: how to read it, and how to shift it."""

    read: Callable[[Tail], Tensor]
    shifted: Callable[[Tail, Tensor], Tail]


SITES: Mapping[str, _Site] = {
    # The output of W_v (ROME).
    "value": _Site(lambda tail: tail.value, lambda t, by: replace(t, value=t.value + by)),
    # The residual stream after the block (MEMIT).
    "stream": _Site(
        lambda tail: tail.residual + tail.lm.value_norm(tail.layer, tail.value),
        lambda t, by: replace(t, residual=t.residual + by),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueConfig(Checked):
    """How a value is optimised; defaults are ROME's released ones for GPT-J.

    Raises ValueError naming the field, its value and what is allowed.

    n_steps, lr: Adam on the change of the value, in units of the root mean square of the value,
        so that one preset fits models of any scale (appendix E.5: 20 steps at .5, absolute).
    clamp: bound on the norm of that change, in norms of the value (released: 4).
    kl: weight of the divergence on "<subject> is a" (E.5: .0625). weight_decay: released .5.
    early_stop: a raised target takes no more steps once its loss is below (released: .05).
    objective: "raise" the target's probability, or "lower" it.
    append_eos: a raised target ends with EOS, so that free-run answers stop.
    batch_size: edits of a turn that are optimised together.
    """

    n_steps: PositiveInt = 20
    lr: PositiveFloat = 0.5
    clamp: PositiveFloat = 4.0
    kl: NonNegativeFloat = 0.0625
    weight_decay: NonNegativeFloat = 0.5
    early_stop: NonNegativeFloat = 0.05
    objective: Objective = "raise"
    append_eos: bool = True
    batch_size: PositiveInt = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueConfig(ValueConfig):
    """ValueConfig and the other options of every key-value editor; a turn is solved as one.

    layer: the block whose W_v is edited (of several, their centre); None = at `depth`, a share of
        the way from the first block to the last (released: block 5 of 28 or 32).
    fact_token: the token whose input of W_v is the key: the last one of the subject, or of the
        prompt (both in the released code; "subject-last" in its configurations).
    n_prefixes, prefix_lengths, prefix_starts: token sequences drawn from the model, after which the
        prompt is asked too: how many, of which lengths and beginning with which words, each in turn
        (released: ten of 5 and ten of 10, context_template_length_params of ROME's hparams; drawn
        among the five likeliest tokens, here among all).
    prefix_share: the weight of all prefixes in the key, the bare prompt having the rest; None =
        each prefix weighs as much as the bare prompt (released).
    n_texts: background texts over which C is taken (released: 100,000).
    ridge: added to C's diagonal, in mean eigenvalues of C (released: 0; but a small background
        leaves C singular).
    kept_share: the share of its entries, those of the largest relative change, with which a turn's
        change of a W_v is added (RECT); 1 = all.
    restraint: base of the logarithm with which singular values of all that was added to a W_v grow
        beyond the largest of W_v itself (PRUNE, which restrains the edited model and not what it is
        edited on); None = they are not restrained.
    """

    layer: int | None = None
    depth: Fraction = 0.17
    fact_token: FactToken = "subject-last"
    n_prefixes: NonNegativeInt = 20
    prefix_lengths: Lengths = (5, 10)
    prefix_starts: Sequence[str] = ()
    prefix_share: Fraction | None = None
    n_texts: PositiveInt = 100_000
    ridge: NonNegativeFloat = 1e-6
    kept_share: Share = 1.0
    restraint: Base | None = None


@dataclass(frozen=True, slots=True)
class Stood:
    """What a block holds at the edits' places, in float64."""

    key: Float[Tensor, "N M"]  # k*: the mean over prefixes. Source: ROME eq. 3
    mean_value: Float[Tensor, "N D"]  # the output of W_v at k*
    inputs: Float[Tensor, "N M"]  # of W_v at the bare prompt, as are the next two
    value: Float[Tensor, "N D"]
    stream: Float[Tensor, "N D"]  # after the block


def read(facts: Facts, layers: Sequence[int], edits: Sequence[Edit]) -> list[Stood]:
    """What some blocks of the current model hold at the places of N chunks, by one forward.

    A chunk's place is behind the earlier ones, as they are to be; unless targets are parted, N is
    the number of edits.
    """
    each, numbers = facts.every_chunk(edits)
    rows, N = facts.asked(each, numbers), len(each)
    with facts.corrupted(rows):
        found = block_states(facts.lm, layers, rows.batch)
    stood = []
    for states in found:
        inputs, value, stream = (
            rows.at_place(x).double().unflatten(0, (-1, N))  # S N ., the bare prompts first
            for x in (states.inputs, states.value, states.stream)
        )
        stood.append(Stood(facts.mean(inputs), facts.mean(value), inputs[0], value[0], stream[0]))
    return stood


def optimize(
    facts: Facts, layer: int, edits: Sequence[Edit], config: ValueConfig, *, site: str
) -> Float[Tensor, "N D"]:
    """v* in float64: the value of each chunk at `site`, plus the change found by descent.

    Minimises the objective, the divergence on "<subject> is a" and weight decay, with the norm of
    the change clamped; each edit by itself. Its chunks are found one after the other, behind the
    earlier ones as they are to be and with their changes in place. Embeddings are corrupted anew at
    every step. The change is added to the value under the noise of step 0, with which keys are read
    too (one draw, as released). Raises ValueError where a loss becomes non-finite.
    Source: ROME eq. 4, MEMIT eq. 16, and their released code; chunks: AnyEdit, as released.
    """
    starts = range(0, len(edits), config.batch_size)
    parts = [edits[start : start + config.batch_size] for start in starts]
    return torch.cat([_by_chunks(facts, layer, part, config, site) for part in parts])


def _by_chunks(
    facts: Facts, layer: int, edits: Sequence[Edit], config: ValueConfig, site: str
) -> Float[Tensor, "N D"]:
    """The values of edits that are optimised together: those of an edit's chunks in order."""
    counts = facts.n_chunks(edits)
    values: list[list[Tensor]] = [[] for _ in edits]
    changes: list[list[Tensor]] = [[] for _ in edits]
    for number in range(max(counts)):
        some = [index for index, n in enumerate(counts) if n > number]
        earlier = [torch.stack([changes[index][k] for index in some]) for k in range(number)]
        losses = _losses(facts, layer, [edits[index] for index in some], earlier, config, site)
        for index, value, change in zip(some, *_descend(losses, config), strict=True):
            values[index].append(value)
            changes[index].append(change)
    return torch.stack([value for each in values for value in each])


@dataclass(frozen=True)
class _Loss:
    """The loss of each edit as a function of the change at its place.

    The prompts with their targets and, below them, "<subject> is a" are rows of one batch.
    """

    config: ValueConfig
    site: _Site
    tail: Tail
    rows: Rows
    start: Float[Tensor, "N D"]  # at the place of the bare prompt
    n_labels: Int[Tensor, " B"]  # of each prompt
    before: Float[Tensor, "E V"]  # log-probabilities after "<subject> is a", without the change

    def __call__(self, change: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        tail, config = self.tail, self.config
        shifted = self.site.shifted(
            tail, self.rows.shift(change, tail.value.shape[1]).to(tail.value.dtype)
        )
        logits = shifted.logits(shifted.value).float()
        n = len(logits) - len(self.before)  # labels of prompts
        losses = nn.functional.cross_entropy(logits[:n], tail.labels[:n], reduction="none")
        nll = losses.new_zeros(len(self.n_labels)).index_add(0, tail.rows[:n], losses)
        loss = OBJECTIVES[config.objective](nll / self.n_labels).view(-1, len(change)).mean(0)  # N
        decay = change.norm(dim=-1) / self.start.square().sum(-1)
        loss = loss + config.weight_decay * decay
        apart = divergence(logits[n:].log_softmax(-1), self.before)
        owner = self.rows.owner[len(self.n_labels) :]
        return loss.index_add(0, owner, config.kl * apart)


@torch.no_grad()
def _losses(
    facts: Facts,
    layer: int,
    edits: Sequence[Edit],
    earlier: Sequence[Float[Tensor, "N D"]],
    config: ValueConfig,
    site: str,
) -> Iterator[_Loss]:
    """The loss of every step, of the chunks behind those whose changes are `earlier`.

    It is the same at each step, unless embeddings are corrupted anew. The divergence is that of the
    first chunk alone, whose key is the fact's.
    """
    rows, at = facts.asked(edits, [len(earlier)] * len(edits), forced=True), SITES[site]
    n_labels = (rows.batch.labels != IGNORED).sum(-1)
    about = facts.essence(edits) if config.kl and not earlier else None
    if about is not None:
        rows = rows.above(about)
    for step in count():
        if step == 0 or facts.corruption is not None:
            with facts.corrupted(rows, step):
                tail = Tail.capture(facts.lm, layer, rows.batch, first=int(rows.places.min()))
            for key, by in enumerate(earlier):
                shift = rows.shift(by, tail.value.shape[1], key)
                tail = at.shifted(tail, shift.to(tail.value.dtype))
            if step == 0:
                start = rows.at_place(at.read(tail))[: len(edits)].float()
            before = tail.logits(tail.value)[int(n_labels.sum()) :].float().log_softmax(-1)
        yield _Loss(config, at, tail, rows, start, n_labels, before)


def _descend(
    losses: Iterator[_Loss], config: ValueConfig
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """The value at the site, its start plus the change after Adam, and that change; each row stops
    by itself."""
    first = next(losses)
    start = first.start
    unit = start.square().mean(-1, keepdim=True).sqrt()  # N 1
    change = torch.zeros_like(start, requires_grad=True)  # in units
    optimizer = torch.optim.Adam([change], lr=config.lr)
    limit = config.clamp * start.shape[1] ** 0.5
    running = torch.ones_like(unit, dtype=torch.bool)
    for step, loss_of in zip(range(config.n_steps), chain([first], losses), strict=False):
        with torch.enable_grad():
            each = loss_of(unit * change)
            total = each.sum()
        if not bool(each.isfinite().all()):
            raise ValueError(f"loss={each.tolist()} after {step} steps at lr={config.lr}")
        if config.objective == "raise":
            running &= each.detach()[:, None] > config.early_stop
        if not bool(running.any()):
            break
        (change.grad,) = torch.autograd.grad(total, change)
        before = change.detach().clone()
        optimizer.step()
        with torch.no_grad():
            norm = change.norm(dim=-1, keepdim=True)
            clamped = torch.where(norm > limit, change * (limit / norm), change)
            change.copy_(torch.where(running, clamped, before))
    found = unit * change.detach()
    return (start + found).double(), found
