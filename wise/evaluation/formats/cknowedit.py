"""CKnowEdit: Chinese language, facts and logic. Fang et al. 2024, arXiv 2409.05806."""

from __future__ import annotations

from wise.edits import Probe
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["CKNOWEDIT"]


def _parse(case: Case) -> Parsed:
    """Records name no subject; `target_old` is a wrong answer of a model before the edit.

    Locality questions are on other knowledge: far.
    """
    record, probes = case.record, list[Probe]()
    edit = case.edit(
        record["prompt"], record["target_new"], None, case.given("rephrase"),
        case.truth(record["target_old"]),
    )  # fmt: skip
    for others in case.given("locality"):
        for item in others.items():
            probes += case.probe(item["prompt"], "far", item["answer"])
    for consequences in case.given("portability"):
        for item in consequences.items():
            probes += case.portability(item["prompt"], item["answer"])
    return [edit], probes


CKNOWEDIT = Schema(
    parse=_parse, needs="target_old prompt target_new", may="rephrase locality portability"
)
