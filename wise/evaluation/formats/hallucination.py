"""WISE's Hallucination and Temporal files. Wang et al. 2024, arXiv 2405.14768."""

from __future__ import annotations

from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["HALLUCINATION", "TEMPORAL"]


def _parse(case: Case) -> Parsed:
    """Prompts are passages; the locality text is unrelated web text: far."""
    record = case.record
    edit = case.edit(record["prompt"], record["target_new"], record["subject"])
    text, continuation = record["locality_prompt"], record["locality_ground_truth"]
    return [edit], case.probe(text, "far", continuation)


def _parse_temporal(case: Case) -> Parsed:
    """The subject is the whole prompt ("SpaceX is"), and is kept.

    `ood_rephrase` is not a paraphrase but a finished paragraph about the entity, whose own
    likelihood WISE scores (eq. 10). It asks nothing that the target would answer. So it is left
    out: checked to be a text, counted and logged.
    """
    case.record["ood_rephrase"].text()
    case.notes.add("ood_rephrase paragraph|paragraphs, left out: it|they asks|ask nothing")
    return _parse(case)


_KEYS = "prompt target_new subject locality_prompt locality_ground_truth"
HALLUCINATION = Schema(parse=_parse, needs=_KEYS)
TEMPORAL = Schema(parse=_parse_temporal, needs=f"{_KEYS} ood_rephrase")
