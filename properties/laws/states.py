"""The state of an editor: saved and loaded, bitwise, and its own."""

from __future__ import annotations

import gzip
import io
import pickletools
import random
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from transformers import PreTrainedModel

from properties.bench import Bench
from properties.findings import Broken, gap, needs, remade, require, take_back
from properties.laws.batches import questions
from properties.laws.retrieving import require_in_force
from properties.snapshots import Snapshot, require_close, require_same, snapshot
from properties.surroundings import full_disk
from wise.editor import Editor, Erasable, Layered, Persistent, Prepares
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel

_UNUSUAL = "Zoë “Ünïcode” 東京"  # a target that a careless encoding would not bring back
_N_ASKED = 65  # questions
_MANY = 30  # edits: more than an editor is likely to keep in one place
_SAVED_AGAIN = 2  # the state, by number, that is saved a second time
_OF_THE_CALLER = ("notes.txt", "state-notes.txt", "results/rows.jsonl")
_SEVERAL = 16  # edits: a state of some KB, whatever it holds of each
_N_NUDGED, _MORE = 3, 8  # models a rounding away; what is allowed, in the most that they differ by
_N_FILES, _N_PLACES = 4, 12  # of a state, that are damaged; of a file


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _save(editor: Editor, path: Path | str) -> None:
    assert isinstance(editor, Persistent)
    editor.save(path)


def _load(editor: Editor, path: Path | str, what: str) -> None:
    """Load a state that must be accepted; Broken says of `what` otherwise."""
    assert isinstance(editor, Persistent)
    try:
        editor.load(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise Broken(f"{what} cannot be loaded by an editor made alike: {reason}") from error


def _save_before_a_removal(editor: Editor, path: Path | str, edit: Edit) -> None:
    """Save a state and take `edit` back, where that can be done."""
    if isinstance(editor, Erasable):
        _save(editor, path)
        take_back(editor, [edit])


@needs(Persistent)
def check_a_saved_state_holds_no_pickle(bench: Bench) -> None:
    """No saved file is or holds a pickle, also packed as torch.save does: loading runs no code."""
    editor = bench.editor(bench.edits(least=1))
    assert isinstance(editor, Persistent)
    with tempfile.TemporaryDirectory() as folder:
        editor.save(Path(folder) / "state")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        require(bool(files), "nothing was written to the folder that it was saved to")
        for path in files:
            what = _pickle_in(path.read_bytes())
            require(
                not what, f"the saved file {path.name} is {what}; use safetensors or JSON instead"
            )


def _pickle_in(content: bytes) -> str:
    """In words, the pickle that the bytes of a file are or hold; "" where there is none."""
    if content.startswith(b"\x93NUMPY"):
        return "an array of pickled objects" if b"|O" in content[:128] else ""
    if content.startswith(b"\x1f\x8b"):
        inside = _pickle_in(gzip.decompress(content))
        return f"packed by gzip, and in it {inside}" if inside else ""
    if is_zipfile(io.BytesIO(content)):
        with ZipFile(io.BytesIO(content)) as archive:
            members = {name: _pickle_in(archive.read(name)) for name in archive.namelist()}
        found = next(((name, what) for name, what in members.items() if what), None)
        return f"a zip archive, and {found[0]} in it {found[1]}" if found else ""
    return "a pickle" if _is_pickle(content) else ""


def _is_pickle(content: bytes) -> bool:
    """Whether bytes begin with a pickle that names its protocol, or are an older one to the end."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes, in what is no pickle
            (first, *_), *_, (last, _, place) = pickletools.genops(content)
    except ValueError:
        return False
    return last.name == "STOP" and (first.name == "PROTO" or place == len(content) - 1)


@needs(Persistent)
def check_saving_takes_no_file_of_the_callers(bench: Bench) -> None:
    """What lies in a folder stays as it is where a state is saved there, and another in its place.

    Both are loaded as they were saved, with those files beside them.
    """
    editor, loader = bench.editor(), bench.editor()
    with _folder() as folder:
        files = {folder / "run" / name: name for name in _OF_THE_CALLER}
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        for n, edit in enumerate(bench.edits(2, least=1)):
            editor.edit([edit])
            _save(editor, folder / "run")
            for file, content in files.items():
                require(
                    file.is_file() and file.read_text() == content,
                    f"save into a folder that holds {content!r}, a file of the caller's"
                    f"{', and a state' * n}, takes the file away or writes over it",
                )
            when = f"saved beside files of the caller's{', over another state' * n}, and loaded"
            _load(loader, folder / "run", f"a state {when}")
            require_same(snapshot(bench, loader), snapshot(bench, editor), when)


@needs(Persistent)
def check_saved_states_are_kept_apart(bench: Bench) -> None:
    """Each state lies in the folder that it was saved to, whole, wherever that is moved.

    Whatever the folder's name, and whether its path is a text or a Path, relative or absolute; also
    a state of many edits, one of them made anew, with which an editor goes on as if it had never
    stopped, and one with a target that is not ASCII. An edit of it whose prompt ends in white space
    can still be removed. What `retrieved` gives of the many is in force. A state that is saved
    again after a removal takes the place of the one before it.
    """
    editor, loader = bench.editor(), bench.editor()
    with _folder() as folder:
        root = folder / "root"
        root.mkdir()
        inside = ("run-0.5", "run-0.6", "a name with spaces", "missing/parents/größe.tar.gz", "run")
        paths: dict[str, Path | str] = {name: root / name for name in inside}
        paths |= {"text": f"{root}/text", "relative": "relative"}
        shown: dict[str, Snapshot] = {}
        asked = {[*paths][-1]: questions(bench, _N_ASKED)}  # where there are many edits
        taken: list[str] = []
        edits = bench.edits(_MANY, least=2)
        anew = replace(edits[1], target=edits[0].target)
        for n, (name, path) in enumerate(paths.items()):
            editor.edit([replace(edits[n % len(edits)], target=edits[(n + 1) % len(edits)].target)])
            if n == 1:
                spaced = replace(edits[-1], prompt=f"{edits[-1].prompt} \n")
                for unusual in (spaced, replace(edits[0], target=_UNUSUAL)):
                    with suppress(ValueError):  # it may refuse what its tokenizer cannot say
                        editor.edit([unusual])
                        taken.append(unusual.prompt)
            if n == len(paths) - 1:
                remade(editor, [edits, [anew]])
            with chdir(root):
                if n == _SAVED_AGAIN:
                    _save_before_a_removal(editor, path, edits[n % len(edits)])
                shown[name] = snapshot(bench, editor, asked.get(name, ()))
                _save(editor, path)
            require((root / name).is_dir(), f"save({path!r}) makes no folder of this name")
        require_in_force(
            shown[[*paths][-1]].retrieved, {*edits, anew} - {edits[1]},
            f"a turn of {len(edits)} edits, the second of which was edited anew",
        )  # fmt: skip
        stray = sorted(
            {each.name for each in root.iterdir()} - {n.partition("/")[0] for n in paths}
        )
        require(not stray, f"save wrote {stray[:3]} outside of the folder that it was given")
        for n, name in enumerate(paths):
            moved = folder / f"moved-{n}"
            shutil.move(root / name, moved)
            _load(loader, moved, f"the state saved to {name!r}, moved to another place,")
            shutil.rmtree(moved)
            when = (f"saved to {name!r} {'again, after a removal, ' * (n == _SAVED_AGAIN)}among "
                    "other states, moved and loaded")  # fmt: skip
            require_same(snapshot(bench, loader, asked.get(name, ())), shown[name], when)
            if n == 1 and spaced.prompt in taken:
                take_back(loader, [spaced], when)
        for each in (editor, loader):
            each.edit([replace(edits[0], target=edits[1].target)])
        require_same(
            snapshot(bench, loader), snapshot(bench, editor),
            f"after a turn of {len(edits)} edits, and one edited anew, were saved and loaded, and "
            "another edited anew",
        )  # fmt: skip


def _refused(editor: Editor, path: Path, what: str) -> bool:
    """Whether loading raises; Broken where the error says nothing."""
    assert isinstance(editor, Persistent)
    try:
        editor.load(path)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's editor raises
        require(bool(str(error).strip()), f"{what} is refused by a {type(error).__name__} that "
                "says nothing")  # fmt: skip
        return True
    return False


@needs(Persistent)
def check_a_damaged_state_is_refused(bench: Bench) -> None:
    """A state that is missing, incomplete or changed is refused by an error, and changes nothing.

    It is one of many edits, and changed in a single letter or bit anywhere in it. A file that is no
    part of it may be changed: then the state is loaded bitwise as it was saved. One that cannot be
    saved whole changes nothing, and leaves at most the older one in its place. Before all this the
    edits are made once more after a reset, and the editor has to be as at first: so many edits show
    draws, as of edits to replay, that go on over a reset.
    """
    own, later, *edits = bench.edits(_SEVERAL, least=3)
    asked = [edit.prompt for edit in (own, later, *edits)]
    editor = bench.editor()
    with _folder() as folder:
        shown = []
        for name, turn in (("saved", edits), ("later", [later])):
            editor.edit(turn)
            _save(editor, folder / name)
            shown.append(snapshot(bench, editor, asked))
        shutil.copytree(folder / "saved", folder / "unfinished")
        largest = max(file.stat().st_size for file in (folder / "later").rglob("*"))
        with suppress(Exception), full_disk(largest - 1):
            _save(editor, folder / "unfinished")
        is_same = torch.equal(bench.logits(editor, asked), shown[1].logits[:, -1])
        require(is_same, "a state that could not be saved whole changes what the editor answers")
        remade(editor, (edits, [later]))
        when = f"reset, and taught {len(edits)} edits in a turn and one more, not as at first: now"
        require_same(snapshot(bench, editor, asked), shown[1], when)
        before = bench.logits(remade(editor, [[own]]), asked[:3])
        for what, damaged, n_allowed in _damages(folder):
            if _refused(editor, damaged, what):
                is_same = torch.equal(bench.logits(editor, asked[:3]), before)
                require(is_same, f"{what} was refused, and changed what the editor answers")
                continue
            found = snapshot(bench, editor, asked)
            require(
                any(torch.equal(found.logits, each.logits) for each in shown[:n_allowed]),
                f"{what} is loaded without an error, and is not what was saved; needed: an error",
            )
            remade(editor, [[own]])


def _damages(folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Damaged copies of the folder `saved`, and what each is; those of other files of it follow.

    With each, how many of the two states, `saved` and `later`, it may be loaded as all the same.
    """
    (folder / "empty").mkdir()
    (folder / "file").write_text("state")
    yield "a folder that does not exist", folder / "missing", 0
    yield "an empty folder", folder / "empty", 0
    yield "a file in place of a folder", folder / "file", 0
    yield "a state that could not be saved whole over an older one", folder / "unfinished", 2
    saved, later = folder / "saved", folder / "later"
    names = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    for n, name in enumerate(names[:_N_FILES]):
        content = (saved / name).read_bytes()
        damages: dict[str, bytes | None] = {"missing": None}
        if content:
            damages |= {"cut to its first half": content[: len(content) // 2], "empty": b""}
        for place in _places(content):
            changed = bytes([content[place] ^ 1])
            name_of_damage = f"changed in one bit of byte {place} of {len(content)}"
            damages[name_of_damage] = content[:place] + changed + content[place + 1 :]
        if (later / name).is_file():
            damages["that of a later state"] = (later / name).read_bytes()
        for m, (damage, left) in enumerate(damages.items()):
            copy = folder / f"damaged-{n}-{m}"
            shutil.copytree(saved, copy)
            if left is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(left)
            n_allowed = 2 if damage == "that of a later state" else 1
            yield f"a state whose file {name} is {damage}", copy, n_allowed


def _places(content: bytes) -> list[int]:
    """Bytes from the first to the last; of a text letters and digits, so that it stays one."""
    places: Sequence[int] = range(len(content))
    with suppress(UnicodeDecodeError):
        content.decode()
        places = [place for place in places if content[place : place + 1].isalnum()] or places
    last = len(places) - 1
    return sorted({places[last * n // _N_PLACES] for n in range(_N_PLACES + 1) if places})


@needs(Persistent)
def check_a_state_is_loaded_only_where_it_belongs(bench: Bench) -> None:
    """A state of a model with other weights is refused by an error, and changes nothing.

    Be it one number of one tensor, of whatever kind. That of an editor with another seed, layer or
    background is either refused or, loaded, answers and goes on bitwise as the editor that saved
    it.
    """
    one, two, *_ = bench.edits(least=2)
    saver = bench.editor([one])
    with _folder() as folder:
        place = folder / "state"
        _save(saver, place)
        saved = snapshot(bench, saver)
        for name, model in _touched(bench):
            what = f"the state of a model that differs in one number of {name}"
            is_refused = _refused(bench.editor(model=model), place, what)
            require(is_refused, f"{what} is loaded; needed: an error that says so")
        saver.edit([two])
        for what, loader in _others(bench, saver):
            before = snapshot(bench, loader)
            if _refused(loader, place, what):
                when = f"{what} was refused, yet something of it is in force: now"
                require_same(snapshot(bench, loader), before, when)
                continue
            require("weights" not in what, f"{what} is loaded; needed: an error that says so")
            require_same(snapshot(bench, loader), saved, f"{what} was loaded without an error")
            loader.edit([two])
            when = f"{what} was loaded without an error, and then edited"
            require_same(snapshot(bench, loader), snapshot(bench, saver), when)


def _touched(bench: Bench) -> Iterator[tuple[str, PreTrainedModel]]:
    """A model that differs in one number of one tensor of each kind in turn, and the tensor's name.

    Tensors of a kind have one name in different layers.
    """
    model = bench.copy_model()
    kinds: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        kinds.setdefault(re.sub(r"\d+", "", name), []).append(name)
    draw = random.Random(bench.seed)
    for names in kinds.values():
        name = draw.choice(names)
        numbers = model.get_parameter(name).detach().view(-1)
        place = draw.randrange(len(numbers))
        before = float(numbers[place])
        numbers[place] += 2**-3
        yield name, model
        numbers[place] = before


def _others(bench: Bench, editor: Editor) -> Iterator[tuple[str, Editor]]:
    """Editors that differ from `editor` in one thing, and what its state is to each."""
    other = bench.copy_model()
    with torch.no_grad():
        LanguageModel(other).value_weight(0).mul_(1 + 2**-7)
    yield "the state of a model with other weights", bench.editor(model=bench.tuned_model())
    yield "the state of a model with other weights in one layer", bench.editor(model=other)
    yield "the state of an editor with another seed", bench.editor(seed=bench.seed + 1)
    if isinstance(editor, Layered) and (layer := bench.another_layer) is not None:
        yield f"the state of an editor of layer {editor.layer}", bench.editor(layer=layer)
    texts = bench.background.texts
    if len(texts) > 1:
        half = Background(texts[: len(texts) // 2], bench.background.edits)
        less = replace(bench, background=half)
        yield "the state of an editor with another background", less.editor()


def check_the_list_of_a_turn_stays_the_callers(bench: Bench) -> None:
    """A turn is learned when `edit` is called: what becomes of the caller's list then is the same.

    The list itself is left as it was given.
    """
    one, two, three, _ = bench.edits()
    editor, other = bench.editor(), bench.editor()
    other.edit((one, two))
    turn = [one, two]
    editor.edit(turn)
    require(turn == [one, two], "edit changed the list of edits that the caller gave")
    turn[:] = [three]
    when = "after a turn of two edits whose list the caller then used for others"
    require_same(snapshot(bench, editor), snapshot(bench, other), when)


@needs(Prepares)
def check_preparing_edits_changes_no_answer(bench: Bench) -> None:
    """Preparing edits writes nothing, and changes no answer once an edit is made.

    The edit is one of them, or of their prompt with another target, and is made first or after
    another. So it is where they were prepared with others in force, which a reset has undone.
    A descent may enlarge the rounding by which rows of a batch differ: logits may be eight times as
    far apart as a rounding of the model's weights sets them.
    """
    edits = bench.edits(least=2)
    editor = bench.editor()
    assert isinstance(editor, Prepares)
    editor.prepare(edits)
    unmade = bench.logits(editor, bench.prompts)
    bench.same(unmade, bench.base_logits, "with edits prepared, and none made")
    one, two, *others = edits
    reset = bench.editor(others)
    assert isinstance(reset, Prepares)
    reset.prepare([one])
    reset.reset()
    reset.edit([one])
    _require_as_unprepared(
        bench, reset, [one],
        f"edited {one.prompt!r} to {one.target!r}, after it was prepared with {len(others)} edits "
        "in force and they were undone by a reset",
    )  # fmt: skip
    for turns in ([one], [two], [replace(one, target=two.target)], [two, one]):
        remade(editor, ([edit] for edit in turns))
        made = ", then ".join(f"{edit.prompt!r} to {edit.target!r}" for edit in turns)
        _require_as_unprepared(
            bench, editor, turns, f"edited {made}, with {len(edits)} edits prepared"
        )


def _require_as_unprepared(bench: Bench, editor: Editor, turns: Sequence[Edit], when: str) -> None:
    expected = snapshot(bench, bench.editor(turns))

    def rounding() -> float:
        made = (bench.editor(turns, model=bench.nudged_model(n)) for n in range(_N_NUDGED))
        shown = [snapshot(bench, each).logits for each in made]
        return _MORE * max(gap(each, expected.logits) for each in shown)

    when = f"{when}, an editor is not as without that"
    require_close(snapshot(bench, editor), expected, when, rounding=rounding)
