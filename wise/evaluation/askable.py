"""Which edits of a stream a model can be asked: how long their texts may be, and which answers.

What is asked, be it a prompt, a paraphrase or a probe, is read with room behind it for the longest
target or consequence of the stream, and both together fit the model's context.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.datasets import place_of
from wise.evaluation.lint import Spelling
from wise.lm.decoding import EXTRA_TOKENS, answer_length
from wise.lm.tokens import (
    canonical,
    prompt_tokens,
    special_token_in,
    why_no_answer,
    why_no_target,
)
from wise.measures.text import by_number

__all__ = [
    "LeftOut",
    "UnaskableError",
    "askable",
    "at_record",
    "check_askable",
    "n_new_tokens",
    "not_askable",
    "spelling_of",
]

_LEAST_TOKENS = 8
_MOST_NAMED = 5  # edits that a note names
_SHOWN = 60  # letters of a text
_NAMED = 24  # of one among several


class UnaskableError(ValueError):
    """A model cannot be asked a stream, because of a text of `record`, an edit or a probe."""

    def __init__(self, record: Edit | Probe, what: str) -> None:
        edit_id = record.id if isinstance(record, Edit) else record.edit_id
        super().__init__(f"edit {edit_id!r}: {what}" if edit_id else what)
        self.record = record


class LeftOut(NamedTuple):
    """An edit, or a probe of none, that is left out; `why` names the text, and what it is."""

    record: Edit | Probe
    why: str
    is_long: bool


class _Text(NamedTuple):
    """A text of a record, and what it is there."""

    record: Edit | Probe
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.what} {_cut(self.text, _SHOWN)}"

    @property
    def named(self) -> str:
        """The text among several."""
        return f"{self.what} {_cut(self.text, _NAMED)}"


def _prompts(record: Edit | Probe) -> list[_Text]:
    """What a model is asked of a record."""
    if isinstance(record, Probe):
        return [_Text(record, f"{record.kind} probe", record.prompt)]
    paraphrases = [_Text(record, "paraphrase", text) for text in record.paraphrases]
    return [_Text(record, "prompt", record.prompt), *paraphrases]


def _answers(record: Edit | Probe) -> list[_Text]:
    """What a model has to answer, word for word, that is asked of a record."""
    if isinstance(record, Edit):
        return [_Text(record, "target", record.target)]
    is_consequence = record.kind == "portability"
    return [_Text(record, "portability answer", record.answer)] if is_consequence else []


def _with_truths(record: Edit | Probe) -> list[_Text]:
    """The answers, and what an edit's was before."""
    found = _answers(record)
    if isinstance(record, Edit) and record.ground_truth.strip():
        found.append(_Text(record, "ground_truth", record.ground_truth))
    return found


_TextsOf = Callable[[Edit | Probe], list[_Text]]


def _texts(stream: EditStream, of: _TextsOf) -> list[_Text]:
    records: list[Edit | Probe] = [*stream.edits, *stream.probes]
    return [text for record in records for text in of(record)]


def n_new_tokens(
    tokenizer: PreTrainedTokenizerBase,
    stream: EditStream,
    max_length: int | None,
    *,
    truths: bool = False,
) -> int:
    """How many tokens an answer may have: two more than the longest target or consequence, or with
    `truths` answer before the edit; at least 8. Raises UnaskableError where no prompt fits before
    so many."""
    answers = _texts(stream, _with_truths if truths else _answers)
    lengths = {text: answer_length(tokenizer, text) for text in {each.text for each in answers}}
    longest = max(answers, key=lambda each: lengths[each.text], default=None)
    n_tokens = lengths[longest.text] if longest else 0
    n_new = max(_LEAST_TOKENS, n_tokens + EXTRA_TOKENS)
    if longest and max_length is not None and n_new >= max_length:
        raise UnaskableError(
            longest.record,
            f"{longest} has {n_tokens} tokens; at most {max_length - EXTRA_TOKENS - 1} are "
            f"allowed, as the model reads {max_length} with its prompt",
        )
    return n_new


def check_askable(
    tokenizer: PreTrainedTokenizerBase,
    stream: EditStream,
    max_length: int | None,
    *,
    truths: bool = False,
) -> None:
    """Raise UnaskableError for an answer that is no text, and a prompt that leaves it no room.

    With `truths` the answers before the edits are asked for too.
    """
    n_new = n_new_tokens(tokenizer, stream, max_length, truths=truths)
    for each in _texts(stream, _with_truths if truths else _answers):
        if why := _why_not_taught(tokenizer, each.text):
            raise UnaskableError(each.record, f"{each} {why}")
    asked = _texts(stream, _prompts)
    room = math.inf if max_length is None else max_length - n_new
    rows = prompt_tokens(tokenizer, [each.text for each in asked]) if asked else []
    for each, tokens in zip(asked, rows, strict=True):
        if not tokens:
            raise UnaskableError(each.record, f"{each} encodes to no token")
        if len(tokens) > room:
            raise UnaskableError(
                each.record,
                f"{each} has {len(tokens)} tokens; at most {room} are allowed, as the model reads "
                f"{max_length}, and {n_new} are kept for the longest answer of the stream",
            )


def at_record(error: UnaskableError, source: str) -> str:
    """What cannot be asked, at which record of a dataset, and what leaves it out."""
    return f"{place_of(source, error.record)}: {error}; --skip-bad-records leaves it out"


def askable(
    whole: EditStream,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    truths: bool = False,
) -> tuple[EditStream, tuple[LeftOut, ...]]:
    """The part of `whole` of which a model reads every text and can say every answer; and what is
    left out: edits with their probes, and probes of no edit.

    Answers have three quarters of `max_length`, the tokens that the model reads, and what is asked
    one. So all of them fit, whichever are drawn. `truths` as in `check_askable`.
    """
    probes = defaultdict[str, list[Probe]](list)
    for probe in whole.probes:
        probes[probe.edit_id].append(probe)
    alone = probes.pop("", [])
    groups: list[list[Edit | Probe]] = [[edit, *probes[edit.id]] for edit in whole.edits]
    groups += [[probe] for probe in alone]
    of = _with_truths if truths else _answers
    n_tokens = _lengths(tokenizer, whole, of)
    found = [_left_out(tokenizer, group, of, n_tokens, max_length) for group in groups]
    lost = {id(group[0]) for group, why in zip(groups, found, strict=True) if why}
    kept = tuple(edit for edit in whole.edits if id(edit) not in lost)
    known = {"", *(edit.id for edit in kept)}
    asked = tuple(p for p in whole.probes if p.edit_id in known and id(p) not in lost)
    return EditStream(kept, asked, whole.name), tuple(each for each in found if each is not None)


def _lengths(
    tokenizer: PreTrainedTokenizerBase, stream: EditStream, of: _TextsOf
) -> dict[_Text, int]:
    """How many tokens each text has: what is asked with BOS, and an answer behind a space."""
    asked, answers = (list(dict.fromkeys(_texts(stream, each))) for each in (_prompts, of))
    rows = prompt_tokens(tokenizer, [each.text for each in asked]) if asked else []
    lengths = dict(zip(asked, map(len, rows), strict=True))
    return lengths | {each: answer_length(tokenizer, each.text) for each in answers}


def _left_out(
    tokenizer: PreTrainedTokenizerBase,
    group: Sequence[Edit | Probe],
    of: _TextsOf,
    n_tokens: Mapping[_Text, int],
    max_length: int | None,
) -> LeftOut | None:
    """Why an edit with its probes is left out; None where it is not."""
    asked, answers = (
        [text for record in group for text in texts(record)] for texts in (_prompts, of)
    )
    for each in answers:
        if why := _why_not_taught(tokenizer, each.text):
            return LeftOut(group[0], f"{each.named} {why}", False)
    for texts, most in zip((asked, answers), _most(max_length), strict=True):
        for each in texts:
            if not n_tokens[each]:
                return LeftOut(group[0], f"{each.named} encodes to no token", False)
            if n_tokens[each] > most:
                return LeftOut(group[0], f"{each.named}: {n_tokens[each]} tokens", True)
    return None


def _cut(text: str, most: int) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")


def _why_not_taught(tokenizer: PreTrainedTokenizerBase, answer: str) -> str:
    why = why_no_target(tokenizer, answer)
    is_empty = not why and not tokenizer(answer, add_special_tokens=False).input_ids
    return "encodes to no token" if is_empty else why


def spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """What a tokenizer makes of a text, as `lint` asks for it."""
    return Spelling(*(partial(f, tokenizer) for f in (why_no_answer, canonical, special_token_in)))


def _most(max_length: int | None) -> tuple[float, float]:
    """How many tokens may be asked, and answered; with what is kept behind an answer they fit."""
    quarter = math.inf if max_length is None else max_length // 4
    return quarter, 3 * (quarter - 1)


def not_askable(left_out: Sequence[LeftOut], model: str, max_length: int | None) -> str:
    """`2 edits with a text that is too long for llama (...): zsre-1 (target 'Ada ...': 400 tokens),
    zsre-9 (...)`; empty for none.

    After them come those with an answer that is no text.
    """
    asked, answered = _most(max_length)
    limits = f"what is asked has at most {asked} tokens, and an answer {answered}"
    kinds = {
        True: f"with a text that is too long for {model} ({limits})",
        False: f"with a text that {model} cannot read or write",
    }
    named = defaultdict[str, list[str]](list)
    for record, why, is_long in sorted(left_out, key=lambda each: not each.is_long):
        if isinstance(record, Edit):
            name = record.id or _cut(record.prompt, _NAMED)
            named[f"edit|edits {kinds[is_long]}"].append(f"{name} ({why})")
        else:
            named[f"probe|probes of no edit, {kinds[is_long]}"].append(why)
    return "; ".join(_named(what, names) for what, names in named.items())


def _named(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" * (len(names) > _MOST_NAMED)
    return f"{by_number(len(names), what)}: {', '.join(names[:_MOST_NAMED])}{more}"
