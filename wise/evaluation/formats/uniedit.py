"""UniEdit: facts of Wikidata in 25 domains. Chen et al. 2025, arXiv 2505.12345.

A file is one object, whose values are the records.
"""

from __future__ import annotations

from wise.edits import Probe
from wise.evaluation.fields import Field
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["UNIEDIT"]

_OF_THE_EDIT = ["h_e", "r_e", "t_e", "f"]  # head, relation, tail and direction, in a path
_JUDGED = " The answer is (Yes/No):"  # as UniEdit asks whether two paths end alike


def _parse(case: Case) -> Parsed:
    """A question by the edit's own path alone is a paraphrase; any other asks for a consequence.

    Right where the edit is asked for are the aliases of its object too. What has to stay is
    near-subject where a hop has the edit's subject, near-relation where one has its relation,
    else far.
    """
    record, probes = case.record, list[Probe]()
    asked = record["edit"]
    questions = [Field(q, record.place, f"generality.{n}")
                 for n, q in record["generality"].members().items()]  # fmt: skip
    reworded = [question for question in questions if _is_reworded(question)]
    edit = case.edit(
        asked["prompt"], asked["target"], asked["subject"],
        [question["prompt"] for question in reworded], aliases=_names(asked["tail_entity"]),
    )  # fmt: skip
    for question in questions:
        if question not in reworded:
            probes += case.portability(_prompt(question), question["target"])
    for number, other in record["locality"].members().items():
        question = Field(other, record.place, f"locality.{number}")
        probes += case.probe(_prompt(question), _kind(asked, question), question["target"])
    return [edit], probes


def _paths(question: Field) -> list[Field]:
    """The one path of hops to the answer, or the two that are compared."""
    if question["path_type"].text() == "single":
        return [question]
    return [question["single_path1"], question["single_path2"]]


def _is_reworded(question: Field) -> bool:
    [path, *others] = _paths(question)
    hops = [[end.value for end in hop.items()] for hop in path["paths"].items()]
    return not others and len(hops) == 1 and hops[0][: len(_OF_THE_EDIT)] == _OF_THE_EDIT


def _prompt(question: Field) -> Field:
    prompt = question["prompt"]
    if len(_paths(question)) == 1:
        return prompt
    return Field(prompt.text() + _JUDGED, prompt.place, prompt.name)


def _names(entity: Field) -> Field | None:
    """The other names of an object that is an entity."""
    value = entity["value"]
    return value["aliases"] if isinstance(value.value, dict) and "aliases" in value else None


def _ids(hop: Field) -> tuple[list[object], object]:
    """The entities of a hop, and its relation, by their numbers."""
    entities, tail = [hop["head_entity"]["id"].value], hop["tail_entity"]["value"].value
    if isinstance(tail, dict):
        entities.append(tail.get("id"))
    return entities, hop["property"]["id"].value


def _kind(edit: Field, question: Field) -> str:
    subject, relation = edit["head_entity"]["id"].value, edit["property"]["id"].value
    hops = [_ids(hop) for path in _paths(question) for hop in path["one_hops"].items()]
    if any(subject in entities for entities, _ in hops):
        return "near-subject"
    return "near-relation" if any(relation == of for _, of in hops) else "far"


UNIEDIT = Schema(parse=_parse, needs="generality locality edit")
