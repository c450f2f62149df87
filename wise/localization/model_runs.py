"""One run of a model, with what later runs reuse of it, and the scores of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from wise.lm.architectures import LanguageModel
from wise.lm.calls import named
from wise.lm.hooks import replace
from wise.lm.tail import first_tensor
from wise.localization.corruption import Corruption, add_noise
from wise.localization.records import Site

__all__ = ["METRICS", "ModelRun", "Target", "given", "run_rows", "site_module"]


@contextmanager
def given(
    module: nn.Module, states: Float[Tensor, "N T D"], where: Bool[Tensor, " T"]
) -> Iterator[None]:
    """Replace the output of `module`, which works token by token, by `states` at some tokens.

    Its own output there is not computed.
    """
    N, T, D = states.shape

    def before(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs = args[0].view(N, T, -1)[:, ~where]
        return (inputs.flatten(0, 1) if args[0].ndim == 2 else inputs, *args[1:])

    def after(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        full = states.clone()
        full[:, ~where] = output.view(N, int((~where).sum()), D)
        return full.flatten(0, 1) if output.ndim == 2 else full

    with module.register_forward_pre_hook(before), module.register_forward_hook(after):
        yield


def site_module(lm: LanguageModel, layer: int, site: Site) -> nn.Module:
    """The module whose output is the state at `site`."""
    return lm.blocks[layer] if site == "hidden" else lm.part(layer, site)


@dataclass(frozen=True)
class ModelRun:
    """N unpadded rows of T tokens through L blocks, and the state at one site of each block.

    A run that continues another has hidden states and states only of its own tokens.
    """

    lm: LanguageModel
    site: Site
    hidden: tuple[Float[Tensor, "N T D"], ...]  # into block l; the last: out of the last block
    states: tuple[Float[Tensor, "N T D"], ...]  # at the site of block l
    keys_values: tuple[tuple[Tensor, Tensor], ...]  # [N, heads, T, width] each
    arguments: tuple[dict[str, Any], ...]  # of block l, by name, without the hidden state

    def expand(self, n: int) -> ModelRun:
        """A run of one row as `n` equal rows, without copies; a run of `n` rows is unchanged."""
        return self._each(lambda x: x.expand(n, *(-1,) * (x.ndim - 1)))

    def __getitem__(self, rows: slice) -> ModelRun:
        """The run of some of its rows; nothing is copied."""
        return self._each(lambda x: x[rows])

    def _each(self, of: Callable[[Tensor], Tensor]) -> ModelRun:
        return ModelRun(
            self.lm,
            self.site,
            tuple(of(x) for x in self.hidden),
            tuple(of(x) for x in self.states),
            tuple((of(keys), of(values)) for keys, values in self.keys_values),
            self.arguments,
        )


def run_rows(
    lm: LanguageModel,
    rows: Int[Tensor, "N T"] | Corruption,
    site: Site,
    *,
    change_embedded: Callable[[Tensor], Tensor] | None = None,
    behind: ModelRun | None = None,
) -> ModelRun:
    """Run the blocks on clean rows, or on corrupted ones.

    `change_embedded` is applied last to the embeddings. Gradients flow where they are enabled.
    `behind` is the run of the one clean row that was corrupted: the tokens before the subject are
    the same and not run again.
    """
    corruption = rows if isinstance(rows, Corruption) else None
    ids = (corruption.input_ids if corruption else rows).to(lm.device)  # type: ignore[union-attr]
    first = corruption.span[0] if corruption and behind else 0
    whole, ids = ids, ids[:, first:]
    hidden: list[Tensor] = []
    states: list[Tensor] = []
    arguments: list[dict[str, Any]] = []

    def see_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken = named(module, args, kwargs)
        hidden.append(taken.pop("hidden_states"))
        arguments.append(taken)

    def see_state(_input: Any, output: Tensor) -> Tensor:
        states.append(output.view(*ids.shape, -1))
        # Gradients pass through the state itself; the block gets a copy, as Falcon's writes to it.
        return states[-1].view(output.shape).clone()

    def embed(_input: Any, output: Tensor) -> Tensor:
        if corruption is not None and corruption.noise is not None:
            begin, end = corruption.span
            output = add_noise(output, corruption.noise, (begin - first, end - first))
        return output if change_embedded is None else change_embedded(output)

    def see_last(_module: nn.Module, _args: Any, output: Any) -> None:
        hidden.append(first_tensor(output))

    cache = DynamicCache()
    if first and behind:
        for layer, (keys, values) in enumerate(behind.expand(len(ids)).keys_values):
            cache.update(keys[:, :, :first].detach(), values[:, :, :first].detach(), layer)
    with ExitStack() as stack:
        stack.enter_context(replace(lm.embedding, embed))
        for layer, block in enumerate(lm.blocks):
            stack.enter_context(block.register_forward_pre_hook(see_block, with_kwargs=True))
            stack.enter_context(replace(site_module(lm, layer, site), see_state))
        stack.enter_context(lm.blocks[-1].register_forward_hook(see_last))
        n_rows, width = whole.shape
        lm.model.base_model(
            input_ids=ids,
            attention_mask=torch.ones_like(whole),
            position_ids=torch.arange(first, width, device=ids.device).expand(n_rows, -1),
            past_key_values=cache,
            use_cache=True,
        )
    layers: list[Any] = cache.layers
    keys_values = tuple((layer.keys, layer.values) for layer in layers)
    return ModelRun(lm, site, tuple(hidden), tuple(states), keys_values, tuple(arguments))


METRICS = ("probability", "log-probability", "logit-difference")


@dataclass(frozen=True)
class Target:
    """The answer that is scored, and the other token of its logit difference at `place`."""

    ids: Int[Tensor, " A"]
    place: int
    alternative: int

    def scores(self, logits: Float[Tensor, "... A V"]) -> Float[Tensor, "... 3"]:
        """By METRICS: p and log p of all target tokens together, and the logit difference.

        The teacher-forced logits are those that predict the A target tokens.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ids = self.ids.to(logits.device).expand(*logits.shape[:-2], -1)[..., None]
        chosen = logits.gather(-1, ids)[..., 0]  # ... A
        log_p = (chosen - logits.logsumexp(-1)).sum(-1)
        difference = chosen[..., self.place] - logits[..., self.place, self.alternative]
        return torch.stack([log_p.exp(), log_p, difference], dim=-1)  # ... 3
