"""Which edits of a stream a model can be asked: how long their texts may be, and which answers.

A text is read with the tokens of the answer behind it, within the model's context.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import compress

from transformers import PreTrainedTokenizerBase

from wise.edits import Edit, EditStream
from wise.evaluation.asked import Question, final_questions
from wise.evaluation.datasets import place_of
from wise.evaluation.lint import Spelling
from wise.lm.decoding import EXTRA_TOKENS, answer_length
from wise.lm.tokens import canonical, encode, special_token_in, why_no_answer, why_no_target
from wise.measures.text import by_number

__all__ = [
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


class UnaskableError(ValueError):
    """A model cannot be asked a stream, because of the edit `edit_id`, or "" of no edit's probe."""

    def __init__(self, edit_id: str, what: str) -> None:
        super().__init__(f"edit {edit_id!r}: {what}" if edit_id else what)
        self.edit_id = edit_id


def n_new_tokens(
    tokenizer: PreTrainedTokenizerBase, stream: EditStream, max_length: int | None
) -> int:
    """How many tokens an answer may have: two more than the longest target or consequence, at
    least 8. Raises UnaskableError where no prompt fits before so many."""
    owners = {edit.target: (edit.id, "target") for edit in reversed(stream.edits)}
    for probe in stream.probes:
        if probe.kind == "portability":
            owners.setdefault(probe.answer, (probe.edit_id, "answer"))
    lengths = {text: answer_length(tokenizer, text) for text in sorted(owners)}
    longest = max(lengths, key=lengths.__getitem__, default="")
    n_new = max(_LEAST_TOKENS, lengths.get(longest, 0) + EXTRA_TOKENS)
    if max_length is not None and n_new >= max_length:
        edit_id, what = owners[longest]
        raise UnaskableError(
            edit_id,
            f"{what} {longest[:_SHOWN]!r} has {lengths[longest]} tokens; the model reads at most "
            f"{max_length} with its prompt",
        )
    return n_new


def check_askable(
    tokenizer: PreTrainedTokenizerBase, stream: EditStream, max_length: int | None
) -> None:
    """Raise UnaskableError for an answer that is no text, and a prompt that leaves it no room."""
    n_new = n_new_tokens(tokenizer, stream, max_length)
    asked = final_questions(stream)
    if not asked:
        return
    for question in asked:
        if question.expected and (why := _why_not_taught(tokenizer, question.expected)):
            raise UnaskableError(question.edit_id, f"answer {question.expected[:_SHOWN]!r} {why}")

    def read(questions: Sequence[Question]) -> None:
        prompts = [question.prompt for question in questions]
        encode(tokenizer, prompts, max_length=max_length, n_more=n_new)

    try:
        read(asked)
    except ValueError:
        for question in asked:
            try:
                read([question])
            except ValueError as error:
                raise UnaskableError(question.edit_id, str(error)) from error
        raise


def at_record(error: UnaskableError, source: str, stream: EditStream) -> str:
    """What cannot be asked of `stream`, at which record of its dataset, and what leaves it out."""
    place = place_of(source, error.edit_id, stream)
    return f"{place}: {error}; --skip-bad-records leaves such edits out"


def askable(
    whole: EditStream, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> tuple[EditStream, tuple[tuple[Edit, str], ...]]:
    """The part of `whole` of which a model reads every text and can say every answer; and the edits
    that are left out, with the reason for a target or a consequence, or "" where one is too long.

    Answers have three quarters of `max_length`, the tokens that the model reads, and prompts one.
    """
    room = _room(max_length)
    of_edit = defaultdict(list)
    for probe in whole.probes:
        of_edit[probe.edit_id].append(probe)
    texts = list[list[tuple[str, float]]]()  # of each edit, with how many tokens each may have
    whys = list[str]()
    for edit in whole.edits:
        probes = of_edit[edit.id] if edit.id else []
        prompts = (edit.prompt, *edit.paraphrases, *(probe.prompt for probe in probes))
        answers = [each.answer for each in probes if each.kind == "portability"]
        texts.append([(prompt, room) for prompt in prompts])
        texts[-1] += [(f" {each}", 3 * room) for each in (edit.target, *answers)]
        told = (_why_not_taught(tokenizer, each) for each in (edit.target, *answers))
        whys.append(next((why for why in told if why), ""))
    distinct = list(dict.fromkeys(text for of_one in texts for text, _ in of_one))
    ids = tokenizer(distinct, add_special_tokens=False).input_ids if distinct else []
    n_tokens = dict(zip(distinct, map(len, ids), strict=True))
    fits = [not why and all(n_tokens[text] <= n for text, n in of_one)
            for of_one, why in zip(texts, whys, strict=True)]  # fmt: skip
    kept = tuple(compress(whole.edits, fits))
    known = {"", *(edit.id for edit in kept)}
    asked = tuple(probe for probe in whole.probes if probe.edit_id in known)
    lost = zip(whole.edits, whys, fits, strict=True)
    left_out = tuple((edit, why) for edit, why, fit in lost if not fit)
    return EditStream(kept, asked, whole.name), left_out


def _why_not_taught(tokenizer: PreTrainedTokenizerBase, answer: str) -> str:
    why = why_no_target(tokenizer, answer)
    is_empty = not why and not tokenizer(answer, add_special_tokens=False).input_ids
    return "encodes to no token" if is_empty else why


def spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """What a tokenizer makes of a text, as `lint` asks for it."""
    return Spelling(*(partial(f, tokenizer) for f in (why_no_answer, canonical, special_token_in)))


def _room(max_length: int | None) -> float:
    """How many tokens a prompt may have, and an answer three times as many."""
    return math.inf if max_length is None else max_length // 4 - 1  # behind BOS


def not_askable(left_out: Sequence[tuple[Edit, str]], model: str, max_length: int | None) -> str:
    """`3 edits that are too long for llama (...): zsre-1, zsre-4, zsre-9`; empty for none.

    After them come those with an answer that is no text, each with the reason.
    """
    room = _room(max_length)
    limits = f"prompts have at most {room} tokens, and answers {3 * room}"
    named = [(edit.id or repr(edit.prompt[:_SHOWN]), why) for edit, why in left_out]
    kinds = {
        f"edit|edits that is|are too long for {model} ({limits})": [
            name for name, why in named if not why
        ],
        f"edit|edits with an answer that {model} cannot give": [
            f"{name} ({why})" for name, why in named if why
        ],
    }
    return "; ".join(_named(what, names) for what, names in kinds.items() if names)


def _named(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" * (len(names) > _MOST_NAMED)
    return f"{by_number(len(names), what)}: {', '.join(names[:_MOST_NAMED])}{more}"
