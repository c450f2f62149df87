"""ZsRE as MEND publishes it. Mitchell et al. 2022, arXiv 2110.11309."""

from __future__ import annotations

from wise.evaluation.formats.additions import ADDED, consequences
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["MEND"]


def _parse(case: Case) -> Parsed:
    """`loc` keeps its "nq question: ", as in published measurements."""
    record = case.record
    prompt, target, subject = record["src"], record["alt"], record["subject"]
    truth = case.truth(record["answers"])
    paraphrases = [record["rephrase"], *case.given("personas")]
    edit = case.edit(prompt, target, subject, paraphrases, truth)
    return [edit], case.probe(record["loc"], "far", record["loc_ans"]) + consequences(case)


MEND = Schema(
    parse=_parse,
    needs="src alt subject rephrase answers loc loc_ans",
    may=ADDED,
    ignores="pred cond",
)
