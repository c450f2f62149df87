"""Routing by match: a prompt opens the memory of the edit that it is nearest to, if near enough.

What a prompt asks shows in the inputs of W_v. At a low layer they follow the words: somewhere in
the prompt stands, token by token, what the edit's subject reads like. At the edited layer their
mean follows the relation, and the last token how the answer begins. The mean is over as many last
tokens as the edit's prompt has, so that what is said before a question does not count. Each is
compared by its cosine, once what the background shows to say little is shrunk. How much the latter
two count, and how near is near enough to each edit, are settled on the background alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wise.editors.kept import Kept
from wise.editors.router import RouterBase, RoutingInputs, SideMemory
from wise.editors.routing_inputs import readable
from wise.editors.wise.references import Prompts, References, pooled
from wise.editors.wise.windows import Windows
from wise.lm.tail import value_inputs
from wise.lm.tokens import encode, subject_mask

__all__ = ["N_COMPARED", "Matcher", "Whitening", "fitted_weights"]

Weights: TypeAlias = tuple[float, float]
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of relation and last token, that a fit tries
_ENOUGH_NEAR = 20  # edits with near texts, for their mean and spread
_CLEAR = 3.0  # standard deviations above near texts: the far end of some 100 is chance
_LEAST_SPREAD = 1e-3  # of how far paraphrases lie above their threshold
_N_RELATIONS = 10  # directions that tell them apart
_N_TOKENS = 1536  # that the low layer's covariance is taken of
_UNFITTED = (0.0, 0.5)  # where the background asks for no edit twice
_TINY = 1e-30  # of a sum of squares
_OTHERS = 0.05  # what their mean cosine counts beside evidence that is about the same
_LEAST_COSINE = 0.01  # so that a power of it is defined
_LARGEST_THRESHOLD = 0.9  # an edit's own prompt matches it by 1
_BEFORE = ("", "of ")  # a subject may begin a prompt, or stand in it
# Inputs of W_v of an edit: its subject, of four tokens, in its own prompt and behind these; the
# relation's, and the last token's.
N_COMPARED = 4 * (1 + len(_BEFORE)) + 2


@dataclass(frozen=True)
class Whitening:
    """x -> C^-1/2 (x - mean), up to a factor.

    C is the covariance of prompts, that of changes which should count little, and a ridge. It is
    held by the directions that the rows span, so that its cost is theirs, however wide a model.
    With `kept`, what lies outside these directions is dropped.
    """

    mean: Float[Tensor, " M"]
    directions: Float[Tensor, "N M"]  # orthonormal
    shrink: Float[Tensor, " N"]  # 1 - sqrt(ridge / (eigenvalue + ridge))
    kept: Float[Tensor, "K M"] | None = None  # orthonormal

    @classmethod
    def of(
        cls, rows: Float[Tensor, "N M"], *changes: Float[Tensor, "P M"],
        share: float = 0.1, ridge: float = 0.1,
    ) -> Whitening:  # fmt: skip
        """`changes` are kinds of differences of two rows; each kind counts the same.

        share: of the rows' covariance in C. ridge: in mean eigenvalues of C.
        """
        mean = rows.mean(0)
        kinds = [change for change in changes if len(change)]
        parts = [(rows - mean, share if kinds else 1.0)]
        parts += [(change, (1 - share) / len(kinds)) for change in kinds]
        scaled = [
            part * (weight / part.square().sum().clamp(min=_TINY)).sqrt()
            for part, weight in parts
            if weight
        ]
        _, scales, directions = torch.linalg.svd(torch.cat(scaled), full_matrices=False)
        eigenvalues = scales.square()
        floor = (ridge * eigenvalues.sum() / rows.shape[1]).clamp(min=_TINY)
        return cls(mean, directions.contiguous(), 1 - (floor / (eigenvalues + floor)).sqrt())

    def keeping(self, changes: Float[Tensor, "P M"], n: int) -> Whitening:
        """Only the `n` directions in which such changes, whitened, are largest."""
        _, _, directions = torch.linalg.svd(self._scaled(changes), full_matrices=False)
        return replace(self, kept=directions[:n].contiguous())

    def __call__(self, rows: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        white = self._scaled(rows.float() - self.mean)
        return white if self.kept is None else (white @ self.kept.T) @ self.kept

    def _scaled(self, rows: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        return rows - ((rows @ self.directions.T) * self.shrink) @ self.directions


def _product(cosines: Float[Tensor, "3 ..."], weights: Weights) -> Float[Tensor, "..."]:
    """The subject's cosine times powers of the other two; what is below 0 counts as 0."""
    subject, *others = cosines
    evidence = subject.clamp(min=0)
    for cosine, weight in zip(others, weights, strict=True):
        evidence = evidence * cosine.clamp(min=_LEAST_COSINE) ** weight
    return evidence


def _named(
    subjects: Sequence[str], texts: Sequence[str], device: torch.device
) -> Bool[Tensor, "E N"]:
    """Whether a text names a subject: it is then no prompt that is far from the subject's edit."""
    rows = [[bool(subject) and subject in text for text in texts] for subject in subjects]
    return torch.tensor(rows, dtype=torch.bool, device=device).reshape(len(subjects), len(texts))


def _thresholds(
    strays: Float[Tensor, "E N"],
    groups: Int[Tensor, " N"],
    clear: float,
    false_positives: float,
    reached: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, " E"]]:
    """What opens any edit, and each edit by its own: more than its strays have, and than `clear`.

    strays: the evidence of held prompts of other subjects, 0 for those of an edit's own. Those of
    one subject, a group, foretell each other's: what the strays of all other groups do not foretell
    may be exceeded by `false_positives` of the prompts. The threshold lies midway between that and
    what paraphrases have, `reached`, where it is more: near texts would lie between them.
    """
    n_groups = int(groups.max()) + 1
    largest = strays.new_zeros(len(strays), max(n_groups, 2))
    largest.scatter_reduce_(1, groups.expand_as(strays), strays, "amax")
    first, second = largest.topk(2).values.T[..., None]
    foretold = torch.where(largest == first, second, first)[:, groups]
    unforetold = strays.where(strays > foretold, 0.0)
    exceeded = unforetold.amax(0).quantile(1 - false_positives)
    shared = ((exceeded + exceeded.clamp(min=reached)) / 2).clamp(min=clear)
    return shared, first[:, 0].clamp(min=shared)


def fitted_weights(
    held: Prompts, cosines: Float[Tensor, "3 E N"], *, false_positives: float
) -> Weights:
    """The powers of the other two cosines that serve the held edits best, as if in force.

    Best is where paraphrases open their own edit most clearly: by most standard deviations above
    its threshold. `cosines` are those of `held.edits` with all held prompts.
    """
    asked = held.paraphrases
    if len(asked) < 2:
        return _UNFITTED
    owner, near = held.edit(asked), _near_cosines(held, cosines)
    named = _named([held.subjects[row] for row in held.edits.tolist()], held.texts, asked.device)
    is_own = named | (held.groups[held.edits][:, None] == held.groups)

    def clearness(weights: Weights) -> float:
        evidence = _product(cosines, weights)  # E N
        strays = evidence.masked_fill(is_own, 0.0)
        _, of_edit = _thresholds(strays, held.groups, _above(near, weights), false_positives)
        above = evidence[owner, asked] - of_edit[owner]
        return float(above.mean() / above.std().clamp(min=_LEAST_SPREAD))

    pairs = [(a, b) for a, b in product(_WEIGHTS, repeat=2)]
    return max(sorted(pairs, key=sum), key=clearness)


def _near_cosines(held: Prompts, cosines: Float[Tensor, "3 E N"]) -> Float[Tensor, "3 Q"]:
    """Those of near texts with the edit of their subject; none where too few edits have any."""
    near = held.near
    if len(held.prompt[near].unique()) < _ENOUGH_NEAR:
        near = near[:0]
    return cosines[:, held.edit(near), near]


def _above(near: Float[Tensor, "3 Q"], weights: Weights) -> float:
    """What lies clear of near texts, as they match the edit of their subject; 0 without any."""
    evidence = _product(near, weights)
    return float(evidence.mean() + _CLEAR * evidence.std()) if len(evidence) > 1 else 0.0


def _whitenings(references: References) -> list[Whitening]:
    """Of tokens at the low layer, of the relation's key, and of the last token's.

    Rewording should change neither of the latter; what near texts change is what the relation's
    key is made of.
    """
    common = references.common
    mean, last = references.common_read.pooled.unbind(1)

    def changes(rows: Float[Tensor, "N M"], changed: Int[Tensor, " P"]) -> Float[Tensor, "P M"]:
        return rows[changed] - rows[common.prompt[changed]]

    relation = Whitening.of(mean, changes(mean, common.paraphrases), share=0.0)
    return [
        Whitening.of(references.common_read.low[:_N_TOKENS]),
        relation.keeping(changes(mean, common.near), _N_RELATIONS),
        Whitening.of(last, changes(last, common.paraphrases)),
    ]


def _kept_whitenings(kept: Kept, layers: Sequence[int], references: References) -> list[Whitening]:
    common = references.common
    grouping = f"{layers} {common.prompt.tolist()} {common.is_near.tolist()}"
    whats = [f"whitening of {what} {grouping}" for what in ("tokens", "relation", "last token")]

    def compute(missing: list[str]) -> list[dict[str, Tensor]]:
        computed = dict(zip(whats, _whitenings(references), strict=True))
        parts = (vars(computed[what]).items() for what in missing)
        return [{name: part for name, part in each if part is not None} for each in parts]

    return [Whitening(**found) for found in kept.get_each(whats, common.texts, compute)]


@dataclass(frozen=True)
class _Known:
    """An edit as prompts are matched with it.

    phrases: the tokens of its subject, of one reading after the other; widths: their numbers.
    words: the sum over its prompt's n_tokens, where the subject does not stand in it; else 0.
    key: the relation's and the last token's, of its own prompt.
    """

    phrases: Float[Tensor, "T M"]
    widths: Int[Tensor, " P"]
    words: Float[Tensor, " M"]
    key: Float[Tensor, "2 M"]
    n_tokens: Int[Tensor, ""]


@dataclass(frozen=True)
class _Seen:
    """Prompts as edits are matched with them, all whitened.

    words: their tokens at the low layer; relation: those at the edited one; last: its last token.
    """

    words: Windows
    relation: Windows
    last: Float[Tensor, "N M"]


class _SideBySide:
    """Edits, to be matched with prompts all at once."""

    def __init__(self, known: Sequence[_Known]):
        self.phrases = torch.cat([each.phrases for each in known])
        self.widths = torch.cat([each.widths for each in known])
        self.words = torch.stack([each.words for each in known])
        self.keys = torch.stack([each.key for each in known], 1)  # 2 E M
        self.n_tokens = torch.stack([each.n_tokens for each in known])
        numbers = [n for n, each in enumerate(known) for _ in each.widths]
        self.edit = self.widths.new_tensor(numbers)  # of each phrase

    def cosines(self, seen: _Seen) -> Float[Tensor, "3 E N"]:
        """Those of each edit's subject, relation and last token with those of prompts.

        Where its own prompt does not name the subject, the whole prompt may stand for it.
        """
        found = seen.words.likeness(self.phrases, self.widths)  # P N
        subject = found.new_full((len(self.n_tokens), len(seen.last)), -1.0)
        whole = self.words.any(-1)
        subject[whole] = seen.words.likeness_of_ends(self.words[whole], self.n_tokens[whole])
        subject.scatter_reduce_(0, self.edit[:, None].expand_as(found), found, "amax")
        relation = seen.relation.likeness_of_ends(self.keys[0], self.n_tokens)
        return torch.stack([subject, relation, self.keys[1] @ seen.last.T])


@dataclass(frozen=True)
class _Settled:
    """A memory's edits, and how well held prompts of other subjects match each."""

    known: Sequence[_Known]
    strays: Float[Tensor, "E N"]


@dataclass(frozen=True)
class _InForce:
    """The edits of some memories.

    owner: the memory of each. scale: of its distance 1 - evidence, so that one threshold serves
    all.
    """

    memories: Sequence[SideMemory]
    settled: Sequence[_Settled]
    edits: _SideBySide
    owner: Int[Tensor, " E"]
    scale: Float[Tensor, " E"]
    threshold: float


class Matcher(RouterBase):
    """Routes prompts to the memory of the nearest edit.

    layers: the low and the edited one, or one that is both.
    weights: the powers of the relation's and the last token's cosine; None = fitted on references.
    false_positives: the share of held prompts that may open a memory of another subject, where no
        other held subject's prompts show that it is easily opened; fewer do where there are no near
        texts, and all paraphrases but that share lie well above.

    RoutingInputs hold, whitened, a prompt's mean and last token at the edited layer, and then its
    tokens at the low one and at the edited one. A memory keeps the former two.
    """

    def __init__(
        self, kept: Kept, layers: Sequence[int], references: References,
        *, weights: Weights | None, false_positives: float,
    ) -> None:  # fmt: skip
        self.kept, self.low = kept, layers[0]
        self.whitenings = _kept_whitenings(kept, layers, references)
        self.false_positives = false_positives
        self._texts, self._groups = references.held.texts, references.held.groups
        read = references.held_read
        keys = self._pooled_keys(read.pooled)
        self._seen = _Seen(  # held prompts
            Windows(self.whitenings[0](read.low), read.lengths),
            Windows(self.whitenings[1](read.edited), read.lengths), keys[:, 1],
        )  # fmt: skip
        held, edits = references.held, references.held.edits.tolist()
        known = [self._known(held.texts[row], held.subjects[row], keys[row]) for row in edits]
        self.weights, self._clear, self._reached = weights or _UNFITTED, 0.0, 0.0
        if known:
            cosines = _SideBySide(known).cosines(self._seen)
            self.weights = weights or fitted_weights(held, cosines, false_positives=false_positives)
            near, asked = _near_cosines(held, cosines), held.paraphrases
            self._clear = _above(near, self.weights)
            if not near.numel() and len(asked):
                own = _product(cosines[:, held.edit(asked), asked], self.weights)
                self._reached = float(own.quantile(false_positives))
        self._last: _InForce | None = None

    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """What each prompt is matched by, from inputs of W_v at the two layers."""
        keys = self._pooled_keys(pooled(inputs[-1], prompt_mask))
        tokens = [self.whitenings[0](inputs[0]), self.whitenings[1](inputs[-1])]
        tokens = [each * prompt_mask[..., None] for each in tokens]
        is_read = prompt_mask.any(-1, keepdim=True).expand(-1, 2)
        mask = torch.cat([is_read, prompt_mask, prompt_mask], 1)
        return RoutingInputs(torch.cat([keys, *tokens], 1), mask)

    def remembered(self, rows: RoutingInputs) -> RoutingInputs:
        """The mean and the last token."""
        return RoutingInputs(rows.keys[:, :2], rows.mask[:, :2])

    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """The evidence of each memory's nearest edit: 1 for its own prompt, or less."""
        evidence, _ = self._matched(rows, memories)
        return evidence

    def choose(self, rows: RoutingInputs, memories: Sequence[SideMemory]) -> Int[Tensor, " N"]:
        """The memory that each row opens, by its index in `memories`; -1 = the main memory.

        Of edits whose subjects match about as well, as those of one subject do, or one whose
        subject begins with the other's, the relation and the last token decide.
        """
        evidence, rank = self._matched(rows, memories)
        is_open = evidence > self.threshold(memories)
        return torch.where(is_open.any(0), rank.where(is_open, -torch.inf).argmax(0), -1)

    def _matched(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> tuple[Float[Tensor, "K N"], Float[Tensor, "K N"]]:
        """The evidence of each memory's nearest edit, and what open memories are told apart by."""
        state = self._in_force(memories)
        words, relation = rows.keys[:, 2:].chunk(2, 1)
        mask, _ = rows.mask[:, 2:].chunk(2, 1)
        seen = _Seen(Windows.of(words, mask), Windows.of(relation, mask), rows.keys[:, 1])
        cosines = state.edits.cosines(seen)
        scaled = 1 - (1 - _product(cosines, self.weights)) * state.scale[:, None]  # E N
        ranks = scaled + _OTHERS * cosines[1:].mean(0)
        owner = state.owner[:, None].expand_as(scaled)
        nothing = scaled.new_full((len(memories), len(rows)), -torch.inf)
        evidence = nothing.scatter_reduce(0, owner, scaled, "amax")
        return evidence, nothing.scatter_reduce(0, owner, ranks, "amax")

    def settle(self, memories: Sequence[SideMemory]) -> None:
        """Read the subjects of these memories' edits, and set the threshold."""
        self._last = self._in_force(memories) if memories else None

    def threshold(self, memories: Sequence[SideMemory]) -> float:
        """What opens an edit: clear of near texts, and of nearly all held prompts of others."""
        return self._in_force(memories).threshold

    def _pooled_keys(self, pooled: Float[Tensor, "N 2 M"]) -> Float[Tensor, "N 2 M"]:
        keys = [white(pooled[:, i]) for i, white in enumerate(self.whitenings[1:])]
        return nn.functional.normalize(torch.stack(keys, 1), dim=-1)

    @torch.no_grad()
    def _known(self, prompt: str, subject: str, key: Float[Tensor, "2 M"]) -> _Known:
        lm, tokenizer = self.kept.lm, self.kept.tokenizer
        (prompt,) = readable(lm, tokenizer, [prompt])
        texts = [prompt, *(before + subject for before in _BEFORE if subject)]
        batch = encode(tokenizer, texts).to(lm.device)
        named = [subject if subject in text else "" for text in texts]
        inside = subject_mask(tokenizer, batch, texts, named)
        read = self.whitenings[0](value_inputs(lm, self.low, batch))
        own = batch.prompt_mask[0]
        words = (read[0] * own[:, None]).sum(0) * (~inside[0].any())
        widths = inside.sum(-1)
        return _Known(read[inside], widths[widths > 0], words, key, own.sum())

    def _settled(self, memory: SideMemory) -> _Settled:
        """Whatever memories stand beside it: a state that is loaded is the one that was saved."""
        known = [
            self._known(edit.prompt, edit.subject, key)
            for edit, key in zip(memory.edits, memory.routing.keys, strict=True)
        ]
        evidence = _product(_SideBySide(known).cosines(self._seen), self.weights)  # E N
        named = _named([edit.subject for edit in memory.edits], self._texts, evidence.device)
        return _Settled(known, evidence.masked_fill(named, 0.0))

    def _in_force(self, memories: Sequence[SideMemory]) -> _InForce:
        """The last ones asked for are kept: a state is asked for many times."""
        last = self._last
        if last is not None and [*map(id, last.memories)] == [*map(id, memories)]:
            return last
        seen = {} if last is None else dict(zip(map(id, last.memories), last.settled, strict=True))
        settled = [seen.get(id(memory)) or self._settled(memory) for memory in memories]
        strays = torch.cat([each.strays for each in settled])
        found = _thresholds(strays, self._groups, self._clear, self.false_positives, self._reached)
        threshold, of_edit = (each.clamp(max=_LARGEST_THRESHOLD) for each in found)
        sizes = torch.tensor([len(each.known) for each in settled], device=strays.device)
        self._last = _InForce(
            tuple(memories), settled, _SideBySide([k for each in settled for k in each.known]),
            torch.arange(len(memories), device=strays.device).repeat_interleave(sizes),
            (1 - threshold) / (1 - of_edit), float(threshold),
        )  # fmt: skip
        return self._last
