"""CounterFact, in full (Meng et al. 2022, arXiv 2202.05262) and as EasyEdit flattens it."""

from __future__ import annotations

from wise.evaluation.fields import Field
from wise.evaluation.formats.additions import ADDED, consequences
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["FLAT", "ROME", "leave_out_prose", "prompt_of"]

_LEFT_OUT = {
    "attribute_prompts": "attribute prompt|prompts, left out: locality is that of neighbours",
    "generation_prompts": "generation prompt|prompts, left out: it|they has|have no right answer",
}
_PROSE = {  # as AKEW adds it
    "fact_new_uns": "paragraph|paragraphs that states|state the fact (fact_new_uns), left out",
    "unsfact_triplets_GPT": "question|questions about such a paragraph (unsfact_triplets_GPT), "
    "left out",
}


def leave_out_prose(case: Case, rewrite: Field) -> None:
    """Count the paragraph that tells the fact of a rewrite, and what is asked of it."""
    case.leave_out(rewrite, _PROSE)


def prompt_of(rewrite: Field) -> Field:
    """The prompt of a requested rewrite: its template, with the subject in place of {}."""
    template, subject = rewrite["prompt"], rewrite["subject"]
    if "{}" not in template.text():
        raise template.error("a template with {} in place of the subject")
    text = template.text().replace("{}", subject.text())
    return Field(text, template.place, template.name)


def _parse(case: Case) -> Parsed:
    """Neighbours share relation and true object with the edit: near-relation.

    Attribute prompts are of subjects whose true object is the target. Only neighbours make the
    published score of locality.
    """
    record, rewrite = case.record, case.record["requested_rewrite"]
    true, target = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    paraphrases = [record["paraphrase_prompts"], *case.given("personas")]
    truth = case.truth(true)
    edit = case.edit(prompt_of(rewrite), target, rewrite["subject"], paraphrases, truth)
    leave_out_prose(case, rewrite)
    case.leave_out(record, _LEFT_OUT)
    neighbours = record["neighborhood_prompts"].items()
    probes = [each for item in neighbours for each in case.probe(item, "near-relation", true)]
    return [edit], probes + consequences(case)


def _parse_flat(case: Case) -> Parsed:
    """One paraphrase, and one neighbour (near-relation)."""
    record = case.record
    prompt, target, subject = record["prompt"], record["target_new"], record["subject"]
    truth = case.truth(record["ground_truth"])
    edit = case.edit(prompt, target, subject, [record["rephrase_prompt"]], truth)
    neighbour, answer = record["locality_prompt"], record["locality_ground_truth"]
    return [edit], case.probe(neighbour, "near-relation", answer)


ROME = Schema(
    parse=_parse,
    needs="requested_rewrite paraphrase_prompts neighborhood_prompts",
    may=ADDED,
    ignores=f"pararel_idx {' '.join(_LEFT_OUT)}",
)
FLAT = Schema(
    parse=_parse_flat,
    needs="prompt target_new subject locality_prompt locality_ground_truth rephrase_prompt "
    "ground_truth",
)
