"""Facts that a tiny random model is asked, and their traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.localization.known_facts import KnownFact
from wise.localization.records import Trace
from wise.localization.tracing import causal_trace

__all__ = ["FACTS", "traced"]

FACTS = [
    KnownFact("Bo Ra lives at", "Bo Ra", "sea", alternative="home", id="one"),
    KnownFact("What is Al up to", "Al", "no good", id="two"),
    KnownFact("So, Bo Re lives at", "Bo Re", "home", id="three"),
]


def traced(model_type: str = "llama", facts: Sequence[KnownFact] = FACTS, **options: Any) -> Trace:
    options = {"sigma": 1.0, "n_noise": 3, "window": 1, **options}
    return causal_trace(tiny_model(model_type), tiny_tokenizer(), facts, **options)
