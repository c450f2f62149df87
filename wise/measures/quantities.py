"""Quantities of a model that are told beside its scores and never judged, as text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any, NamedTuple

from wise.measures.estimates import bounded
from wise.measures.rouge import n_words, rouge_l
from wise.measures.rows import ASIDE, REPORTED, UNSTOPPED
from wise.measures.statistics import format_share, interval
from wise.measures.text import by_number

__all__ = ["Quantity", "told_of"]

_Values = Mapping[Hashable, float]  # of the items of one kind at one T; NaN where excluded
_TEXTS = {"": "text|texts of far probes", "-seen": "text|texts that the editor was given"}
# Formats in which the questions about an edit that have one answer are one question, reworded.
_REWORDED = frozenset({"mquake"})
# Of the longest names, dates and titles: what is longer is seldom answered word for word.
_LONG = 10  # words
_MOST_LOG = 700.0  # above which exp overflows


class Quantity(NamedTuple):
    """What it is, with its value before any edit, and its text at each T."""

    what: str
    at: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        return (f"{self.what}:", *(f"  {each}" for each in self.at))

    def __str__(self) -> str:
        return f"{self.what}: {'; '.join(self.at)}"


def told_of(rows: Iterable[Any]) -> Iterator[Quantity]:
    """What is told of `rows`, of one or more runs of an editor.

    Scores are passed over, but for those of a question that was asked in several wordings; of
    long targets the answers themselves are read.
    """
    cases: defaultdict[int, defaultdict[Hashable, list[tuple[float, str]]]]
    cases = defaultdict(lambda: defaultdict(list))
    found: defaultdict[str, defaultdict[int, dict[Hashable, float]]]
    found = defaultdict(lambda: defaultdict(dict))
    long: defaultdict[int, defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if _is_long(row):
            long[row.t][row.metric].append(row)
        if row.metric in REPORTED:
            kind = f"{row.when} {row.kind or row.metric}"
            found[kind][row.t][row.run, row.prompt] = math.nan if row.excluded else row.value
        elif not row.excluded and _is_reworded(row):
            cases[row.t][row.run, row.edit_id, row.expected].append((row.score, row.cluster))
    if any(len(wordings) > 1 for case in cases.values() for wordings in case.values()):
        yield Quantity(
            "Multi-hop accuracy: cases of which any wording of the question is answered right, "
            "free-run",
            tuple(f"T={t}: {_multi_hop(cases[t].values())}" for t in sorted(cases)),
        )
    if long:
        yield Quantity(
            f"ROUGE-L, F1 and recall, of free-run answers to targets of {_LONG} words or more",
            tuple(_rouge(long)),
        )
    for seen, texts in _TEXTS.items():
        if far := found[f"final divergence{seen}"]:
            before = found[f"unedited log-perplexity{seen}"][0]
            after = found[f"final log-perplexity{seen}"]
            yield Quantity(
                f"Drift on {by_number(max(map(len, far.values())), texts)}, KL from the unedited "
                f"model in nats a token, and perplexity (unedited {_exp(_known(before)):.4g})",
                tuple(f"T={t}: {_drift(far[t], before, after[t])}" for t in sorted(far)),
            )
    if entropies := found["final fluency"]:
        before = found["unedited fluency"][0]
        yield Quantity(
            "Fluency: generation entropy, in bits, of continuations of the edited prompts and "
            "their paraphrases",
            tuple(f"T={t}: {_fluency(before, entropies[t])}" for t in sorted(entropies)),
        )


def _is_reworded(row: Any) -> bool:
    is_final = (row.metric, row.when, row.protocol) == ("portability", "final", "free")
    return is_final and row.stream.partition(":")[0] in _REWORDED


def _multi_hop(cases: Collection[Sequence[tuple[float, str]]]) -> str:
    """At one T. Source: Zhong et al. 2023, arXiv 2305.14795, section 4."""
    scores = [max(score for score, _ in wordings) for wordings in cases]
    clusters = [wordings[0][1] for wordings in cases]
    return f"{bounded(fmean(scores), *interval(scores, clusters))}, n={len(scores)}"


def _is_long(row: Any) -> bool:
    is_scored = row.when == "final" and row.protocol == "free" and not row.excluded
    asks = row.metric not in ASIDE and row.metric != "locality"
    return is_scored and asks and n_words(row.expected) >= _LONG


def _rouge(long: Mapping[int, Mapping[str, Sequence[Any]]]) -> Iterator[str]:
    """At each T, by metric."""
    try:
        for t in sorted(long):
            yield f"T={t}: " + "; ".join(f"{each} {_rouge_of(rows)}"
                                         for each, rows in long[t].items())  # fmt: skip
    except ModuleNotFoundError:
        yield "not computed: pip install 'model-editor-suite[longform]'"


def _rouge_of(rows: Sequence[Any]) -> str:
    found = [
        rouge_l((row.expected, *row.aliases), row.answer.removesuffix(UNSTOPPED)) for row in rows
    ]
    f1 = [each.f1 for each in found]
    inside = bounded(fmean(f1), *interval(f1, [row.cluster for row in rows]))
    return f"{inside} and {format_share(fmean(each.recall for each in found))}, n={len(rows)}"


def _fluency(before: _Values, after: _Values) -> str:
    """At one T, beside the unedited model's on the same prompts."""
    known = _known(after)
    same = _known({key: before[key] for key in after if key in before})
    n_lost = len(after) - len(known)
    told = [f"{n_lost} excluded"] * bool(n_lost)
    if known:
        told.insert(0, f"{fmean(known):.2f}, unedited {fmean(same):.2f}, n={len(known)}")
    return ", ".join(told)


def _drift(divergence: _Values, before: _Values, after: _Values) -> str:
    """At one T. A ratio of perplexities is that of a text in the geometric mean."""
    far = _known(divergence)
    n_lost = len(divergence) - len(far)
    told = [f"{by_number(n_lost, 'text|texts has|have')} no finite number"] * bool(n_lost)
    if far:
        gained = _known({key: after[key] - before[key] for key in after if key in before})
        told = [
            f"KL {fmean(far):.3g}, 95th percentile {_percentile(far):.3g}",
            f"perplexity {_exp(_known(after)):.4g}, ratio {_exp(gained):.4g}",
            *told,
        ]
    return ", ".join(told)


def _known(values: _Values) -> list[float]:
    return [each for each in values.values() if not math.isnan(each)]


def _percentile(values: Sequence[float]) -> float:
    """The 95th, interpolated."""
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def _exp(logarithms: Sequence[float]) -> float:
    """exp of their mean; NaN without any."""
    mean = fmean(logarithms) if logarithms else math.nan
    return math.inf if mean > _MOST_LOG else math.exp(mean)
