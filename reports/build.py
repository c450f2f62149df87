"""Files to a page, for the command line and for the test suite's --report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from reports.check_table import CheckRecord, read_checks
from reports.page import write_page
from reports.reading import read_items
from reports.sections.compared import of_pair
from reports.sections.league_section import of_costs, of_kills, of_options
from reports.sections.router_section import of_router
from reports.sections.scores_section import of_scores
from reports.sections.section import Section
from reports.sections.study_section import of_effects, of_r2, of_study
from reports.tables import attainable
from wise.measures.ceilings import TextReading
from wise.measures.verdicts import read_rulings, terms_of, verdicts_beside

__all__ = ["build_page"]

_METRIC = "reliability|generalization(-[1-9][0-9]*)?|far|near-subject|near-relation|portability"


def build_page(
    rows: Sequence[Path],
    out: Path,
    *,
    compare: tuple[Path, Path] | None = None,
    thresholds: Sequence[str] | Mapping[str, float] = (),
    confidence: float | None = None,
    max_looks: int | None = None,
    verdicts: Sequence[Path] = (),
    checks: Sequence[Path | CheckRecord] = (),
    sweeps: Sequence[Path] = (),
    settings: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    command: str = "",
    costs: Path | None = None,
    kill_matrix: Path | None = None,
    study: Path | None = None,
    r2: Path | None = None,
    effects: Path | None = None,
    reading: Callable[[], TextReading | None] = lambda: None,
) -> Path:
    """Write the page of `rows` and of the other files into `out`; returns its path.

    `verdicts` are those of the suite, and without any those beside the rows; they are shown as they
    are. All other rates are judged with the error of one look of `max_looks`. What is not given of
    that, `confidence` and `thresholds` is as in these verdicts, else the default; `thresholds`
    replace all if they are a mapping, and texts METRIC=VALUE change some.
    `sweeps` are rows of one editor with different options, shown by option and not judged; `notes`
    are shown beside the verdicts, and `command`, the call that made the rows, at the end. `reading`
    tells how the models' tokenizer reads text, for the ceilings of scores; without, answers are
    taken as written.
    Raises ValueError for a file or an option that cannot be used.
    """
    files = verdicts or [each for each in map(verdicts_beside, rows) if each.is_file()]
    rulings = [ruling for path in files for ruling in read_rulings(path)]
    terms = terms_of(rulings)
    confidence = terms.confidence if confidence is None else confidence
    max_looks = terms.max_looks if max_looks is None else max_looks
    if not isinstance(thresholds, Mapping):
        thresholds = {**terms.thresholds, **dict(map(_threshold, thresholds))}
    told = [read_checks(each) if isinstance(each, Path) else [each] for each in checks]
    items = read_items(list(dict.fromkeys([*rows, *(compare or ())])))

    reached = attainable(items, reading)
    swept = read_items(list(dict.fromkeys(sweeps)))

    def all_sections() -> Iterator[Section]:
        if compare:
            names = compare[0].name, compare[1].name
            before, after = (read_items([path]) for path in compare)
            yield of_pair(before, after, names=names, confidence=confidence)
        yield from of_scores(items, reached, confidence=confidence)
        yield from of_router(items, confidence=confidence)
        yield from of_options(swept if sweeps else items, confidence=confidence)
        for path, section_of in (
            (costs, of_costs),
            (study, lambda path: of_study(path, confidence=confidence)),
            (r2, of_r2),
            (effects, of_effects),
            (kill_matrix, of_kills),
        ):
            if path:
                yield from section_of(path)

    return write_page(
        out, items, all_sections(), reached=reached, more=[swept] if sweeps else [],
        thresholds=thresholds, confidence=confidence, max_looks=max_looks,
        rulings=rulings,
        checks=[check for of_file in told for check in of_file], settings=settings, notes=notes,
        command=command,
    )  # fmt: skip


def _threshold(text: str) -> tuple[str, float]:
    metric, _, value = text.partition("=")
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not re.fullmatch(_METRIC, metric) or not 0 < share < 1:
        raise ValueError(
            f"--threshold {text} is not METRIC=VALUE, METRIC one of reliability, generalization, "
            "generalization-LEVEL, far, near-subject, near-relation, portability, VALUE in (0, 1)"
        )
    return metric, share
