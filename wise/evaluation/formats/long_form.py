"""Long answers: UnKE, and EditEverything of AnyEdit.

Their records name no subject. Published scores of long answers are no exact match.
"""

from __future__ import annotations

from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["EDITEVERYTHING", "UNKE"]


def _parse_unke(case: Case) -> Parsed:
    """Sub-questions, if there are any, ask for parts of the answer: portability."""
    record, probes = case.record, []
    edit = case.edit(record["question"], record["answer"], None, [record["para_question"]])
    if not (case.given("sub_question") or case.given("sub_answer")):
        return [edit], []
    questions, answers = record["sub_question"].items(), record["sub_answer"].items()
    if len(questions) != len(answers):
        raise record["sub_answer"].error(
            f"an answer to each of {len(questions)} questions in sub_question"
        )
    for question, answer in zip(questions, answers, strict=True):
        probes += case.portability(question, answer)
    return [edit], probes


def _parse_editeverything(case: Case) -> Parsed:
    """No paraphrase and no probe, as of any pair of a question and an answer."""
    return [case.edit(case.record["question"], case.record["answer"])], []


UNKE = Schema(
    parse=_parse_unke, needs="question para_question answer", may="sub_question sub_answer"
)
EDITEVERYTHING = Schema(parse=_parse_editeverything, needs="question answer", ignores="category")
