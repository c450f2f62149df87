"""What is written holds: the last write of a prompt, at every place of a turn, beside any other.

No editor writes every edit. So each law asks an editor twice, with the history that it is about and
without; what counts is an edit that holds without it and is as if it were not written with it. An
editor that loses edits at random fails a law with a chance of 1e-4: see `Bench.no_worse` and
`Bench.misses_in_a_row`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, product

from torch import Tensor

from fixtures.candidates import plain_prompt
from fixtures.world_facts import unrelated_sentences
from properties.altered import about_its_subject, accented, of_its_target, other_targets
from properties.bench import Bench, Compared
from properties.findings import Broken, Unasked, remade, require
from wise.edits import Edit

_SIZES = (2, 5, 7, 9)  # of turns: with a remainder, whatever the size of a group
_N_PLACES = 20
_N_WORDS = 24  # that prompts share at their beginning, at least
_N_PROBES = 12
_FEW, _MANY = 10, 70  # other edits: what any editor holds, and more than a buffer of 64

Turns = Sequence[Sequence[Edit]]


def _singly(edits: Sequence[Edit]) -> list[list[Edit]]:
    return [[edit] for edit in edits]


def _compared(
    bench: Bench,
    edits: Sequence[Edit],
    stale: Callable[[Edit], Sequence[str]],
    say: Callable[[Edit, str], str],
    *,
    plain: Sequence[Edit] | None = None,
    turns: Turns | None = None,
    control: Turns | None = None,
    ask: bool = False,
) -> Compared:
    """How `edits` fare after `turns`, beside how they do, as they are in `plain`, after `control`.

    Both make each edit in a turn of its own, unless they are given. An edit that holds after
    `control` is worse if it gets a `stale` answer, as any other one may come from a disturbance:
    `say` tells what is wrong with it and its answer. With `ask`, all are asked after every turn.
    """
    if not edits:
        return Compared(0, [], 0)
    plain = edits if plain is None else plain
    held = bench.held(_singly(plain) if control is None else control, plain)
    editor = bench.editor()
    prompts = [edit.prompt for edit in edits]
    for turn in _singly(edits) if turns is None else turns:
        editor.edit(turn)
        if ask:
            bench.ask(editor, prompts)
    n, worse, n_better = 0, [], 0
    for edit, is_held, answer in zip(edits, held, bench.ask(editor, prompts), strict=True):
        is_right = bench.same_text(answer.text, edit.target)
        is_stale = any(bench.same_text(answer.text, text) for text in stale(edit))
        if is_held and is_stale and not is_right:
            worse.append(say(edit, answer.text))
        n += is_held or is_right
        n_better += is_right and not is_held
    return Compared(n, worse, n_better)


def _as_before(bench: Bench, *others: Edit) -> Callable[[Edit], list[str]]:
    """What the unedited model says to an edit's prompt, and the targets of `others`."""
    targets = [other.target for other in others]
    return lambda edit: [bench.base_answers([edit.prompt])[0].text, *targets]


def _last_of(bench: Bench, versions: Turns, *, ask: bool = False) -> Compared:
    """Prompts that are edited to each of `versions` in turn, one by one."""
    last = versions[-1]
    targets = {edit.prompt: [each[n].target for each in versions] for n, edit in enumerate(last)}

    def say(edit: Edit, text: str) -> str:
        made = " and then to ".join(map(repr, targets[edit.prompt]))
        return (f"{edit.prompt!r}, edited to {made}, is answered {text!r}; edited to the last "
                "target alone, it is right")  # fmt: skip

    return _compared(
        bench, last, lambda edit: targets[edit.prompt][:-1], say,
        turns=_singly([*chain(*versions)]), ask=ask,
    )  # fmt: skip


def check_the_last_write_wins(bench: Bench) -> None:
    """A prompt that is edited to a second target is not answered with the first.

    An editor that writes neither breaks this law; of the others that compare, none is asked of it.
    """
    bench.edits(least=2)
    try:
        bench.no_worse(lambda edits: _last_of(bench, [edits, other_targets(edits)]))
    except Unasked as error:
        raise Broken(f"no edit is written: {error}") from error


def check_the_last_write_wins_at_once(bench: Bench) -> None:
    """A prompt that holds an edit, and is edited anew, has not the old answer right after that."""
    editor = bench.editor()

    def compare(edits: Sequence[Edit]) -> Compared:
        held = bench.says(remade(editor, _singly(edits)), edits)
        n, worse, n_better = 0, [], 0
        for edit, anew, is_held in zip(edits, other_targets(edits), held, strict=True):
            editor.edit([anew])
            (answer,) = bench.ask(editor, [edit.prompt])
            is_right = bench.same_text(answer.text, anew.target)
            if is_held and not is_right and bench.same_text(answer.text, edit.target):
                worse.append(f"{edit.prompt!r}, edited to {edit.target!r} and then to "
                             f"{anew.target!r}, is answered {answer.text!r} right after the second "
                             "edit; right after the first, it was right")  # fmt: skip
            n += is_held or is_right
            n_better += is_right and not is_held
        return Compared(n, worse, n_better)

    bench.no_worse(compare)


def check_an_edit_can_be_taken_back_to_the_truth(bench: Bench) -> None:
    """A prompt that is edited, and then edited back to the truth, is not answered with the edit."""

    def compare(edits: Sequence[Edit]) -> Compared:
        known = [edit for edit in edits if edit.ground_truth]
        truths = [replace(edit, target=edit.ground_truth) for edit in known]
        return _last_of(bench, [known, truths])

    bench.no_worse(compare)


def check_an_edit_holds_again_after_another(bench: Bench) -> None:
    """A prompt edited to A, to B and to A again is not answered B, asked in between or not."""

    def compare(edits: Sequence[Edit], *, ask: bool) -> Compared:
        return _last_of(bench, [edits, other_targets(edits), edits], ask=ask)

    for ask in (False, True):
        bench.no_worse(partial(compare, ask=ask))


def check_a_repeated_edit_is_still_written(bench: Bench) -> None:
    """An edit that is made a second time is not answered as if it had never been made."""

    def compare(edits: Sequence[Edit]) -> Compared:
        return _compared(
            bench, edits, _as_before(bench),
            lambda edit, text: f"{edit.prompt!r}, edited to {edit.target!r} twice, is answered "
            f"{text!r}, as by the unedited model; edited once, it is right",
            turns=_singly([*edits, *edits]),
        )  # fmt: skip

    bench.no_worse(compare)


def check_a_mass_turn_writes_all_of_its_edits(bench: Bench) -> None:
    """An edit is written whatever its place in a turn of 2, 5, 7, 9 or 20 edits.

    A place counts as lost where edits that hold after a turn of their own are lost there.
    """
    edits = bench.edits(_N_PLACES, least=2)
    sizes = sorted({min(size, len(edits)) for size in (*_SIZES, _N_PLACES)})
    n_tries = bench.misses_in_a_row(n_tests=sum(sizes))
    editor = bench.editor()
    for size in sizes:
        lost: dict[int, str] = dict.fromkeys(range(size), "")  # by place, the prompts lost there
        for k in range(n_tries):
            turn = [edits[(k + place) % len(edits)] for place in range(size)]
            right = bench.says(remade(editor, [turn]), turn)
            lost = {place: turn[place].prompt for place in lost if not right[place]}
            if not lost:
                break
        for place, prompt in lost.items():
            there = [edits[(k + place) % len(edits)] for k in range(n_tries)]
            n_alone = sum(bench.held([[edit]], [edit])[0] for edit in there)
            if 3 * n_alone < 2 * n_tries:
                continue  # it is not the place that they are lost for
            raise Broken(
                f"of a turn of {size} edits, the one at place {place + 1} is not answered by its "
                f"target, whichever edit it is: lost in {n_tries} turns of {n_tries}, last "
                f"{prompt!r}; in a turn of its own, {n_alone} of {n_tries} are right",
            )


# Of a prompt, what an editor may take for the same.
_SPACE = "its prompt, but for a space at its end"
_FORMS: Mapping[str, Callable[[str], str]] = {
    "its prompt, but for the case": str.upper,
    "its prompt, but for accents": accented,
    _SPACE: lambda text: f"{text} ",
}
_IN_TWO_TURNS = [*_FORMS][1:]  # alone: one of them in a turn shows what is kept by its form
_NOTHING = "nothing"


def _alike(bench: Bench, edit: Edit, other: Edit) -> dict[str, Edit]:
    """Edits that share something with `edit`, by what that is; the last, of `other`, nothing."""
    forms: dict[str, Edit] = {}
    for what, form in _FORMS.items():
        text = form(edit.prompt)
        subject = next(s for s in (form(edit.subject), edit.subject, "") if s in text)
        if text != edit.prompt:
            forms[what] = replace(edit, prompt=text, subject=subject, target=other.target)
    return {
        "its subject": about_its_subject(edit, other),
        **forms,
        "its target and id": of_its_target(edit, other),
        _NOTHING: other,
    }


def check_every_edit_of_a_turn_leaves_its_mark(bench: Bench) -> None:
    """After two edits that share something, an editor is not as after one of them alone.

    Made in one turn or, where their prompts differ by the case, by accents or by a space at the end
    alone, one after the other. Bitwise, so that an edit may be written badly, but not be left out.
    Where a space alone is the difference, the later one may take the place of the earlier, if it
    answers both. Not asked of an editor that holds only one of any two edits.
    """
    one, other, *_ = bench.edits(least=2)
    editor, alike = bench.editor(), _alike(bench, one, other)
    prompts = [edit.prompt for edit in (one, *alike.values())]

    def after(*turns: Sequence[Edit]) -> Tensor:
        return bench.logits(remade(editor, turns), prompts)

    def answers_both(edit: Edit) -> bool:
        asked = [replace(one, target=edit.target), edit]
        return all(bench.says(remade(editor, [[one], [edit]]), asked))

    base, alone = bench.logits(bench.base, prompts), after([one])
    for shared, edit in reversed(alike.items()):
        of_it, both = after([edit]), dict[str, Tensor]()
        if shared not in _IN_TWO_TURNS:
            both["a turn of two edits"] = after([one, edit])
        if shared == _NOTHING or "prompt" in shared:
            both["two edits, one after the other,"] = after([one], [edit])
        for (when, of_both), (lost, kept, single, left) in product(
            both.items(), ((one, edit, alone, of_it), (edit, one, of_it, alone))
        ):
            if single.equal(base) or not of_both.equal(left):
                continue
            if shared == _SPACE and kept is edit and answers_both(edit):
                continue
            if shared == _NOTHING:
                raise Unasked("it holds only one of two edits")
            raise Broken(
                f"of {when} that share {shared}, {lost.prompt!r} -> {lost.target!r} "
                f"is left out: the editor is bitwise as after {kept.prompt!r} -> {kept.target!r} "
                "alone",
            )


def check_a_known_edit_takes_no_other_with_it(bench: Bench) -> None:
    """A new edit is written beside one in force, which its turn repeats or gives another target.

    In either order. Bitwise: after such a turn an editor is not as without it, nor as after the
    part of it that is known.
    """
    one, new, other, *_ = bench.edits(3)
    editor = bench.editor()

    def after(*turns: Sequence[Edit]) -> Tensor:
        return bench.logits(remade(editor, turns), [one.prompt, new.prompt])

    before, both = after([one]), after([one], [new])
    if both.equal(before) or both.equal(after([new])):
        raise Unasked("it holds only one of two edits")
    for what, again in (
        ("as it is", one),
        ("with another target", replace(one, target=other.target)),
    ):
        known = after([one], [again])
        for turn in ([again, new], [new, again]):
            found = after([one], turn)
            require(
                not found.equal(known) and not found.equal(before),
                f"the edit of {one.prompt!r} is in force; of edit([...]) with it {what}, at place "
                f"{turn.index(again) + 1} of 2, and with {new.prompt!r} -> {new.target!r}, the "
                "latter is left out: every logit is as without it",
            )


def check_an_edit_anew_takes_no_other_with_it(bench: Bench) -> None:
    """Of a turn of six edits, those hold that are not edited anew in the next one.

    As they do where the next turn makes edits of other prompts.
    """

    def say(edit: Edit, text: str) -> str:
        return (f"{edit.prompt!r} is edited to {edit.target!r} in a turn, of which the next gives "
                f"other edits another target; it is then answered {text!r}, and right where the "
                "next turn is of other prompts")  # fmt: skip

    def compare(edits: Sequence[Edit]) -> Compared:
        half = len(edits) // 2
        kept, anew = edits[:half], other_targets(edits)[half:]
        others = [edit for edit in bench.many_edits if edit not in edits][-len(anew) :]
        if len(others) < len(anew):
            raise Unasked(f"the stream has {len(bench.many_edits)} edits")
        stale = _as_before(bench, *anew)
        return _compared(
            bench, kept, stale, say, turns=[edits, anew], control=[edits, others]
        )  # fmt: skip

    bench.no_worse(compare)


def _about(bench: Bench, edit: Edit) -> Edit | None:
    """An edit of another fact about the subject of `edit`."""
    world = bench.loaded.world
    if world is None:
        alike = (e for e in bench.stream.live() if e.subject == edit.subject)
        return next((each.as_taught() for each in alike if each.prompt != edit.prompt), None)
    known = {each.prompt for each in (*bench.stream.edits, *bench.many_edits)}
    for fact in world.facts:
        if fact.subject == edit.subject and plain_prompt(fact) not in known:
            choices = (each.object for each in world.facts if each.relation == fact.relation)
            target = next(choice for choice in choices if choice not in fact.truths)
            return Edit(plain_prompt(fact), target, fact.subject, ground_truth=fact.object)
    return None


def check_edits_of_one_subject_hold_together(bench: Bench) -> None:
    """A second edit of the same subject, in its turn or the next, does not take the first away.

    Neither from its prompt nor from another wording, which the second's target does not answer.
    """
    found = ((edit, _about(bench, edit)) for edit in bench.many_edits if edit.subject)
    couples = [(edit, second) for edit, second in found if second is not None]
    seconds = dict(couples)
    if len(couples) < 4:
        raise Unasked("the stream has too few subjects of which several facts are known")

    def compare(edits: Sequence[Edit]) -> Compared:
        chosen = [couple for couple in couples if couple[0] in edits]
        others = [second for first, second in couples if first not in edits][: len(chosen)]
        turns: list[list[Edit]] = []
        control: list[list[Edit]] = []
        for n, ((edit, second), other) in enumerate(zip(chosen, others, strict=False)):
            in_one_turn = n % 2 == 0
            turns += [[edit, second]] if in_one_turn else [[edit], [second]]
            control += [[edit, other]] if in_one_turn else [[edit], [other]]
        firsts = [turn[0] for turn in turns if turn[0] in edits]
        worded = {replace(edit, prompt=text): edit for edit in firsts
                  for text in bench.wordings.get(edit.prompt, ())[:1]}  # fmt: skip

        def stale(edit: Edit) -> list[str]:
            if edit in worded:
                return [seconds[worded[edit]].target]
            return _as_before(bench)(edit)

        wrong = dict[Edit, str]()  # by first edit

        def say(edit: Edit, text: str) -> str:
            first = worded.get(edit, edit)
            why = "to which the second is" if edit in worded else "as by the unedited model"
            return wrong.setdefault(first, (
                f"{first.prompt!r} is edited to {first.target!r}, and then "
                f"{seconds[first].prompt!r}, of the same subject; {edit.prompt!r} is answered "
                f"{text!r}, {why}; with an edit of another subject instead, it is right"
            ))  # fmt: skip

        found = _compared(bench, [*firsts, *worded], stale, say, turns=turns, control=control)
        return replace(found, worse=[*wrong.values()])

    bench.no_worse(compare)


def check_edits_to_one_target_hold_together(bench: Bench) -> None:
    """Edits of several subjects to one target are written as well as to targets of their own."""

    def compare(edits: Sequence[Edit]) -> Compared:
        target = edits[0].target
        apart = [edit for edit in other_targets(edits) if edit.ground_truth != target]
        return _compared(
            bench, [replace(edit, target=target) for edit in apart], _as_before(bench),
            lambda edit, text: f"{edit.prompt!r}, edited like {len(apart) - 1} other prompts to "
            f"{edit.target!r}, is answered {text!r}, as by the unedited model; to a target of its "
            "own, it is right",
            plain=apart,
        )  # fmt: skip

    bench.no_worse(compare)


def check_a_shared_target_opens_no_other_prompt(bench: Bench) -> None:
    """Edits to one target change no more answers out of scope than edits to several targets."""
    probes = bench.far_prompts[:_N_PROBES]
    if not probes:
        raise Unasked("the stream has no far probes")

    def n_changed(edits: Sequence[Edit]) -> int:
        return sum(bench.changed(bench.editor(edits), probes))

    def find(edits: Sequence[Edit]) -> list[str]:
        target = edits[0].target
        shared = n_changed([replace(edit, target=target) for edit in edits])
        apart = n_changed(other_targets(edits))
        if shared - apart <= len(probes) / 2:
            return []
        return [f"{len(edits)} edits to the one target {target!r} change {shared} of "
                f"{len(probes)} answers out of their scope; edits of the same prompts to several "
                f"targets change {apart}"] * len(edits)  # fmt: skip

    bench.repeatedly(find)


def check_an_edit_without_a_subject_is_written(bench: Bench) -> None:
    """Edits whose subject is not given are written as well as with it."""

    def compare(edits: Sequence[Edit]) -> Compared:
        named = [edit for edit in edits if edit.subject]
        return _compared(
            bench, [replace(edit, subject="") for edit in named], _as_before(bench),
            lambda edit, text: f"{edit.prompt!r}, edited to {edit.target!r} without a subject, is "
            f"answered {text!r}, as by the unedited model; with its subject, it is right",
            plain=named,
        )  # fmt: skip

    bench.no_worse(compare)


def check_a_turn_of_mixed_lengths_is_written(bench: Bench) -> None:
    """Edits of short and long prompts in one turn are written as well as in turns of their own."""

    def find(edits: Sequence[Edit]) -> Sequence[str]:
        rng = random.Random(bench.seed)
        starts = [f"{unrelated_sentences(rng, n)} " if n else "" for n in range(len(edits))]
        mixed = [replace(edit, prompt=start + edit.prompt)
                 for edit, start in zip(edits, starts, strict=True)]  # fmt: skip
        return _compared(
            bench, mixed, _as_before(bench, *edits),
            lambda edit, text: f"{edit.prompt!r}, edited to {edit.target!r} in a turn of prompts "
            f"of mixed lengths, is answered {text!r}; in a turn of its own, it is right",
            turns=[mixed],
        ).worse  # fmt: skip

    bench.repeatedly(find)


def check_the_first_edits_outlive_many_others(bench: Bench) -> None:
    """After 70 more edits the first are not as if never made, if they hold after ten more."""
    others = _many_others(bench)

    def find(edits: Sequence[Edit]) -> Sequence[str]:
        return _compared(
            bench, edits, _as_before(bench),
            lambda edit, text: f"{edit.prompt!r}, edited to {edit.target!r} and followed by "
            f"{_MANY} other edits, is answered {text!r}, as by the unedited model; followed by "
            f"{_FEW}, it is right",
            turns=[edits, others], control=[edits, others[:_FEW]],
        ).worse  # fmt: skip

    bench.repeatedly(find)


def check_new_edits_are_written_after_many_others(bench: Bench) -> None:
    """After 70 other edits a new one is not as if never made, if it holds after ten others."""
    others = _many_others(bench)

    def find(edits: Sequence[Edit]) -> Sequence[str]:
        return _compared(
            bench, edits, _as_before(bench),
            lambda edit, text: f"{edit.prompt!r}, edited to {edit.target!r} after {_MANY} other "
            f"edits, is answered {text!r}, as by the unedited model; after {_FEW}, it is right",
            turns=[others, edits], control=[others[:_FEW], edits],
        ).worse  # fmt: skip

    bench.repeatedly(find)


def _many_others(bench: Bench) -> list[Edit]:
    """70 edits of other subjects than those that the laws edit first; Unasked of fewer."""
    world = bench.loaded.world
    first = {edit.subject for edit in bench.edits(_N_PLACES, least=2)}
    later = bench.stream if world is None else world.stream(bench.seed, 2 * (_MANY + _N_PLACES))
    others = [edit.as_taught() for edit in later.live() if edit.subject not in first][:_MANY]
    if len(others) < _MANY:
        raise Unasked(f"the stream has {len(others)} edits of other subjects; this law needs 70")
    return others


def check_edits_that_begin_alike_are_kept_apart(bench: Bench) -> None:
    """Edits whose prompts share a long beginning are written as well as those that do not."""
    rng, start = random.Random(bench.seed), ""
    while len(start.split()) < _N_WORDS:
        start += unrelated_sentences(rng, 1) + " "

    def compare(edits: Sequence[Edit]) -> Compared:
        return _compared(
            bench, [replace(edit, prompt=start + edit.prompt) for edit in edits],
            _as_before(bench, *edits),
            lambda edit, text: f"{edit.prompt!r} is edited to {edit.target!r} among prompts with "
            f"the same beginning, and is answered {text!r}; without the beginning, it is right",
            plain=edits,
        )  # fmt: skip

    bench.no_worse(compare)
