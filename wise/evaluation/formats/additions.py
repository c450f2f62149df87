"""What EasyEdit, and with it LEME, adds to the records of other formats.

`portability` asks for a consequence; so does `mhop`, as in WikiBigEdit, whose `personas` is the
edit's question in another style. Yao et al. 2023, arXiv 2305.13172; Rosati et al. 2024, arXiv
2402.09394; zjunlp/EasyEdit `easyeditor/dataset/LEME.py`.
"""

from __future__ import annotations

from wise.edits import Probe
from wise.evaluation.formats.schema import Case

__all__ = ["ADDED", "consequences"]

ADDED = "portability personas mhop mhop_ans"


def consequences(case: Case) -> list[Probe]:
    """The consequences that are added to a record."""
    probes = list[Probe]()
    for hop in case.given("portability"):
        probes += case.portability(hop["New Question"], hop["New Answer"])
    for question in case.given("mhop"):
        probes += case.portability(question, case.record["mhop_ans"])
    return probes
