"""Whether misses look like chance: the slice of the items that explains them best.

A rate above its threshold can hide a fault that hits only one kind of item: an editor that loses
every edit whose target has three tokens, one edit in eight, has a reliability of .875.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from wise.measures.statistics import format_p

__all__ = ["Feature", "Kind", "Slice", "slice_of", "strongest_slice"]

# Of each item a text, a number, or None where it has neither.
Feature = Sequence[str | int | None]

_LEAST = 2  # items that a slice has at least
_MOST_CUTS = 8  # cut points of a numeric feature
_ROUNDING = 1 + 1e-9  # equal p-values of two slices may differ by so much


class Kind(NamedTuple):
    """The items with one value of a feature: that one, or with a number so much or more, or fewer.

    `feature` is a phrase with one place for the value, as in "with an answer of {} tokens".
    """

    feature: str
    value: str | int
    side: Literal["", " or more", " or fewer"] = ""

    def __str__(self) -> str:
        return self.feature.format(f"{self.value}{self.side}")

    def mask(self, values: Feature) -> NDArray[np.bool_]:
        """Which items are of this kind."""
        if not self.side:
            return np.array([value == self.value for value in values], dtype=bool)
        numbers = np.array([v if isinstance(v, int) else math.nan for v in values], dtype=float)
        bound = float(self.value)
        return numbers >= bound if self.side == " or more" else numbers <= bound


@dataclass(frozen=True, slots=True)
class Slice:
    """The items of one kind: `n_missed` of `n` are wrong, and `others_missed` of `n_others`.

    `p_value` is the probability of so many misses in it if the kind makes no difference.
    """

    kind: Kind
    n: int
    n_missed: int
    n_others: int
    others_missed: int
    p_value: float

    def describe(self, items: str = "items") -> str:
        """As in `misses 14 of 14 edits with an answer of 3 tokens, 0 of 86 others (p<.001)`."""
        return (
            f"misses {self.n_missed} of {self.n} {items} {self.kind}, {self.others_missed} of "
            f"{self.n_others} others ({format_p(self.p_value)})"
        )


def _kinds(features: Mapping[str, Feature]) -> Iterator[tuple[Kind, NDArray[np.bool_]]]:
    """Every kind that splits the items; of kinds with the same items the first."""
    seen: set[bytes] = set()
    for feature, values in features.items():
        found = [Kind(feature, value) for value in dict.fromkeys(values) if value is not None]
        numbers = sorted({value for value in values if isinstance(value, int)})
        for number in numbers[1 : -1 : max(1, len(numbers) // _MOST_CUTS)]:
            found += [Kind(feature, number, " or more"), Kind(feature, number, " or fewer")]
        for kind in found:
            mask = kind.mask(values)
            if _LEAST <= mask.sum() < len(mask) and mask.tobytes() not in seen:
                seen.add(mask.tobytes())
                yield kind, mask


def _tails(sizes: Sequence[int], n_items: int, n_missed: int) -> NDArray[np.float64]:
    """[slices, misses + 1]: Fisher's one-sided p of each slice, by its number of misses."""
    counts = np.arange(n_missed + 1)
    return hypergeom.sf(counts - 1, n_items, n_missed, np.asarray(sizes)[:, None])


def _shuffled(
    missed: NDArray[np.bool_], clusters: Sequence[Hashable], n: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """[n, items]: the misses with clusters of one size exchanged for each other."""
    places: dict[Hashable, list[int]] = {}
    for place, cluster in enumerate(clusters):
        places.setdefault(cluster, []).append(place)
    sizes: dict[int, list[list[int]]] = {}
    for each in places.values():
        sizes.setdefault(len(each), []).append(each)
    shuffled = np.empty((n, len(missed)), dtype=bool)
    for of_size in sizes.values():
        index = np.array(of_size)  # clusters, items
        orders = np.argsort(generator.random((n, len(index))), axis=1)
        shuffled[:, index] = missed[index][orders]
    return shuffled


def strongest_slice(
    missed: Sequence[bool],
    features: Mapping[str, Feature],
    *,
    clusters: Sequence[Hashable] | None = None,
    n_permutations: int = 1999,
    seed: int = 0,
) -> Slice | None:
    """The slice whose misses are the least like chance; None where no kind splits the items.

    `features` name what cuts the items into kinds, each with a value for every item. The p-value is
    that of the smallest of all slices' Fisher tests, by permuting clusters of one size (without
    `clusters`, items): so it is corrected for all slices tried, and P(p <= alpha) <= alpha where no
    feature is related to the misses. It is at least 1 / (n_permutations + 1). Raises ValueError
    where a feature has another number of items.

    Source: Westfall and Young, Resampling-Based Multiple Testing, 1993 (the min-P method).
    """
    for feature, values in features.items():
        if len(values) != len(missed):
            raise ValueError(
                f"feature {feature!r} has {len(values)} values for {len(missed)} items"
            )
    wrong = np.array(missed, dtype=bool)
    found = list(_kinds(features))
    n_missed = int(wrong.sum())
    if not found or not n_missed:
        return None
    masks = np.stack([mask for _, mask in found])  # slices, items
    tails = _tails(masks.sum(1), len(wrong), n_missed)
    rows = np.arange(len(masks))
    observed = tails[rows, (masks & wrong).sum(1)]
    best = int(observed.argmin())
    names = range(len(wrong)) if clusters is None else clusters
    shuffled = _shuffled(wrong, names, n_permutations, np.random.default_rng(seed))
    counts = shuffled.astype(np.float32) @ masks.T.astype(np.float32)  # permutations, slices
    least = tails[rows, counts.astype(np.int64)].min(1)
    n_as_small = int((least <= observed[best] * _ROUNDING).sum())
    return _slice(*found[best], wrong, (1 + n_as_small) / (1 + n_permutations))


def slice_of(
    kind: Kind,
    missed: Sequence[bool],
    values: Feature,
    *,
    clusters: Sequence[Hashable] | None = None,
    n_permutations: int = 1999,
    seed: int = 0,
) -> Slice | None:
    """One kind, tested on other items by Fisher's test; None where it does not split them.

    Where a cluster has several items the test permutes clusters of one size instead, and p is at
    least 1 / (n_permutations + 1).
    """
    wrong, mask = np.array(missed, dtype=bool), kind.mask(values)
    if not 0 < mask.sum() < len(mask):
        return None
    n_missed = int(wrong[mask].sum())
    if clusters is None or len(set(clusters)) == len(wrong):
        [tail] = _tails([int(mask.sum())], len(wrong), int(wrong.sum()))
        return _slice(kind, mask, wrong, float(tail[n_missed]))
    shuffled = _shuffled(wrong, clusters, n_permutations, np.random.default_rng(seed))
    n_as_many = int((shuffled[:, mask].sum(1) >= n_missed).sum())
    return _slice(kind, mask, wrong, (1 + n_as_many) / (1 + n_permutations))


def _slice(kind: Kind, mask: NDArray[np.bool_], wrong: NDArray[np.bool_], p_value: float) -> Slice:
    n, n_missed = int(mask.sum()), int(wrong[mask].sum())
    return Slice(kind, n, n_missed, len(wrong) - n, int(wrong.sum()) - n_missed, p_value)
