"""CounterFact, in full (Meng et al. 2022, arXiv 2202.05262) and as EasyEdit flattens it."""

from __future__ import annotations

from wise.evaluation.fields import Field
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["FLAT", "PROSE", "ROME", "prompt_of"]

PROSE = "paragraph|paragraphs that states|state the fact (fact_new_uns), left out"


def prompt_of(rewrite: Field) -> Field:
    """The prompt of a requested rewrite: its template, with the subject in place of {}."""
    template, subject = rewrite["prompt"], rewrite["subject"]
    if "{}" not in template.text():
        raise template.error("a template with {} in place of the subject")
    text = template.text().replace("{}", subject.text())
    return Field(text, template.place, template.name)


def _parse(case: Case) -> Parsed:
    """Neighbours share relation and true object with the edit: near-relation.

    Attribute and generation prompts have no right answer and are not read.
    """
    record, rewrite = case.record, case.record["requested_rewrite"]
    true, target = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    paraphrases = [item.text() for item in record["paraphrase_prompts"].items()]
    truth = case.truth(true)
    edit = case.edit(prompt_of(rewrite), target, rewrite["subject"], paraphrases, truth)
    if "fact_new_uns" in rewrite:
        case.notes.add(PROSE)
    neighbours = record["neighborhood_prompts"].items()
    return [edit], [case.probe(item, "near-relation", true) for item in neighbours]


def _parse_flat(case: Case) -> Parsed:
    """One paraphrase, and one neighbour (near-relation)."""
    record = case.record
    prompt, target, subject = record["prompt"], record["target_new"], record["subject"]
    paraphrases, truth = record["rephrase_prompt"].texts(), case.truth(record["ground_truth"])
    edit = case.edit(prompt, target, subject, paraphrases, truth)
    neighbour, answer = record["locality_prompt"], record["locality_ground_truth"]
    return [edit], [case.probe(neighbour, "near-relation", answer)]


ROME = Schema(
    parse=_parse,
    needs="requested_rewrite paraphrase_prompts neighborhood_prompts",
    ignores="pararel_idx attribute_prompts generation_prompts",
)
FLAT = Schema(
    parse=_parse_flat,
    needs="prompt target_new subject locality_prompt locality_ground_truth rephrase_prompt "
    "ground_truth",
)
