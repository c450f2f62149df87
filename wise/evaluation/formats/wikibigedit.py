"""WikiBigEdit. Thede et al. 2025, arXiv 2503.05683."""

from __future__ import annotations

from wise.edits import Probe
from wise.evaluation.formats.additions import consequences
from wise.evaluation.formats.schema import Case, Parsed, Schema

__all__ = ["WIKIBIGEDIT"]


def _parse(case: Case) -> Parsed:
    """The question in another style (`personas`) is a paraphrase too; `loc` is far, as it asks of
    another subject; `mhop` asks for a consequence."""
    record, probes = case.record, list[Probe]()
    edit = case.edit(
        record["update"], record["ans"], record["subject"], case.given("rephrase", "personas"),
        case.truth(record["ground_truth"]) if "ground_truth" in record else "",
    )  # fmt: skip
    for question in case.given("loc"):
        probes += case.probe(question, "far", record["loc_ans"])
    return [edit], probes + consequences(case)


WIKIBIGEDIT = Schema(
    parse=_parse,
    needs="update ans subject rephrase",
    may="ground_truth personas mhop mhop_ans loc loc_ans",
)
