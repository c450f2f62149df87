"""Prompts that look alike are different questions: they differ in one digit, letter or accent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from fixtures.lexicon import EVENTS, OPENINGS
from properties.altered import accented, longer_named, neighbours, numbered, of_its_target, renamed
from properties.bench import Bench
from properties.findings import Broken, Unasked, close, needs, remade, require
from wise.editor import Editor, Routed
from wise.edits import Edit

_N_TRIED = 20  # edits
_N_IN_SCRIPT = 6
_CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхижклмнопярстувшыйз")
_OTHER_LETTERS = "щщщщщ ъщ ъщ ъщ"
_BEFORE = f"{OPENINGS[0]} {EVENTS[0]}"  # a sentence, by which a prompt is not the edit's own


def _numbered_last(edit: Edit, number: int) -> Edit:
    """The edit with a number behind its prompt."""
    return replace(edit, prompt=f"{edit.prompt} {number}")


def check_another_number_is_another_question(bench: Bench) -> None:
    """After a turn of two edits whose prompts differ in one digit, neither is as if never made.

    The digit stands inside the prompts, or is the last thing in them. Bitwise, so that an edit may
    be written badly, or reach the other's prompt, but not be left out. Not asked where the model
    itself sees no difference, nor of an editor that holds only one of any two edits.
    """
    one, other, *_ = bench.edits(least=2)
    pairs = {place: (form(one, 14), of_its_target(other, form(one, 17)))
             for place, form in (("", numbered), (", their last", _numbered_last))}  # fmt: skip
    prompts = [edit.prompt for edit in (*chain(*pairs.values()), one, other)]
    unedited, editor = bench.logits(bench.base, prompts), bench.editor()
    seen = {place: pair for n, (place, pair) in enumerate(pairs.items())
            if not close(unedited[2 * n], unedited[2 * n + 1])}  # fmt: skip
    if not seen:
        raise Unasked("the model sees no difference between two numbers")

    def after(*turn: Edit) -> Tensor:
        return bench.logits(remade(editor, [turn]), prompts)

    for place, pair in seen.items():
        of_both, of_each = after(*pair), [after(edit) for edit in pair]
        for lost, kept in ((0, 1), (1, 0)):
            if of_each[lost].equal(unedited) or not of_both.equal(of_each[kept]):
                continue
            if any(after(one, other).equal(after(edit)) for edit in (one, other)):
                raise Unasked("it holds only one of two edits")
            raise Broken(
                f"of a turn of two edits whose prompts differ in one digit{place}, "
                f"{pair[lost].prompt!r} -> {pair[lost].target!r} is left out: the editor is "
                f"bitwise as after {pair[kept].prompt!r} -> {pair[kept].target!r} alone; needed: "
                "prompts compared whole"
            )


@needs(Routed)
def check_a_question_in_another_script_is_read(bench: Bench) -> None:
    """An edit's prompt in Cyrillic letters is not routed as a text of other ones, after a sentence.

    Bitwise, so that a router may send both where it will, but not be blind to their letters. Broken
    only where it is so of every edit that is tried.
    """
    edits = bench.edits(_N_IN_SCRIPT, least=1)
    asked = [edit.prompt.lower().translate(_CYRILLIC) for edit in edits]
    alike = 0
    for edit, prompt in zip(edits, asked, strict=True):
        editor = bench.editor([replace(edit, prompt=prompt, subject="")])
        assert isinstance(editor, Routed)
        one, other = (bench.activations(editor, [f"{_BEFORE} {text}"])
                      for text in (prompt, _OTHER_LETTERS))  # fmt: skip
        alike += torch.equal(one, other)
    require(
        alike < len(edits),
        f"{asked[-1]!r}, edited, is routed after {_BEFORE!r} bitwise as {_OTHER_LETTERS!r}, with "
        "which it shares no letter: neither is read",
    )


def _other_names(edit: Edit) -> dict[str, str]:
    """Other names that differ from the subject in one letter or word, by what that is."""
    subject = edit.subject
    last = "n" if subject[-1:] != "n" else "r"
    names = {"the last letter": subject[:-1] + last, "a word behind": longer_named(edit).subject}
    for n, letter in enumerate(subject):
        if accented(letter) != letter:
            return {**names, "an accent": subject[:n] + accented(letter) + subject[n + 1 :]}
    return names


def check_one_letter_makes_another_name(bench: Bench) -> None:
    """Two edits, of names that differ in one letter or accent, are not both answered by one target.

    Nor are those of names of which one begins the other. Not in all of several pairs of which each
    edit alone is right. They are so many that an editor at the reliability threshold, which errs at
    random, fails with a chance of 1e-4.
    """
    edits = [edit for edit in bench.edits(_N_TRIED, least=2)
             if edit.subject and edit.subject in edit.prompt]  # fmt: skip
    pairs: dict[str, list[tuple[Edit, Edit]]] = {}
    for edit, next_edit in neighbours(edits):
        for kind, name in _other_names(edit).items():
            other = of_its_target(next_edit, renamed(edit, name))
            if not bench.same_text(edit.target, other.target) and _differ(bench, edit, other):
                pairs.setdefault(kind, []).append((edit, other))
    if not pairs:
        raise Unasked("no two edits have subjects and different targets")
    editor, needed = bench.editor(), bench.misses_in_a_row(n_tests=len(pairs))
    for kind, every in pairs.items():
        n_mixed_up = 0
        for pair in every:
            wrong = _mixed_up(bench, editor, pair)
            if not wrong:
                break
            if all(all(bench.held([[edit]], [edit])) for edit in pair):
                n_mixed_up += 1
            require(
                n_mixed_up < needed,
                f"names that differ in {kind} are taken for one: {wrong}; each edit alone is right "
                f"(so it is with all {n_mixed_up} pairs tried)",
            )


def _differ(bench: Bench, one: Edit, other: Edit) -> bool:
    """Whether the tokenizer tells the prompts apart."""
    ids, other_ids = bench.loaded.tokenizer([one.prompt, other.prompt]).input_ids
    return bool(ids != other_ids)


def _mixed_up(bench: Bench, editor: Editor, pair: Sequence[Edit]) -> str:
    """What is wrong where both prompts are answered by one of the targets; "" where not."""
    answers = bench.ask(remade(editor, ([e] for e in pair)), [edit.prompt for edit in pair])
    texts = [answer.text for answer in answers]
    taken = [edit for edit in pair if all(bench.same_text(text, edit.target) for text in texts)]
    if not taken:
        return ""
    one, other = pair
    return (
        f"{one.prompt!r} is edited to {one.target!r} and {other.prompt!r} to {other.target!r}, and "
        f"both are answered {taken[0].target!r}"
    )
