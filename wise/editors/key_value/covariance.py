"""C = E[k k^T]: the second moment of W_v's inputs over background text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.editors.kept import ComputeEach, Kept
from wise.edits import Background
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import background_texts, own_texts
from wise.lm.tail import inputs_at
from wise.lm.tokens import encode, of_like_length
from wise.seeds import seeded

__all__ = ["Covariance", "second_moments"]

_log = logging.getLogger(__name__)

_BLOCK = 256  # rows of C that are summed together
_ENOUGH = 10  # tokens for each inner unit: with fewer than one, C is singular


@torch.no_grad()
def second_moments(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    texts: tuple[str, ...],
    *,
    batch_size: int = 64,
) -> dict[int, Float[Tensor, "M M"]]:
    """C at each of `layers` in float64, by one pass: the mean of k k^T over every token of `texts`.

    Texts are cut off at the model's context. Raises ValueError for inputs that are not finite.
    Source: ROME appendix E.1.
    """
    totals: dict[int, Tensor] = {}
    for layer in sorted(layers):
        inner = len(lm.value_weight(layer))
        totals[layer] = torch.zeros(inner, inner, dtype=torch.float64, device=lm.device)
    n_tokens = 0
    lengths = torch.tensor([len(ids) for ids in tokenizer(list(texts)).input_ids])
    for rows in of_like_length(lengths, batch_size):
        batch = encode(tokenizer, [texts[row] for row in rows.tolist()], padding_side="right")
        batch = batch.columns(slice(lm.context_length)).to(lm.device)
        held = batch.attention_mask.bool()
        for total, inputs in zip(totals.values(), inputs_at(lm, [*totals], batch), strict=True):
            k = inputs[held].double()  # tokens M
            for row in range(0, len(total), _BLOCK):  # C is symmetric: the upper triangle will do
                own = k[:, row : row + _BLOCK]
                total[row : row + _BLOCK, row:].addmm_(own.T, k[:, row:])
        n_tokens += int(held.sum())
    for layer, total in totals.items():
        if not bool(total.isfinite().all()):
            raise ValueError(f"the inputs of W_v at layer={layer} are not finite on the background")
    return {layer: (total.triu() + total.triu(1).T) / n_tokens for layer, total in totals.items()}


@dataclass
class Covariance:
    """C of the unedited model at `layers`, all taken in one pass when the first is needed.

    Each is handed out once; asked for again, it is taken or read again by itself.

    It is taken over at most `n_texts` background texts; without background, over texts that the
    model draws by `seed`. `kept` holds C and its spectrum. A warning in the log says where the
    texts are too little for the model.
    """

    kept: Kept
    layers: Sequence[int]
    background: Background
    seed: int
    n_texts: int
    ridge: float  # added to the diagonal, in mean eigenvalues of C
    _taken: dict[int, Tensor] = field(default_factory=dict)
    _given: set[int] = field(default_factory=set)
    _factors: dict[int, Tensor] = field(default_factory=dict)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        texts = self._chosen()
        n_tokens = sum(map(len, self.kept.tokenizer(list(texts)).input_ids))
        n_units = len(self.kept.lm.value_weight(0))
        if n_tokens < _ENOUGH * n_units:
            _log.warning(
                "C is taken over %d tokens of text, few for the %d inner units of the model: with "
                "fewer than %d, an edit changes what it should not, and may not be written",
                n_tokens, n_units, _ENOUGH * n_units,
            )  # fmt: skip
        return texts

    def _chosen(self) -> tuple[str, ...]:
        generator = seeded(self.seed, "covariance")
        known = background_texts(self.background, n=self.n_texts, generator=generator)
        return known or own_texts(self.kept.lm, self.kept.tokenizer, seed=self.seed)

    def at(self, layer: int) -> Float[Tensor, "M M"]:
        """C at `layer`, float64, without the ridge; its caller holds what comes of it instead."""
        if layer not in self._taken:
            layers = [layer] if layer in self._given else self.layers
            found = self.kept.get_each(*self._asked(layers))
            self._taken |= {each: of["C"] for each, of in zip(layers, found, strict=True)}
        self._given.add(layer)
        return self._taken.pop(layer)

    def keep(self, layers: Sequence[int]) -> None:
        """Keep C at `layers`, by one pass, for editors that share the folder of `kept`."""
        self.kept.keep(*self._asked(layers))

    def _asked(self, layers: Sequence[int]) -> tuple[list[str], tuple[str, ...], ComputeEach]:
        """What `kept` is asked for C at `layers`."""
        layer_of = {f"C {layer}": layer for layer in layers}

        def compute(missing: list[str]) -> list[dict[str, Tensor]]:
            layers = [layer_of[what] for what in missing]
            with hooks.frozen(self.kept.lm.model):
                found = second_moments(self.kept.lm, self.kept.tokenizer, layers, self.texts)
            return [{"C": found[layer]} for layer in layers]

        return [*layer_of], self.texts, compute

    def spectrum(self, layer: int) -> tuple[Float[Tensor, " M"], Float[Tensor, "M M"]]:
        """C's eigenvalues, ascending, and its eigenvectors as columns, float64."""

        def compute() -> dict[str, Tensor]:
            values, vectors = torch.linalg.eigh(self.at(layer))
            return {"values": values, "vectors": vectors}

        found = self.kept.get(f"spectrum {layer}", self.texts, compute)
        return found["values"], found["vectors"]

    def solve(self, layer: int, keys: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
        """C^-1 `keys`, float64. Raises ValueError where C and its ridge are singular."""
        if layer not in self._factors:
            C = self.at(layer)
            C.diagonal().add_(self.ridge * C.diagonal().mean())
            factor, failed = torch.linalg.cholesky_ex(C)
            if bool(failed):
                raise ValueError(f"C at layer={layer} is singular with ridge={self.ridge}")
            self._factors[layer] = factor
        return torch.cholesky_solve(keys, self._factors[layer])
