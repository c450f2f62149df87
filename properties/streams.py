"""Laws on the stream: the order and the number of independent edits must not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.utils.flop_counter import FlopCounterMode

from properties.bench import Bench
from properties.findings import Broken, Unasked, require
from properties.rates import require_pass
from wise.editor import Editor, Generates, Growing
from wise.edits import Edit
from wise.measures.verdicts import judge

_N_ORDERED = 20
_N_FAR = 8  # prompts outside every scope, so that the unedited model answers
_AGREEMENT = 0.75  # at least, between the answers after one order and the other
_GROWTH = 0.001  # of a forward, for each edit: allowed to an editor that declares nothing


def check_the_order_of_edits_does_not_matter(bench: Bench) -> str:
    """With the edits made in reverse order, nearly the same ones are answered.

    At no place of a stream, of twice the length too, is an edit lost, whichever stands there: an
    editor just at the reliability threshold, which errs at random, fails so with a chance of 1e-4.
    """
    edits = bench.edits(_N_ORDERED)
    forth, back = (bench.says(bench.editor(order), edits) for order in (edits, edits[::-1]))
    by_place = [not (one or other) for one, other in zip(forth, back[::-1], strict=True)]
    if sum(by_place) <= len(edits) / 2:  # where most are lost, no single place is at fault
        _require_all_places(bench, edits, by_place)
        _require_later_places(bench)
    agree = [float(one == other) for one, other in zip(forth, back, strict=True) if one or other]
    if not agree:
        raise Unasked(f"none of {len(edits)} edits is answered after either order")
    found = judge(agree, _AGREEMENT, confidence=bench.confidence)
    return require_pass(bench, found, found.describe("agreement with the opposite order of edits"))


def _require_all_places(bench: Bench, edits: Sequence[Edit], is_lost: Sequence[bool]) -> None:
    """Require that not every edit is lost at a place, given which were lost in two orders."""
    lost = {place for place, lost in enumerate(is_lost) if lost}
    n_tries = bench.misses_in_a_row(n_tests=len(edits))
    _require_some_order(bench, edits, lost, range(1, n_tries - 1), n_tries)


def _require_later_places(bench: Bench) -> None:
    """The same of the places of the whole stream; where older edits hold, none fades by age."""
    edits = bench.edits(len(bench.stream.live()), least=_N_ORDERED)
    later = set(range(_N_ORDERED, len(edits)))
    n_tries = bench.misses_in_a_row(n_tests=max(1, len(later)))
    _require_some_order(bench, edits, later, range(n_tries), n_tries)


def _require_some_order(
    bench: Bench, edits: Sequence[Edit], lost: set[int], turns: range, n_tries: int
) -> None:
    """Require of each place in `lost` that its edit is right, or most before it wrong, in an order.

    The edits are made in orders turned by each of `turns`; the whole stream in its own is made once
    for all laws.
    """
    for k in turns:
        if not lost:
            return
        order = [*edits[k:], *edits[:k]]
        is_stream = k == 0 and len(edits) == len(bench.stream.live())
        right = bench.says(bench.filled if is_stream else bench.editor(order), order)
        lost = {
            place for place in lost
            if not right[place] and sum(right[:place]) >= place / 2
        }  # fmt: skip
    for place in sorted(lost):
        raise Broken(
            f"of {len(edits)} edits made one by one, number {place + 1} is not answered by its "
            f"target, whichever edit it is: lost in {n_tries} orders of {n_tries}, once "
            f"{edits[place].prompt!r}",
        )


def _flops(bench: Bench, editor: Editor) -> dict[str, float]:
    """Multiply-adds of one forward, and of one generated token, over prompts out of scope."""
    batch = bench.batch(bench.far_prompts[:_N_FAR] or bench.prompts)
    asked: dict[str, Callable[[], object]] = {
        "a forward": lambda: editor.logits(batch.input_ids, batch.attention_mask)
    }
    if isinstance(editor, Generates):
        asked["a generated token"] = lambda: editor.generate(
            batch.input_ids, batch.attention_mask, 1
        )
    counts = {}
    for what, ask in asked.items():
        with FlopCounterMode(display=False) as counter:
            ask()
        counts[what] = float(counter.get_total_flops())
    return counts


def check_inference_does_not_grow(bench: Bench) -> None:
    """A forward and a generated token cost no more than the editor declares."""
    edits, filled = bench.edits(len(bench.stream.live()), least=2), bench.filled
    first, bare = (_flops(bench, each) for each in (bench.editor(edits[:1]), bench.base))
    declared = float(filled.growth_per_edit) if isinstance(filled, Growing) else 0.0
    for what, count in _flops(bench, filled).items():
        growth = (count - first[what]) / bare[what] / (len(edits) - 1)
        require(
            growth <= declared + _GROWTH,
            f"each edit adds to {what} {growth:.2%} of the unedited model's arithmetic (mean "
            f"of {len(edits)} edits); the editor declares {declared:.2%} (growth_per_edit), and "
            f"{_GROWTH:.1%} is allowed",
        )
