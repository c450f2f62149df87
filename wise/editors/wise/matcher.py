"""Routing by match: a prompt opens the memory of the edit that it is nearest to, if near enough.

Two inputs of W_v tell what a prompt asks: their mean over its tokens at a low layer, which follows
the subject, and that of its last token at the edited layer, which follows the relation. Each is
compared by its cosine, whitened by the background, which takes away what all prompts share. How
much the last token counts, and how near is near enough, are settled on the background alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.editors.kept import Kept
from wise.editors.router import RouterBase, RoutingInputs, SideMemory, ValueChange
from wise.editors.routing_inputs import cut_anywhere, readable
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import model_prefixes
from wise.lm.tail import inputs_seen, run
from wise.lm.tokens import encode, last_column
from wise.seeds import seeded

__all__ = ["Matcher", "References", "Whitening", "fitted_weight", "pooled"]

_T = TypeVar("_T")
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of the last token, that a fit chooses from
_FIT_RATE = 0.05  # of false positives in a fit: of some 100 paraphrases, fewer would be chance
_AS_GOOD = 0.02  # a fit takes the smallest weight within this of the best
_STRAY_COST = 2.0  # of a near text that opens an edit, in paraphrases that do not
_UNFITTED = 0.5  # where the background asks for no edit twice
_LEAST_COSINE = 0.01  # so that a power of it is defined
_LARGEST_THRESHOLD = 0.9  # an edit's own prompt matches it by 1
_OWN_TEXTS = 32  # drawn from the model where there is no background


def pooled(
    inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B 2 M"]:
    """The mean over each prompt's tokens at the low layer, and its last token at the edited one.

    `inputs` are those of W_v at these two layers, or at one that is both.
    """
    low, edited = inputs[0], inputs[-1]
    share = prompt_mask / prompt_mask.sum(-1, keepdim=True).clamp(min=1)  # B T
    last = edited[torch.arange(len(edited), device=edited.device), last_column(prompt_mask)]
    return torch.stack([(low.float() * share[..., None]).sum(1), last.float()], 1)


@dataclass(frozen=True)
class Whitening:
    """x -> C^-1/2 (x - mean), at length 1.

    C is the covariance of prompts, that of paraphrases about their own edit's prompt, and a ridge,
    the first two at trace 1: what prompts share counts little, and what a wording changes less. It
    is held by the directions that the rows span, so that its cost is theirs, however wide a model.
    """

    mean: Float[Tensor, " M"]
    directions: Float[Tensor, "N M"]  # orthonormal
    shrink: Float[Tensor, " N"]  # 1 - sqrt(ridge / (eigenvalue + ridge))

    @classmethod
    def of(
        cls, rows: Float[Tensor, "N M"], first: Int[Tensor, " N"], *,
        wording: float = 0.9, ridge: float = 0.1,
    ) -> Whitening:  # fmt: skip
        """`first` is the row of each row's edit's prompt, or itself.

        wording: the share of paraphrases in C. ridge: in mean eigenvalues of C.
        """
        mean = rows.mean(0)
        changes = (rows - rows[first])[first != torch.arange(len(rows), device=rows.device)]
        parts = [((rows - mean), 1 - wording if len(changes) else 1.0), (changes, wording)]
        scaled = [
            part * (share / part.square().sum()).sqrt() for part, share in parts if len(part)
        ]  # of trace `share`
        _, scales, directions = torch.linalg.svd(torch.cat(scaled), full_matrices=False)
        eigenvalues = scales.square()
        floor = (ridge * eigenvalues.sum() / rows.shape[1]).clamp(min=1e-30)
        return cls(mean, directions, 1 - (floor / (eigenvalues + floor)).sqrt())

    def __call__(self, rows: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        centred = rows.float() - self.mean
        white = centred - ((centred @ self.directions.T) * self.shrink) @ self.directions
        return nn.functional.normalize(white, dim=-1)


@dataclass(frozen=True)
class References:
    """Background prompts: common ones to whiten by, and held ones to settle the rest on.

    Rows are `pooled` inputs. A covariance fits the rows that it is taken of better than others, so
    that no prompt is both common and held.

    low, edited: of common prompts, at either layer; block 0 costs little, so there are more of it.
    first: the row in `low` of each one's edit's prompt, or itself; it serves `edited` too.
    held, texts: of others, at both `layers`, and as text.
    subjects: of held prompts of edits; "" for the others.
    pairs: held rows of an edit's prompt and of a paraphrase.
    near: held rows of an edit's prompt and of a text that holds its subject and is none of its own.
    """

    low: Float[Tensor, "L M"]
    edited: Float[Tensor, "C M"]
    first: Int[Tensor, " L"]
    held: Float[Tensor, "N 2 M"]
    texts: Sequence[str]
    subjects: Sequence[str]
    pairs: Int[Tensor, "P 2"]
    near: Int[Tensor, "Q 2"]

    @classmethod
    def of(
        cls, kept: Kept, layers: Sequence[int], background: Background, *, n: int, seed: int
    ) -> References:
        """`n` prompts as far as the background has them; without any, texts of the model's own."""
        chosen = _Prompts.of(background, n, seeded(seed, "references"))
        if not chosen.held:
            texts = model_prefixes(kept.lm, kept.tokenizer, n=_OWN_TEXTS, length=10, seed=seed)
            own = [text for text in texts if text]
            chosen = _Prompts([[text] for text in own[::2]], own[1::2], [""] * len(own[1::2]))

        def rows(prompts: Sequence[str], layers: Sequence[int]) -> Tensor:
            prompts = [readable(kept.lm, kept.tokenizer, text) for text in prompts]

            def compute() -> dict[str, Tensor]:
                return {"rows": _pooled_of(kept.lm, kept.tokenizer, layers, prompts)}

            return kept.get(f"pooled inputs {tuple(layers)}", prompts, compute)["rows"]

        common = [text for group in chosen.common for text in group]
        sizes = torch.tensor([len(group) for group in chosen.common])
        first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        n_edited = min(len(common), n // 3)
        both = rows([*common[:n_edited], *chosen.held], layers)
        low = rows(common[n_edited:], layers[:1])

        def table(pairs: list[tuple[int, int]]) -> Tensor:
            return torch.tensor(pairs, dtype=torch.long, device=both.device).reshape(-1, 2)

        return cls(
            torch.cat([both[:n_edited, 0], low[:, 0]]), both[:n_edited, 1], first.to(both.device),
            both[n_edited:],
            chosen.held, chosen.subjects, table(chosen.pairs), table(chosen.near),
        )  # fmt: skip


@dataclass
class _Prompts:
    """The texts of References; pairs and near count in `held`."""

    common: list[list[str]] = field(default_factory=list)  # an edit's prompts together
    held: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, background: Background, n: int, generator: Generator) -> _Prompts:
        """2 n / 3 held prompts and up to 3 n common ones, as far as the background has them."""
        edits = _shuffled(background.edits, generator)
        texts = [cut_anywhere(text, generator) for text in _shuffled(background.texts, generator)]
        chosen = cls()
        n_edits = 0
        for edit in edits[: len(edits) // 2]:
            if len(chosen.held) >= 2 * n // 3:
                break
            n_edits += 1
            chosen._hold(edit, background, generator)
        if not edits:
            half = min(len(texts) // 2, 2 * n // 3)
            chosen.held, texts = texts[:half], texts[half:]
            chosen.subjects = [""] * half
        asked = [[edit.prompt, *edit.paraphrases[:2]] for edit in edits[n_edits:]]
        groups = [*asked[: 2 * n // 3], *([text] for text in texts[:n])]
        chosen.common = _shuffled(groups, generator)
        return chosen

    def _hold(self, edit: Edit, background: Background, generator: Generator) -> None:
        """Hold an edit's prompt, its first paraphrases (the nearest), and texts of its subject."""
        row, asked = len(self.held), edit.paraphrases[:2]
        others = _about_subject(edit, background, generator)
        self.held += [edit.prompt, *asked, *others]
        self.subjects += [edit.subject] * (1 + len(asked)) + [""] * len(others)
        self.pairs += [(row, row + 1 + i) for i in range(len(asked))]
        self.near += [(row, row + 1 + len(asked) + i) for i in range(len(others))]


def _shuffled(items: Sequence[_T], generator: Generator) -> list[_T]:
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]


def _about_subject(edit: Edit, background: Background, generator: Generator) -> list[str]:
    """A text and an edit's prompt with this edit's subject that do not ask for it, if there are."""
    if not edit.subject:
        return []
    own = (edit.prompt, *edit.paraphrases, *filter(None, [edit.ground_truth]))
    texts = (
        text for text in background.texts
        if edit.subject in text and not any(part in text for part in own)
    )  # fmt: skip
    prompts = (
        other.prompt for other in background.edits
        if other.subject == edit.subject and other.ground_truth != edit.ground_truth
    )  # fmt: skip
    found = [*islice(prompts, 1)]
    for text in islice(texts, 1):
        before, _, after = text.partition(edit.subject)
        found.append(before + edit.subject + (cut_anywhere(after, generator) if after else ""))
    return found


@torch.no_grad()
def _pooled_of(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    prompts: Sequence[str],
    *,
    batch_size: int = 32,
) -> Float[Tensor, "N 2 M"]:
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # of like length
    rows = torch.empty(len(prompts), 2, lm.value_weight(layers[0]).shape[0], device=lm.device)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = encode(tokenizer, [prompts[index] for index in chosen]).to(lm.device)
        with inputs_seen(lm, layers, batch, stop=True) as inputs:
            run(lm, batch)
        rows[chosen] = pooled(inputs, batch.prompt_mask)
    if not bool(rows.isfinite().all()):
        raise ValueError(
            f"the inputs of W_v at layers {[*layers]} are not finite on the background"
        )
    return rows


def _evidence(
    edits: Float[Tensor, "E 2 M"], prompts: Float[Tensor, "N 2 M"], weight: float
) -> Float[Tensor, "E N"]:
    """How well each prompt matches each edit, from 0 to 1."""
    mean, last = (edits[:, which] @ prompts[:, which].T for which in (0, 1))
    return _product(mean, last, weight)


def _product(
    mean: Float[Tensor, "..."], last: Float[Tensor, "..."], weight: float
) -> Float[Tensor, "..."]:
    """The mean's cosine times a power of the last token's; what is below 0 counts as 0."""
    return mean.clamp(min=0) * last.clamp(min=_LEAST_COSINE) ** weight


def _threshold(strongest: Float[Tensor, " N"], false_positives: float) -> float:
    """What at most that share of background prompts exceeds."""
    return min(float(strongest.quantile(1 - false_positives)), _LARGEST_THRESHOLD)


def _named(
    subjects: Sequence[str], texts: Sequence[str], device: torch.device
) -> Bool[Tensor, "E N"]:
    """Whether a text names a subject: it is then no prompt that is far from the subject's edit."""
    rows = [[bool(subject) and subject in text for text in texts] for subject in subjects]
    return torch.tensor(rows, dtype=torch.bool, device=device).reshape(len(subjects), len(texts))


def fitted_weight(references: References, white: Float[Tensor, "N 2 M"]) -> float:
    """The power of the last token's cosine that serves the held edits best, as if in force.

    Best is the largest share of paraphrases that open their own edit, less the cost of near texts
    that open any, per edit, at a threshold that paraphrases seldom pass for another subject's edit.
    `white` are the held rows, whitened.
    """
    pairs, near = references.pairs, references.near
    if len(pairs) < 2:
        return _UNFITTED
    rows, owner = pairs[:, 0].unique(return_inverse=True)
    columns = torch.arange(len(pairs), device=white.device)
    subjects = [references.subjects[row] for row in rows.tolist()]
    asked = [references.texts[row] for row in pairs[:, 1].tolist()]
    named = _named(subjects, asked, white.device)
    named[owner, columns] = True

    def gain(weight: float) -> float:
        evidence = _evidence(white[rows], white[pairs[:, 1]], weight)  # E P
        own = evidence[owner, columns]
        others = evidence.masked_fill(named, 0.0).amax(0)
        threshold = _threshold(others, _FIT_RATE)
        opened = ((own > others) & (own > threshold)).float().mean()
        strayed = _evidence(white[rows], white[near[:, 1]], weight) > threshold  # E Q
        n_near = max(len(near), len(rows))  # a few near texts say little
        return float(opened - _STRAY_COST * strayed.any(0).sum() / n_near)

    gains = [gain(weight) for weight in _WEIGHTS]
    return next(w for w, g in zip(_WEIGHTS, gains, strict=True) if g >= max(gains) - _AS_GOOD)


@dataclass(frozen=True)
class _InForce:
    """The edits of some memories, side by side."""

    memories: Sequence[SideMemory]
    edits: Float[Tensor, "E 2 M"]
    owner: Int[Tensor, " E"]  # the memory of each
    threshold: float


class Matcher(RouterBase):
    """Routes prompts to the memory of the nearest edit.

    weight: the power of the last token's cosine; None = fitted on the references.
    false_positives: the share of the references that may open a memory.

    RoutingInputs hold two keys a prompt: the mean and the last token, whitened.
    """

    def __init__(
        self, references: References, *, weight: float | None, false_positives: float
    ) -> None:
        n_edited = len(references.edited)
        self.whitenings = (
            Whitening.of(references.low, references.first),
            Whitening.of(references.edited, references.first[:n_edited]),
        )
        self.false_positives = false_positives
        self._held = self._white(references.held)
        self._texts = references.texts
        if weight is None:
            weight = fitted_weight(references, self._held)
        self.weight = weight
        self._last: _InForce | None = None

    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """What each prompt is matched by, from inputs of W_v at the two layers."""
        keys = self._white(pooled(inputs, prompt_mask))
        return RoutingInputs(keys, prompt_mask.any(-1, keepdim=True).expand(-1, 2))

    def own(self, rows: RoutingInputs, change: ValueChange) -> Float[Tensor, " N"]:
        """How well each of the rows matches itself."""
        mean, last = rows.keys.square().sum(-1).T
        return _product(mean, last, self.weight)

    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """The evidence of each memory's nearest edit, from 0 to 1."""
        known = self._in_force(memories)
        evidence = _evidence(known.edits, rows.keys, self.weight)  # E N
        nearest = evidence.new_zeros(len(memories), len(rows))
        owner = known.owner[:, None].expand_as(evidence)
        return nearest.scatter_reduce(0, owner, evidence, "amax")

    def settle(self, memories: Sequence[SideMemory]) -> None:
        """Set the threshold for these memories."""
        if memories:
            self._in_force(memories)

    def threshold(self, memories: Sequence[SideMemory]) -> float:
        """What no more than the allowed share of the references exceeds."""
        return self._in_force(memories).threshold if memories else float("inf")

    def _white(self, rows: Float[Tensor, "N 2 M"]) -> Float[Tensor, "N 2 M"]:
        return torch.stack([white(rows[:, i]) for i, white in enumerate(self.whitenings)], 1)

    def _in_force(self, memories: Sequence[SideMemory]) -> _InForce:
        """The last ones asked for are kept: a state is asked for many times."""
        last = self._last
        if last is None or [*map(id, last.memories)] != [*map(id, memories)]:
            edits = torch.cat([memory.routing.keys for memory in memories])
            sizes = torch.tensor([len(memory.routing) for memory in memories], device=edits.device)
            owner = torch.arange(len(memories), device=edits.device).repeat_interleave(sizes)
            subjects = [edit.subject for memory in memories for edit in memory.edits]
            named = _named(subjects, self._texts, edits.device)
            evidence = _evidence(edits, self._held, self.weight).masked_fill(named, 0.0)
            threshold = _threshold(evidence.amax(0), self.false_positives)
            self._last = last = _InForce(tuple(memories), edits, owner, threshold)
        return last
