"""KnowEdit: ZsRE, wiki_recent, wiki_counterfact and WikiBio. Zhang et al. 2024, arXiv 2401.01286.

subject|concept, prompt|text, target_new|labels are alternatives.
"""

from __future__ import annotations

from dataclasses import replace

from wise.edits import Edit, Probe
from wise.evaluation.fields import Field
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["KNOWEDIT"]

_LOCALITY = ("Relation_Specificity", "Forgetfulness")
_PORTABILITY = ("Reasoning", "Subject_Aliasing", "Logical_Generalization")


def _parse(case: Case) -> Parsed:
    """Relation_Specificity asks for another relation of the subject: near-subject."""
    record, probes = case.record, list[Probe]()
    edit = case.edit(
        record.first_of("prompt", "text"),
        record.first_of("target_new", "labels"),
        record.first_of("subject", "concept"),
        case.given("rephrase_prompt", "rephrase"),
        case.truth(record["ground_truth"]) if "ground_truth" in record else "",
    )
    for groups in case.given("locality"):
        for name, group in groups.only(*_LOCALITY).items():
            for item in group.items():
                answer = item["ground_truth"]
                if name == "Forgetfulness":
                    answer = _other_answers(case, answer, edit)
                probes += case.probe(item["prompt"], "near-subject", answer)
    for groups in case.given("portability"):
        for group in groups.only(*_PORTABILITY).values():
            for item in group.items():
                probes += case.portability(item["prompt"], item["ground_truth"])
    return [edit], probes


def _other_answers(case: Case, field: Field, edit: Edit) -> Field:
    """The answers to a Forgetfulness question ("The occupation of S, which is not T, is").

    It asks for the relation's other objects, which an edit to T must leave: near-subject too. Files
    list T among its answers although the question excludes it; it is dropped, and no answer is
    left where no other is listed.
    """
    answers = case.answers(field)
    others = [aliases for aliases in answers if edit.target not in aliases]
    is_excluded = any(text.strip() for aliases in answers for text in aliases)
    if is_excluded and not any(text.strip() for aliases in others for text in aliases):
        case.notes.add("Forgetfulness answer|answers that the question excludes, left empty")
    return replace(field, value=others)


KNOWEDIT = Schema(
    parse=_parse,
    needs="prompt|text target_new|labels subject|concept",
    may="ground_truth rephrase_prompt rephrase locality portability",
    ignores="cond",
)
