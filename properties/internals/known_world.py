"""The default world and its streams, made once, and what their prompts ask for."""

from __future__ import annotations

from functools import cache

from fixtures.encyclopedia import Encyclopedia
from fixtures.world_facts import WorldFact, say
from wise.edits import Edit, EditStream, Probe

__all__ = ["N_EDITABLE", "facts_by_key", "facts_by_prompt", "probes_of", "stream", "world"]

N_EDITABLE = {"train": 380, "tuning": 760, "evaluation": 1140}


@cache
def world(seed: int = 0) -> Encyclopedia:
    return Encyclopedia(seed)


@cache
def stream(split: str = "evaluation", seed: int = 0, n: int = 1000) -> EditStream:
    return world().stream(seed, min(n, N_EDITABLE[split]), split=split, n_paraphrases=2)


@cache
def facts_by_prompt() -> dict[str, WorldFact]:
    """Every plain way to ask, at level 1 or 2, of what is not a consequence."""
    return {
        say(phrasing, fact.subject): fact
        for fact in (*world().facts, *world().far_facts)
        for phrasing in (*fact.seen, *fact.held_out)
    }


@cache
def facts_by_key() -> dict[str, WorldFact]:
    return {fact.key: fact for fact in world().facts}


def probes_of(kind: str, split: str = "evaluation") -> list[tuple[Edit, Probe]]:
    edits = {edit.id: edit for edit in stream(split).edits}
    return [(edits[p.edit_id], p) for p in stream(split).probes if p.kind == kind]
