"""Where the scope of an edit ends: prompts that share something with it, and ask otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from properties.bench import Bench
from properties.findings import Unasked, require
from wise.edits import Edit
from wise.measures.verdicts import judge

__all__ = ["check_an_edit_stays_within_its_scope", "edges_of"]

_N_MADE = 10
_N_ASKED = 16  # prompts of a kind
_N_ORDERS = 2  # of an edit's words
_THRESHOLD = 0.75  # as of near probes
# Scrambled words ask for nothing clearly: what is wrong is to see no difference at all.
_ORDER, _OF_ORDER = "with an edit's words in another order", 0.25


def edges_of(
    made: Sequence[Edit], others: Sequence[Edit], asked: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """(kind, prompt) pairs out of the scope of the edits `made`, each close to one of them.

    `others` are edits that were not made; `asked` are further prompts, by a word that they are
    about. The kinds are what a prompt shares with an edit.
    """
    rng = random.Random("edges")
    subjects = {edit.subject for edit in made}
    strangers = [edit for edit in others if edit.subject and edit.subject not in subjects]
    for edit in made:
        words = edit.prompt.split()
        for _ in range(_N_ORDERS):
            shuffled = " ".join(rng.sample(words, len(words)))
            if shuffled != edit.prompt:
                yield _ORDER, shuffled
        for other in rng.sample(strangers, min(2, len(strangers))):
            if edit.subject:
                prompt = edit.prompt.replace(edit.subject, other.subject)
                yield "with an edit's words, about another subject", prompt
            text = f"{edit.prompt} {edit.target}. {other.prompt}"
            yield "that quote an edit, and ask about another subject", text
        for other in strangers:
            if edit.subject and set(edit.subject.split()) & set(other.subject.split()):
                prompt = edit.prompt.replace(edit.subject, other.subject)
                yield "about a subject that shares a name with an edit's", prompt
            if edit.ground_truth and other.ground_truth == edit.ground_truth:
                yield "with the answer that an edit replaced", other.prompt
        if edit.target in asked:
            yield "about an edit's new answer", asked[edit.target]


def check_an_edit_stays_within_its_scope(bench: Bench) -> None:
    """Prompts that share something with an edit, and ask for another fact, are answered as before.

    Of each kind of them, by its own, at least as many as a near probe needs. An editor fails that
    keeps fewer than that with 95 % confidence, so one that keeps as many fails by chance in 5 % of
    all kinds at most.
    """
    edits = bench.edits(_N_MADE, least=2)
    later = [edit for edit in bench.stream.live() if edit.prompt not in {e.prompt for e in edits}]
    world = bench.loaded.world
    about = {} if world is None else {fact.subject: world.ask(fact, 1, random.Random(0))
                                      for fact in world.far_facts}  # fmt: skip
    prompts: dict[str, list[str]] = {}
    for kind, prompt in edges_of(edits, later, about):
        prompts.setdefault(kind, []).append(prompt)
    made = {edit.id for edit in edits}
    near = [p.prompt for p in bench.stream.probes if p.edit_id in made and p.kind == "near-subject"]
    prompts["about an edit's subject, for another fact"] = near
    if not any(prompts.values()):
        raise Unasked("the stream has no prompts that are close to an edit")
    editor = bench.editor(edits)
    for kind, every in prompts.items():
        some = list(dict.fromkeys(every))[:_N_ASKED]
        before = bench.base_answers(some)
        rows = list(zip(some, before, bench.ask(editor, some), strict=True))
        changed = [row for row in rows if row[1].text != row[2].text]
        scores = [float(was.text == is_now.text) for _, was, is_now in rows]
        threshold = _OF_ORDER if kind == _ORDER else _THRESHOLD
        found = judge(scores, threshold)
        if found.outcome == "fail":
            prompt, was, is_now = changed[0]
            require(
                False,
                f"after {len(edits)} edits, {len(changed)} of {len(rows)} prompts {kind} are "
                f"answered otherwise than before: {prompt!r} said {was.text!r} and says "
                f"{is_now.text!r}; needed: {threshold:g} of them as before",
            )
