"""Editors whose edits are records beside the model, looked up while it reads; it learns nothing.

SPALM (Yogatama, de Masson d'Autume and Kong, TACL 2021, arXiv 2102.02557) keeps hidden states with
the tokens that followed them. MemLLM (Modarressi et al. 2024, arXiv 2404.11672) keeps triples of
subject, relation and object. The "-lite" says that what the method trains is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from wise.editors.base import ErasableBase, factory, floats, live, without
from wise.editors.gated import threshold_among
from wise.editors.grace import distances
from wise.editors.incontext import ContextConfig, ErasableContextBase
from wise.editors.options import Checked, Fraction, Share
from wise.editors.routing_inputs import of_unlike_prompts, read_in_batches
from wise.edits import Edit, edits_of
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import require_readable
from wise.lm.hooks import frozen, replace
from wise.lm.tail import head_inputs
from wise.lm.tokens import IGNORED, Batch, last_column
from wise.measures.text import UNSPACED

__all__ = [
    "MEMLLM_PRESETS", "SPALM_PRESETS", "MemLLMConfig", "MemLLMLite", "SPALMConfig", "SPALMLite",
    "last_states", "make_memllm", "make_spalm", "near_keys", "recalled", "stands_in",
]  # fmt: skip

_UNCALIBRATED = 0.8  # the likeness of relations where the background has no paraphrase of a subject
_LETTER = rf"[^\W{UNSPACED}]"  # of a word with spaces around it


@dataclass(frozen=True, slots=True, kw_only=True)
class SPALMConfig(Checked):
    """How SPALM-lite edits. Raises ValueError naming the field, its value and what is allowed.

    n_nearest: K, of the stored states, the nearest ones whose tokens count (released: 4).
    gate: g, the share of the model's own distribution where a stored state is near (released: a
        sigmoid of the state, trained with the model).
    tau: a state is near below this Euclidean distance (released: always). None = what
        `false_positives` of the background's prompts have to another subject's.
    n_background: prompts of different subjects for tau.
    append_eos: the target ends with EOS, so that free-run answers stop.
    """

    n_nearest: PositiveInt = 4
    gate: Share = 0.1
    tau: NonNegativeFloat | None = None
    false_positives: Share = 0.05
    n_background: PositiveInt = 100
    append_eos: bool = True


SPALM_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": {},
    # Chosen on tuning streams.
    "embedded": dict(n_nearest=1, false_positives=0.01),
}


@dataclass(frozen=True)
class _Datastore:
    """The edits in force, and N states h with the token behind each and its edit's number."""

    edits: tuple[Edit, ...] = ()
    keys: Float[Tensor, "N D"] | None = None
    tokens: Int[Tensor, " N"] | None = None
    owners: Int[Tensor, " N"] | None = None


class SPALMLite(ErasableBase[SPALMConfig, _Datastore]):
    """Gives a token the next one of the nearest stored state, and is the unedited model elsewhere.

    It is Generates, Retrieves, Growing, Persistent and Erasable. It is not Routed: it decides at
    each token, by the state that the head reads there, and so sees no token behind it and needs no
    mask of the prompt. An edit is stored by one forward.

    Left out of SPALM: the training of model and gate, the cache of a long context, and m as the
    mean of embeddings that the head reads. An untrained head does not give back the token of an
    embedding; m is the distribution over the tokens instead, as in kNN-LM (Khandelwal et al., ICLR
    2020, arXiv 1911.00172, equation 3).
    """

    empty = _Datastore()

    @property
    def growth_per_edit(self) -> float:
        """Each token's state is compared with each of an edit's."""
        state = self._state
        n_keys = 0 if state.keys is None else len(state.keys) / len(state.edits)
        return 3 * _width(self.lm) * n_keys / (2 * self.lm.model.num_parameters())

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edits of which a stored state is near at the last token of each prompt."""
        state = self._state
        if state.keys is None or state.owners is None:
            return [()] * len(input_ids)
        mask = attention_mask.bool()
        require_readable(self.lm.model, mask)
        with frozen(self.lm.model):
            states = head_inputs(self.lm, Batch.of_prompts(input_ids, mask))
        states = states[torch.arange(len(mask), device=mask.device), last_column(mask)]
        at, is_near, index = near_keys(state.keys, states, n=self.config.n_nearest, tau=self._tau)
        found = iter(state.owners[index].where(is_near, -1).tolist())
        opened = [next(found) if opens else () for opens in at.tolist()]
        return [tuple(edit for n, edit in enumerate(state.edits) if n in each) for each in opened]

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        keys, tokens = self._state.keys, self._state.tokens
        if keys is None or tokens is None:
            return nullcontext()
        n, gate, tau = self.config.n_nearest, self.config.gate, self._tau

        def mix(states: Tensor, logits: Tensor) -> Tensor:
            at, is_near, index = near_keys(keys, states, n=n, tau=tau)  # B T; R K
            found = recalled(logits[at], tokens[index], is_near, gate)
            return logits.masked_scatter(at[..., None], found)

        return replace(self.lm.model.get_output_embeddings(), mix, ahead=True)

    @cached_property
    def _tau(self) -> float:
        """tau of the options, or that of the background."""
        config = self.config
        if config.tau is not None:
            return config.tau

        def read(prompts: Sequence[str]) -> Float[Tensor, "N D"]:
            return last_states(self.lm, self.tokenizer, prompts)

        states = of_unlike_prompts(self.kept, self.background, "states that the head reads", read,
                                   n=config.n_background, seed=self.seed)  # fmt: skip
        likeness = -torch.cdist(states, states)
        return -threshold_among(likeness, false_positives=config.false_positives)

    def _after(self, state: _Datastore, edits: tuple[Edit, ...]) -> _Datastore:
        known = self._by_edit(state) | {edit: self._stored(edit) for edit in edits}
        return self._of(live(state.edits, edits), known)

    def _without(self, state: _Datastore, prompts: frozenset[str]) -> _Datastore:
        return self._of(without(state.edits, prompts), self._by_edit(state))

    def _stored(self, edit: Edit) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]:
        """The states before the tokens of an edit's target, and these tokens."""
        batch = self._batch(edit)
        at = batch.labels != IGNORED
        keys = head_inputs(self.lm, batch)[at].float()
        if not bool(keys.isfinite().all()):
            raise ValueError(f"the model's states of {edit.prompt!r} are not finite")
        return keys, batch.labels[at]

    def _batch(self, edit: Edit) -> Batch:
        return self._encoded([edit], append_eos=self.config.append_eos)

    def _by_edit(self, state: _Datastore) -> dict[Edit, tuple[Tensor, Tensor]]:
        if state.keys is None or state.tokens is None or state.owners is None:
            return {}
        counts = state.owners.bincount().tolist()
        own = zip(state.keys.split(counts), state.tokens.split(counts), strict=True)
        return dict(zip(state.edits, own, strict=True))

    def _of(
        self, edits: tuple[Edit, ...], known: Mapping[Edit, tuple[Tensor, Tensor]]
    ) -> _Datastore:
        if not edits:
            return self.empty
        keys, tokens = zip(*(known[edit] for edit in edits), strict=True)
        return _Datastore(edits, torch.cat(keys), torch.cat(tokens), _owners(tokens))

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Datastore:
        edits = edits_of(record["edits"])
        labels = [self._batch(edit).labels for edit in edits]
        own = [each[each != IGNORED] for each in labels]
        tokens, owners = torch.cat(own), _owners(own)
        keys = floats(tensors, "keys", len(tokens), _width(self.lm))
        for name, each in (("tokens", tokens), ("owners", owners)):
            if tensors[name].dtype != each.dtype or not tensors[name].equal(each):
                raise ValueError(f"{name} are not those of the edits' targets")
        return _Datastore(edits, keys, tokens, owners)


def _owners(tokens: Sequence[Int[Tensor, " n"]]) -> Int[Tensor, " N"]:
    """To which edit each token belongs."""
    counts = torch.tensor([*map(len, tokens)], device=tokens[0].device)
    return torch.arange(len(tokens), device=counts.device).repeat_interleave(counts)


def _width(lm: LanguageModel) -> int:
    """Of the states that the head reads."""
    return cast(Tensor, lm.model.get_output_embeddings().weight).shape[1]


def last_states(
    lm: LanguageModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Float[Tensor, "N D"]:
    """What the head reads at the last token of each text, in float32."""

    def read(batch: Batch) -> Float[Tensor, "n D"]:
        with frozen(lm.model):
            return head_inputs(lm, batch)[:, -1].float()

    return read_in_batches(lm, tokenizer, texts, read)


def near_keys(
    keys: Float[Tensor, "N D"], states: Float[Tensor, "*B D"], *, n: int, tau: float
) -> tuple[Bool[Tensor, "*B"], Bool[Tensor, "R K"], Int[Tensor, "R K"]]:
    """The states with a key nearer than `tau`, and of each of these R the at most `n` nearest keys.

    Of the keys it says first which are nearer than `tau`; of equally near ones the last are taken.
    """
    apart = distances(states.flatten(0, -2), keys.flip(0))
    at = (apart < tau).any(-1)
    found = apart[at].sort(stable=True)
    is_near, index = found.values[:, :n] < tau, len(keys) - 1 - found.indices[:, :n]
    return at.view(states.shape[:-1]), is_near, index


def recalled(
    logits: Float[Tensor, "N V"],
    tokens: Int[Tensor, "N K"],
    is_near: Bool[Tensor, "N K"],
    gate: float,
) -> Float[Tensor, "N V"]:
    """The logits of (1 - g) m + g p, where p is the model's own distribution.

    m gives the tokens that are near, at least one of each row's, weights in proportion to p. Tokens
    that m does not give keep their logits, and all with g = 1. A soft cap behind the head keeps
    their order, and lowers what m gives. Source: SPALM, equations 2 and 3.
    """
    own = logits.float()
    weights = own.gather(-1, tokens).where(is_near, -math.inf).softmax(-1)
    m = torch.zeros_like(own).scatter_add(-1, tokens, weights)
    odds = math.log((1 - gate) / gate) if gate < 1 else -math.inf
    lifted = own.logsumexp(-1, keepdim=True) + odds + m.log()
    return torch.logaddexp(own, lifted).to(logits.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemLLMConfig(ContextConfig):
    """How MemLLM-lite finds an edit, and tells it. Raises as ContextConfig.

    threshold: the cosine above which two relations are one (released: of vectors of an encoder of
        its own). None = what all but the share `missed` of the background's paraphrases exceed.
    n_background: edits for the threshold, with one paraphrase each.
    """

    threshold: Fraction | None = None
    missed: Share = 0.05
    n_background: PositiveInt = 100


# Its thresholds are those of another encoder: none is released that fits.
MEMLLM_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released": {},
    # Chosen on tuning streams.
    "embedded": dict(missed=0.01),
}


@dataclass(frozen=True)
class _Triples:
    """The edits in force with their keys, subject and relation, and what the model reads of each
    relation; None before the first."""

    edits: tuple[Edit, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    relations: Float[Tensor, "E D"] | None = None

    @cached_property
    def of_subject(self) -> Mapping[str, list[int]]:
        """The numbers of the edits of each subject, the longest subject first."""
        found: dict[str, list[int]] = {}
        for number, (subject, _) in sorted(enumerate(self.keys), key=lambda key: -len(key[1][0])):
            found.setdefault(subject, []).append(number)
        return found


class MemLLMLite(ErasableContextBase[MemLLMConfig, _Triples]):
    """Tells a prompt the edit of its subject and relation, and is the unedited model without one.

    It is Generates, Routed, Retrieves, Persistent and Erasable. The subject is the longest one of
    an edit that stands in the prompt, word by word; an edit without a subject is found by its whole
    prompt. The relation is the prompt with another subject in its place, by the state that the head
    reads at its end.

    Left out of MemLLM: the training of a model to write triples while it reads, and to ask for them
    while it decodes. Here an edit is the triple, and is asked for once, by the prompt.
    """

    empty = _Triples()

    @property
    def threshold(self) -> float:
        """What the likeness of relations must exceed; infinite before the first edit."""
        return self._least if self.edits else math.inf

    @torch.no_grad()
    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, " B"]:
        """The likeness of each prompt's relation to the likest of its subject's edits; -1 without.

        The same relation has 1.
        """
        found = [likeness for likeness, _ in self._found(input_ids, attention_mask)]
        return torch.tensor(found, device=input_ids.device)

    @torch.no_grad()
    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edit of each prompt's subject and relation; none where there is none."""
        least = self.threshold
        return [(self.edits[number],) if likeness > least else ()
                for likeness, number in self._found(input_ids, attention_mask)]  # fmt: skip

    def _shown(self, input_ids: Tensor, prompt_mask: Tensor) -> Sequence[Sequence[Edit]]:
        return self.retrieved(input_ids, prompt_mask)

    def _found(self, input_ids: Tensor, mask: Tensor) -> list[tuple[float, int]]:
        """For each prompt, how like its relation is to an edit's, and the likest, newest edit."""
        require_readable(self.lm.model, mask)
        state, found = self._state, list[tuple[float, int]]()
        texts = self._texts(input_ids, mask)
        keys = [next((self._key(text, each) for each in state.of_subject if stands_in(each, text)),
                     None) for text in texts]  # fmt: skip
        read = self._read([key[1] for key in keys if key is not None])
        for key in keys:
            if key is None or state.relations is None:
                found.append((-1.0, -1))
                continue
            numbers = state.of_subject[key[0]]
            cosines = (state.relations[numbers] @ read[key[1]]).tolist()
            alike = [1.0 if state.keys[number] == key else min(cosine, 1.0)
                     for number, cosine in zip(numbers, cosines, strict=True)]  # fmt: skip
            found.append(max(zip(alike, numbers, strict=True)))
        return found

    def _key(self, prompt: str, subject: str) -> tuple[str, str]:
        """The subject, and the prompt with the stand-in in its place."""
        return subject, _pattern(subject).sub(lambda _: self._stand_in, prompt)

    def _key_of(self, edit: Edit) -> tuple[str, str]:
        """That of an edit, as the model reads its prompt and subject."""
        tokens = [self._ids(text) for text in (edit.prompt, edit.subject or edit.prompt)]
        prompt, subject = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        subject = subject.strip()
        return self._key(prompt, subject if stands_in(subject, prompt) else prompt.strip())

    @cached_property
    def _stand_in(self) -> str:
        """A subject that no relation is about; models read no sentence without one."""
        return next((edit.subject for edit in self.background.edits if edit.subject), "")

    def _read(self, relations: Sequence[str]) -> dict[str, Float[Tensor, " D"]]:
        """The direction of each relation; 0 for one that is blank or too long for the model."""
        limit, texts = self.lm.context_length, [*dict.fromkeys(relations)]
        fits = [text for text in texts if text.strip()
                and (limit is None or len(self.tokenizer(text).input_ids) <= limit)]  # fmt: skip
        found = {text: torch.zeros(_width(self.lm), device=self.lm.device) for text in texts}
        if fits:
            states = last_states(self.lm, self.tokenizer, fits)
            found |= zip(fits, nn.functional.normalize(states, dim=-1), strict=True)
        return found

    @cached_property
    def _least(self) -> float:
        """The threshold of the options, or that of the background."""
        config = self.config
        if config.threshold is not None:
            return config.threshold
        pairs = list[str]()
        for number, edit in enumerate(self.background.edits):
            subject = edit.subject
            among = [text for text in edit.paraphrases if subject and stands_in(subject, text)]
            if among and len(pairs) < 2 * config.n_background:
                asked = edit.prompt, among[number % len(among)]
                pairs += [self._key(text, subject)[1] for text in asked]
        if not pairs:
            return _UNCALIBRATED

        def compute() -> dict[str, Tensor]:
            read = self._read(pairs)
            return {"directions": torch.stack([read[text] for text in pairs])}

        found = self.kept.get("directions of relations", pairs, compute)["directions"]
        alike = (found[::2] * found[1::2]).sum(-1)
        return float(alike.quantile(config.missed))

    def _of(self, edits: tuple[Edit, ...], state: _Triples) -> _Triples:
        if not edits:
            return self.empty
        keys = tuple(self._key_of(edit) for edit in edits)
        known = dict[str, Tensor]()
        if state.relations is not None:
            of_state = (relation for _, relation in state.keys)
            known = dict(zip(of_state, state.relations, strict=True))
        for _, relation in keys:
            if relation not in known:
                known |= self._read([relation])
        return _Triples(edits, keys, torch.stack([known[relation] for _, relation in keys]))

    def _tensors(self, state: _Triples) -> dict[str, Tensor]:
        return {} if state.relations is None else {"relations": state.relations}

    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Triples:
        edits = edits_of(record["edits"])
        relations = floats(tensors, "relations", len(edits), _width(self.lm))
        return _Triples(edits, tuple(self._key_of(edit) for edit in edits), relations)


def stands_in(subject: str, text: str) -> bool:
    """Whether a subject stands in a text, word by word where its script has spaces."""
    return subject in text and _pattern(subject).search(text) is not None


def _pattern(subject: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!{_LETTER}){re.escape(subject)}(?!{_LETTER})")


make_spalm = factory(SPALMLite, SPALMConfig, SPALM_PRESETS)
make_memllm = factory(MemLLMLite, MemLLMConfig, MEMLLM_PRESETS)
