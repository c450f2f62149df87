"""QAEdit. Yang et al. 2025, arXiv 2502.11177."""

from __future__ import annotations

from wise.edits import Probe
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["QAEDIT"]


def _parse(case: Case) -> Parsed:
    """The locality questions are from Natural Questions: far."""
    record = case.record
    edit = case.edit(record["prompt"], record["target"], record["subject"], [record["rephrase"]])
    probes = list[Probe]()
    for pair in record["locality"].items():
        probes += case.probe(pair["loc"], "far", pair["loc_ans"])
    return [edit], probes


QAEDIT = Schema(parse=_parse, needs="prompt target subject rephrase locality", ignores="source")
