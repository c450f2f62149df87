"""What an editor says that a prompt opens is what is in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from properties.bench import Bench
from properties.findings import Broken, needs
from wise.editor import Retrieves
from wise.edits import Edit

__all__ = ["check_a_prompt_opens_what_is_in_force"]

_N_EDITS = 4  # half of them edited anew


@needs(Retrieves)
def check_a_prompt_opens_what_is_in_force(bench: Bench) -> None:
    """After edits anew, `retrieved` gives edits in force alone, and for a prompt that of its own.

    In the memory that the prompt of an edit opens, this edit is as in an editor that only made the
    edits in force, in the order in which they were made.
    """

    def find(edits: Sequence[Edit]) -> list[str]:
        anew, kept = edits[: len(edits) // 2], edits[len(edits) // 2 :]
        anew = [replace(edit, target=other.target) for edit, other in zip(anew, kept, strict=False)]
        in_force = [*kept, *anew]
        prompts = [edit.prompt for edit in in_force]
        editors = bench.editor(in_force), bench.editor([*edits, *anew])
        alone, found = (bench.opened(cast(Retrieves, each), prompts) for each in editors)
        what = f"{len(edits)} edits, of which {len(anew)} were made anew with other targets"
        stale = {edit for memory in found for edit in memory} - set(in_force)
        if stale:
            edit = min(stale, key=lambda edit: edit.prompt)
            raise Broken(
                f"after {what}, retrieved gives {edit.prompt!r} -> {edit.target!r}, which is not "
                "in force"
            )
        return [
            f"after {what}, retrieved says that {edit.prompt!r} opens the edit of "
            f"{memory[0].prompt!r}, and not its own; where those in force alone were made, it "
            "opens its own"
            for edit, memory, own in zip(in_force, found, alone, strict=True)
            if edit in own and memory and edit not in memory
        ]

    bench.repeatedly(find, n=_N_EDITS)
