"""An editor is what its turns made it, whatever else was called before, between and after them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from hypothesis import Phase

from properties.altered import reworded, subject_in, too_long
from properties.bench import Bench
from properties.findings import Broken, Unasked, close, require
from properties.laws.exports import taken
from properties.snapshots import Snapshot, require_close, require_same, snapshot
from wise.editor import Editor, Erasable, Exports, Persistent, Prepares
from wise.edits import Edit

_AT_MOST = 5  # calls in a row without a question

_OF_LISTS = "; it is right where the caller does not empty its list of edits after each call"

_Made = tuple[str, ...]  # the turns in force, by their names
_Place = tuple[int, int]  # how many turns are in force, and in the saved state; -1 without one


class _Turn(NamedTuple):
    """A call of `edit`, `remove` or `prepare`."""

    method: str
    edits: Sequence[Edit]


def _facts(bench: Bench) -> tuple[Edit, Edit, Edit, Edit]:
    """The edits A, B and C, and D: that of C in other words, with another target.

    D is made later, and its prompt comes before that of C in the alphabet.
    """
    a, b, c, other = bench.edits()
    worded = bench.wordings[c.prompt]
    if not worded:
        raise Unasked("the stream has no paraphrases")
    first, last = sorted((c.prompt, worded[0]))
    return a, b, reworded(c, last), Edit(first, other.target, subject_in(c, first))


def _turns(bench: Bench) -> dict[str, _Turn]:
    """Turns of every kind, by what they are, in the order in which they are made."""
    a, b, c, d = _facts(bench)
    turns = {
        "edit A and C in a turn": _Turn("edit", [a, c]),
        "edit B, A and D in a turn": _Turn("edit", [b, a, d]),
        "remove A, B and D, the last turn": _Turn("remove", [d, a, b, d]),
        "edit C and A to other targets": _Turn(
            "edit", [replace(c, target=a.target), replace(a, target=b.target)]
        ),
        "remove C": _Turn("remove", [c]),
    }
    can_remove = isinstance(bench.example, Erasable)
    return {call: turn for call, turn in turns.items() if can_remove or turn.method == "edit"}


def _others(bench: Bench) -> list[str]:
    """Calls that write nothing, and those that go back to where the editor was."""
    needed = {
        "export": Exports, "prepare other edits": Prepares, "refused calls": Editor,
        "save and go on with a fresh editor": Persistent, "questions": Editor,
        "load": Persistent, "reset": Editor, "save": Persistent,
    }  # fmt: skip
    return [call for call, capability in needed.items() if isinstance(bench.example, capability)]


def _refusals(bench: Bench) -> list[_Turn]:
    """Calls that this editor refuses; which of them it must refuse is for other laws."""
    a, b, c, _ = _facts(bench)
    calls = []
    with suppress(Unasked):
        long = too_long(bench, a)
        calls += [_Turn("edit", [long]), _Turn("edit", [replace(b, target=a.target), long])]
    if isinstance(bench.example, Erasable):
        calls.append(_Turn("remove", [a, Edit(f"{a.prompt} and {b.prompt}", c.target)]))
    return [call for call in calls if _Course(bench.editor()).is_refused(call)]


def _walk(turns: Sequence[str], others: Sequence[str]) -> list[str]:
    """Calls in which each follows each that it can follow, directly; questions are never far.

    Each call also comes between two questions. The turns are made in their order; "reset" goes back
    before the first, and "load" to where "save" was last called, if that is elsewhere. At last each
    turn is taken back by a "load" and questions follow, as another call could hide what is left.
    """
    order = {call: n for n, call in enumerate(turns)}

    def after(call: str, place: _Place) -> _Place | None:
        """Where a call leads; None where it cannot be made."""
        n_made, n_saved = place
        if call in order:
            return (n_made + 1, n_saved) if order[call] == n_made else None
        if call == "load":
            return (n_saved, n_saved) if n_saved not in (-1, n_made) else None
        return 0 if call == "reset" else n_made, n_made if call == "save" else n_saved

    def nearest(last: str, place: _Place) -> list[tuple[str, _Place]]:
        """The fewest calls to one that has not followed its predecessor; none where all have."""
        paths, seen = deque([[(last, place)]]), {(last, place)}
        while paths:
            path = paths.popleft()
            last, place = path[-1]
            for call in (*others, *turns):
                reached = after(call, place)
                if reached is None:
                    continue
                if (last, call) not in done:
                    return [*path[1:], (call, reached)]
                if (call, reached) not in seen:
                    seen.add((call, reached))
                    paths.append([*path, (call, reached)])
        return []

    done: set[tuple[str, str]] = set()
    framed = {"questions"}  # calls that came directly between two questions
    walk, place = ["questions"], (0, -1)
    while steps := nearest(walk[-1], place):
        is_framed = walk[-2:-1] != ["questions"] or walk[-1] in framed
        if not is_framed or "questions" not in walk[-_AT_MOST:]:
            framed.add(walk[-1])
            steps = [("questions", place)]
        for call, reached in steps:
            done.add((walk[-1], call))
            walk.append(call)
            place = reached
    if "load" in others:
        walk.append("reset")
        for turn in turns:
            walk += ["save", turn, "load", "questions", turn]
    return walk


def _told(turn: _Turn) -> str:
    """A call that is refused, in words."""
    if turn.method == "remove":
        return f"a removal of {turn.edits[-1].prompt!r}, which is not in force,"
    return (f"a turn of {len(turn.edits)} edits with a target beyond the context for "
            f"{turn.edits[-1].prompt!r}")  # fmt: skip


@dataclass
class _Course:
    """An editor and what has become of it.

    It is given all edits in one and the same list, which is filled for a call and empty after it;
    or, without a list, in tuples.
    """

    editor: Editor
    given: list[Edit] | None = None
    made: _Made = ()
    saved: _Made | None = None
    called: list[str] = field(default_factory=list)
    before: list[_Made] = field(default_factory=list)  # each call, the turns in force

    def make(self, turn: _Turn) -> None:
        make = getattr(self.editor, turn.method)
        if self.given is None:
            make(tuple(turn.edits))
            return
        self.given[:] = turn.edits
        try:
            make(self.given)
        finally:
            self.given.clear()

    def is_refused(self, turn: _Turn) -> bool:
        try:
            self.make(turn)
        except Exception:  # noqa: BLE001 - whatever a stranger's editor raises
            return True
        return False


@dataclass(frozen=True)
class _Histories:
    """Calls of an editor, which is compared with one that only made the turns in force."""

    bench: Bench
    folder: Path

    @cached_property
    def turns(self) -> dict[str, _Turn]:
        return _turns(self.bench)

    @cached_property
    def refusals(self) -> list[_Turn]:
        return _refusals(self.bench)

    @cached_property
    def asked(self) -> list[str]:
        """The prompts of all edits, a paraphrase of A and one of C and D, and one out of scope."""
        edits, wordings = _facts(self.bench), self.bench.wordings
        a, _, c, _ = self.bench.edits()
        far = self.bench.far_prompts[:1]
        others = [*wordings[a.prompt][:1], *wordings[c.prompt][1:2], *far]
        return list(dict.fromkeys([*(edit.prompt for edit in edits), *others]))

    @cached_property
    def _expected(self) -> dict[_Made, Snapshot]:
        return {}

    def expected(self, made: _Made) -> Snapshot:
        """What an editor shows that only made these turns, and is asked for the first time."""
        if made not in self._expected:
            course = _Course(self.bench.editor())
            for turn in made:
                self._call(course, turn)
            self._expected[made] = snapshot(self.bench, course.editor, self.asked)
        return self._expected[made]

    def finding(self, calls: Sequence[str], *, in_tuples: bool = False) -> tuple[str, _Course]:
        """What is wrong after `calls`, "" where nothing is; and the course up to there."""
        course = _Course(self.bench.editor(), None if in_tuples else [])
        try:
            for call in calls:
                self._call(course, call)
        except Broken as error:
            return str(error), course
        return "", course

    def _call(self, course: _Course, call: str) -> None:
        """Make a call, where it can be made; Broken where something is wrong then."""
        course.called.append(call)
        course.before.append(course.made)
        what = f"after {', '.join(course.called)}"
        try:
            self._make(course, call, what)
        except (Broken, Unasked):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise Broken(f"{what}: the last of these calls raises {reason}") from error

    def _make(self, course: _Course, call: str, what: str) -> None:
        editor = course.editor
        as_if = f"not as after {', '.join(course.made) or 'a reset'} alone: now"
        if call in self.turns:
            turn = self.turns[call]
            prompts = {edit.prompt for edit in turn.edits}
            if turn.method == "edit" or prompts <= self._live(course.made):
                course.make(turn)
                course.made += (call,)
        elif call == "questions":
            with torch.inference_mode():  # what is made of a question may be needed for an edit
                found = snapshot(self.bench, editor, self.asked)
            require_same(found, self.expected(course.made), f"{what}, an editor is {as_if}")
        elif call == "refused calls":
            for refused in self.refusals:
                require(course.is_refused(refused), f"{what}, {_told(refused)} is accepted, which "
                        "an editor without edits refuses")  # fmt: skip
        elif call == "reset":
            editor.reset()
            course.made = ()
        elif call == "prepare other edits":
            a, b, c, d = _facts(self.bench)
            others = [replace(a, target=b.target), replace(c, target=a.target),
                      replace(d, target=a.target)]  # fmt: skip
            course.make(_Turn("prepare", others))
        elif call == "export":
            self._export(course, f"{what}, the exported folder is {as_if}")
        elif call == "load":
            assert isinstance(editor, Persistent)
            if course.saved is not None:
                editor.load(self.folder / "state")
                course.made = course.saved
        else:
            assert isinstance(editor, Persistent)
            if call == "save":
                editor.save(self.folder / "state")
                course.saved = course.made
            else:
                course.editor = self.bench.saved_copy(editor, self.folder / "other state")

    def _live(self, made: _Made) -> set[str]:
        """The prompts whose edits are in force."""
        live: set[str] = set()
        for method, edits in (self.turns[turn] for turn in made):
            prompts = {edit.prompt for edit in edits}
            live = live | prompts if method == "edit" else live - prompts
        return live

    def _export(self, course: _Course, when: str) -> None:
        assert isinstance(course.editor, Exports)
        path, expected = self.folder / "exported", self.expected(course.made)
        try:
            course.editor.export(path)
            editor = taken(self.bench, path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
        batch = self.bench.batch(self.asked)
        found = editor.logits(batch.input_ids, batch.attention_mask)[:, -1]
        if not close(found, expected.logits[:, -1]):
            require_close(snapshot(self.bench, editor, self.asked), expected, when)


def check_an_editor_is_what_its_turns_made_it(bench: Bench) -> None:
    """Bitwise as one that was only taught what is in force, whichever two calls came last.

    One editor goes through all ordered pairs of calls: turns of edits that are new, known, edited
    anew or in other words, removals, resets, saves, loads, exports, preparations, refused calls and
    questions, which are asked in inference mode. All edits are given in one list, which is empty
    after each call. An exported folder answers as the editor, up to the order of additions.
    """
    with tempfile.TemporaryDirectory() as folder:
        histories = _Histories(bench, Path(folder))
        message, course = histories.finding(_walk(list(histories.turns), _others(bench)))
        if message:
            if Phase.shrink in bench.phases:
                is_of_lists = not histories.finding(course.called, in_tuples=True)[0]
                message = _shortest(histories, course) or message
                message += _OF_LISTS if is_of_lists else ""
            raise Broken(f"{message}{_legend(bench, message)}")


def _shortest(histories: _Histories, course: _Course) -> str:
    """What is wrong after a shortest history that ends as `course` does; "" where nothing is."""

    def found(calls: Sequence[str]) -> tuple[str, list[str]]:
        ended = calls if calls[-1] == "export" else [*calls, "questions"]
        message, course = histories.finding(ended)
        return message, course.called

    message, calls, n = "", course.called, 1
    while not message and n < 2 * len(course.called):
        start = course.before[-n] if n <= len(course.before) else ()
        message, calls = found([*start, *course.called[-n:]])
        n *= 2
    at = 0
    while message and at < len(calls):
        shorter, fewer = found([*calls[:at], *calls[at + 1 :]]) if len(calls) > 1 else ("", calls)
        if shorter and len(fewer) < len(calls):
            message, calls = shorter, fewer
        else:
            at += 1
    return message


def _legend(bench: Bench, told: str) -> str:
    """What the letters of the turns in a message stand for."""
    edits = zip("ABCD", _facts(bench), strict=True)
    named = [f"{name} is {edit.prompt!r} -> {edit.target!r}" for name, edit in edits
             if re.search(rf"\b{name}\b", told)]  # fmt: skip
    return "".join(f"; {each}" for each in named)
