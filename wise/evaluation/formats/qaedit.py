"""QAEdit. Yang et al. 2025, arXiv 2502.11177."""

from __future__ import annotations

from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["QAEDIT"]


def _parse(case: Case) -> Parsed:
    """The locality questions are from Natural Questions: far."""
    record = case.record
    paraphrases = record["rephrase"].texts()
    edit = case.edit(record["prompt"], record["target"], record["subject"], paraphrases)
    pairs = record["locality"].items()
    return [edit], [case.probe(pair["loc"], "far", pair["loc_ans"]) for pair in pairs]


QAEDIT = Schema(parse=_parse, needs="prompt target subject rephrase locality", ignores="source")
