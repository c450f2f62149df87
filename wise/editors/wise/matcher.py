"""Routing by match: a prompt opens the memory of the edit that it is nearest to, if near enough.

What a prompt asks shows in the inputs of W_v: in their mean over its tokens at a low layer, which
follows the subject; in that at the edited layer, which follows the relation; and in the last
token's there, which follows how the answer begins. Each is compared by its cosine, once what the
background shows to say little is shrunk. How much the latter two count, and how near is near
enough, are settled on the background alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product
from typing import TypeAlias, TypeVar

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

__all__ = ["Matcher", "Prompts", "References", "Whitening", "fitted_weights", "pooled"]

_T = TypeVar("_T")
Weights: TypeAlias = tuple[float, float]
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of relation and last token, that a fit tries
_FIT_RATE = 0.05  # of false positives in a fit: of some 100 paraphrases, fewer would be chance
_AS_GOOD = 0.02  # a fit takes the smallest weights within this of the best
_N_RELATIONS = 8  # directions that tell them apart
_UNFITTED = (0.0, 0.5)  # where the background asks for no edit twice
_LEAST_COSINE = 0.01  # so that a power of it is defined
_LARGEST_THRESHOLD = 0.9  # an edit's own prompt matches it by 1
_OWN_TEXTS = 32  # drawn from the model where there is no background


def pooled(
    inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B 3 M"]:
    """The mean over each prompt's tokens at either layer, and its last token at the edited one.

    `inputs` are those of W_v at the low and the edited layer, or at one that is both.
    """
    low, edited = inputs[0], inputs[-1]
    share = (prompt_mask / prompt_mask.sum(-1, keepdim=True).clamp(min=1))[..., None]  # B T 1
    means = [(layer.float() * share).sum(1) for layer in (low, edited)]
    last = edited[torch.arange(len(edited), device=edited.device), last_column(prompt_mask)]
    return torch.stack([*means, last.float()], 1)


@dataclass(frozen=True)
class Whitening:
    """x -> C^-1/2 (x - mean), at length 1.

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
        scaled = [part * (weight / part.square().sum()).sqrt() for part, weight in parts if weight]
        _, scales, directions = torch.linalg.svd(torch.cat(scaled), full_matrices=False)
        eigenvalues = scales.square()
        floor = (ridge * eigenvalues.sum() / rows.shape[1]).clamp(min=1e-30)
        return cls(mean, directions, 1 - (floor / (eigenvalues + floor)).sqrt())

    def keeping(self, changes: Float[Tensor, "P M"], n: int) -> Whitening:
        """Only the `n` directions in which such changes, whitened, are largest."""
        _, _, directions = torch.linalg.svd(self._scaled(changes), full_matrices=False)
        return replace(self, kept=directions[:n])

    def __call__(self, rows: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        white = self._scaled(rows.float() - self.mean)
        if self.kept is not None:
            white = (white @ self.kept.T) @ self.kept
        return nn.functional.normalize(white, dim=-1)

    def _scaled(self, rows: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        return rows - ((rows @ self.directions.T) * self.shrink) @ self.directions


@dataclass(frozen=True)
class Prompts:
    """Background prompts side by side: each edit's prompt, then its paraphrases and near texts.

    subjects: of each one's edit, or "".
    prompt: the row of each one's edit's prompt, or its own.
    is_near: it holds its edit's subject, and does not ask for the edit.
    """

    texts: Sequence[str]
    subjects: Sequence[str]
    prompt: Int[Tensor, " N"]
    is_near: Bool[Tensor, " N"]

    @classmethod
    def of(cls, asked: Sequence[_Asked], device: torch.device) -> Prompts:
        rows = [(each, text) for each in asked for text in each.texts]
        sizes = torch.tensor([len(each.texts) for each in asked])
        return cls(
            [text for _, text in rows],
            [each.subject for each, _ in rows],
            (sizes.cumsum(0) - sizes).repeat_interleave(sizes).to(device),
            torch.tensor([text in each.near for each, text in rows], device=device),
        )

    def paraphrases(self, n: int | None = None) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
        """Rows of paraphrases and of their edits' prompts, among the first `n`."""
        own = torch.arange(len(self.prompt), device=self.prompt.device)
        return self._changed((self.prompt != own) & ~self.is_near, n)

    def near(self, n: int | None = None) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]]:
        """Rows of near texts and of their edits' prompts, among the first `n`."""
        return self._changed(self.is_near, n)

    def _changed(self, chosen: Bool[Tensor, " N"], n: int | None) -> tuple[Tensor, Tensor]:
        rows = chosen[:n].nonzero()[:, 0]
        return rows, self.prompt[rows]


@dataclass(frozen=True)
class _Asked:
    """A background edit, or a text alone."""

    prompt: str
    subject: str = ""
    paraphrases: Sequence[str] = ()
    near: Sequence[str] = ()

    @property
    def texts(self) -> Sequence[str]:
        return self.prompt, *self.paraphrases, *self.near


@dataclass(frozen=True)
class References:
    """Background prompts: common ones to whiten by, and held ones to settle the rest on.

    A covariance fits the rows that it is taken of better than others, so that no subject is both
    common and held. Block 0 costs little: all common prompts are read there, and the first at both
    layers.

    low: inputs at the low layer, of all common prompts. both: `pooled`, of the first ones.
    rows: `pooled`, of the held ones.
    """

    common: Prompts
    low: Float[Tensor, "L M"]
    both: Float[Tensor, "C 3 M"]
    held: Prompts
    rows: Float[Tensor, "N 3 M"]

    @classmethod
    def of(
        cls, kept: Kept, layers: Sequence[int], background: Background, *, n: int, seed: int
    ) -> References:
        """About `n` prompts at both layers, as far as there are; or else texts of the model."""
        held, both, low = _chosen(background, n, seeded(seed, "references"))
        if not held:
            texts = model_prefixes(kept.lm, kept.tokenizer, n=_OWN_TEXTS, length=10, seed=seed)
            own = [_Asked(text) for text in texts if text]
            held, both = own[::2], own[1::2]

        def rows(asked: Sequence[_Asked], layers: Sequence[int]) -> Tensor:
            texts = [readable(kept.lm, kept.tokenizer, text) for a in asked for text in a.texts]

            def compute() -> dict[str, Tensor]:
                return {"rows": _pooled_of(kept.lm, kept.tokenizer, layers, texts)}

            return kept.get(f"means and last token {tuple(layers)}", texts, compute)["rows"]

        known = rows([*both, *held], layers)
        n_both = sum(len(each.texts) for each in both)
        device = known.device
        return cls(
            Prompts.of([*both, *low], device),
            torch.cat([known[:n_both, 0], rows(low, layers[:1])[:, 0]]),
            known[:n_both],
            Prompts.of(held, device),
            known[n_both:],
        )


def _chosen(
    background: Background, n: int, generator: Generator
) -> tuple[list[_Asked], list[_Asked], list[_Asked]]:
    """What is held, what is common at both layers, and what at the low one alone.

    n / 2 prompts of either of the first two, where edits are few filled up by texts, and 2 n edits'
    prompts of the third.
    """
    of_subject: dict[str, list[Edit]] = {}
    for edit in background.edits:
        of_subject.setdefault(edit.subject or edit.prompt, []).append(edit)
    groups = _shuffled([*of_subject.values()], generator)
    cut = [cut_anywhere(text, generator) for text in _shuffled(background.texts, generator)]
    texts = [_Asked(text) for text in dict.fromkeys(cut)]
    half, n_texts = (len(groups) + 1) // 2, (len(texts) + 1) // 2

    def about(groups: Iterable[list[Edit]]) -> Iterator[_Asked]:
        seen = background.texts
        return (_asked(edit, group, seen, generator) for group in groups for edit in group)

    def first(asked: Iterable[_Asked], n: int) -> Iterator[_Asked]:
        for each in asked:
            yield each
            n -= len(each.texts)
            if n <= 0:
                return

    edits = about(groups[half:])
    return (
        [*first(chain(about(groups[:half]), texts[:n_texts]), n // 2)],
        [*first(chain(edits, texts[n_texts:]), n // 2)],
        [*first(edits, 2 * n)],
    )


def _shuffled(items: Sequence[_T], generator: Generator) -> list[_T]:
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]


def _asked(
    edit: Edit, of_subject: Sequence[Edit], texts: Sequence[str], generator: Generator
) -> _Asked:
    """An edit with its first paraphrases, and with a prompt and a text of its subject alone."""
    paraphrases = edit.paraphrases[:2]  # the nearest
    if not edit.subject:
        return _Asked(edit.prompt, "", paraphrases)
    own = (edit.prompt, *edit.paraphrases, *filter(None, [edit.ground_truth]))
    others = (o.prompt for o in of_subject if o.ground_truth != edit.ground_truth)
    about = (t for t in texts if edit.subject in t and not any(part in t for part in own))
    near = [*islice(others, 1)]
    for text in islice(about, 1):
        before, _, after = text.partition(edit.subject)
        words = after.split(" ")
        n_last = int(torch.randint(1, 4, (), generator=generator))  # what it says of the subject
        near.append(before + edit.subject + " ".join(words[:-n_last]))
    return _Asked(edit.prompt, edit.subject, paraphrases, near)


@torch.no_grad()
def _pooled_of(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "N 3 M"]:
    lengths = [len(tokenizer(prompt).input_ids) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)  # so that little is padded
    rows = torch.empty(len(prompts), 3, lm.value_weight(layers[0]).shape[0], device=lm.device)
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
    edits: Float[Tensor, "E 3 M"], prompts: Float[Tensor, "N 3 M"], weights: Weights
) -> Float[Tensor, "E N"]:
    """How well each prompt matches each edit, from 0 to 1."""
    return _product([edits[:, which] @ prompts[:, which].T for which in range(3)], weights)


def _product(cosines: Sequence[Float[Tensor, "..."]], weights: Weights) -> Float[Tensor, "..."]:
    """The subject's cosine times powers of the other two; what is below 0 counts as 0."""
    subject, *others = cosines
    evidence = subject.clamp(min=0)
    for cosine, weight in zip(others, weights, strict=True):
        evidence = evidence * cosine.clamp(min=_LEAST_COSINE) ** weight
    return evidence


def _rarely_passed(evidence: Float[Tensor, " N"], rate: float) -> float:
    """What at most that share of background prompts exceeds."""
    return float(evidence.quantile(1 - rate))


def _named(
    subjects: Sequence[str], texts: Sequence[str], device: torch.device
) -> Bool[Tensor, "E N"]:
    """Whether a text names a subject: it is then no prompt that is far from the subject's edit."""
    rows = [[bool(subject) and subject in text for text in texts] for subject in subjects]
    return torch.tensor(rows, dtype=torch.bool, device=device).reshape(len(subjects), len(texts))


def fitted_weights(held: Prompts, white: Float[Tensor, "N 3 M"]) -> Weights:
    """The powers of the other two cosines that serve the held edits best, as if in force.

    Best is the largest share of paraphrases that open their own edit, at a threshold that they
    seldom pass for another subject's, nor near texts for their own. `white` are the held rows,
    whitened.
    """
    asked, prompt = held.paraphrases()
    if len(asked) < 2:
        return _UNFITTED
    rows, owner = prompt.unique(return_inverse=True)
    columns = torch.arange(len(asked), device=white.device)
    named = _named(
        [held.subjects[row] for row in rows.tolist()],
        [held.texts[row] for row in asked.tolist()],
        white.device,
    )
    named[owner, columns] = True

    def gain(weights: Weights) -> float:
        evidence = _evidence(white[rows], white[asked], weights)  # E P
        own = evidence[owner, columns]
        others = evidence.masked_fill(named, 0.0).amax(0)
        threshold = max(_rarely_passed(others, _FIT_RATE), _near_threshold(held, white, weights))
        return float(((own > others) & (own > threshold)).float().mean())

    gains = {(a, b): gain((a, b)) for a, b in product(_WEIGHTS, repeat=2)}
    as_good = max(gains.values()) - _AS_GOOD
    return min((weights for weights, found in gains.items() if found >= as_good), key=sum)


def _near_threshold(held: Prompts, white: Float[Tensor, "N 3 M"], weights: Weights) -> float:
    """What near texts seldom pass for the edit of their subject; 0 where most edits have none."""
    near, prompt = held.near()
    if 2 * len(near) < len(held.paraphrases()[1].unique()) or not len(near):
        return 0.0
    cosines = (white[near] * white[prompt]).sum(-1)  # Q 3
    return _rarely_passed(_product([*cosines.T], weights), _FIT_RATE)


def _whitenings(references: References) -> tuple[Whitening, Whitening, Whitening]:
    """Of the subject's key, the relation's and the last token's.

    Rewording should change none of them, and asking something else not the subject's: it is what
    the relation's key is made of.
    """
    common, low, (_, mean, last) = references.common, references.low, references.both.unbind(1)

    def changes(rows: Float[Tensor, "N M"], pairs: tuple[Tensor, Tensor]) -> Float[Tensor, "P M"]:
        return rows[pairs[0]] - rows[pairs[1]]

    n = len(mean)
    reworded, near = common.paraphrases(n), common.near(n)
    relation = Whitening.of(mean, changes(mean, reworded), share=0.0)
    return (
        Whitening.of(low, changes(low, common.paraphrases()), changes(low, common.near())),
        relation.keeping(changes(mean, near), _N_RELATIONS),
        Whitening.of(last, changes(last, reworded)),
    )


@dataclass(frozen=True)
class _InForce:
    """The edits of some memories, side by side."""

    memories: Sequence[SideMemory]
    edits: Float[Tensor, "E 3 M"]
    owner: Int[Tensor, " E"]  # the memory of each
    threshold: float


class Matcher(RouterBase):
    """Routes prompts to the memory of the nearest edit.

    weights: the powers of the relation's and the last token's cosine; None = fitted on references.
    false_positives: the share of held prompts that may open a memory of another subject.

    RoutingInputs hold three keys a prompt: the two means and the last token, whitened.
    """

    def __init__(
        self, references: References, *, weights: Weights | None, false_positives: float
    ) -> None:
        self.whitenings = _whitenings(references)
        self.false_positives = false_positives
        self._held = self._white(references.rows)
        self._texts = references.held.texts
        self.weights = weights or fitted_weights(references.held, self._held)
        self._near = _near_threshold(references.held, self._held, self.weights)
        self._last: _InForce | None = None

    def select(
        self, inputs: Sequence[Float[Tensor, "B T M"]], prompt_mask: Bool[Tensor, "B T"]
    ) -> RoutingInputs:
        """What each prompt is matched by, from inputs of W_v at the two layers."""
        keys = self._white(pooled(inputs, prompt_mask))
        return RoutingInputs(keys, prompt_mask.any(-1, keepdim=True).expand(-1, 3))

    def own(self, rows: RoutingInputs, change: ValueChange) -> Float[Tensor, " N"]:
        """How well each of the rows matches itself."""
        return _product([*rows.keys.square().sum(-1).T], self.weights)

    def activations(
        self, rows: RoutingInputs, memories: Sequence[SideMemory]
    ) -> Float[Tensor, "K N"]:
        """The evidence of each memory's nearest edit, from 0 to 1."""
        known = self._in_force(memories)
        evidence = _evidence(known.edits, rows.keys, self.weights)  # E N
        nearest = evidence.new_zeros(len(memories), len(rows))
        owner = known.owner[:, None].expand_as(evidence)
        return nearest.scatter_reduce(0, owner, evidence, "amax")

    def settle(self, memories: Sequence[SideMemory]) -> None:
        """Set the threshold for these memories."""
        if memories:
            self._in_force(memories)

    def threshold(self, memories: Sequence[SideMemory]) -> float:
        """What few held prompts pass for any edit, and few near texts for their own."""
        return self._in_force(memories).threshold if memories else float("inf")

    def _white(self, rows: Float[Tensor, "N 3 M"]) -> Float[Tensor, "N 3 M"]:
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
            evidence = _evidence(edits, self._held, self.weights).masked_fill(named, 0.0)
            threshold = max(_rarely_passed(evidence.amax(0), self.false_positives), self._near)
            threshold = min(threshold, _LARGEST_THRESHOLD)
            self._last = last = _InForce(tuple(memories), edits, owner, threshold)
        return last
