"""Apply an edit stream and measure on the way: after each turn, and in full at checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.editor import Editor, Persistent, Routed
from wise.edits import EditStream
from wise.evaluation.metrics import (
    BaseAnswers,
    Measured,
    Reader,
    at_edit_questions,
    final_questions,
    measure,
)
from wise.evaluation.routing import measure_routing, routed_questions
from wise.measures import rows

__all__ = ["PROTOCOLS", "LifelongRun", "reader_of", "run_lifelong"]

PROTOCOLS = ("free", "forced")
_SAVE_EVERY = 50  # turns between saved states, for editors that can save
_EXTRA_TOKENS = 2  # an answer may be this much longer than the longest known one
_LEAST_TOKENS = 8


@dataclass(frozen=True)
class LifelongRun:
    """One run's identity and settings. `checkpoints` are the T at which everything is measured.

    Raises ValueError for a checkpoint outside 1..T, an unknown protocol and a turn without edits.
    """

    editor: str
    model: str
    seed: int
    stream: EditStream
    checkpoints: tuple[int, ...]
    protocols: tuple[str, ...] = PROTOCOLS
    edits_per_turn: int = 1

    def __post_init__(self) -> None:
        n_edits = len(self.stream.edits)
        for t in self.checkpoints:
            if not 1 <= t <= n_edits:
                raise ValueError(f"checkpoint {t} is outside the stream's 1..{n_edits} edits")
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ValueError(f"protocol={protocol!r} is none of {', '.join(PROTOCOLS)}")
        if self.edits_per_turn < 1:
            raise ValueError(f"edits_per_turn={self.edits_per_turn} must be >= 1")

    @property
    def identity(self) -> rows.Run:
        """What all rows of the run share."""
        stream = self.stream
        return rows.Run(self.editor, self.model, stream.name, stream.sha256, self.seed)

    def turns(self) -> Iterator[tuple[int, int]]:
        """[begin, end) of each turn; a turn also ends at each checkpoint."""
        stops = sorted({*self.checkpoints, len(self.stream.edits)})
        begin = 0
        for stop in stops:
            while begin < stop:
                end = min(begin + self.edits_per_turn, stop)
                yield begin, end
                begin = end

    def block_sizes(self, *, is_routed: bool) -> dict[str, int]:
        """How many rows each block of the run has, in the order of writing."""
        sizes: dict[str, int] = {}
        for begin, end in self.turns():
            sizes[f"edit {end}"] = end - begin
            if end in self.checkpoints:
                questions = final_questions(self.stream.prefix(end))
                sizes |= {f"checkpoint {end} {name}": len(questions) for name in self.protocols}
                if is_routed:  # and the threshold
                    sizes[f"checkpoint {end} routing"] = len(routed_questions(questions)) + 1
        return sizes

    def row(self, block: str, t: int, measured: Measured, **more: Any) -> rows.Row:
        question = measured.question
        return rows.Row(
            **self.identity._asdict(), t=t, metric=question.metric, kind=question.kind,
            edit_id=question.edit_id, cluster=question.subject, age=question.age,
            prompt=question.prompt, expected=measured.expected, answer=measured.answer,
            score=measured.score, excluded=question.excluded, block=block, **more,
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
) -> list[rows.Row]:
    """Edit, measure, write rows to `path` block by block, and return all of them.

    `editor` must hold no edit yet: the unedited model is asked first. With `resume`, blocks that
    `path` holds whole are kept and only edited through (from a saved state where the editor can
    save); the rows are those of an uninterrupted run. Without, an existing `path` is an error.
    """
    if path.exists() and not resume:
        raise ValueError(f"rows file {path} exists; resume the run or name another file")
    if _is_finished(path, run, is_routed=isinstance(editor, Routed)):
        return rows.read_rows(path)
    done = rows.resume(path, run.identity)
    questions = final_questions(run.stream)
    reader = reader_of(model, tokenizer, run.stream)
    base = BaseAnswers.ask(model, reader, questions, forced="forced" in run.protocols)
    states = path.with_name(f"{path.name}.states")
    begin_at = _restore(editor, states, run, done)
    with (
        rows.RowWriter(path, done) as writer,
        tqdm(total=len(run.stream.edits), initial=begin_at, unit="edit", desc=run.editor,
             disable=not progress, mininterval=1) as bar,
    ):  # fmt: skip
        for turn, (begin, end) in enumerate(run.turns(), start=1):
            if end > begin_at:
                editor.edit([edit.as_taught() for edit in run.stream.edits[begin:end]])
                bar.update(end - begin)
            if end >= begin_at:
                block = f"edit {end}"
                if block not in done:
                    asked = measure(
                        editor, reader, at_edit_questions(run.stream.edits[begin:end]), "free", base
                    )
                    writer.write_block(
                        [run.row(block, end, m, protocol="free", when="at-edit") for m in asked]
                    )
                if turn % _SAVE_EVERY == 0 and end > begin_at:
                    _save(editor, states, end)
            if end in run.checkpoints:
                bar.set_postfix_str(f"measuring T={end}")
                for block, measured in _checkpoint(run, editor, reader, base, end):
                    if block not in done:
                        writer.write_block(list(measured))
                bar.set_postfix_str("")
    shutil.rmtree(states, ignore_errors=True)
    return rows.read_rows(path)


def _checkpoint(
    run: LifelongRun, editor: Editor, reader: Reader, base: BaseAnswers, t: int
) -> Iterator[tuple[str, Iterator[rows.Row]]]:
    """The blocks of the checkpoint after `t` edits; each is measured as it is iterated."""
    questions = final_questions(run.stream.prefix(t))

    def scored(block: str, protocol: str) -> Iterator[rows.Row]:
        for measured in measure(editor, reader, questions, protocol, base):
            yield run.row(block, t, measured, protocol=protocol, when="final")

    for protocol in run.protocols:
        block = f"checkpoint {t} {protocol}"
        yield block, scored(block, protocol)
    if isinstance(editor, Routed):
        block = f"checkpoint {t} routing"
        how = dict(protocol="free", when="final")
        routed = (
            run.row(block, t, Measured(question, "", "", None), value=value, **how)
            for question, value in measure_routing(editor, reader, routed_questions(questions))
        )
        yield block, routed


def _is_finished(path: Path, run: LifelongRun, *, is_routed: bool) -> bool:
    """Whether `path` holds all blocks of `run`, the last one with all its rows."""
    if not path.exists():
        return False
    try:
        held = rows.read_rows(path)
    except ValueError:  # cut off, or not rows at all: resuming tells
        return False
    sizes = run.block_sizes(is_routed=is_routed)
    last = list(sizes)[-1]
    n_last = sum(row.block == last for row in held)
    blocks = list(dict.fromkeys(row.block for row in held))
    is_whole = blocks == list(sizes) and n_last == sizes[last]
    return is_whole and all(row.run == run.identity for row in held)


def reader_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stream: EditStream
) -> Reader:
    """The reader whose budget of new tokens fits every answer that `stream` knows."""
    known = {edit.target for edit in stream.edits}
    known |= {probe.answer for probe in stream.probes if probe.kind == "portability"}
    longest = max(len(tokenizer(f" {text}", add_special_tokens=False).input_ids) for text in known)
    return Reader(
        tokenizer,
        max_new_tokens=max(_LEAST_TOKENS, longest + _EXTRA_TOKENS),
        device=model.device,
        max_length=getattr(model.config, "max_position_embeddings", None),
    )


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
    """Delete a saved state; what a kill leaves of it is not taken for one."""
    doomed = state.with_suffix(".partial")
    if doomed != state:
        shutil.rmtree(doomed, ignore_errors=True)
        state.rename(doomed)
    shutil.rmtree(doomed)


def _restore(editor: Editor, states: Path, run: LifelongRun, done: list[str]) -> int:
    """Load the newest state that all missing blocks can be measured from; how many edits it holds.

    States beyond it are deleted, and without a block all of them, which are then of another run.
    """
    if not isinstance(editor, Persistent) or not states.is_dir():
        return 0
    ends = [end for _, end in run.turns()]
    sizes = run.block_sizes(is_routed=isinstance(editor, Routed))
    blocks = [(block, int(block.split()[1])) for block in sizes]
    usable = min((t for block, t in blocks if block not in done), default=ends[-1]) if done else 0
    saved = sorted(int(folder.name) for folder in states.iterdir() if folder.name.isdigit())
    for t in saved:
        if t > usable or t not in ends:
            _discard(states / str(t))
    kept = [t for t in saved if t <= usable and t in ends]
    if kept:
        editor.load(states / str(kept[-1]))
    return kept[-1] if kept else 0
