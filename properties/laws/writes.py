"""The last write holds, in one turn or in several, once or repeated.

No editor writes every edit: each law allows as many misses as an editor just at the reliability
threshold has with probability 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from properties.bench import Bench
from properties.findings import require
from wise.edits import Edit

__all__ = [
    "check_a_mass_turn_writes_all_of_its_edits",
    "check_a_repeated_edit_changes_no_answer",
    "check_an_edit_can_be_taken_back_to_the_truth",
    "check_the_last_write_wins",
]

_N = 8
_N_TURNS, _SIZE = 6, 3


def check_the_last_write_wins(bench: Bench) -> None:
    """A prompt that is edited to a second target is answered with it."""
    edits = bench.edits(_N, least=2)
    targets = [other.target for other in (*edits[1:], edits[0])]
    _overwrite(bench, edits, targets)


def check_an_edit_can_be_taken_back_to_the_truth(bench: Bench) -> None:
    """A prompt that is edited, and then edited back to the truth, is answered with the truth."""
    edits = [edit for edit in bench.edits(_N, least=1) if edit.ground_truth]
    _overwrite(bench, edits, [edit.ground_truth for edit in edits])


def _overwrite(bench: Bench, edits: Sequence[Edit], targets: Sequence[str]) -> None:
    editor = bench.editor(edits)
    overwrites = [replace(e, target=target) for e, target in zip(edits, targets, strict=True)]
    for edit in overwrites:
        editor.edit([edit])
    right = bench.says(editor, overwrites)
    lost = [n for n, is_right in enumerate(right) if not is_right]
    if len(lost) > bench.allowed_misses(len(edits)):
        first = lost[0]
        [answer] = bench.ask(editor, [edits[first].prompt])
        require(
            False,
            f"{len(lost)} of {len(edits)} prompts are not answered with their last target; first "
            f"{edits[first].prompt!r}, edited to {edits[first].target!r} and then to "
            f"{targets[first]!r}, is answered {answer.text!r}",
        )


def check_a_repeated_edit_changes_no_answer(bench: Bench) -> None:
    """Repeating edits loses no answer that other edits in their place would not lose.

    As each edit is written anew, as many may be lost as the reliability threshold allows.
    """
    edits = bench.edits(2 * _N, least=10)
    kept, others = edits[: len(edits) // 2], edits[len(edits) // 2 :]
    again, control = bench.editor([*kept, *kept]), bench.editor([*kept, *others])
    rights = zip(kept, bench.says(again, kept), bench.says(control, kept), strict=True)
    lost = [edit for edit, is_right, otherwise in rights if otherwise and not is_right]
    require(
        len(lost) <= bench.allowed_misses(len(kept)),
        f"once {len(kept)} edits are repeated, {len(lost)} of them are lost that other edits in "
        f"their place would not lose, first {lost[0].prompt if lost else ''!r}",
    )


def check_a_mass_turn_writes_all_of_its_edits(bench: Bench) -> None:
    """An edit is written whatever its place in the turn."""
    edits = bench.edits(_N_TURNS * _SIZE)
    editor = bench.editor()
    for begin in range(0, len(edits), _SIZE):
        editor.edit(edits[begin : begin + _SIZE])
    right = bench.says(editor, edits)
    for place in range(_SIZE):
        n_lost = right[place::_SIZE].count(False)
        require(
            n_lost <= bench.allowed_misses(_N_TURNS),
            f"of {_N_TURNS} turns of {_SIZE} edits, {n_lost} lost the edit at place {place + 1}",
        )
