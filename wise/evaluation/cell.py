"""One cell of a league: a lifelong run with its costs, and a record of how it ended."""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from wise.editor import Editor, load_editor, with_cache
from wise.edits import Background, EditStream
from wise.evaluation.entries import Entry
from wise.evaluation.lifelong import LifelongRun, check_resumable, now, run_lifelong
from wise.jobs.grid import file_name, write_json
from wise.lm.decoding import Unedited
from wise.lm.tokens import encode
from wise.measures.rows import read_rows

__all__ = [
    "Cost",
    "LeagueCell",
    "Outcome",
    "Scene",
    "SceneMaker",
    "check_cell",
    "one_thread",
    "run_cell",
]

_N_TIMED = 5  # forwards of the batch; the median is taken
_N_ROWS = 32  # in the batch


@dataclass(frozen=True)
class Scene:
    """What every editor is given: a model, a stream and the background.

    `tells_knowledge` as in `LifelongRun`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    stream: EditStream
    background: Background
    tells_knowledge: bool = False


# (model, seed, T) -> scene. A function of a module, so that other processes find it.
SceneMaker = Callable[[str, int, int], Scene]


@dataclass(frozen=True)
class LeagueCell:
    """One run of a league: the stream of `n_edits` up to the last checkpoint.

    `key` names its files and is unique.
    """

    entry: Entry
    model: str
    seed: int
    n_edits: int
    checkpoints: tuple[int, ...]
    protocols: tuple[str, ...] = ("free",)

    @property
    def edits_per_turn(self) -> int:
        """A mass edit is one turn of all edits."""
        return self.checkpoints[-1] if self.entry.group == "mass" else 1

    @property
    def key(self) -> str:
        words = f"{self.entry.title} {self.model} seed-{self.seed} T-{self.checkpoints[-1]}"
        return file_name(self, words)

    @property
    def title(self) -> str:
        return self.entry.title

    def is_open(self, folder: Path) -> bool:
        """Whether it has neither ended nor had an error."""
        return Outcome.of(self, folder).state == "open"

    def forget_error(self, folder: Path) -> None:
        """Open a cell again that had an error; its costs so far are kept."""
        found = Outcome.of(self, folder)
        if found.state == "error":
            Outcome(costs=found.costs).keep(self, folder)

    def discard(self, folder: Path) -> None:
        """Delete its rows and its record."""
        for path in (self.rows_in(folder), folder / f"{self.key}.json"):
            path.unlink(missing_ok=True)

    def lose(self, folder: Path, message: str) -> None:
        """Record that its process ended with `message`."""
        measured = tuple(_measured(self, folder, is_cut=True))
        Outcome("error", message, measured, Outcome.of(self, folder).costs).keep(self, folder)

    def rows_in(self, folder: Path) -> Path:
        return folder / f"{self.key}.jsonl"


@dataclass(frozen=True)
class Cost:
    """After `t` edits: the mean time of an edit, bytes added (None where the editor does not say),
    and the time of a forward relative to the bare model's, in the same process."""

    t: int
    seconds_per_edit: float
    bytes: int | None
    inference_ratio: float


@dataclass(frozen=True)
class Outcome:
    """How far a cell came: it is open, has ended, or stopped with an error after `measured`."""

    state: str = "open"
    message: str = ""
    measured: tuple[int, ...] = ()
    costs: tuple[Cost, ...] = ()

    @classmethod
    def of(cls, cell: LeagueCell, folder: Path) -> Outcome:
        """The recorded outcome of `cell`; without a record the cell is open."""
        path = folder / f"{cell.key}.json"
        if not path.exists():
            return cls()
        record = json.loads(path.read_text(encoding="utf-8"))
        costs = tuple(Cost(**cost) for cost in record["costs"])
        return cls(record["state"], record["message"], tuple(record["measured"]), costs)

    def keep(self, cell: LeagueCell, folder: Path) -> None:
        """Write the record atomically."""
        write_json({**asdict(self), "cell": asdict(cell)}, folder / f"{cell.key}.json")


def run_cell(cell: LeagueCell, scene_of: SceneMaker, folder: Path) -> None:
    """Run or resume `cell`; its rows and its record are below `folder`.

    It runs on one thread, so that rows do not depend on how many cells run at once. Errors are
    recorded with the cell and not raised.
    """
    # Costs of an earlier try are kept: a resumed run need not make all edits again.
    costs = {cost.t: cost for cost in Outcome.of(cell, folder).costs}

    def record(state: str, message: str = "", measured: Sequence[int] = ()) -> None:
        kept = tuple(costs[t] for t in sorted(costs))
        Outcome(state, message, tuple(measured), kept).keep(cell, folder)

    def spent(cost: Cost) -> None:
        costs[cost.t] = cost
        record("open")

    record("open")
    try:
        with one_thread():
            _run(cell, scene_of(cell.model, cell.seed, cell.n_edits), folder, spent)
    except Exception as error:  # noqa: BLE001 - a cell's error is its result, and no other's
        name = type(error).__name__
        record("error", f"{name}: {error}" if str(error) else name, _measured(cell, folder))
    else:
        record("ended", measured=cell.checkpoints)


def check_cell(cell: LeagueCell, scene: Scene, folder: Path) -> None:
    """Raise ValueError, naming what differs, where rows of `cell` are of something else."""
    check_resumable(_run_of(cell, scene), scene.model, scene.tokenizer, cell.rows_in(folder))


def _run_of(cell: LeagueCell, scene: Scene) -> LifelongRun:
    entry, stream = cell.entry, scene.stream.prefix(cell.checkpoints[-1])
    return LifelongRun(
        entry.editor, cell.model, cell.seed, stream, cell.checkpoints, cell.protocols,
        cell.edits_per_turn, entry.spec, dict(entry.options), scene.background,
        scene.tells_knowledge,
    )  # fmt: skip


def _run(cell: LeagueCell, scene: Scene, folder: Path, spent: Callable[[Cost], None]) -> None:
    run, entry, tokenizer = _run_of(cell, scene), cell.entry, scene.tokenizer
    own = copy.deepcopy(scene.model)  # an editor may write to its model in place
    factory = with_cache(load_editor(entry.spec), folder / "cache")
    editor = factory(own, tokenizer, scene.background, seed=cell.seed, **dict(entry.options))
    n_timed, total = 0, 0.0

    def after_turn(begin: int, end: int, seconds: float) -> None:
        """Costs count only the edits of this process, as a resumed run may start anywhere."""
        nonlocal n_timed, total
        n_timed, total = n_timed + end - begin, total + seconds
        if end in cell.checkpoints:
            n_bytes: int | None = getattr(editor, "n_bytes", None)
            ratio = _inference_ratio(editor, Unedited(scene.model, tokenizer), run.stream)
            spent(Cost(end, total / n_timed, n_bytes, ratio))

    run_lifelong(
        run, editor, scene.model, tokenizer, cell.rows_in(folder),
        resume=True, progress=False, after_turn=after_turn,
    )  # fmt: skip


def _inference_ratio(editor: Editor, bare: Unedited, stream: EditStream) -> float:
    """Median time of a forward of the edited model over the bare one's, measured in turns."""
    device = bare.model.device
    batch = encode(bare.tokenizer, [edit.prompt for edit in stream.edits[:_N_ROWS]]).to(device)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(1 + _N_TIMED):
        for each, taken in zip((editor, bare), times, strict=True):
            start = now(device)
            each.logits(batch.input_ids, batch.attention_mask)
            taken.append(now(device) - start)
    edited, own = (statistics.median(each[1:]) for each in times)
    return edited / own


def _measured(cell: LeagueCell, folder: Path, *, is_cut: bool = False) -> list[int]:
    """The T that a cell with an error has measured under all protocols.

    With `is_cut` its rows may end anywhere: the T that they end at does not count.
    """
    path = cell.rows_in(folder)
    try:
        rows = read_rows(path, truncated="drop" if is_cut else "raise") if path.exists() else []
    except ValueError:
        return []
    end = rows[-1].t if is_cut and rows else cell.n_edits + 1
    held = {(row.t, row.protocol) for row in rows if row.when == "final" and row.t < end}
    return [t for t in cell.checkpoints if held >= {(t, each) for each in cell.protocols}]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that results do not depend on what else is running."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
