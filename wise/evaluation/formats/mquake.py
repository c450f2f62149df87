"""MQuAKE: counterfactual (CF), temporal (T) and hard. Zhong et al. 2023, arXiv 2305.14795."""

from __future__ import annotations

from dataclasses import replace

from wise.evaluation.formats.counterfact import PROSE, prompt_of
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["MQUAKE"]


def _parse(case: Case) -> Parsed:
    """The edits of a case, each with its fact as a question for a paraphrase.

    The multi-hop questions need all of them: they are consequences of the last one. Their ids are
    those of the case and, of several edits, "#" and a number: so they are drawn together. AKEW adds
    a question about another subject: `loc`, far.
    """
    record, edits, probes = case.record, [], []
    rewrites = record["requested_rewrite"].items()
    if not rewrites:
        raise record["requested_rewrite"].error("an array of at least one edit")
    for number, rewrite in enumerate(rewrites):
        truth = case.answer(rewrite["target_true"]["str"])
        if "fact_new_uns" in rewrite:
            case.notes.add(PROSE)
        paraphrases = rewrite["question"].texts() if "question" in rewrite else ()
        edits.append(
            case.edit(
                prompt_of(rewrite),
                rewrite["target_new"]["str"],
                rewrite["subject"],
                paraphrases,
                truth,
                part=number if len(rewrites) > 1 else None,
            )
        )
    before = case.answer(record["answer"])
    for question in record["questions"].items():
        probes += case.portability(question, record["new_answer"], before, of=edits[-1])
    if "loc" in record and record["loc"].value is not None:
        probe = case.probe(record["loc"], "far", record["loc_ans"])
        probes.append(replace(probe, edit_id=edits[-1].id))
    for aliases in ("answer_alias", "new_answer_alias"):
        if aliases in record and record[aliases].texts():
            case.notes.add(f"case|cases with {aliases}, which are not asked for")
    return edits, probes


MQUAKE = Schema(
    parse=_parse,
    needs="requested_rewrite questions answer new_answer",
    may="answer_alias new_answer_alias loc loc_ans",
    ignores="single_hops new_single_hops orig answer_extended",
)
