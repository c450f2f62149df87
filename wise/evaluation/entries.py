"""The entries of a league: editors with their options, and the groups that are compared."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wise.editor import BUILT_IN, with_options

__all__ = [
    "GROUPS", "Entry", "Which", "best_options", "entries_named", "entries_of", "every_name",
]  # fmt: skip

Which = Literal["both", "released", "tuned"]

# Only editors of one group are ranked together; corners calibrate and are not ranked.
GROUPS = ("online", "trained", "context", "mass", "corner")

_TRAINED = ("ke", "mend", "serac")  # on the background, before the first edit
_IN_CONTEXT = ("ike", "memllm-lite", "memoria-lite", "memoryllm-lite", "retrieval")
# Mass edits: beside the online editor, or instead of it where the method has no online use.
_ALSO_MASS = ("emmet", "memit", "ultraedit")
_ONLY_MASS = ("locft-bf",)
_UNRANKED = ("none",)
# Released hyper-parameters, where there is no preset "released"; layers scale with the depth.
_RELEASED: Mapping[str, Mapping[str, Any]] = {"wise": {"preset": "paper-llama-2-7b", "layer": None}}


@dataclass(frozen=True)
class Entry:
    """An editor of a league: its `spec` for `load_editor`, its options, and its group.

    `label` says where the options are from: released, searched, default (as it comes: no option is
    set), or "" where it is no built-in editor. Raises ValueError for an unknown group.
    """

    name: str
    spec: str
    options: tuple[tuple[str, Any], ...] = ()
    label: str = ""
    group: str = "online"

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"group={self.group!r} is none of {', '.join(GROUPS)}")

    @property
    def editor(self) -> str:
        """Its name in rows: the editor's name and its options."""
        return with_options(self.name, dict(self.options))

    @property
    def title(self) -> str:
        """Its name in the table."""
        return f"{self.name}, {self.label}" if self.label else self.name


def every_name() -> list[str]:
    """The names of all built-in editors; a mass edit's ends in `-mass`."""
    online = [name for name in BUILT_IN if name not in (*_ONLY_MASS, *_UNRANKED)]
    mass = [f"{name}-mass" for name in (*_ALSO_MASS, *_ONLY_MASS) if name in BUILT_IN]
    return [*online, *mass]


def entries_of(
    name: str, *, best: Mapping[str, Mapping[str, Any]] | None = None, options: Which = "both"
) -> list[Entry]:
    """The entries of one editor: a built-in one twice, released and tuned, or once with one of
    these `options`; any other once.

    `best` are the options that a search found, by name; without them the tuned entry is the editor
    as it comes, with the preset that it chooses for the model. Other editors are named by their
    `load_editor` spec.
    """
    if name in _UNRANKED:
        return [Entry(name, name, group="corner")]
    if name in _ONLY_MASS:
        name = f"{name}-mass"
    if name not in every_name():
        return [Entry(name, name)]
    spec = name.removesuffix("-mass")
    group = (
        "mass" if name != spec
        else "trained" if name in _TRAINED
        else "context" if name in _IN_CONTEXT
        else "online"
    )  # fmt: skip
    found = (best or {}).get(name)
    released = _RELEASED.get(spec, {"preset": "released"})
    searched = {"preset": "embedded", **(found or {})}
    entries = {
        "released": Entry(name, spec, tuple(released.items()), "released", group),
        "tuned": Entry(name, spec, (), "default", group)
        if found is None
        else Entry(name, spec, tuple(searched.items()), "searched", group),
    }
    return [entry for which, entry in entries.items() if options in ("both", which)]


def entries_named(
    names: Sequence[str],
    *,
    best: Mapping[str, Mapping[str, Any]] | None = None,
    options: Which = "both",
    options_of: Mapping[str, Which] | None = None,
    corners: Mapping[str, str] | None = None,
) -> tuple[Entry, ...]:
    """The entries of several editors, each once, in order; "all" is every built-in editor.

    `options_of` says which, by name, where it is not `options`. `corners` are the calibration
    entries by name, with their specs; "all" ends with them. Raises ValueError for a name in
    `options_of` that is none of a built-in editor.
    """
    options_of = options_of or {}
    if unknown := options_of.keys() - set(every_name()):
        raise ValueError(f"options of {min(unknown)!r}, which is none of {', '.join(every_name())}")
    corners = corners or {}
    if "all" in names:
        others = [name for name in names if name not in ("all", *corners)]
        names = [*every_name(), *others, *corners]
    found: list[Entry] = []
    for name in names:
        found += [Entry(name, corners[name], group="corner")] if name in corners else entries_of(
            name, best=best, options=options_of.get(name, options)
        )  # fmt: skip
    return tuple(dict.fromkeys(found))


def best_options(path: Path, *, model: str) -> dict[str, dict[str, Any]]:
    """By editor, the options whose worst corner is highest in a search on `model`.

    The first of equal ones is taken. `path` is a CSV file with columns editor, model, worst and
    options (a JSON object); a missing file means no search.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        trials = [trial for trial in csv.DictReader(file) if trial["model"] == model]
    best: dict[str, dict[str, str]] = {}
    for trial in trials:
        held = best.get(trial["editor"], trial)
        best[trial["editor"]] = max(held, trial, key=lambda each: float(each["worst"]))
    return {editor: json.loads(trial["options"]) for editor, trial in best.items()}
