"""Laws of `wise.jobs.ledger`: any record comes back, kills are survived, no two jobs are mixed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wise.jobs.ledger import Ledger, forget, read_records

pytestmark = pytest.mark.internals

CLAIM = {"model": "é", "layers": (1, 2), "seed": 1}
FACTS = [{"fact": "a", "score": 0.1}, {"fact": "b", "error": "x"}, {"fact": "c", "score": None}]


def values(path: Path) -> list[dict[str, object]]:
    return [record.values for record in read_records(path)]


def whole(path: Path) -> bytes:
    """The bytes of a ledger that begins with its claim, and holds the facts that it lacked."""
    with Ledger(path, claim=CLAIM) as ledger:
        for record in [CLAIM, *FACTS][len(ledger.records) :]:
            ledger.append(record)
    return path.read_bytes()


@given(texts=st.lists(st.text(st.characters(), max_size=8), max_size=4))
@example(texts=["\x85\u2028\u2029\n\r\0", "\ud800", "\\u2028", "\U0010ffff"])
@settings(deadline=None, max_examples=60)
def test_any_text_comes_back_from_one_line(texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        with Ledger(path) as ledger:
            ledger.append({"texts": texts}, {"n": 1})
        assert values(path) == [{"texts": texts}, {"n": 1}]
        assert len(path.read_bytes().decode().splitlines()) == 2


def test_a_ledger_killed_after_any_byte_ends_in_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    content = whole(path)
    for n_bytes in range(len(content) + 1):
        path.write_bytes(content[:n_bytes])
        assert whole(path) == content


@pytest.mark.parametrize(
    ("field", "value", "n_bytes", "message"),
    [
        ("seed", 2, None, "line 1: seed=1 belongs to another study; this one has 2"),
        (
            "layers",
            (1,),
            None,
            r"line 1: layers=\[1, 2\] belongs to another study; this one has \[1\]",
        ),
        (
            "dtype",
            "float32",
            None,
            "line 1: dtype=None belongs to another study; this one has 'float32'",
        ),
        ("model", "e", 15, "does not start a study of {'model': 'e'"),
        ("seed", 12, 44, "does not start a study of"),
    ],
)
def test_another_job_is_refused_by_name_and_its_file_left_alone(
    field: str, value: object, n_bytes: int | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    content = whole(path)[:n_bytes]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Ledger(path, claim={**CLAIM, field: value}, what="study")
    assert path.read_bytes() == content


def test_a_ledger_has_one_writer_and_any_readers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        with pytest.raises(RuntimeError, match=r"another process is writing to .*ledger.jsonl"):
            Ledger(path)
        ledger.append(*FACTS)
        assert values(path) == FACTS
    with Ledger(path) as ledger:
        assert [record.values for record in ledger.records] == FACTS


def test_what_had_an_error_is_forgotten_and_the_rest_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append(*FACTS)
    forget(path, lambda record: "error" in record)
    content, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert values(path) == [FACTS[0], FACTS[2]]
    forget(path, lambda record: "error" in record)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, changed)
    assert list(tmp_path.iterdir()) == [path]
