"""What is taken back leaves nothing: a removal, a reset, and a turn that was refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path

from properties.altered import (
    about_its_subject,
    of_its_target,
    other_targets,
    reworded,
    subject_in,
    too_long,
)
from properties.bench import Bench
from properties.findings import (
    Broken,
    Unasked,
    Undecided,
    needs,
    remade,
    require,
    require_error,
    take_back,
)
from properties.snapshots import (
    Snapshot,
    require_close,
    require_same,
    require_same_answers,
    require_same_threshold,
    snapshot,
)
from wise.editor import Editor, Erasable, Persistent, Prepares
from wise.edits import Edit

_N_WORDINGS = 6
_PLACES = ((0, 1), (4, 0), (1, 1), (1, 0, 1))  # of edits in force, that are removed together
_N_LARGE = 20  # edits of a turn: more than an editor is likely to make at once
_N_AGAIN = 5  # edits: an editor that misses 15 % by chance misses all of them with 1e-4


def _twins(bench: Bench) -> tuple[Edit, Edit, Edit, Edit]:
    """An edit, one with its target and id, one of its subject, and one of another fact."""
    one, two, three, four = bench.edits()
    return one, of_its_target(one, two), about_its_subject(one, four), three


def _asked(bench: Bench, edits: Sequence[Edit]) -> list[str]:
    """The prompts of these edits, some paraphrases of theirs, and a few that the bench asks."""
    paraphrases = [text for edit in edits for text in bench.wordings.get(edit.prompt, ())[:2]]
    return list(dict.fromkeys([*(edit.prompt for edit in edits), *paraphrases, *bench.few_prompts]))


@needs(Erasable)
def check_removing_the_newest_edits_undoes_them(bench: Bench) -> None:
    """An editor whose newest edits are removed answers as one that never had them.

    So is its threshold, where it is Routed. One by one down to the unedited model, or several at
    once; of one turn or not; also where they share the target, id or subject of an edit that stays.
    Everything was asked before each removal.
    """
    one, of_target, of_subject, other = edits = _twins(bench)
    asked = _asked(bench, edits)
    editor = bench.editor()
    expected = [snapshot(bench, editor, asked)]
    for edit in (one, other, of_target):
        editor.edit([edit])
        expected.append(snapshot(bench, editor, asked))
    remade(editor, [[one], [other]])

    def remove(removed: Sequence[Edit], n_left: int) -> None:
        snapshot(bench, editor, asked)
        take_back(editor, removed)
        prompts = " and ".join(repr(edit.prompt) for edit in removed)
        when = f"made last, the edit of {prompts} was removed, and not as if never made: now"
        found = snapshot(bench, editor, asked)
        require_same_answers(found, expected[n_left], when)
        require_same_threshold(found, expected[n_left], when)

    editor.edit([of_target, of_subject])
    for n_left, removed in ((3, of_subject), (2, of_target), (1, other), (0, one)):
        remove([removed], n_left)
    remade(editor, [[one], [other, of_target]])
    remove([of_target, other], 1)


@needs(Erasable)
def check_removing_several_edits_is_removing_each(bench: Bench) -> None:
    """Edits that are removed in one call leave the answers that they leave when removed singly.

    Whichever they are, of the oldest and the newest, in any order, and also given twice.
    """
    edits = bench.edits(7)
    left, asked = list(edits), [edit.prompt for edit in edits]
    editor, other = bench.editor(edits), bench.editor(edits)
    for places in _PLACES:
        removed = [left[place] for place in places]
        take_back(editor, removed)
        for edit in dict.fromkeys(removed):
            take_back(other, [edit])
        call = f"remove([{', '.join(f'edit {edits.index(edit) + 1}' for edit in removed)}])"
        found, expected = (snapshot(bench, each, asked) for each in (editor, other))
        left = [edit for edit in left if edit not in removed]
        for n, edit in enumerate(edits):
            own, wanted = found.answers[n], expected.answers[n]
            kind = ("which it removes" if edit in removed else "which is in force"
                    if edit in left else "removed earlier")  # fmt: skip
            require(
                own.token_ids == wanted.token_ids,
                f"after {call}, edit {n + 1}, {kind}, {edit.prompt!r} -> {edit.target!r}, is "
                f"answered {own.text!r}; removed one by one, they leave {wanted.text!r}",
            )
        require_same_answers(found, expected, f"after {call}, and not as one by one: now")


@needs(Erasable)
def check_removing_a_close_edit_undoes_it(bench: Bench) -> None:
    """An edit that is close to another is removed as if never made, whichever of the two it is.

    The two ask for one fact in two wordings, with one answer or with two. Where the removed one was
    made last, logits are equal too, up to the order of additions. So are they once one more edit is
    made: whichever answer was removed, it is no part of what is learned later.
    """
    one, other, *_ = bench.edits(least=2)
    wordings = [text for text in bench.wordings[one.prompt] if text != one.prompt]
    if not wordings:
        raise Unasked("the stream has no paraphrases")
    asked = list(dict.fromkeys([one.prompt, other.prompt, *wordings[:_N_WORDINGS]]))
    editor = bench.editor([one])
    alone, later = snapshot(bench, editor, asked), list[Snapshot]()
    for answer, target in (("its own", one.target), ("another", other.target)):
        close = Edit(wordings[0], target, subject_in(one, wordings[0]))
        pair = (f"of two edits of one question, {one.prompt!r} and then {close.prompt!r} with "
                f"{answer} answer,")  # fmt: skip
        take_back(remade(editor, [[one], [close]]), [close])
        when = f"{pair} the second was removed, and not as if never made: now"
        require_close(snapshot(bench, editor, asked), alone, when)
        editor.edit([other])
        later.append(snapshot(bench, editor, asked))
        when = f"{pair} the second was removed, and shows in a third that was made then: now"
        require_close(later[-1], later[0], when)
        expected = snapshot(bench, remade(editor, [[close]]), asked)
        take_back(remade(editor, [[one], [close]]), [one])
        when = f"{pair} the first was removed, and not as if never made: now"
        require_same_answers(snapshot(bench, editor, asked), expected, when)


def _wrong_pairs(
    bench: Bench, pairs: Sequence[tuple[Edit, Edit]], editor: Editor
) -> dict[Edit, str]:
    """What is wrong, by older edit, once that of each of `pairs`, which are made, is removed.

    A younger one is lost, or an older one still answered, though neither is so on an editor that
    never had the older ones: so the removal did it, and not how the editor learns.
    """
    olders, youngers = [older for older, _ in pairs], [younger for _, younger in pairs]
    of = [(older, text) for older in olders
          for text in (older.prompt, *bench.wordings.get(older.prompt, ())[:2])]  # fmt: skip
    worded = [reworded(older, text) for older, text in of]
    had = bench.says(editor, [*youngers, *worded])
    for some in filter(None, (olders[:1], olders[1:])):  # one alone, and several at once
        take_back(editor, some)
    has = bench.says(editor, [*youngers, *worded])
    n = len(pairs)
    if has[:n] == had[:n] and not any(has[n:]):
        return {}
    needed = bench.says(bench.editor(youngers), [*youngers, *worded])
    wrong = {}
    for (older, younger), before, now, never in zip(pairs, had, has, needed, strict=False):
        if before and never and not now:
            wrong[older] = (
                f"removing the edit of {older.prompt!r} took that of {younger.prompt!r} with it"
            )
    for (older, text), now, never in zip(of, has[n:], needed[n:], strict=True):
        if now and not never:
            wrong.setdefault(older, (
                f"the edit of {older.prompt!r} was removed, and {text!r} still says "
                f"{older.target!r}; an editor that never had it says otherwise"
            ))  # fmt: skip
    return wrong


@needs(Erasable)
def check_removing_an_edit_leaves_the_others(bench: Bench) -> None:
    """An edit, removed, is no longer answered; a younger one is, whatever the two share.

    One pair of edits of each kind is tried first, and a kind that is wrong there, in several.
    """

    def wrong_of(pairs: Sequence[tuple[Edit, Edit]]) -> dict[Edit, str]:
        return _wrong_pairs(bench, pairs, bench.editor([edit for pair in pairs for edit in pair]))

    twins: dict[str, Callable[[Edit, Edit], Edit]] = {
        "its target and id": of_its_target, "its subject": about_its_subject,
        "nothing": lambda older, other: other,
    }  # fmt: skip
    edits = bench.edits(2 * len(twins), least=2)
    pairs = zip(twins.items(), edits[::2], edits[1::2], strict=False)
    first = {shared: (older, twin(older, other)) for (shared, twin), older, other in pairs}
    wrong = wrong_of(list(first.values()))
    for shared, (older, _) in first.items():

        def find(edits: Sequence[Edit], shared: str = shared) -> list[str]:
            pairs = [(older, twins[shared](older, other))
                     for older, other in zip(edits[::2], edits[1::2], strict=False)]  # fmt: skip
            found = wrong_of(pairs).values()
            return [f"{wrong} (they share {shared})" for wrong in found for _ in range(2)]

        if older in wrong:
            bench.repeatedly(find)


@needs(Erasable)
def check_removing_one_wording_leaves_the_other(bench: Bench) -> None:
    """Of two edits that say one fact in two wordings, the younger outlives the older.

    Also where the older one was enough for both, so that the younger changes no answer: wordings
    of which this is so are taken, and count alone where there are any.
    """

    def find(edits: Sequence[Edit]) -> list[str]:
        worded = [(edit, Edit(text, edit.target, subject_in(edit, text)))
                  for edit in edits for text in bench.wordings.get(edit.prompt, ())]  # fmt: skip
        if not worded:
            raise Unasked("the stream has no paraphrases")
        editor = bench.editor(edits)
        is_known = bench.says(editor, [younger for _, younger in worded])
        first = dict(reversed(worded))
        known = dict(reversed([*compress(worded, is_known)]))
        pairs = [*{**first, **known}.items()]
        for _, younger in pairs:
            editor.edit([younger])
        wrong = _wrong_pairs(bench, pairs, editor)
        counted = known or first
        found = [f"{wrong[older]}; both say one fact" for older in counted if older in wrong]
        return found * (len(pairs) // len(counted))

    bench.repeatedly(find)


@needs(Erasable)
def check_removing_an_edit_brings_back_no_earlier_one(bench: Bench) -> None:
    """A prompt that was edited twice is as if never edited once it is removed, by either record.

    A removal names edits by their prompts: the target and id of the record do not matter.
    """
    one, two, three, _ = bench.edits()
    last = replace(one, target=two.target)
    expected = snapshot(bench, bench.editor([three]), _asked(bench, [one, three]))
    records = {"its first record": one, "its last record": last,
               "a record with its prompt alone": Edit(one.prompt, three.target)}  # fmt: skip
    for what, record in records.items():
        editor = bench.editor([three, one, last])
        take_back(editor, [record], f"edited anew, named by {what}")
        require_same_answers(
            snapshot(bench, editor, expected.prompts), expected,
            f"the edit of {one.prompt!r} to {one.target!r} and then to {last.target!r} was removed "
            f"by {what}, and not as if never made: now",
        )  # fmt: skip


@needs(Erasable)
def check_a_refused_removal_changes_nothing(bench: Bench) -> None:
    """To remove an edit that is not in force is an error, also among others, and removes nothing.

    It is not in force before it is made, nor once removed, nor after a reset, nor because another
    has its target, subject or id, or asks the same in other words. A removal of no edits may be an
    error, and removes none.
    """
    one, of_target, of_subject, other = _twins(bench)
    editor = bench.editor()
    assert isinstance(editor, Erasable)

    def refuse(edits: Sequence[Edit], what: str) -> None:
        assert isinstance(editor, Erasable)
        before = snapshot(bench, editor)
        remove = partial(editor.remove, edits)
        require_error(remove, f"the removal of {what}", KeyError, ValueError)
        when = f"the removal of {what} was refused, and changed something all the same: now"
        require_same(snapshot(bench, editor), before, when)

    refuse([one], "an edit before any was made")
    editor.edit([one])
    editor.edit([other])
    refuse([of_target], "an edit never made, with the target and id of one in force,")
    refuse([of_subject], "an edit never made, about the subject of one in force,")
    for prompt in bench.wordings.get(one.prompt, ())[:1]:
        refuse([reworded(one, prompt)], "what one in force says, in other words,")
    before = snapshot(bench, editor)
    with suppress(KeyError, ValueError):
        editor.remove([])
    require_same(snapshot(bench, editor), before, "after a removal of no edits")
    refuse([one, of_target], "an edit in force and one never made")
    refuse([of_target, one], "one edit never made and one in force")
    many = [
        edit
        for edit in bench.edits(_N_LARGE, least=2)
        if edit.prompt not in {one.prompt, other.prompt, of_target.prompt, of_subject.prompt}
    ]
    if many:
        editor.edit(many)
        refuse([*many, of_target], f"{len(many)} edits in force and one never made")
    take_back(editor, [other])
    refuse([other], "an edit that was removed already")
    editor.edit([one])
    editor.reset()
    refuse([one], "an edit after a reset")


@needs(Erasable)
def check_a_removed_edit_can_be_made_again(bench: Bench) -> None:
    """Edits that are removed and made again are answered again, alike or with another target.

    Broken only where not one of those that were answered before is answered after.
    """
    edits = bench.edits(_N_AGAIN, least=2)
    editor = bench.editor(edits)
    right = bench.says(editor, edits)
    written = [edit for edit, is_right in zip(edits, right, strict=True) if is_right]
    if len(written) < min(len(edits), _N_AGAIN - 1):
        raise Undecided(f"{len(written)} of {len(edits)} edits were written; too few to be missed")
    for again, how in ((written, "alike"), (other_targets(written), "with another target")):
        take_back(editor, written)
        for edit in again:
            editor.edit([edit])
        require(
            any(bench.says(editor, again)),
            f"of {len(again)} edits that were removed and made again, {how}, none is answered; the "
            f"first is {again[0].prompt!r} -> {again[0].target!r}",
        )


def check_a_refused_turn_leaves_nothing(bench: Bench) -> None:
    """A turn that is refused for one of its edits leaves no trace, whichever of them it is.

    Neither at once nor in what is learned later. The refused edit is of a new prompt or of one in
    force; so are the others, or of one in force in other words.
    """
    one, two, three, four = bench.edits()
    worded = [Edit(text, two.target, subject_in(one, text))
              for text in bench.wordings[one.prompt][:1]]  # fmt: skip
    asked = [*bench.few_prompts, *(edit.prompt for edit in worded)]
    editor = bench.editor([one])
    before = snapshot(bench, editor, asked)
    new, known = too_long(bench, three), too_long(bench, one)
    good = [replace(one, target=two.target), two]
    turns = [([*good[:place], new, *good[place:]], place, "new") for place in range(3)]
    turns += [([known], 0, "already edited"), ([two, known], 1, "already edited")]
    turns += [([edit, new], 1, "new") for edit in worded]
    many = [edit for edit in bench.edits(_N_LARGE, least=2)
            if edit.prompt not in {one.prompt, new.prompt}]  # fmt: skip
    turns.append(([*many, new], len(many), "new"))
    for turn, place, kind in turns:
        what = (f"a turn of {len(turn)} edits, of which edit {place + 1}, of a prompt that is "
                f"{kind}, has a target too long for the model,")  # fmt: skip
        try:
            editor.edit(turn)
        except Exception:  # noqa: BLE001 - which error it must be is another law's
            beside = f"beside another wording of {one.prompt!r}, " * (turn[0] in worded)
            when = f"{what} {beside}was refused, and left something all the same: now"
            require_same(snapshot(bench, editor, asked), before, when)
        else:
            raise Broken(f"{what} is accepted; needed: a ValueError")
    editor.edit([four])
    when = "after refused turns, an edit is not learned as without them: now"
    expected = snapshot(bench, bench.editor([one, four]), asked)
    require_same(snapshot(bench, editor, asked), expected, when)


def _operations(bench: Bench, editor: Editor, folder: Path) -> dict[str, Callable[[], object]]:
    """Everything that can be done with `editor`, each from the unedited state, by what it is.

    `folder` is for what is saved.
    """
    one, two, three, _ = bench.edits()

    def edit(*turns: Sequence[Edit]) -> None:
        for turn in turns:
            editor.edit(turn)

    def edit_badly() -> None:
        edit([one])
        with suppress(Exception):  # whether it is refused is another law's
            edit([two, too_long(bench, three)])

    operations: dict[str, Callable[[], object]] = {
        "edits and questions": lambda: (edit([one], [two]), snapshot(bench, editor)),
        "a turn of three edits": lambda: edit([one, two, three]),
        "an overwritten edit": lambda: edit([one], [two], [replace(one, target=two.target)]),
        "a refused turn": edit_badly,
    }
    if isinstance(editor, Erasable):
        operations["a removal"] = lambda: (edit([one], [two]), editor.remove([one]))
    if isinstance(editor, Persistent):
        operations["saving"] = lambda: (edit([one], [two]), editor.save(folder))
        operations["loading"] = lambda: editor.load(folder)
    if isinstance(editor, Prepares):
        # Not `one`: made first, a prepared edit may differ by rounding.
        operations["preparing"] = lambda: editor.prepare([two, three])
    return operations


def check_reset_restores_the_base_model(bench: Bench) -> None:
    """After anything and a reset, the editor and the caller's model are bitwise as before."""
    model = bench.copy_model()
    editor = bench.editor(model=model)
    expected = snapshot(bench, editor)
    with tempfile.TemporaryDirectory() as folder:
        for what, operate in _operations(bench, editor, Path(folder) / "state").items():
            operate()
            editor.reset()
            when = f"after {what} and a reset"
            bench.same(bench.logits(editor, bench.prompts), bench.base_logits, when)
            require_same(snapshot(bench, editor), expected, when)
            found = bench.change_of(model)
            require(not found, f"after {what} and a reset, the caller's model is not as it was: "
                    f"{found}")  # fmt: skip
