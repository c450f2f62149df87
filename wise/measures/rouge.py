"""ROUGE-L of long answers: what share of a target's words they hold, in its order.

Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3. Computed by the
library rouge-score, whose F1 weighs precision and recall alike; papers on long answers tell recall.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from wise.measures.text import UNSPACED

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

__all__ = ["RougeL", "n_words", "rouge_l"]

_WORD = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W_{UNSPACED}]+")


class RougeL(NamedTuple):
    """Of one answer, to the nearest of its targets."""

    f1: float
    recall: float


class _Words:
    """Runs of lower-case letters and digits, as of the library itself, but of every script."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def n_words(text: str) -> int:
    """Runs of letters and digits; of a script that is written without spaces, its letters."""
    return len(_WORD.findall(text))


@lru_cache(maxsize=1 << 14)
def rouge_l(targets: Sequence[str], answer: str) -> RougeL:
    """Of `answer` to the nearest of `targets`, a tuple, by F1. In [0, 1].

    Raises ModuleNotFoundError where rouge-score is not installed.
    """
    found = _scorer().score_multi(targets, answer)["rougeL"]
    return RougeL(found.fmeasure, found.recall)


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
