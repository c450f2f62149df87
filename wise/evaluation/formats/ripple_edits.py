"""RippleEdits: recent, random and popular. Cohen et al. 2023, arXiv 2307.12976."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile

from wise.edits import Edit, Probe
from wise.evaluation.fields import Field
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["RIPPLE_EDITS"]

# Where two names are one thing, the second is that of the README.
_NEAR = ("Relation_Specificity", "Relation_Specifity", "Forgetfulness")
_BEFORE = ("original_fact", "previous_fact")
_CONSEQUENCES = (
    "Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Compositionality_II",
)  # fmt: skip
_PRESUPPOSED = {
    "condition_queries": "condition|conditions of a test (condition_queries), left out: the test "
    "is asked whether or not the model knows it|them"
}
# A sentence up to the target, behind the verb that ends the prompt of a relation.
_VERB = re.compile(r".* (?:is followed by|is|are|follows) ", re.DOTALL)


def _parse(case: Case) -> Parsed:
    """Relation_Specificity and Forgetfulness ask for what else holds of the subject: near-subject.

    The subject is named by a number alone, and is left empty. What the model must know for a test
    to count (`condition_queries`) is left out.
    """
    record, probes = case.record, list[Probe]()
    edit = _edit(case, record["edit"])
    for name in _NEAR:
        for question in _questions(case, name):
            answers = _answers(case, question)
            if name == "Forgetfulness":  # asks for another answer than the target
                others = [aliases for aliases in answers.value if edit.target not in aliases]
                answers = replace(answers, value=others)
            probes += case.probe(question["prompt"], "near-subject", answers)
    for name in _CONSEQUENCES:
        for question in _questions(case, name):
            probes += case.portability(question["prompt"], _answers(case, question))
    return [edit], probes


def _edit(case: Case, edit: Field) -> Edit:
    """The edit of a sentence, "The mother of S is T.", beside that of the fact before, if known.

    It is cut behind the last verb, of several in a sentence behind the last that both have.
    """
    sentence, before = edit["prompt"].text(), ""
    for key in _BEFORE:
        if key in edit and edit[key].value is not None:
            before = edit[key]["prompt"].text()
    pairs = takewhile(
        lambda pair: pair[0] == pair[1], zip(sentence, before or sentence, strict=False)
    )
    prompt = _VERB.match("".join(letter for letter, _ in pairs))
    if prompt is None:
        raise edit["prompt"].error(
            "a sentence with is, are, is followed by or follows before its target"
        )
    asked, target, truth = (
        text.removesuffix(".")
        for text in (prompt[0][:-1], sentence[prompt.end() :], before[prompt.end() :])
    )
    field = edit["prompt"]
    return case.edit(replace(field, value=asked), replace(field, value=target), truth=truth)


def _questions(case: Case, criterion: str) -> list[Field]:
    """All questions of each test; of those of which one is enough, the first."""
    found = []
    for test in (test for tests in case.given(criterion) for test in tests.items()):
        case.leave_out(test, _PRESUPPOSED)
        questions = test["test_queries"].items()
        if len(questions) > 1 and test["test_condition"].text() == "OR":
            case.notes.add("test|tests of several questions, of which only the first is asked")
            del questions[1:]
        found += questions
    return found


def _answers(case: Case, question: Field) -> Field:
    """The right answers, each with its aliases."""
    found = []
    for each in question["answers"].items():
        names = each["value"], *each["aliases"].items()
        found.append([case.answer_text(name) for name in names])
    return replace(question["answers"], value=found)


RIPPLE_EDITS = Schema(
    parse=_parse,
    needs=f"edit {'|'.join(_NEAR + _CONSEQUENCES)}",
    ignores="example_type",
)
