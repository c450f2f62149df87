"""Ceilings: the largest mean score that one model can reach, whatever its editor.

After its last edit a model gives each prompt one answer. Where two questions ask one prompt for two
answers, it misses at least one of them. Free-run it misses what its tokenizer cannot write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any, NamedTuple, Protocol

from wise.measures.estimates import MAIN_PROTOCOLS, Measure
from wise.measures.rows import ASIDE
from wise.measures.statistics import format_share
from wise.measures.text import normalized

__all__ = [
    "AS_WRITTEN",
    "Ceiling",
    "Scorable",
    "TextReading",
    "best_mean",
    "ceilings",
    "ceilings_of_rows",
    "pooled",
]


class Scorable(Protocol):
    """A question or a row: what was asked, the right answers, and why it is not scored, if so."""

    @property
    def metric(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def expected(self) -> str: ...
    @property
    def edit_id(self) -> str: ...
    @property
    def excluded(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class TextReading:
    """When two prompts, and two answers, are one to a model.

    Each is named by what it shares with those that are the same to it; an answer that no model can
    give, free-run, is None. `tokens` are those of an answer (second argument) behind a prompt;
    without a tokenizer they are not known.
    """

    prompt: Callable[[str], Hashable]
    answer: Callable[[str], Hashable]
    tokens: Callable[[str, str], Sequence[int]] | None = None


AS_WRITTEN = TextReading(str, normalized)


class Ceiling(NamedTuple):
    """The largest mean score of `n` questions, NaN without any.

    `n_clashing` of them ask a prompt to which no one answer is right for all; `clash` is the
    shortest pair of such. `n_unsaid` have no right answer that a model can give; `unsaid` is the
    shortest.
    """

    share: Fraction | float
    n: int
    n_excluded: int
    n_clashing: int = 0
    clash: tuple[Scorable, Scorable] | None = None
    n_unsaid: int = 0
    unsaid: Scorable | None = None

    @property
    def reason(self) -> str:
        """Why it is below 1; empty where it is not."""
        told = []
        if self.clash is not None:
            one, other = self.clash
            told.append(
                f"{self.n_clashing:,} of {self.n:,} questions share a prompt with one that has "
                f"another answer, such as {one.prompt!r} -> {_answer(one)} and {_answer(other)}"
            )
        if self.unsaid is not None:
            one = self.unsaid
            told.append(
                f"{self.n_unsaid:,} of {self.n:,} questions have an answer that the tokenizer "
                f"cannot write, such as {one.prompt!r} -> {_answer(one)}"
            )
        return ", and ".join(told)

    def __str__(self) -> str:
        return format_share(float(self.share)) if self.n else "-"


def _answer(asked: Scorable) -> str:
    return f"{asked.expected!r}" + f" ({asked.edit_id})" * bool(asked.edit_id)


def best_mean(asked: Iterable[tuple[Hashable, Sequence[Hashable]]]) -> Fraction:
    """The largest mean score over all functions of the prompt; `asked` must not be empty.

    Each question is a prompt and the tokens of its answer. Its score is the share of them that are
    predicted, each behind the prompt and the tokens before it; an answer of one token is right or
    wrong as a whole, as free-run. Exact: one token is predicted behind each beginning of an answer,
    and the best is the one that most questions need there, weighted by their length.
    """
    told = list(asked)
    weights: defaultdict[Hashable, defaultdict[Hashable, Fraction]]
    weights = defaultdict(lambda: defaultdict(Fraction))
    for prompt, answer in told:
        for place, token in enumerate(answer):
            weights[prompt, tuple(answer[:place])][token] += Fraction(1, len(answer))
    return sum((max(each.values()) for each in weights.values()), Fraction()) / len(told)


def ceilings(
    questions: Iterable[Scorable], *, protocol: str = "free", reading: TextReading = AS_WRITTEN
) -> dict[Measure, Ceiling]:
    """The ceiling of each measure by itself, of questions to one model by one protocol.

    Questions that are excluded do not count. A locality question expects the unedited model's
    answer, which a model can always give. None is known of what a model finds likely, so that only
    "free" and "forced" have any. Raises ValueError for "forced" with a reading without tokens.
    """
    if protocol not in MAIN_PROTOCOLS:
        return {}
    if protocol == "forced" and reading.tokens is None:
        raise ValueError("protocol='forced' needs a reading with tokens; 'free' needs none")
    tokens = reading.tokens if protocol == "forced" else None
    by_measure: defaultdict[Measure, list[Scorable]] = defaultdict(list)
    for question in questions:
        by_measure[Measure(question.metric, question.kind)].append(question)
    return {
        measure: _ceiling(by_measure[measure], reading, tokens)
        for measure in sorted(by_measure, key=lambda measure: measure.place)
    }


def _ceiling(
    questions: Sequence[Scorable],
    reading: TextReading,
    tokens: Callable[[str, str], Sequence[Hashable]] | None,
) -> Ceiling:
    """The ceiling of one measure; without `tokens` an answer, or its alias, is right as a whole."""
    scored = [question for question in questions if not question.excluded]
    n, n_excluded = len(scored), len(questions) - len(scored)
    if not n:
        return Ceiling(float("nan"), 0, n_excluded)
    same_prompt: defaultdict[Hashable, list[Scorable]] = defaultdict(list)
    for question in scored:
        same_prompt[reading.prompt(question.prompt)].append(question)
    clashing, best, pairs = 0, Fraction(), list[tuple[Scorable, Scorable]]()
    unsaid = list[Scorable]()
    for prompt, group in same_prompt.items():
        if group[0].metric == "locality" or (tokens is not None and len(group) == 1):
            best += len(group)
            continue
        if tokens is None:
            told = [(question, _right(question, reading)) for question in group]
            unsaid += (question for question, right in told if not right)
            told = [each for each in told if each[1]]
            most = Counter(one for _, right in told for one in right).values()
            reached = Fraction(max(most, default=0))
        else:
            told = [(q, frozenset([tuple(tokens(q.prompt, q.expected))])) for q in group]
            read: list[tuple[Hashable, Any]] = [(prompt, answer) for _, (answer,) in told]
            reached = len(group) * best_mean(read)
        best += reached
        if reached < len(told):
            clashing += len(told)
            pairs.append(_apart(told))
    clash = min(pairs, key=lambda pair: sum(map(_length, pair)), default=None)
    shortest = min(unsaid, key=_length, default=None)
    return Ceiling(best / n, n, n_excluded, clashing, clash, len(unsaid), shortest)


def _length(question: Scorable) -> int:
    return len(question.prompt + question.expected)


def _right(question: Scorable, reading: TextReading) -> frozenset[Hashable]:
    """What a model may answer; an alias of which nothing is read is no answer."""
    expected = reading.answer(question.expected)
    aliases = filter(None, map(reading.answer, question.aliases))
    return frozenset((*aliases, *([] if expected is None else [expected])))


def _apart(told: Sequence[tuple[Scorable, frozenset[Any]]]) -> tuple[Scorable, Scorable]:
    """Of questions with their right answers, the two with the shortest that no one answer fits, if
    there are any."""
    first = {right: question for question, right in reversed(told)}
    shortest = sorted(first.items(), key=lambda each: len(each[1].expected))
    apart = (pair for pair in combinations(shortest, 2) if pair[0][0].isdisjoint(pair[1][0]))
    (_, one), (_, other) = next(apart, shortest[:2])
    return one, other


def ceilings_of_rows(
    rows: Iterable[Any], reading: Callable[[], TextReading | None]
) -> dict[tuple[str, int], dict[Measure, Ceiling]]:
    """The ceilings of the final model's scores in rows of one run, by protocol and T.

    Where `reading` gives None, as without a tokenizer, answers are taken as written, and where they
    contradict each other the teacher-forced ceilings of that T are left out.
    """
    asked: defaultdict[tuple[str, int], list[Scorable]] = defaultdict(list)
    for row in rows:
        if row.when == "final" and row.metric not in ASIDE:
            asked[row.protocol, row.t].append(row)
    found, read = {}, reading() if asked else None
    for (protocol, t), own in asked.items():
        if read is not None:
            found[protocol, t] = ceilings(own, protocol=protocol, reading=read)
            continue
        first = ceilings(own)
        if protocol == "free" or not any(each.clash for each in first.values()):
            found[protocol, t] = first
    return found


def pooled(found: Iterable[Mapping[Measure, Ceiling]], measure: Measure) -> Ceiling | None:
    """The ceiling of a measure over the questions of several models; None where none is asked."""
    own = [each[measure] for each in found if measure in each and each[measure].n]
    if not own:
        return None
    n = sum(each.n for each in own)
    best = sum((each.n * Fraction(each.share) for each in own), Fraction())
    clash = next((each.clash for each in own if each.clash), None)
    unsaid = next((each.unsaid for each in own if each.unsaid), None)
    excluded, clashing, n_unsaid = (
        sum(getattr(each, name) for each in own)
        for name in ("n_excluded", "n_clashing", "n_unsaid")
    )
    return Ceiling(best / n, n, excluded, clashing, clash, n_unsaid, unsaid)
