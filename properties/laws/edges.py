"""Where the scope of an edit ends: prompts that share something with it, and ask otherwise."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress

from fixtures.world_facts import unrelated_sentences
from properties.bench import Bench
from properties.findings import Broken, Unasked, needs, require
from wise.editor import Editor, Routed
from wise.edits import Edit
from wise.measures.verdicts import judge

_N_MADE = 10
_N_NAMED = 16
_N_ASKED = 16  # prompts of a kind
_N_ORDERS = 2  # of an edit's words
_N_SENTENCES = 3  # before the edit that a long text quotes
_THRESHOLD = 0.75  # as of near probes
_CLOSED = 0.5  # of the prompts of a kind: a route that changes no answer does less harm
_N_NAMESAKES = 2  # of each name of a subject
_OF_NAMESAKES = 0.15
# Scrambled words ask for nothing clearly: what is wrong is to see no difference at all.
_ORDER, _OF_ORDER = "with an edit's words in another order", 0.25


def _edges_of(
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
            before, after = (unrelated_sentences(rng, n) for n in (_N_SENTENCES, 1))
            text = f"{before} {edit.prompt} {edit.target}. {after} {other.prompt}"
            yield "that quote an edit in a long text, and ask about another subject", text
        for other in strangers:
            if edit.subject and set(edit.subject.split()) & set(other.subject.split()):
                prompt = edit.prompt.replace(edit.subject, other.subject)
                yield "about a subject that shares a name with an edit's", prompt
            if edit.ground_truth and other.ground_truth == edit.ground_truth:
                yield "with the answer that an edit replaced", other.prompt
        if edit.target in asked:
            yield "about an edit's new answer", asked[edit.target]


def _edges(bench: Bench, made: Sequence[Edit]) -> dict[str, list[str]]:
    """Prompts of each kind; Unasked where there are none."""
    done = {edit.prompt for edit in made}
    later = [edit for edit in bench.stream.live() if edit.prompt not in done]
    world = bench.loaded.world
    about = {} if world is None else {fact.subject: world.ask(fact, 1, random.Random(0))
                                      for fact in world.far_facts}  # fmt: skip
    prompts: dict[str, list[str]] = {}
    for kind, prompt in _edges_of(made, later, about):
        prompts.setdefault(kind, []).append(prompt)
    ids = {edit.id for edit in made}
    near = [p.prompt for p in bench.stream.probes if p.edit_id in ids and p.kind == "near-subject"]
    prompts["about an edit's subject, for another fact"] = near
    if not any(prompts.values()):
        raise Unasked("the stream has no prompts that are close to an edit")
    return {kind: list(dict.fromkeys(every))[:_N_ASKED] for kind, every in prompts.items() if every}


def check_an_edit_stays_within_its_scope(bench: Bench) -> None:
    """Prompts that share something with an edit, and ask for another fact, are answered as before.

    Of each kind of them, by its own, at least as many as a near probe needs. An editor fails that
    keeps fewer than that with 95 % confidence, so one that keeps as many fails by chance in 5 % of
    all kinds at most.
    """
    edits = bench.edits(_N_MADE, least=2)
    prompts = _edges(bench, edits)
    editor = bench.editor(edits)
    for kind, some in prompts.items():
        before = bench.base_answers(some)
        rows = list(zip(some, before, bench.ask(editor, some), strict=True))
        changed = [row for row in rows if row[1].text != row[2].text]
        scores = [float(was.text == is_now.text) for _, was, is_now in rows]
        threshold = _OF_ORDER if kind == _ORDER else _THRESHOLD
        found = judge(scores, threshold)
        if found.outcome == "fail":
            prompt, was, is_now = changed[0]
            raise Broken(
                f"after {len(edits)} edits, {len(changed)} of {len(rows)} prompts {kind} are "
                f"answered otherwise than before: {prompt!r} said {was.text!r} and says "
                f"{is_now.text!r}; needed: at least {100 * threshold:.0f} % of them as before",
            )


@needs(Routed)
def check_an_edit_opens_no_prompt_at_the_edge_of_its_scope(bench: Bench) -> None:
    """Prompts that share something with an edit, and ask for another fact, are routed to no edit.

    At least half of each kind, by its own, or a quarter of an edit's words in another order. An
    editor that closes as many fails by chance in 5 % of all kinds at most.
    """
    edits = bench.edits(_N_MADE, least=2)
    prompts = _edges(bench, edits)
    editor = bench.editor(edits)
    assert isinstance(editor, Routed)
    for kind, some in prompts.items():
        is_open = bench.opens(editor, some)
        threshold = _OF_ORDER if kind == _ORDER else _CLOSED
        if judge([float(not each) for each in is_open], threshold).outcome == "fail":
            raise Broken(
                f"after {len(edits)} edits, {sum(is_open)} of {len(some)} prompts {kind} are "
                f"routed to an edit, first {some[is_open.index(True)]!r}; needed: {threshold:g} of "
                "them to none",
            )


def _namesakes(edits: Sequence[Edit], known: Container[str]) -> dict[str, list[tuple[str, Edit]]]:
    """The edits' prompts about made-up subjects that share a first or last name with theirs.

    None of them is `known`.
    """
    named = [edit for edit in edits if edit.subject in edit.prompt and " " in edit.subject]
    prompts: dict[str, list[tuple[str, Edit]]] = {"first": [], "last": []}
    for edit, other in ((edit, named[(n + k) % len(named)]) for n, edit in enumerate(named)
                        for k in range(1, 1 + _N_NAMESAKES)):  # fmt: skip
        (own, *_, last), (first, *_, strange) = (e.subject.split() for e in (edit, other))
        for shared, name in (("first", f"{own} {strange}"), ("last", f"{first} {last}")):
            if name not in known:
                prompts[shared].append((edit.prompt.replace(edit.subject, name), edit))
    return prompts


def check_who_shares_a_name_with_a_subject_is_another(bench: Bench) -> None:
    """Namesakes of subjects, asked the same, are not all answered as if they were the subjects.

    They are not known to the model, and share the first or the last name. An editor that keeps
    15 % of their answers fails by chance in 5 % of both names at most: what is wrong is to see no
    difference at all.
    """
    edits = bench.edits(_N_NAMED, least=2)
    known = {edit.subject for edit in bench.stream.edits}
    n_asked = 0
    for name, pairs in _namesakes(edits, known).items():
        before = bench.base_answers([prompt for prompt, _ in pairs])
        now = bench.ask(bench.filled, [prompt for prompt, _ in pairs])
        rows = [(prompt, was.text, is_now.text)
                for (prompt, edit), was, is_now in zip(pairs, before, now, strict=True)
                if not bench.same_text(was.text, edit.target)]  # fmt: skip
        n_asked += len(rows)
        changed = [row for row in rows if not bench.same_text(row[1], row[2])]
        scores = [0.0] * len(changed) + [1.0] * (len(rows) - len(changed))
        if judge(scores, _OF_NAMESAKES).outcome == "fail":
            prompt, was_text, now_text = changed[0]
            raise Broken(
                f"whoever shares the {name} name of an edited subject is taken for it: after "
                f"{len(bench.stream.live())} edits, {len(changed)} of {len(rows)} prompts about "
                f"namesakes are answered otherwise than before, first {prompt!r}, which said "
                f"{was_text!r} and says {now_text!r}; needed: at least "
                f"{100 * _OF_NAMESAKES:.0f} % of them as before",
            )
    if not n_asked:
        raise Unasked("no two edits have subjects of more than one name")


def _longer_names(edit: Edit) -> Iterator[tuple[str, str]]:
    """(kind, prompt) pairs about made-up names in which the edit's subject is part of a word."""
    places = {"first": edit.prompt.startswith, "last": edit.prompt.endswith}
    place = next((where for where, holds in places.items() if holds(edit.subject)), "inside")
    for form in ("Rose-{}", "Rosa{}", "{}ville", "{}-Rose"):
        kind = f"{form.format('X')!r} stands {place} in a prompt"
        yield kind, edit.prompt.replace(edit.subject, form.format(edit.subject))


@needs(Routed)
def check_a_name_that_holds_a_subject_is_another(bench: Bench) -> None:
    """Not every longer name that holds an edit's subject is taken for the subject itself.

    It is where the route is bitwise that of the edit's own prompt, and the answer its target. A
    model may well think the names alike, but sees them as different texts.
    """
    edits = [edit for edit in bench.edits(_N_NAMED, least=2) if edit.subject]
    editor = bench.filled
    assert isinstance(editor, Routed)
    held = [edit for edit, is_right in zip(edits, bench.says(editor, edits), strict=True)
            if is_right]  # fmt: skip
    asked: dict[str, list[tuple[Edit, str]]] = {}
    for edit in held:
        for kind, prompt in _longer_names(edit):
            asked.setdefault(kind, []).append((edit, prompt))
    asked = {kind: pairs for kind, pairs in asked.items() if len(pairs) >= _N_NAMESAKES}
    if not asked:
        raise Unasked("no two edits are answered by their targets and name a subject")
    for kind, pairs in asked.items():
        now = bench.says(editor, [replace(edit, prompt=prompt, subject="")
                                  for edit, prompt in pairs])  # fmt: skip
        texts = [edit.prompt for edit, _ in pairs], [prompt for _, prompt in pairs]
        own, found = (bench.activations(editor, each) for each in texts)
        edit, prompt = pairs[0]
        require(
            not (all(now) and own.equal(found)),
            f"{prompt!r}, about somebody else, is taken for {edit.prompt!r}, which was edited: it "
            f"is answered {edit.target!r}, with the same routing activation {float(own[0]):g}; so "
            f"are all {len(pairs)} in which {kind}, where X is an edited subject; needed: names "
            "and prompts compared whole, and not by how they begin or end",
        )


def _reached(bench: Bench, editor: Editor, probes: Sequence[str]) -> list[str]:
    """Those of `probes`, out of every scope, that are routed to an edit or answered otherwise."""
    if isinstance(editor, Routed):
        return [*compress(probes, bench.opens(editor, probes))]
    return [*compress(probes, bench.changed(editor, probes))]


def check_an_edit_without_a_subject_has_no_wider_scope(bench: Bench) -> None:
    """Edits whose subject is not given reach no more prompts out of scope than with a subject."""
    edits = [edit for edit in bench.edits(_N_MADE, least=2) if edit.subject]
    probes = bench.far_prompts[:_N_ASKED]
    if not edits or not probes:
        raise Unasked("the stream has no edits with a subject, or no far probes")
    without = [replace(edit, subject="") for edit in edits]
    few, many = (_reached(bench, bench.editor(each), probes) for each in (edits, without))
    if len(many) - len(few) > len(probes) / 2:
        raise Broken(
            f"{len(edits)} edits without a subject reach {len(many)} of {len(probes)} prompts out "
            f"of their scope, first {many[0]!r}; the same edits with their subjects, {len(few)}",
        )
