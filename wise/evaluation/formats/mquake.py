"""MQuAKE: counterfactual (CF), temporal (T) and hard. Zhong et al. 2023, arXiv 2305.14795."""

from __future__ import annotations

from wise.evaluation.fields import Field
from wise.evaluation.formats.counterfact import leave_out_prose, prompt_of
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["MQUAKE"]

_OTHER_HOPS = (
    "fact|facts of a chain that its edits do not write (new_single_hops), left out: the multi-hop "
    "questions presuppose it|them"
)


def _parse(case: Case) -> Parsed:
    """The edits of a case, each with its fact as a question for a paraphrase.

    The multi-hop questions need all of them: they are consequences of the last one. Their ids are
    those of the case and, of several edits, "#" and a number: so they are drawn together. The hop
    that asks for a target has its aliases; the other hops are what the questions presuppose. AKEW
    adds a question about another subject: `loc`, far.
    """
    record, edits, probes = case.record, [], []
    rewrites = record["requested_rewrite"].items()
    if not rewrites:
        raise record["requested_rewrite"].error("an array of at least one edit")
    for number, rewrite in enumerate(rewrites):
        truth = case.truth(rewrite["target_true"]["str"])
        leave_out_prose(case, rewrite)
        paraphrases = [rewrite["question"]] if "question" in rewrite else ()
        prompt, target = prompt_of(rewrite), rewrite["target_new"]["str"]
        edits.append(
            case.edit(
                prompt,
                target,
                rewrite["subject"],
                paraphrases,
                truth,
                aliases=_aliases(record, prompt, target),
                part=number if len(rewrites) > 1 else None,
            )
        )
    known = [prompt_of(rewrite).value for rewrite in rewrites]
    if n_others := sum(hop.members().get("cloze") not in known for hop in _hops(record)):
        case.notes.add(_OTHER_HOPS, n_others)
    before = case.truth(record["answer"])
    has_aliases = "new_answer_alias" in record
    aliases = record["new_answer_alias"] if has_aliases else None
    for question in record["questions"].items():
        probes += case.portability(
            question, record["new_answer"], before, aliases=aliases, of=edits[-1]
        )
    for question in case.given("loc"):
        probes += case.probe(question, "far", record["loc_ans"], of=edits[-1])
    return edits, probes


def _hops(record: Field) -> list[Field]:
    """The facts of the chain after the edits."""
    return record["new_single_hops"].items() if "new_single_hops" in record else []


def _aliases(record: Field, prompt: Field, target: Field) -> Field | None:
    """The other names that the chain of a case has for a target."""
    asked = {"cloze": prompt.value, "answer": target.value}
    own = (hop for hop in _hops(record) if asked.items() <= hop.members().items())
    return next((hop["answer_alias"] for hop in own if "answer_alias" in hop), None)


MQUAKE = Schema(
    parse=_parse,
    needs="requested_rewrite questions answer new_answer",
    may="new_answer_alias new_single_hops loc loc_ans",
    ignores="answer_alias single_hops orig answer_extended",
)
