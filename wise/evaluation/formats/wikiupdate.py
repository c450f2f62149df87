"""AKEW's WikiUpdate. Wu et al. 2024, arXiv 2402.18909.

Its other files, CounterFact and MQuAKE-CF, are read as those formats.
"""

from __future__ import annotations

from wise.evaluation.formats.counterfact import leave_out_prose, prompt_of
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["WIKIUPDATE"]


def _parse(case: Case) -> Parsed:
    """The fact as a question is a paraphrase; `loc` asks of another subject: far."""
    record, rewrite = case.record, case.record["requested_rewrite"]
    edit = case.edit(
        prompt_of(rewrite), rewrite["answer_new"], rewrite["subject"], [rewrite["question"]],
        case.truth(rewrite["answer_true"]),
    )  # fmt: skip
    leave_out_prose(case, rewrite)
    return [edit], case.probe(record["loc"], "far", record["loc_ans"])


WIKIUPDATE = Schema(parse=_parse, needs="requested_rewrite loc loc_ans")
