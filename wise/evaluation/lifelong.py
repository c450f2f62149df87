"""Apply an edit stream and measure on the way: after each turn, and in full at checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.editor import Editor, Persistent, Routed
from wise.edits import Background, Edit, EditStream
from wise.evaluation.askable import n_new_tokens
from wise.evaluation.asked import (
    Question,
    at_edit_questions,
    drift_questions,
    final_questions,
    fluency_questions,
    knowledge_questions,
)
from wise.evaluation.metrics import BY_TOKENS, BaseAnswers, Measured, measure
from wise.evaluation.provenance import check_provenance, keep_provenance, provenance_of
from wise.evaluation.routing import measure_routing, routed_questions
from wise.lm.architectures import context_length
from wise.lm.decoding import Reader, Unedited
from wise.measures import rows
from wise.measures.estimates import MAIN_PROTOCOLS, PROTOCOL_WORDS

__all__ = ["LifelongRun", "check_resumable", "now", "reader_of", "run_lifelong"]

_SAVE_EVERY = 50  # turns between saved states, for editors that can save


@dataclass(frozen=True)
class Block:
    """Questions asked together after `end` edits, of which [begin, end) are the last turn.

    They ask for what the unedited model knows or finds likelier ("unedited"), for the edits of that
    turn ("at-edit"), for everything at a checkpoint ("final"), or for the routing activations of
    the latter. Each question is a row. `name` is unique in its plan.
    """

    name: str
    begin: int
    end: int
    kind: Literal["unedited", "at-edit", "final", "routing"]
    protocol: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class LifelongRun:
    """One run's identity and settings. `checkpoints` are the T at which everything is measured.

    `spec` and `options` name what made the editor, and `background` is what it saw of the world;
    without a `spec` its source is not known, and a change of it not seen when the run is resumed.
    With `tells_knowledge`, the first rows tell which edits replace a fact that the model knows: for
    a model that was not trained on the facts. Raises ValueError for a checkpoint outside 1..T, an
    unknown protocol and a turn without edits.
    """

    editor: str
    model: str
    seed: int
    stream: EditStream
    checkpoints: tuple[int, ...]
    protocols: tuple[str, ...] = MAIN_PROTOCOLS
    edits_per_turn: int = 1
    spec: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    background: Background = field(default_factory=Background)
    tells_knowledge: bool = False

    def __post_init__(self) -> None:
        n_edits = len(self.stream.edits)
        for t in self.checkpoints:
            if not 1 <= t <= n_edits:
                raise ValueError(f"checkpoint {t} is outside the stream's 1..{n_edits} edits")
        for protocol in self.protocols:
            if protocol not in PROTOCOL_WORDS:
                raise ValueError(f"protocol={protocol!r} is none of {', '.join(PROTOCOL_WORDS)}")
        if self.edits_per_turn < 1:
            raise ValueError(f"edits_per_turn={self.edits_per_turn} must be >= 1")
        if "drift" in self.protocols and not self._asked("drift", 0):
            raise ValueError(
                "protocol='drift' has no text to read: the stream has no far probes, and the "
                "background no texts"
            )

    @property
    def identity(self) -> rows.Run:
        """What all rows of the run share."""
        stream = self.stream
        return rows.Run(self.editor, self.model, stream.name, stream.sha256, self.seed)

    def judged(self) -> LifelongRun:
        """The same with what is judged alone: the last checkpoint, by the first protocol."""
        return replace(self, checkpoints=self.checkpoints[-1:], protocols=self.protocols[:1])

    def plan(self, *, is_routed: bool) -> tuple[Block, ...]:
        """All blocks, in the order of the work: each turn's edits, then its checkpoint.

        A turn also ends at each checkpoint. A routed editor's run has its routing too.
        """
        edits, step = self.stream.edits, self.edits_per_turn
        stops = pairwise(sorted({0, *self.checkpoints, len(edits)}))
        ends = [end for a, b in stops for end in (*range(a + step, b, step), b)]
        blocks = []
        if self.tells_knowledge and (known := tuple(knowledge_questions(edits))):
            blocks.append(Block("knowledge", 0, 0, "unedited", "forced", known))
        for each in self.protocols:
            if each in rows.ASKED_BEFORE and self.checkpoints:
                before = tuple(
                    replace(question, age=0)
                    for question in self._asked(each, max(self.checkpoints))
                    if not question.kind.startswith("divergence")  # which is from itself, and 0
                )
                blocks.append(Block(f"unedited {each}", 0, 0, "unedited", each, before))
        for begin, end in pairwise([0, *ends]):
            own = tuple(at_edit_questions(edits[begin:end]))
            blocks.append(Block(f"edit {end}", begin, end, "at-edit", "free", own))
            if end not in self.checkpoints:
                continue
            name = f"checkpoint {end}"
            blocks += [Block(f"{name} {each}", begin, end, "final", each, self._asked(each, end))
                       for each in self.protocols]  # fmt: skip
            if is_routed:
                routed = tuple(routed_questions(self._asked("free", end)))
                blocks.append(Block(f"{name} routing", begin, end, "routing", "free", routed))
        return tuple(blocks)

    def _asked(self, protocol: str, t: int) -> tuple[Question, ...]:
        """What is asked by a protocol after `t` edits: of drift, the same texts at every T."""
        if protocol == "drift":
            return tuple(drift_questions(self.stream, self.background))
        stream = self.stream.prefix(t)
        if protocol == "fluency":
            return tuple(fluency_questions(stream))
        return tuple(final_questions(stream, protocol=protocol))

    def row(self, block: Block, measured: Measured) -> rows.Row:
        question = measured.question
        return rows.Row(
            **self.identity._asdict(), protocol=block.protocol,
            when="final" if block.kind == "routing" else block.kind, t=block.end,
            metric=question.metric, kind=question.kind, edit_id=question.edit_id,
            cluster=question.subject, age=question.age, prompt=question.prompt,
            expected=measured.expected, answer=measured.answer, score=measured.score,
            block=block.name, excluded=question.excluded, value=measured.value,
            aliases=question.aliases,
        )  # fmt: skip


def run_lifelong(
    run: LifelongRun,
    editor: Editor,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    bar_of: Callable[..., tqdm] = tqdm,
    after_turn: Callable[[int, int, float], None] | None = None,
) -> list[rows.Row]:
    """Edit, measure, write rows to `path` block by block, and return all of them.

    `editor` must hold no edit yet, and a model of its own: `model` is the unedited one, which is
    asked first, and for drift at each checkpoint too. With `resume`, complete blocks in `path` are
    kept, and their edits only made again (from a saved state where the editor can save); the rows
    are those of an uninterrupted run, and rows of any other run a ValueError that names what
    differs. Without it, existing rows at `path` are an error. `bar_of` makes the progress bars.
    `after_turn` is called after each turn that is made here, before it is measured, with its edits'
    range [begin, end) and its seconds.
    """
    blocks = run.plan(is_routed=isinstance(editor, Routed))
    provenance = provenance_of(run, model, tokenizer)
    if resume:
        check_provenance(path, provenance)
    states = path.with_name(f"{path.name}.states")
    if resume and _is_finished(path, run, blocks):
        shutil.rmtree(states, ignore_errors=True)
        return rows.read_rows(path)
    bar_of = partial(bar_of, disable=not progress, mininterval=1)
    with (
        rows.RowWriter(path, run.identity, resume=resume) as writer,
        bar_of(unit="question", desc="asked", leave=False) as asked_so_far,
    ):
        keep_provenance(path, provenance)
        done = set(writer.blocks)
        reader = reader_of(model, tokenizer, run.stream)
        reader = replace(reader, on_batch=asked_so_far.update)
        asked = [question for block in blocks for question in block.questions]
        asked_so_far.reset(total=_n_prompts(run, blocks, done))
        unedited = Unedited(model, tokenizer)
        base = BaseAnswers.ask(model, reader, asked, forced=not BY_TOKENS.isdisjoint(run.protocols))
        begin_at = _restore(editor, states, blocks, done)
        n_edits = len(run.stream.edits)
        with bar_of(total=n_edits, initial=begin_at, unit="edit", desc=run.editor) as bar:
            turns = groupby(blocks, key=lambda block: (block.begin, block.end))
            for turn, ((begin, end), of_turn) in enumerate(turns, start=1):
                if end > begin_at:
                    start = now(model.device)
                    with _located(begin + 1, run.stream.edits[begin:end]):
                        editor.edit([edit.as_taught() for edit in run.stream.edits[begin:end]])
                    seconds = now(model.device) - start
                    bar.update(end - begin)
                    if after_turn is not None:
                        after_turn(begin, end, seconds)
                for block in of_turn:
                    if block.name not in done:
                        bar.set_postfix_str(f"measuring {block.name}")
                        asked_of = unedited if block.kind == "unedited" else editor
                        writer.write_block(list(_measured(run, block, asked_of, reader, base)))
                    if block.kind == "at-edit" and end > begin_at and turn % _SAVE_EVERY == 0:
                        _save(editor, states, end)
    shutil.rmtree(states, ignore_errors=True)
    return rows.read_rows(path)


def check_resumable(
    run: LifelongRun, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path
) -> None:
    """Raise ValueError, naming what differs, where `path` holds what `run` cannot go on with."""
    check_provenance(path, provenance_of(run, model, tokenizer))
    if path.exists():
        rows.check_rows(path, run.identity)


@contextmanager
def _located(first: int, edits: Sequence[Edit]) -> Iterator[None]:
    """An error inside says at which edits of the stream it came, counted from `first`."""
    try:
        yield
    except Exception as error:
        which = f"edit {first}" if len(edits) == 1 else f"edits {first} to {first + len(edits) - 1}"
        error.add_note(f"at {which} of the stream, {edits[0].prompt!r} -> {edits[0].target!r}")
        raise


def now(device: torch.device) -> float:
    """The time in seconds, once the accelerator has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _measured(
    run: LifelongRun, block: Block, editor: Editor, reader: Reader, base: BaseAnswers
) -> Iterator[rows.Row]:
    if block.kind == "routing":
        found = measure_routing(cast(Routed, editor), reader, block.questions)
    else:
        found = iter(measure(editor, reader, block.questions, block.protocol, base))
    return (run.row(block, measured) for measured in found)


def _n_prompts(run: LifelongRun, blocks: Sequence[Block], done: Set[str]) -> int:
    """About how many prompts are read for the blocks that are missing, the unedited model first."""
    locality = {q.prompt for each in blocks for q in each.questions if q.metric == "locality"}
    n_readings = 1 + (not BY_TOKENS.isdisjoint(run.protocols))
    texts = {q.prompt for each in blocks for q in each.questions if q.metric == "drift"}
    missing = (_n_readings(each) for each in blocks if each.name not in done)
    return n_readings * len(locality) + len(texts) + sum(missing)


def _n_readings(block: Block) -> int:
    """About how many prompts are read for a block."""
    asked = [question.prompt for question in block.questions if not question.excluded]
    if block.protocol == "drift":
        return len(set(asked))
    return len(asked) * (1 + (block.protocol == "compared"))


def _is_finished(path: Path, run: LifelongRun, blocks: Sequence[Block]) -> bool:
    """Whether `path` holds all rows of `blocks`."""
    try:
        held = rows.read_rows(path)
    except (FileNotFoundError, ValueError):  # cut off, or no rows: resuming raises the error
        return False
    expected = [block.name for block in blocks for _ in block.questions]
    return [row.block for row in held] == expected and {row.run for row in held} == {run.identity}


def reader_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stream: EditStream
) -> Reader:
    """The reader whose `max_new_tokens` fit every target and every consequence of `stream`.

    It is also the number over which locality is compared where the unedited model does not stop.
    Raises as `n_new_tokens`.
    """
    most = context_length(model)
    return Reader(tokenizer, n_new_tokens(tokenizer, stream, most), model.device, most)


def _save(editor: Editor, states: Path, t: int) -> None:
    """Keep the state after `t` edits, and no older one."""
    if not isinstance(editor, Persistent):
        return
    partial, final = states / f"{t}.partial", states / str(t)
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    editor.save(partial)
    partial.rename(final)
    for other in states.iterdir():
        if other != final:
            _discard(other)


def _discard(state: Path) -> None:
    """Delete a saved state; after a kill, what is left does not count as one."""
    doomed = state.with_suffix(".partial")
    if doomed != state:
        shutil.rmtree(doomed, ignore_errors=True)
        state.rename(doomed)
    shutil.rmtree(doomed)


def _restore(editor: Editor, states: Path, blocks: Sequence[Block], done: Set[str]) -> int:
    """Load the newest state from which all missing blocks can be measured; returns its T.

    Later states are deleted. Where no block is `done`, all are, as they belong to another run.
    """
    if not isinstance(editor, Persistent) or not states.is_dir():
        return 0
    first_missing = next((block.end for block in blocks if block.name not in done), blocks[-1].end)
    usable = {block.end for block in blocks if done and block.end <= first_missing}
    saved = {int(folder.name) for folder in states.iterdir() if folder.name.isdigit()}
    for t in saved - usable:
        _discard(states / str(t))
    kept = max(saved & usable, default=0)
    if kept:
        editor.load(states / str(kept))
    return kept
