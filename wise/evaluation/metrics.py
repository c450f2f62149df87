"""The answers of an edited model to questions, and the score of each.

Reliability, generalization and portability ask for a known answer: free-run, an answer is right if
it equals the target or one of its aliases, and ends with EOS there; teacher-forced, by the share of
the target's own tokens that are the most likely ones.

Locality asks whether the answer is still that of the unedited model, which must have been asked
before the first edit. A pretrained model need not stop: free-run, all tokens up to EOS or to the
reader's `max_new_tokens` must be the same; teacher-forced, the score is the share of the unedited
continuation's tokens at which both models predict the same token.

Two more protocols score what a model finds likely, not what it says. Likelihood is that of the
answer, a token: the inverse of its perplexity; of locality, the share that is left of the unedited
model's own. Compared, an answer is right if it is likelier, a token, than the one that the edit
exchanges it with: CounterFact's ES, PS and NS (Meng et al. 2022, section 3.3).

Two more give quantities, not scores: how far a text has drifted (`wise.evaluation.drift`), and how
varied the wording of a long continuation is (`wise.measures.fluency`). It is greedy, has 100 tokens
and does not stop: an editor that has learned to end its answers is not less fluent for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from transformers import PreTrainedModel

from wise.editor import Editor
from wise.evaluation.asked import Question
from wise.evaluation.drift import drifts
from wise.lm.decoding import EXTRA_TOKENS, Answer, ForcedAnswer, Reader, Unedited, answer_length
from wise.lm.tokens import canonical, encode, prompt_tokens, why_no_target
from wise.measures.fluency import generation_entropy
from wise.measures.rows import UNSTOPPED

__all__ = ["BY_TOKENS", "BaseAnswers", "Measured", "measure"]

# The protocols that read the unedited model's answers token by token, too.
BY_TOKENS = frozenset({"forced", "likelihood"})
_N_CONTINUED = 100  # tokens
_SAME_MODEL = 1e-3  # of -log p: rounding is far below


@dataclass(frozen=True, slots=True)
class Measured:
    """A question with its answer and its score in [0, 1], or with a quantity, `value`.

    There is neither where it was excluded.
    """

    question: Question
    expected: str
    answer: str
    score: float | None
    value: float | None = None


@dataclass(frozen=True)
class BaseAnswers:
    """The unedited model's answers to all locality probes; ask before the first edit.

    Texts that may drift are read again by `unedited`, whose model must stay as it is; `texts` are
    their log-perplexities, by which it is seen whether it did.
    """

    free: Mapping[str, Answer]
    forced: Mapping[str, ForcedAnswer]
    unedited: Unedited | None = None
    texts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def ask(
        cls,
        model: PreTrainedModel,
        reader: Reader,
        questions: Sequence[Question],
        *,
        forced: bool = True,
    ) -> BaseAnswers:
        """Ask the locality questions, teacher-forced only with `forced`, and read the texts."""
        base = Unedited(model, reader.tokenizer)
        prompts = sorted({q.prompt for q in questions if q.metric == "locality"})
        free = dict(zip(prompts, reader.free(base, prompts), strict=True))
        spoken = [prompt for prompt in prompts
                  if forced and not why_no_target(reader.tokenizer, free[prompt].text)]  # fmt: skip
        answers = reader.forced(base, spoken, [free[prompt].text for prompt in spoken])
        texts = _texts(q for q in questions if not _why_unread(q, reader))
        found = drifts(base, base, reader, texts)
        told = {text: each.before for text, each in zip(texts, found, strict=True)}
        return cls(free, dict(zip(spoken, answers, strict=True)), base, told)


def measure(
    editor: Editor, reader: Reader, questions: Sequence[Question], protocol: str, base: BaseAnswers
) -> list[Measured]:
    """Score `questions` by one protocol, in their order."""
    asked = [(q, q.excluded or _why_unscored(q, protocol, reader, base)) for q in questions]
    scored = _SCORED[protocol](editor, reader, [q for q, why in asked if not why], base)
    return [_excluded(question, why) if why else next(scored) for question, why in asked]


def _why_unscored(question: Question, protocol: str, reader: Reader, base: BaseAnswers) -> str:
    """Why a question cannot be scored by a protocol; empty where it can."""
    tokenizer = reader.tokenizer
    if protocol == "drift":
        return _why_unread(question, reader)
    if question.metric == "knowledge":
        why = _why_no_answer(question.prompt, question.expected, reader)
        return f"the answer before the edit {why}" if why else ""
    if protocol == "fluency":
        (ids,) = prompt_tokens(tokenizer, [question.prompt])
        room = math.inf if reader.max_length is None else reader.max_length - _N_CONTINUED
        why = f"the prompt has {len(ids)} tokens; {_N_CONTINUED} more are beyond the context"
        return why if len(ids) > room else ""
    if protocol == "compared":
        if not all(question.compared):
            return "the record has no other answer to compare with"
        right, wrong = (canonical(tokenizer, text) for text in question.compared)
        whys = (_why_no_answer(question.prompt, text, reader) for text in question.compared)
        same = "the answers to compare are the same" if right == wrong else ""
        return same or next((f"an answer to compare {why}" for why in whys if why), "")
    if (
        protocol in BY_TOKENS
        and question.metric == "locality"
        and question.prompt not in base.forced
    ):
        text = base.free[question.prompt].text
        why = f"'s answer {why_no_target(tokenizer, text)}" if text else " answers nothing"
        return f"the unedited model{why}"
    return ""


def _why_no_answer(prompt: str, text: str, reader: Reader) -> str:
    """Why `text` cannot be read as an answer to `prompt`; empty where it can."""
    if why := why_no_target(reader.tokenizer, text):
        return why
    try:
        encode(reader.tokenizer, [prompt], [text], max_length=reader.max_length)
    except ValueError:
        is_text = bool(answer_length(reader.tokenizer, text))
        return "is too long for the model" if is_text else "encodes to no token"
    return ""


def _why_unread(question: Question, reader: Reader) -> str:
    """Why a text cannot be read; empty where it can."""
    (ids,) = prompt_tokens(reader.tokenizer, [question.prompt])
    if len(ids) < 2:
        return "no token of the text has one before it"
    if reader.max_length is not None and len(ids) > reader.max_length:
        return f"the text has {len(ids)} tokens; the model reads at most {reader.max_length}"
    return ""


def _texts(questions: Iterable[Question]) -> list[str]:
    """The texts whose drift is asked for."""
    return list(dict.fromkeys(q.prompt for q in questions if q.metric == "drift"))


def _excluded(question: Question, why: str) -> Measured:
    return Measured(replace(question, excluded=why), question.expected, "", None)


def _measure_free(
    editor: Editor, reader: Reader, questions: Sequence[Question], base: BaseAnswers
) -> Iterator[Measured]:
    answers = _answers(editor, reader, questions)
    for question, answer in zip(questions, answers, strict=True):
        if question.metric == "locality":
            before = base.free[question.prompt]
            same = answer.token_ids == before.token_ids and answer.stopped == before.stopped
            yield Measured(question, before.text, answer.text, float(same))
        else:
            # An alias of letters that the tokenizer drops, such as a flag, is not an empty answer.
            asked = question.answers if answer.text else (question.expected,)
            right = any(answer.is_exactly(each, reader.tokenizer) for each in asked)
            text = answer.text if answer.stopped else answer.text + UNSTOPPED
            yield Measured(question, question.expected, text, float(right))


def _answers(editor: Editor, reader: Reader, questions: Sequence[Question]) -> list[Answer]:
    """The free-run answers; where `reader` has no room for an alias, one with room asks.

    All others, and so what locality compares, are of the same length as without aliases.
    """
    needed = [max((answer_length(reader.tokenizer, text) for text in question.aliases), default=0)
              + EXTRA_TOKENS for question in questions]  # fmt: skip
    long = {row for row, n_tokens in enumerate(needed) if n_tokens > reader.max_new_tokens}
    found: dict[int, Answer] = {}
    for rows in ([row for row in range(len(questions)) if row not in long], sorted(long)):
        prompts = [questions[row].prompt for row in rows]
        n_new = max((needed[row] for row in long.intersection(rows)), default=0)
        if n_new and reader.max_length is not None:  # what is beyond the context is never said
            n_read = max(map(len, prompt_tokens(reader.tokenizer, prompts)))
            n_new = min(n_new, reader.max_length - n_read)
        asking = replace(reader, max_new_tokens=max(reader.max_new_tokens, n_new))
        found |= zip(rows, asking.free(editor, prompts), strict=True)
    return [found[row] for row in range(len(questions))]


def _right(answer: ForcedAnswer, before: ForcedAnswer | None) -> float:
    return answer.share_right if before is None else answer.agreement(before)


def _likelihood(answer: ForcedAnswer, before: ForcedAnswer | None) -> float:
    gained = answer.log_likelihood - (0.0 if before is None else before.log_likelihood)
    return 0.0 if math.isnan(gained) else math.exp(min(0.0, gained))


def _by_tokens(
    score: Callable[[ForcedAnswer, ForcedAnswer | None], float],
    editor: Editor, reader: Reader, questions: Sequence[Question], base: BaseAnswers,
) -> Iterator[Measured]:  # fmt: skip
    """By a score of the expected answer's tokens, and of locality's unedited ones."""
    is_local = [question.metric == "locality" for question in questions]
    targets = [
        base.free[q.prompt].text if local else q.expected
        for q, local in zip(questions, is_local, strict=True)
    ]
    answers = reader.forced(editor, [question.prompt for question in questions], targets)
    for question, local, target, answer in zip(questions, is_local, targets, answers, strict=True):
        found = score(answer, base.forced[question.prompt] if local else None)
        yield Measured(question, target, reader.text(answer.predicted_ids), found)


def _measure_compared(
    editor: Editor, reader: Reader, questions: Sequence[Question], base: BaseAnswers
) -> Iterator[Measured]:
    prompts = [question.prompt for question in questions for _ in question.compared]
    texts = [text for question in questions for text in question.compared]
    likely = [answer.log_likelihood for answer in reader.forced(editor, prompts, texts)]
    for question, right, wrong in zip(questions, likely[::2], likely[1::2], strict=True):
        likelier = question.compared[0] if right > wrong else question.compared[1]
        yield Measured(question, question.compared[0], likelier, float(right > wrong))


def _measure_drift(
    editor: Editor, reader: Reader, questions: Sequence[Question], base: BaseAnswers
) -> Iterator[Measured]:
    """Raises RuntimeError where the model that should be the unedited one has been edited."""
    if base.unedited is None:
        raise ValueError("drift is measured from a base that was asked for; use BaseAnswers.ask")
    texts = _texts(questions)
    of_text = dict(zip(texts, drifts(base.unedited, editor, reader, texts), strict=True))
    for question in questions:
        found = of_text[question.prompt]
        asked = base.texts[question.prompt]
        if not math.isclose(found.before, asked, rel_tol=_SAME_MODEL):
            raise RuntimeError(
                f"the unedited model has changed: -log p of {question.prompt[:60]!r} is now "
                f"{found.before:.4g} and was {asked:.4g} nats a token; an editor needs its own copy"
            )
        value = found.divergence if question.kind.startswith("divergence") else found.after
        if math.isfinite(value):
            yield Measured(question, "", "", None, value)
        else:
            yield _excluded(question, f"the value {value} is non-finite")


def _measure_fluency(
    editor: Editor, reader: Reader, questions: Sequence[Question], base: BaseAnswers
) -> Iterator[Measured]:
    texts = reader.endless(editor, [question.prompt for question in questions], _N_CONTINUED)
    for question, text in zip(questions, texts, strict=True):
        yield Measured(question, "", text, None, generation_entropy(text))


_SCORED: Mapping[str, Callable[..., Iterator[Measured]]] = {
    "free": _measure_free,
    "forced": partial(_by_tokens, _right),
    "likelihood": partial(_by_tokens, _likelihood),
    "compared": _measure_compared,
    "drift": _measure_drift,
    "fluency": _measure_fluency,
}
