"""Generation entropy: how varied the wording of a text is.

Source: ROME (Meng et al. 2022, arXiv 2202.05262), section 3.3 (GE), as its released evaluation has
it: the mean of the entropies of 2- and of 3-grams, weighted by 2/3 and 4/3.
"""

from __future__ import annotations

import re
from collections import Counter
from math import fsum, log2

from wise.measures.text import UNSPACED

__all__ = ["generation_entropy"]

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")


def generation_entropy(text: str) -> float:
    """In bits; 0 where every 2-gram and every 3-gram is the same one, and of fewer than 3 words.

    Words are runs of letters and digits, and single punctuation marks; of a script that is written
    without spaces each letter is one.
    """
    words = _WORD.findall(text)
    weighted = (weight * _entropy(words, n) for n, weight in _WEIGHTS.items())
    return fsum(weighted) / len(_WEIGHTS)


def _entropy(words: list[str], n: int) -> float:
    """Of the n-grams' frequencies, in bits."""
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = counts.total()
    return fsum(count / total * log2(total / count) for count in counts.values())
