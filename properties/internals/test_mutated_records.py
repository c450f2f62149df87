"""A damaged file of any kind gives a stream or an error that names its place, and hides nothing.

N_MUTANTS in the environment sets how many are tried: 100,000 by hand, in about a minute.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from properties.internals.test_formats import KINDS, KNOWN
from wise.evaluation.datasets import read_dataset

pytestmark = pytest.mark.internals

N_MUTANTS = int(os.environ.get("N_MUTANTS", "1000"))
DEEP = b"[" * 1200 + b"]" * 1200  # deeper than Python may recurse
WILD: list[Any] = [
    None, True, 7, -1.5, 10**30, float("nan"), float("inf"), "", " ", "\n", "x" * 20_000, "\ud800",
    "{}", "\x00", "İi", [], [[]], [None], [["a", "b"], []], [7], {}, {"str": 1}, {"a": [{}]},
    [{"prompt": "p", "ground_truth": "g"}],
]  # fmt: skip
KEYS = [*sorted({key for _, record in KINDS for key in record}), "", "a\nb", "\udc00", "k" * 99]


def places(value: object) -> list[tuple[Any, Any]]:
    """(container, key) of every value below `value`."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            keys = list(each) if isinstance(each, dict) else list(range(len(each)))
            found += [(each, key) for key in keys]
            waiting += [each[key] for key in keys]
    return found


def mutate(record: dict[str, Any], rng: random.Random) -> None:
    """Drop, rename, add or replace one value at any depth."""
    container, key = rng.choice(places(record) or [(record, "prompt")])
    action = rng.choice(["drop", "rename", "retitle", "add", "wild", "wild", "wild"])
    if action == "wild" or isinstance(container, list):
        container[key] = copy.deepcopy(rng.choice(WILD))
    elif action == "add":
        container[rng.choice(KEYS)] = copy.deepcopy(rng.choice(WILD))
    else:
        value = container.pop(key, None)
        if action == "rename":
            container[rng.choice(KEYS)] = value
        elif action == "retitle":
            container[key.title()] = value


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut the bytes, change one, or repeat or insert a part."""
    at, to = sorted(rng.randrange(len(content) + 1) for _ in "ab")
    return {
        "cut": content[:at],
        "change": content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        "repeat": content[:to] + content[at:],
        "deep": content[:at] + DEEP + content[at:],
        "again": content.replace(b"{", b'{"prompt": 1, "prompt": 1, ', 1),
    }[rng.choice(["cut", "change", "repeat", "deep", "again"])]  # fmt: skip


def n_left_out(notes: tuple[str, ...]) -> int:
    counts = [re.search(r"(\d+) (records? with a blank|bad records?) ", note) for note in notes]
    return sum(int(found[1]) for found in counts if found)


def check_mutant(path: Path, seed: int) -> bool:
    """Whether the file that `seed` makes is read."""
    rng = random.Random(seed)
    name, record = rng.choice(KINDS)
    records = [copy.deepcopy(record) for _ in range(rng.choice([1, 2, 3]))]
    if name == "known-facts":
        records += [{**KNOWN, "attribute": "Tesla"}]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        mutate(rng.choice(records), rng)
    is_array, is_damaged = rng.random() < 0.5, rng.random() < 0.3
    lines = [json.dumps(each) for each in records]
    text = f"[{', '.join(lines)}]" if is_array else "\n".join(lines)
    content = text.encode("utf-8-sig" if rng.random() < 0.1 else "utf-8")
    content = damage(content, rng) if is_damaged else content
    if rng.random() < 0.05:
        content = damage(gzip.compress(content), rng) if is_damaged else gzip.compress(content)
    path.write_bytes(content)
    spec = f"{name}:{path}" if rng.random() < 0.5 else str(path)
    try:
        stream, notes = read_dataset(spec, skip_bad_records=rng.random() < 0.5)
    except ValueError as error:
        said = str(error)
        assert said.startswith(f"{path}"), said
        assert "\n" not in said, said
        assert len(said) < 2000, said
        assert re.search(r", line \d+|the gzip file is damaged|no record", said), said
        return False
    assert stream.sha256
    if name != "jsonl" and not is_damaged:
        cases = {edit.id.partition("#")[0] for edit in stream.edits}
        assert len(cases) + n_left_out(notes) == len(records), (notes, lines)
    return True


def test_a_mutant_is_read_or_refused_by_place_and_nothing_is_dropped_in_silence(
    tmp_path: Path,
) -> None:
    n_read = 0
    for seed in range(N_MUTANTS):
        try:
            n_read += check_mutant(tmp_path / "mutant", seed)
        except Exception as error:
            error.add_note(f"seed={seed}: {(tmp_path / 'mutant').read_bytes()[:300]!r}")
            raise
    assert 0.1 < n_read / N_MUTANTS < 0.9
