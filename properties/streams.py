"""Laws on the stream: the order and the number of independent edits must not matter."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from properties.bench import Bench
from properties.findings import Unasked, require
from properties.rates import require_pass
from wise.editor import Editor, Generates, Growing
from wise.measures.verdicts import judge

__all__ = [
    "check_inference_does_not_grow",
    "check_the_order_of_edits_does_not_matter",
]

_N_ORDERED = 20
_N_FAR = 8  # prompts outside every scope, so that the unedited model answers
_AGREEMENT = 0.75  # at least, between the answers after one order and the other
_GROWTH = 0.001  # of a forward, for each edit: allowed to an editor that declares nothing


def check_the_order_of_edits_does_not_matter(bench: Bench) -> str:
    """With the edits made in reverse order, nearly the same ones are answered."""
    edits = bench.edits(_N_ORDERED)
    orders = (bench.says(bench.editor(order), edits) for order in (edits, edits[::-1]))
    agree = [float(one == other) for one, other in zip(*orders, strict=True) if one or other]
    if not agree:
        raise Unasked(f"none of {len(edits)} edits is answered after either order")
    found = judge(agree, _AGREEMENT, confidence=bench.confidence)
    return require_pass(bench, found, found.describe("agreement with the opposite order of edits"))


def _flops(bench: Bench, editor: Editor) -> dict[str, float]:
    """Multiply-adds of one forward, and of one generated token, over prompts out of scope."""
    far = [probe.prompt for probe in bench.stream.probes if probe.kind == "far"][:_N_FAR]
    batch = bench.batch(far or bench.prompts)
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
    edits = bench.edits(len(bench.stream.live()), least=2)
    editor = bench.editor(edits[:1])
    first, bare = _flops(bench, editor), _flops(bench, bench.base)
    for edit in edits[1:]:
        editor.edit([edit])
    declared = float(editor.growth_per_edit) if isinstance(editor, Growing) else 0.0
    for what, count in _flops(bench, editor).items():
        growth = (count - first[what]) / bare[what] / (len(edits) - 1)
        require(
            growth <= declared + _GROWTH,
            f"each edit adds to {what} {growth:.2%} of the unedited model's arithmetic (mean "
            f"of {len(edits)} edits); the editor declares {declared:.2%} (growth_per_edit), and "
            f"{_GROWTH:.1%} is allowed",
        )
