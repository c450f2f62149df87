"""The schemas of published edit files: one record -> an edit and its probes.

What holds for all of them:

- Texts are kept as they are, with the spaces at their ends. Only a subject is trimmed: a trailing
  space would move the last token of its span.
- A subject that is not literally in its prompt takes the prompt's spelling where only the case
  differs, and is otherwise left empty (no span rather than a wrong one). Counted and logged.
- Published files do not grade paraphrases: `levels` stays empty.
- Of several right answers the first that is not blank is taken, for `ground_truth` too. A
  portability probe without an answer is left out, counted and logged. Other probes need none.
- A key that only another schema reads is an error: the file has another format, or would be read in
  part. A key that no schema reads is metadata: counted and logged, unless the schema `ignores` it.

Sources: zjunlp/EasyEdit `easyeditor/dataset`, kmeng01/rome `dsets`, and the files themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wise.edits import Edit, Probe
from wise.evaluation.fields import Field

__all__ = ["ID_KEYS", "SCHEMAS", "Case", "Parsed", "Schema", "parse"]

Parsed = tuple[Edit, list[Probe]]

ID_KEYS = ("case_id", "id")

_LOCALITY = ("Relation_Specificity", "Forgetfulness")
_PORTABILITY = ("Reasoning", "Subject_Aliasing", "Logical_Generalization")


@dataclass(frozen=True, slots=True)
class Case:
    """A record, the id of its edit, and the notes on the file that will be logged, counted."""

    record: Field
    id: str
    notes: Counter[str]

    def edit(
        self,
        prompt: Field,
        target: Field,
        subject: Field,
        paraphrases: Iterable[str] = (),
        truth: str = "",
    ) -> Edit:
        text = prompt.text()
        span = self._span(subject.text(blank=True).strip(), text)
        return Edit(text, target.text(), span, tuple(paraphrases), truth, self.id)

    def _span(self, subject: str, prompt: str) -> str:
        if subject and subject in prompt:
            return subject
        words = rf"(?<!\w){re.escape(subject)}(?!\w)"
        found = re.search(words, prompt, re.IGNORECASE) if subject else None
        if found:
            self.notes["subjects taken in their prompt's spelling, as only the case differs"] += 1
            return found.group()
        self.notes["subjects not in their prompt, left empty: they have no span"] += 1
        return ""

    def probe(self, prompt: Field, kind: str, answer: Field) -> Probe:
        return Probe(prompt.text(), kind, _first(_answers(answer)), self.id)

    def portability(self, prompt: Field, answer: Field) -> list[Probe]:
        if prompt.text() and _first(_answers(answer)):
            return [self.probe(prompt, "portability", answer)]
        self.notes["portability probes without an answer, left out"] += 1
        return []


def _answers(field: Field) -> list[list[str]]:
    """The right answers, each with its aliases: of a text, or an array of texts or text arrays."""
    entries = field.items() if isinstance(field.value, list) else [field]
    groups = [entry.items() if isinstance(entry.value, list) else [entry] for entry in entries]
    return [[alias.text(blank=True) for alias in group] for group in groups]


def _first(answers: Iterable[Iterable[str]]) -> str:
    return next((alias for aliases in answers for alias in aliases if alias.strip()), "")


def _parse_knowedit(case: Case) -> Parsed:
    """KnowEdit: subject|concept, prompt|text, target_new|labels are alternatives.

    Relation_Specificity asks for another relation of the subject: near-subject. Forgetfulness ("The
    occupation of S, which is not T, is") asks for the relation's other objects, which an edit to T
    must leave: near-subject too. Files list T among its answers although the question excludes it;
    it is dropped, and the answer is empty where no other is listed (counted and logged).
    """
    record, probes = case.record, []
    keys = [key for key in ("rephrase_prompt", "rephrase") if key in record]
    edit = case.edit(
        record.first_of("prompt", "text"),
        record.first_of("target_new", "labels"),
        record.first_of("subject", "concept"),
        [text for key in keys for text in record[key].texts()],
        _first(_answers(record["ground_truth"])) if "ground_truth" in record else "",
    )
    for name, group in record["locality"].only(*_LOCALITY).items():
        for item in group.items():
            answers = _answers(item["ground_truth"])
            if name == "Forgetfulness":
                others = [aliases for aliases in answers if edit.target not in aliases]
                if _first(answers) and not _first(others):
                    case.notes["Forgetfulness answers that the question excludes, left empty"] += 1
                answers = others
            probes.append(Probe(item["prompt"].text(), "near-subject", _first(answers), case.id))
    if "portability" in record:
        for group in record["portability"].only(*_PORTABILITY).values():
            for item in group.items():
                probes += case.portability(item["prompt"], item["ground_truth"])
    return edit, probes


def _parse_mend(case: Case) -> Parsed:
    """ZsRE as MEND publishes it. `loc` keeps its "nq question: ", as in published measurements."""
    record = case.record
    prompt, target, subject = record["src"], record["alt"], record["subject"]
    truth = _first(_answers(record["answers"]))
    edit = case.edit(prompt, target, subject, record["rephrase"].texts(), truth)
    probes = [case.probe(record["loc"], "far", record["loc_ans"])]
    if "portability" in record:
        hop = record["portability"]
        probes += case.portability(hop["New Question"], hop["New Answer"])
    return edit, probes


def _parse_rome(case: Case) -> Parsed:
    """CounterFact in full: neighbours share relation and true object with the edit: near-relation.

    Attribute and generation prompts have no right answer and are not read.
    """
    record, rewrite = case.record, case.record["requested_rewrite"]
    template, subject = rewrite["prompt"], rewrite["subject"]
    if "{}" not in template.text():
        raise template.error("a template with {} in place of the subject")
    prompt = Field(template.text().replace("{}", subject.text()), template.place, template.name)
    true, target = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    paraphrases = [item.text() for item in record["paraphrase_prompts"].items()]
    edit = case.edit(prompt, target, subject, paraphrases, true.text())
    neighbours = record["neighborhood_prompts"].items()
    return edit, [case.probe(item, "near-relation", true) for item in neighbours]


def _parse_counterfact(case: Case) -> Parsed:
    """CounterFact as EasyEdit flattens it: one paraphrase, one neighbour (near-relation)."""
    record = case.record
    prompt, target, subject = record["prompt"], record["target_new"], record["subject"]
    paraphrases, truth = record["rephrase_prompt"].texts(), record["ground_truth"].text()
    edit = case.edit(prompt, target, subject, paraphrases, truth)
    neighbour, answer = record["locality_prompt"], record["locality_ground_truth"]
    return edit, [case.probe(neighbour, "near-relation", answer)]


def _parse_hallucination(case: Case) -> Parsed:
    """WISE's Hallucination: prompts are passages; the locality text is unrelated web text: far."""
    record = case.record
    edit = case.edit(record["prompt"], record["target_new"], record["subject"])
    text, continuation = record["locality_prompt"], record["locality_ground_truth"]
    return edit, [case.probe(text, "far", continuation)]


def _parse_temporal(case: Case) -> Parsed:
    """WISE's Temporal. Its subject is the whole prompt ("SpaceX is"), and is kept.

    `ood_rephrase` is not a paraphrase but a finished paragraph about the entity, whose own
    likelihood WISE scores (eq. 10). It asks nothing that the target would answer. So it is left
    out: checked to be a text, counted and logged.
    """
    case.record["ood_rephrase"].text()
    case.notes["ood_rephrase paragraphs, left out: they ask nothing"] += 1
    return _parse_hallucination(case)


def _parse_qaedit(case: Case) -> Parsed:
    """QAEdit: the locality questions are from Natural Questions: far."""
    record = case.record
    paraphrases = record["rephrase"].texts()
    edit = case.edit(record["prompt"], record["target"], record["subject"], paraphrases)
    pairs = record["locality"].items()
    return edit, [case.probe(pair["loc"], "far", pair["loc_ans"]) for pair in pairs]


@dataclass(frozen=True, slots=True)
class Schema:
    """How a record is parsed, the keys that it reads and the known metadata (space-separated)."""

    parse: Callable[[Case], Parsed]
    reads: str
    ignores: str = ""


_FLAT = "prompt target_new subject locality_prompt locality_ground_truth"
_KNOWEDIT = Schema(
    _parse_knowedit,
    "prompt text target_new labels subject concept ground_truth rephrase_prompt rephrase "
    "locality portability",
    "cond",
)
_MEND = Schema(
    _parse_mend, "src alt subject rephrase answers loc loc_ans portability", ignores="pred cond"
)
_ROME = Schema(
    _parse_rome,
    "requested_rewrite paraphrase_prompts neighborhood_prompts",
    ignores="pararel_idx attribute_prompts generation_prompts",
)
_COUNTERFACT = Schema(_parse_counterfact, f"{_FLAT} rephrase_prompt ground_truth")
_QAEDIT = Schema(_parse_qaedit, "prompt target subject rephrase locality", ignores="source")

# Format -> the key that tells a schema -> the schema.
SCHEMAS: dict[str, dict[str, Schema]] = {
    "zsre": {"src": _MEND, "prompt": _KNOWEDIT},
    "knowedit": {"prompt": _KNOWEDIT, "text": _KNOWEDIT},
    "counterfact": {"requested_rewrite": _ROME, "prompt": _COUNTERFACT},
    "hallucination": {"prompt": Schema(_parse_hallucination, _FLAT)},
    "temporal": {"prompt": Schema(_parse_temporal, f"{_FLAT} ood_rephrase")},
    "qaedit": {"prompt": _QAEDIT},
}
_READ_BY_SOME = {
    key for group in SCHEMAS.values() for schema in group.values() for key in schema.reads.split()
}


def parse(format_name: str, case: Case) -> Parsed:
    """The record's edit and probes. Raises ValueError naming file, line, record and field."""
    record, schemas = case.record, SCHEMAS[format_name]
    found = [schema for key, schema in schemas.items() if key in record]
    if not found:
        raise record.missing(*schemas)
    known = {*ID_KEYS, *found[0].reads.split(), *found[0].ignores.split()}
    for key in sorted(record.members().keys() - known):
        if key in _READ_BY_SOME:
            raise record[key].error(f"read here: this {format_name} has {', '.join(sorted(known))}")
        case.notes[f"records with a key that is not read, {key!r}"] += 1
    return found[0].parse(case)
