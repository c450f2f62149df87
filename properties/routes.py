"""Whether the router separates prompts in scope from others: for any editor that is Routed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from properties.bench import Bench
from properties.findings import Unasked, Undecided, for_metrics, needs, require
from properties.rates import ALLOWED_DROP, first_run, require_pass, where
from wise.editor import Retrieves, Routed
from wise.edits import Edit
from wise.measures.paired import mcnemar
from wise.measures.rows import Row
from wise.measures.separation import Separation, separate
from wise.measures.verdicts import judge, judge_in_looks

# Which prompts must open the gate and which must not, by the name of the threshold.
_IN_SCOPE = {"gate-edits": ("edit",), "gate-paraphrases": ("paraphrase",)}
_KINDS = {"separation-far": ("far",), "separation-near": ("near-subject", "near-relation")}
_OUT_OF_SCOPE = {
    "gate-far": ("far",),
    "gate-near": ("near-subject", "near-relation"),
}


def _routing(rows: Sequence[Row], t: int | None = None) -> tuple[list[Row], float]:
    """The measured rows of one checkpoint (the last) and the threshold there."""
    routing = [row for row in rows if row.metric == "routing"]
    last = max((row.t for row in routing), default=0) if t is None else t
    chosen = [row for row in routing if row.t == last and row.value is not None]
    thresholds = [row.value for row in chosen if row.kind == "threshold" and row.value is not None]
    if not thresholds:
        raise Undecided("no routing activation was measured beside a finite threshold")
    return [row for row in chosen if row.kind != "threshold"], thresholds[0]


def _of(rows: Sequence[Row], kinds: Sequence[str]) -> list[Row]:
    """The rows of these kinds; `paraphrase` stands for all its levels."""
    return [row for row in rows if row.kind.startswith(tuple(kinds))]


@for_metrics(*_KINDS)
@needs(Routed)
def check_separation(bench: Bench, metric: str) -> str:
    """Edits and paraphrases have larger activations than prompts out of scope (AUROC)."""
    from statsmodels.stats.multitest import multipletests  # which loads pandas

    rows, threshold = _routing(first_run(bench))
    inside = _of(rows, ("edit", "paraphrase"))
    compared = [_separated(bench, inside, _of(rows, kinds), threshold) for kinds in _KINDS.values()]
    found = compared[list(_KINDS).index(metric)]
    if found is None:
        raise Unasked("the stream has no question for it")
    p_values = [each.permutation_p for each in compared if each is not None]
    adjusted = multipletests(p_values, method="holm")[1]
    judged = found.judge(bench.thresholds[metric])
    return require_pass(
        bench, judged, f"{judged.describe(metric)}; {found.describe()}; largest permutation p "
        f"after Holm {max(adjusted):.2g}",
    )  # fmt: skip


def _separated(
    bench: Bench, inside: Sequence[Row], outside: Sequence[Row], threshold: float
) -> Separation | None:
    if not inside or not outside:
        return None
    return separate(
        [row.value or 0.0 for row in inside],
        [row.value or 0.0 for row in outside],
        positive_clusters=[row.cluster for row in inside],
        negative_clusters=[row.cluster for row in outside],
        threshold=threshold, confidence=bench.confidence, seed=bench.seed,
    )  # fmt: skip


@for_metrics(*_IN_SCOPE, *_OUT_OF_SCOPE)
@needs(Routed)
def check_gate(bench: Bench, metric: str) -> str:
    """At the editor's own threshold, prompts in scope open the gate and others do not."""
    opens = metric in _IN_SCOPE
    kinds = (_IN_SCOPE | _OUT_OF_SCOPE)[metric]

    def draws() -> Iterator[tuple[list[float], list[str]]]:
        for run in bench.runs:
            rows, threshold = _routing(run)
            chosen = _of(rows, kinds)
            right = [float(((row.value or 0.0) > threshold) == opens) for row in chosen]
            yield right, [row.cluster for row in chosen]

    if not next(draws())[0]:
        raise Unasked("the stream has no question for it")
    found = judge_in_looks(
        draws(), bench.thresholds[metric], confidence=bench.confidence, max_looks=bench.max_looks
    )
    return require_pass(bench, found, f"{found.describe(metric)} at the editor's own threshold")


@needs(Routed)
def check_router_does_not_drift(bench: Bench) -> str:
    """Prompts that were routed correctly at the first checkpoint still are at the last one."""
    run = first_run(bench)
    checkpoints = sorted({row.t for row in run if row.metric == "routing"})
    long_before = [t for t in checkpoints if t <= checkpoints[-1] // 2] if checkpoints else []
    if not long_before:
        raise Undecided("one checkpoint cannot show a drift; name several with --checkpoints")
    scores: list[dict[tuple[str, str], float]] = []
    clusters: dict[tuple[str, str], str] = {}
    for t in (long_before[-1], checkpoints[-1]):
        rows, threshold = _routing(run, t)
        clusters |= {(row.kind, row.prompt): row.cluster for row in rows}
        scores.append({
            (row.kind, row.prompt): float(
                ((row.value or 0.0) > threshold) == row.kind.startswith(("edit", "paraphrase"))
            )
            for row in rows
        })  # fmt: skip
    shared = [key for key in scores[0] if key in scores[1]]
    if not shared:
        raise Undecided("no prompt is asked at both checkpoints")
    before, after = ([each[key] for key in shared] for each in scores)
    found = mcnemar(before, after, [clusters[key] for key in shared], alternative="drop")
    text = found.describe(f"routed right from T={long_before[-1]} to T={checkpoints[-1]}")
    drifts = found.p_value < 1 - bench.confidence and found.mean_difference < -ALLOWED_DROP
    require(not drifts, f"{text} {where(bench)}")
    return text


@needs(Retrieves)
def check_retrieval(bench: Bench) -> str:
    """Prompts in scope that open a memory open the one that holds their edit."""
    edits = bench.edits(len(bench.stream.live()), least=2)
    editor = bench.filled
    assert isinstance(editor, Retrieves)
    asked = [(edit.prompt, edit) for edit in edits]
    asked += [(text, edit) for edit in bench.stream.live() for text in edit.paraphrases]
    opened = bench.opened(editor, [prompt for prompt, _ in asked])
    if all(len(memory) in (0, len(edits)) for memory in opened):
        raise Unasked(f"one memory holds all {len(edits)} edits; there is nothing to retrieve")
    found = [
        (float(any(each.prompt == edit.prompt for each in memory)), _cluster(edit))
        for (_, edit), memory in zip(asked, opened, strict=True)
        if memory
    ]
    judged = judge(
        [score for score, _ in found], bench.thresholds["retrieval"],
        clusters=[cluster for _, cluster in found], confidence=bench.confidence,
    )  # fmt: skip
    return require_pass(bench, judged, f"{judged.describe('retrieval')} ({len(edits)} edits)")


def _cluster(edit: Edit) -> str:
    return edit.subject or edit.prompt


def _shared_beginning(texts: Sequence[str], background: Sequence[str]) -> str:
    """The longest beginning, in whole words, shared by half of `texts` and a background text."""
    best = ""
    for n_words in range(1, 9):
        starts = Counter(
            " ".join(words[:n_words]) for words in map(str.split, texts) if len(words) > n_words
        )
        start, count = starts.most_common(1)[0] if starts else ("", 0)
        if 2 * count < len(texts) or not any(text.startswith(f"{start} ") for text in background):
            break
        best = start
    return best


@needs(Routed)
def check_router_needs_no_shortcut(bench: Bench) -> str:
    """Far probes stay separated without the words that they share with the background."""
    far = bench.far_prompts
    seen = [text for edit in bench.background.edits for text in (edit.prompt, *edit.paraphrases)]
    shortcut = _shared_beginning(far, [*bench.background.texts, *seen]) if far else ""
    if not shortcut:
        raise Unasked("far probes share no beginning with the background")
    edits = bench.edits(20, least=2)
    editor = bench.editor(edits)
    assert isinstance(editor, Routed)
    stripped = [text.removeprefix(shortcut).strip() for text in far if text.startswith(shortcut)]
    asked = [edit.prompt for edit in edits], stripped
    values = [bench.activations(editor, texts).tolist() for texts in asked]
    found = separate(*values, threshold=editor.threshold, seed=bench.seed)
    judged = found.judge(bench.thresholds["separation-far"])
    text = f"without {shortcut!r}, with which far probes and background begin, {found.describe()}"
    return require_pass(bench, judged, f"{judged.describe('separation-far')}: {text}")
