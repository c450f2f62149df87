"""An editor under any sequence of operations; its reference is the dictionary of live edits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from hypothesis import seed
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fixtures import strategies
from properties.bench import Bench, Operation
from properties.findings import Broken, Unasked, require
from wise.editor import Erasable, Persistent
from wise.edits import Edit, edits_of

__all__ = ["Operations", "replay"]

_N_STEPS = 8


class Operations:
    """An editor, the edits that must be in force, and every operation so far."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.plain = {edit.prompt for edit in bench.stream.edits}
        self.editor = bench.editor()
        self.live: dict[str, Edit] = {}
        self.gone: dict[str, set[str]] = {}  # answers of edits that were removed
        self.log: list[Operation] = []

    def do(self, name: str, *edits: Edit) -> None:
        """Log and run one operation by its name; Broken where it raises."""
        self.log.append((name, [asdict(edit) for edit in edits]))
        try:
            getattr(self, name)(*edits)
        except (Broken, Unasked):
            raise
        except Exception as error:
            raise Broken(f"{name} raised {type(error).__name__}: {error}") from error

    def edit(self, *edits: Edit) -> None:
        """One turn. A turn with hard edits may be refused, and then changes nothing."""
        try:
            self.editor.edit(edits)
        except ValueError:
            if all(edit.prompt in self.plain for edit in edits):
                raise
            return
        for edit in edits:
            self.live.pop(edit.prompt, None)
            self.gone.setdefault(edit.prompt, set()).discard(self.bench.canonical(edit.target))
            self.live[edit.prompt] = edit

    def remove(self, *edits: Edit) -> None:
        assert isinstance(self.editor, Erasable)
        self.editor.remove(edits)
        for edit in edits:
            self.gone[edit.prompt].add(self.bench.canonical(self.live.pop(edit.prompt).target))

    def reset(self) -> None:
        self.editor.reset()
        self.live, self.gone = {}, {}
        found = self.bench.logits(self.editor, self.bench.prompts)
        require(
            torch.equal(found, self.bench.base_logits),
            "after reset, it is not bitwise the unedited model",
        )

    def save_and_load(self) -> None:
        """Go on with another editor that has loaded what this one saved."""
        assert isinstance(self.editor, Persistent)
        before = self.bench.logits(self.editor, self._prompts())
        with tempfile.TemporaryDirectory() as folder:
            self.editor = self.bench.saved_copy(self.editor, Path(folder) / "state")
        after = self.bench.logits(self.editor, self._prompts())
        require(torch.equal(after, before), "saved and loaded, logits are not bitwise the same")

    def query(self) -> None:
        """Ask every prompt that was ever edited, twice."""
        prompts = self._prompts()
        answers = self.bench.ask(self.editor, prompts)
        again = self.bench.ask(self.editor, prompts)
        require(answers == again, "the same questions, asked twice, are answered differently")
        before = self.bench.base_answers(prompts)
        wrong, n_plain = [], 0
        for prompt, answer, base in zip(prompts, answers, before, strict=True):
            text = self.bench.canonical(answer.text)
            require(
                text not in self.gone.get(prompt, set()) - {self.bench.canonical(base.text)},
                f"{prompt!r} is answered {answer.text!r}, by an edit that was removed",
            )
            if prompt in self.live and prompt in self.plain:
                n_plain += 1
                wrong += [prompt] * (text != self.bench.canonical(self.live[prompt].target))
        allowed = self.bench.allowed_misses(n_plain, n_tests=self.bench.n_examples * (_N_STEPS + 1))
        require(
            len(wrong) <= allowed,
            f"{len(wrong)} of {n_plain} live edits are not answered ({allowed} allowed), "
            f"first {wrong[0] if wrong else ''!r}",
        )

    def _prompts(self) -> list[str]:
        return list(dict.fromkeys([*self.gone, *self.bench.prompts[-2:]]))


def _machine(bench: Bench, keep: Callable[[list[Operation]], None]) -> type[RuleBasedStateMachine]:
    """The rules, over edits of the bench's stream and hard edits of its world.

    `keep` is shown the log of each new sequence.
    """
    edits = [edit.as_taught() for edit in bench.stream.live()]
    targets = sorted({edit.target for edit in edits})
    turns = st.lists(st.sampled_from(edits), min_size=1, max_size=6, unique_by=lambda e: e.prompt)
    if bench.loaded.world is not None:
        hard = strategies.turns(world=bench.loaded.world, max_paraphrases=0, max_size=3)
        turns |= hard.map(lambda turn: [edit.as_taught() for edit in turn])
    example = bench.example

    class Lifelong(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.operations = Operations(bench)
            keep(self.operations.log)

        def some_live(self, index: int) -> Edit:
            live = list(self.operations.live.values())
            return live[index % len(live)]

        @rule(turn=turns)
        def edit(self, turn: list[Edit]) -> None:
            self.operations.do("edit", *turn)

        @precondition(lambda self: self.operations.live)
        @rule(index=st.integers(0, 9), answer=st.sampled_from(targets))
        def overwrite(self, index: int, answer: str) -> None:
            self.operations.do("edit", replace(self.some_live(index), target=answer))

        @precondition(lambda self: any(e.ground_truth for e in self.operations.live.values()))
        @rule(index=st.integers(0, 9))
        def revert(self, index: int) -> None:
            edit = self.some_live(index)
            if edit.ground_truth:
                self.operations.do("edit", replace(edit, target=edit.ground_truth))

        @rule()
        def query(self) -> None:
            self.operations.do("query")

        @precondition(lambda self: self.operations.live)
        @rule()
        def reset(self) -> None:
            self.operations.do("reset")

        @precondition(lambda self: isinstance(example, Persistent) and self.operations.live)
        @rule()
        def save_and_load(self) -> None:
            self.operations.do("save_and_load")

        @precondition(lambda self: isinstance(example, Erasable) and self.operations.live)
        @rule(index=st.integers(0, 9))
        def remove(self, index: int) -> None:
            self.operations.do("remove", self.some_live(index))

        def teardown(self) -> None:
            try:
                self.operations.do("query")
            finally:
                del self.operations  # and its model: Hypothesis holds on to machines for a while

    return Lifelong if bench.is_random else seed(0)(Lifelong)


def check_any_sequence_of_operations(bench: Bench) -> None:
    """After any edits, overwrites, reverts, removals, resets, saves and loads, live edits hold.

    No removed edit is answered and every state is exact. Live edits are answered, except for as
    many as an editor just at the reliability threshold misses, over all sequences, with probability
    1e-4.
    """
    kept: list[list[Operation]] = []
    machine = _machine(bench, lambda log: kept.__setitem__(slice(None), [log]))
    try:
        run_state_machine_as_test(
            machine, settings=bench.tries(stateful_step_count=_N_STEPS, print_blob=False)
        )
    except Flaky as error:
        raise Broken("the same operations, run again, ended differently") from error
    except Broken as error:
        (log,) = kept
        steps = "; ".join(_words(operation) for operation in log)
        again = bench.on_broken(log)
        bench.record("stream", steps)
        bench.record("replay", again)
        again = f". Again: {again}" if again else ""
        raise Broken(f"{error}. Shortest sequence: {steps}{again}") from None


def _words(operation: Operation) -> str:
    name, edits = operation
    about = ", ".join(f"{edit['prompt']!r} -> {edit['target']!r}" for edit in edits)
    return f"{name.replace('_', ' ')} {about}".strip()


def replay(bench: Bench, log: list[Operation]) -> None:
    """Run a sequence of operations again; Broken where it breaks."""
    operations = Operations(bench)
    for name, edits in log:
        operations.do(name, *edits_of(edits))
