"""Known facts, as published to trace with: a stream of them, with answers to write in their place.

Source: Meng et al. 2022, arXiv 2202.05262, known_1000.json.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from wise.edits import Edit, EditStream, Probe, check_text
from wise.evaluation.fields import Field, RecordError
from wise.evaluation.formats.published_files import AllKeys, check_keys
from wise.evaluation.formats.schema import Keys, answer_of
from wise.evaluation.loading_notes import LoadingNotes
from wise.jobs.ledger import json_digest

__all__ = ["KNOWN", "KnownFact", "read_known", "stream_of"]

KNOWN = Keys(
    needs="attribute prompt subject", may="known_id relation_id", ignores="template prediction"
)
_N_NEIGHBOURS = 10  # as in CounterFact
_MOST_SHOWN = 60  # characters of an answer


@dataclass(frozen=True, slots=True)
class KnownFact:
    """Asked `prompt`, which holds `subject`, the model answers `target` (o_true).

    `alternative` is the other answer of the logit difference, `counterpart` the subject that
    replaces this one in symmetric token replacement; both are optional, and so is the relation.
    Raises ValueError naming field and value.
    """

    prompt: str
    subject: str
    target: str
    alternative: str = ""
    counterpart: str = ""
    id: str = ""
    relation: str = ""

    def __post_init__(self) -> None:
        for field in asdict(self):
            check_text(self, field, required=field in ("prompt", "subject", "target"))
        if self.subject not in self.prompt:
            raise ValueError(
                f"KnownFact.subject={self.subject!r} is not in the prompt {self.prompt!r}"
            )

    @property
    def sha256(self) -> str:
        """Digest of what is asked and answered; id and relation do not count."""
        asked = {name: text for name, text in asdict(self).items() if name != "relation"}
        return json_digest({**asked, "id": ""})


def read_known(all_keys: AllKeys, records: Iterable[Field], notes: LoadingNotes) -> EditStream:
    """The stream of a file of known facts, whose records have prompt, subject and attribute."""
    facts: list[KnownFact] = []
    place = ""
    for index, record in enumerate(records):
        place = place or record.place
        try:
            check_keys("known-facts", (KNOWN,), all_keys, record, notes)
            facts.append(_parse(record, index, notes))
            notes.places.append(record.place)
        except RecordError as error:
            notes.refuse(error)
    if not facts and (why := notes.nothing_left()):
        raise why
    notes.add("edit|edits to the answer of another fact: a file of known facts has none to write",
              len(facts))  # fmt: skip
    try:
        stream = stream_of(facts, name="known-facts")
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    of_edit = dict(zip((edit.id for edit in stream.edits), notes.places, strict=True))
    notes.probe_places = [of_edit[probe.edit_id] for probe in stream.probes]
    return stream


def _parse(record: Field, index: int, notes: LoadingNotes) -> KnownFact:
    number: object = index
    if "known_id" in record:
        number = record["known_id"].value
        if not isinstance(number, str | int):
            raise record["known_id"].error("a whole number or a text")
    relation = record["relation_id"].value if "relation_id" in record else ""
    return record.build(
        KnownFact,
        prompt=record["prompt"].text(),
        subject=record["subject"].text(),
        target=answer_of(record["attribute"], notes),
        id=str(number),
        relation=relation if isinstance(relation, str) else "",
    )


def stream_of(facts: Sequence[KnownFact], *, name: str, seed: int = 0) -> EditStream:
    """An edit of each fact to another's answer, and up to ten neighbours.

    The answer (o_false) and the neighbours are those of facts that ask the same of other subjects;
    where there is none, the answer is that of a fact of the same relation, or else of any. Facts
    have no paraphrases. A repeated id gets a number. Raises ValueError where all facts have the
    same answer.
    """
    alike: dict[tuple[str, str], list[KnownFact]] = defaultdict(list)
    related: dict[str, list[KnownFact]] = defaultdict(list)
    for fact in facts:
        alike[_template(fact)].append(fact)
        related[fact.relation].append(fact)
    edits, probes, taken = [], [], set[str]()
    for number, fact in enumerate(facts):
        rng = random.Random(f"stream {seed} {fact.sha256}")
        others = [other for other in alike[_template(fact)] if other.subject != fact.subject]
        of_relation = related[fact.relation] if fact.relation else []
        answers = _answers(others, fact) or _answers(of_relation, fact) or _answers(facts, fact)
        if not answers:
            shown = repr(fact.target[:_MOST_SHOWN])
            raise ValueError(f"all facts answer {shown}; an edit needs another answer")
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
