"""How like a phrase some prompts are: wherever in them it stands, or at their ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["Windows"]

_TINY = 1e-12  # of a norm


class _OfWidth(NamedTuple):
    """As many neighbouring tokens: all places; a prompt with fewer tokens is one place, whole."""

    begin: Int[Tensor, " W"]
    end: Int[Tensor, " W"]
    prompt: Int[Tensor, " W"]
    norms: Float[Tensor, " W"]  # of all the tokens of a place


@dataclass(frozen=True)
class Windows:
    """Neighbouring tokens in prompts: tokens of one prompt after the other, and their numbers."""

    tokens: Float[Tensor, "S M"]
    lengths: Int[Tensor, " N"]
    _known: dict[int, _OfWidth] = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: Float[Tensor, "N T M"], mask: Bool[Tensor, "N T"]) -> Windows:
        """Of prompts side by side, padded on either side."""
        return cls(tokens[mask], mask.sum(-1))

    def likeness(
        self, phrases: Float[Tensor, "T M"], widths: Int[Tensor, " P"]
    ) -> Float[Tensor, "P N"]:
        """The largest cosine of each phrase with as many neighbouring tokens of each prompt.

        `phrases` are tokens of one phrase after the other, and their numbers, 1 or more. Each is
        compared with the token in its place, so that other orders of the same tokens are less
        alike. A prompt with fewer tokens is compared from its first; -1 where it has none.
        """
        found = phrases.new_full((len(widths), len(self.lengths)), -1.0)
        first = widths.cumsum(0) - widths
        for width in widths.unique().tolist():
            at = self._of_width(width)
            of_width = widths == width
            cosines = phrases.new_zeros(int(of_width.sum()), len(at.begin))
            squares = phrases.new_zeros(len(cosines), 1)
            for place in range(width):
                there = phrases[first[of_width] + place]
                squares += there.square().sum(-1, keepdim=True)
                is_in = at.begin + place < at.end
                cosines[:, is_in] += (there @ self.tokens.T)[:, at.begin[is_in] + place]
            cosines /= at.norms * squares.sqrt().clamp(min=_TINY)
            prompt = at.prompt.expand(len(cosines), -1)
            found[of_width] = found[of_width].scatter_reduce(1, prompt, cosines, "amax")
        return found

    def likeness_of_ends(
        self, phrases: Float[Tensor, "P M"], widths: Int[Tensor, " P"]
    ) -> Float[Tensor, "P N"]:
        """The cosine of each phrase with as many last tokens of each prompt, or with all it has.

        `phrases` are sums, or means, of `widths` tokens, one or more; 0 for a prompt without any.
        """
        found = phrases.new_zeros(len(phrases), len(self.lengths))
        units = nn.functional.normalize(phrases, dim=-1)
        sums = self.tokens.new_zeros(len(self.lengths), units.shape[1])
        last = self.lengths.cumsum(0)
        asked = set(widths.tolist())
        for width in range(1, max(asked, default=0) + 1):
            is_in = self.lengths >= width
            sums[is_in] += self.tokens[last[is_in] - width]
            if width in asked:
                of_width = widths == width
                found[of_width] = units[of_width] @ nn.functional.normalize(sums, dim=-1).T
        return found

    def _of_width(self, width: int) -> _OfWidth:
        if width not in self._known:
            last = self.lengths.cumsum(0)
            numbers = torch.arange(len(last), device=last.device)
            prompt = numbers.repeat_interleave(self.lengths)  # S
            begin = torch.arange(len(prompt), device=last.device)
            is_first = begin == (last - self.lengths)[prompt]
            keep = is_first | (begin + width <= last[prompt])
            begin, prompt = begin[keep], prompt[keep]
            end = (begin + width).minimum(last[prompt])
            squares = self.tokens.square().sum(-1)
            of_place = squares[begin]
            for further in range(1, width):
                is_in = begin + further < end
                of_place[is_in] += squares[begin[is_in] + further]
            norms = of_place.sqrt().clamp(min=_TINY)
            self._known[width] = _OfWidth(begin, end, prompt, norms)
        return self._known[width]
