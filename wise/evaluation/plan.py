"""What a lifelong run asks, and when: blocks of questions, made once before the first edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from wise.edits import EditStream
from wise.evaluation.metrics import Question, at_edit_questions, final_questions
from wise.evaluation.routing import routed_questions

__all__ = ["Block", "plan"]


@dataclass(frozen=True)
class Block:
    """Questions asked together after `end` edits, of which [begin, end) are the last turn.

    They ask for the edits of that turn ("at-edit"), for everything at a checkpoint ("final"), or
    for the routing activations of the latter. Each question is a row. `name` is unique in its plan.
    """

    name: str
    begin: int
    end: int
    kind: Literal["at-edit", "final", "routing"]
    protocol: str
    questions: tuple[Question, ...]


def plan(
    stream: EditStream,
    checkpoints: Sequence[int],
    protocols: Sequence[str],
    *,
    edits_per_turn: int = 1,
    is_routed: bool = False,
) -> tuple[Block, ...]:
    """All blocks of a run, in the order of the work: each turn's edits, then its checkpoint.

    A turn also ends at each checkpoint.
    """
    stops = pairwise(sorted({0, *checkpoints, len(stream.edits)}))
    ends = [end for a, b in stops for end in (*range(a + edits_per_turn, b, edits_per_turn), b)]
    blocks = []
    for begin, end in pairwise([0, *ends]):
        own = tuple(at_edit_questions(stream.edits[begin:end]))
        blocks.append(Block(f"edit {end}", begin, end, "at-edit", "free", own))
        if end not in checkpoints:
            continue
        asked, name = tuple(final_questions(stream.prefix(end))), f"checkpoint {end}"
        blocks += [Block(f"{name} {each}", begin, end, "final", each, asked) for each in protocols]
        if is_routed:
            routed = tuple(routed_questions(asked))
            blocks.append(Block(f"{name} routing", begin, end, "routing", "free", routed))
    return tuple(blocks)
