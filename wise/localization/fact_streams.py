"""A file of facts as a stream to study, with answers to write in their place."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from wise.edits import Edit, EditStream, Probe
from wise.evaluation.datasets import FORMATS, load_stream
from wise.localization.known_facts import KnownFact, read_known_facts

__all__ = ["read_facts", "stream_of"]

_N_NEIGHBOURS = 10  # as in CounterFact


def read_facts(source: str) -> EditStream:
    """The stream of `FORMAT:FILE`, or of a known-facts file. Raises ValueError as they do."""
    if source.partition(":")[0] in FORMATS:
        return load_stream(source)
    return stream_of(read_known_facts(Path(source).expanduser()), name=Path(source).name)


def stream_of(facts: Sequence[KnownFact], *, name: str, seed: int = 0) -> EditStream:
    """An edit of each fact to another's answer, and up to ten neighbours.

    The answer (o_false) and the neighbours are those of facts that ask the same of other subjects;
    where there is none, the answer is that of any fact. Facts have no paraphrases. A repeated id
    gets a number. Raises ValueError where all facts have the same answer.
    """
    alike: dict[tuple[str, str], list[KnownFact]] = defaultdict(list)
    for fact in facts:
        alike[_template(fact)].append(fact)
    edits, probes, taken = [], [], set[str]()
    for number, fact in enumerate(facts):
        rng = random.Random(f"stream {seed} {fact.sha256}")
        others = [other for other in alike[_template(fact)] if other.subject != fact.subject]
        answers = _answers(others, fact) or _answers(facts, fact)
        if not answers:
            raise ValueError(f"all facts answer {fact.target!r}; an edit needs another answer")
        edit_id = fact.id if fact.id not in taken else f"{fact.id}-{number}"
        taken.add(edit_id)
        edits.append(Edit(fact.prompt, rng.choice(answers), fact.subject,
                          ground_truth=fact.target, id=edit_id))  # fmt: skip
        for other in rng.sample(others, min(_N_NEIGHBOURS, len(others))):
            probes.append(Probe(other.prompt, "near-relation", other.target, edit_id))
    return EditStream(tuple(edits), tuple(probes), name)


def _template(fact: KnownFact) -> tuple[str, str]:
    """The text of a prompt around its subject."""
    head, _, rest = fact.prompt.partition(fact.subject)
    return head, rest


def _answers(facts: Sequence[KnownFact], but: KnownFact) -> list[str]:
    return sorted({fact.target for fact in facts} - {but.target})
