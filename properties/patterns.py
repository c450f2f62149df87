"""Misses must look like chance: a rate above its threshold can hide a fault on one kind of item."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, islice

from properties.bench import Bench
from properties.findings import require
from properties.rates import first_run, judged_rows, where
from wise.measures.rows import Row
from wise.measures.slices import Feature, slice_of, strongest_slice
from wise.measures.verdicts import judge

__all__ = ["features_of"]

_SUSPECT = 0.05  # corrected p on the first stream below which a kind is tested on further ones
_FALSE_FAIL = 2e-3  # over all measures of a run
_SHORT = 60  # items below which one stream shows too little
_MODULI = range(2, 11)
_ITEMS = {"reliability": "edits", "generalization": "paraphrases"}


def _mark(text: str) -> str:
    """The kind of the last character, or the character where it is no letter or digit."""
    last = text.rstrip()[-1:]
    return "a letter" if last.isalpha() else "a digit" if last.isdigit() else repr(last)


def _script(text: str) -> str:
    """The first kind of character beyond ASCII, such as `latin` or `cjk`; else `ASCII`."""
    foreign = next((letter for letter in text if not letter.isascii()), "")
    return unicodedata.name(foreign, "unnamed").split(" ")[0].lower() if foreign else "ASCII"


def features_of(
    rows: Sequence[Row], at: Mapping[str, int], n_tokens: Callable[[str], int]
) -> dict[str, Feature]:
    """The features of the items of `rows`, each named by a phrase with one place for its value.

    `at` gives an edit's place in the stream, from 1, by its id; `n_tokens` counts the tokens of a
    text. An item without a place has None.
    """
    of_subject = Counter(row.cluster for row in rows)
    of_answer = Counter(row.expected for row in rows)
    places = [at.get(row.edit_id) for row in rows]
    features: dict[str, Feature] = {
        "with an answer of {} tokens": [n_tokens(f" {row.expected}") for row in rows],
        "with an answer of {} words": [len(row.expected.split()) for row in rows],
        "with the answer {}": [repr(row.expected) for row in rows],
        "with an answer that {} of them have": [of_answer[row.expected] for row in rows],
        "with an answer in {} letters": [_script(row.expected) for row in rows],
        "with an answer that begins with {}": [repr(row.expected[:1]) for row in rows],
        "with a prompt of {} tokens": [n_tokens(row.prompt) for row in rows],
        "with a prompt that ends with {}": [_mark(row.prompt) for row in rows],
        "with a prompt that begins with {}": [repr(row.prompt.split()[0]) for row in rows],
        "with the wording {}": [repr(row.prompt.replace(row.cluster, "...")) for row in rows],
        "with a prompt in {} letters": [_script(row.prompt) for row in rows],
        "with a subject that {} of them have": [of_subject[row.cluster] for row in rows],
        "with a subject of {} words": [len(row.cluster.split()) for row in rows],
        "with an id that ends with {}": [repr("".join(row.edit_id.split()[-1:])) for row in rows],
        "at place {} of the stream": places,
    }
    for m in _MODULI:
        features[f"at a place of the stream that leaves {{}} when divided by {m}"] = [
            None if place is None else str(place % m) for place in places
        ]
    return features


def _items(bench: Bench, rows: Sequence[Row], metric: str) -> tuple[list[Row], dict[str, Feature]]:
    """The scored items of the final model, and their features."""

    def n_tokens(text: str) -> int:
        return len(bench.loaded.tokenizer(text, add_special_tokens=False).input_ids)

    at = {row.edit_id: row.t for row in rows if row.when == "at-edit"}
    items = judged_rows(bench, rows, metric)
    return items, features_of(items, at, n_tokens)


def _missed(items: Sequence[Row]) -> list[bool]:
    return [row.score is not None and row.score < 1 for row in items]


def _pooled(
    bench: Bench, runs: Sequence[Sequence[Row]], metric: str
) -> tuple[list[Row], dict[str, list[str | int | None]]]:
    """The items of several streams, each with its features in its own stream."""
    pooled: list[Row] = []
    features: dict[str, list[str | int | None]] = {}
    for rows in runs:
        items, own = _items(bench, rows, metric)
        pooled += items
        for name, values in own.items():
            features.setdefault(name, []).extend(values)
    return pooled, features


def check_misses_look_like_chance(bench: Bench) -> None:
    """No kind of item is missed as a rule while the others are answered.

    The kind that best explains a measure's misses is chosen on the first stream (on all but the
    last where they are short), and then tested, as a single test, on the streams after it. An
    editor whose misses do not depend on the kind of item fails by chance at a rate of at most 2e-3,
    over all measures and however many items a subject has. A kind counts only where it is below the
    threshold by itself.
    """
    first = first_run(bench)
    asked = {metric: judged_rows(bench, first, metric) for metric in bench.thresholds}
    measured = {metric: rows for metric, rows in asked.items() if rows}
    for metric, rows in measured.items():
        if not any(_missed(rows)):
            continue
        n_first = max(1, bench.max_looks - 1) if len(rows) < _SHORT else 1
        runs = list(islice(bench.runs, n_first))
        items, features = _pooled(bench, runs, metric)
        clusters = [row.cluster for row in items]
        suspect = strongest_slice(_missed(items), features, clusters=clusters, seed=bench.seed)
        if suspect is None or suspect.p_value > _SUSPECT or bench.max_looks == n_first:
            continue
        items, features = _pooled(bench, list(islice(bench.runs, n_first, bench.max_looks)), metric)
        kind, missed, clusters = suspect.kind, _missed(items), [row.cluster for row in items]
        values = features[kind.feature]
        seen = slice_of(kind, missed, values, clusters=clusters, seed=bench.seed)
        if seen is None or seen.p_value > _FALSE_FAIL / _SUSPECT / len(measured):
            continue
        inside = kind.mask(values)
        own = judge(
            [float(not is_missed) for is_missed in compress(missed, inside)],
            bench.thresholds[metric],
            clusters=list(compress(clusters, inside)),
            confidence=bench.confidence,
        )
        words = seen.describe(_ITEMS.get(metric.partition("-")[0], "probes"))
        require(
            own.outcome != "fail",
            f"it {words}; on the stream before, {suspect.n_missed} of {suspect.n}; needed: "
            f"{metric} reaches {bench.thresholds[metric]:g} in each kind {where(bench)}",
        )
