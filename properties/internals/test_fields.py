"""Laws of `wise.evaluation.fields`: whatever is wrong with a file is named, with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wise.evaluation.datasets import load_stream
from wise.evaluation.fields import Field, read_array, read_lines

pytestmark = pytest.mark.internals

GOOD = """{
 "prompt": "Ada Lorn is at", "target_new": "CERN", "subject": "Ada Lorn",
 "locality_prompt": "Bo Rask is at", "locality_ground_truth": "MIT"
}"""
LINE = '{"prompt": "Ada Lorn is at", "target": "CERN"}'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "line 1: the file is empty"),
        (b"\xef\xbb\xbf \r\n", "line 1: the file is empty"),
        (b"[\n[GOOD],\n\xe9]", "line 6: byte 0xe9 is not UTF-8"),
        ("[GOOD]".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        (b"\n\n{}", "line 3: the file starts with '{', not with '['"),
        (b'\n"GOOD"', "line 2: the file starts with '\"'"),
        (b"\n[\n]", "line 2: the array is empty"),
        (b"[\n[GOOD]\n[GOOD]]", "line 2, record 0: found '{' after the record, not ',' or ']'"),
        (b"[\n[GOOD]\n", "line 2, record 0: found the end of the file after the record"),
        (
            b"[\n[GOOD],\n",
            "line 6, record 1: the record is not JSON: Expecting value at line 6",
        ),
        (b"[\n[GOOD],\n]", "line 6, record 1: the record is not JSON: Expecting value at line 6"),
        (b'[\n[GOOD], {\n"prompt": "x', "line 5, record 1: the record is not JSON: Unterminated"),
        (b"[\n[GOOD]\n]\n[]", "line 7: found '[' after the array"),
        (b"[\n[GOOD],\n 7]", "line 6, record 1: 7 is not an object"),
        (b'[\n[GOOD],\n{"id": null}]', "line 6, record 1: id=None is not a non-blank text"),
        (
            b'[\n{"case_id": true}]',
            "line 2, record 0: case_id=True is not a non-blank text",
        ),
        (b'[\n{"prompt": NaN}]', "line 2, record 0: prompt=nan is not JSON"),
        (b'[\n{"a": [{"b": -Infinity}]}]', "line 2, record 0: a[0].b=-inf is not JSON"),
        (b'[\n{"a": "\\ud800"}]', "line 2, record 0: a='\\ud800' is not Unicode text"),
        (b'[\n{"a": 1, "a": 1}]', "line 2, record 0: the record is not JSON: the key 'a' occurs"),
        (b'[\n{"a": ' + b"[" * 200_000, "line 2, record 0: the record is not JSON: maximum recur"),
        (b'[\n{"a": ' + b"7" * 9_999 + b"}]", "line 2, record 0: the record is not JSON: Exceeds"),
    ],
)
def test_what_is_wrong_with_an_array_is_named_with_its_line(
    text: bytes, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.replace(b"[GOOD]", GOOD.encode()))
    with pytest.raises(ValueError, match=re.escape(f"{path}, {named}")):
        load_stream(f"hallucination:{path}")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("\n \t\r\n", "line 1: the file is empty"),
        ('LINE\n\n{"prompt": "x",\n', "line 3, record 1: the record is not JSON: Expecting prop"),
        ("LINE\nLINE LINE", 'line 2, record 1: found \'{"prompt"'),
        ("LINE\n[]", "line 2, record 1: [] is not an object"),
        ("LINE\n\xa0\n", "line 2, record 1: the record is not JSON: Expecting value at line 2 col"),
        ("LINE\n{}", "line 2, record 1: prompt is missing; the keys are: none"),
        ('LINE\n{"prompt": "x"}', "line 2, record 1: target is missing; the keys are: prompt"),
        ('LINE\n{"prompts": "x"}', "line 2, record 1: prompts='x' is not known here; the allowed"),
        ('{"prompt": "x", "target": "y", "id": 7}', "line 1, record 0: id=7 is not a text"),
        ('{"prompt": "x", "target": "y", "subject": "z"}', "line 1, record 0: Edit.subject='z'"),
        ('{"prompt": "x", "target": "y", "paraphrases": "z"}', "record 0: paraphrases='z' is not"),
        ('{"prompt": "x", "target": "y", "paraphrases": [1]}', "record 0: paraphrases[0]=1 is not"),
        ('{"prompt": "x", "target": "y", "levels": [true]}', "record 0: levels[0]=True is not a"),
        ('{"prompt": "x", "target": "y", "levels": [1]}', "line 1, record 0: Edit.levels=(1,)"),
        ('{"probes": [{"kind": "far"}]}', "line 1, record 0: probes[0].prompt is missing"),
        ('{"probes": [{"prompt": "x", "kind": "fa"}]}', "record 0: probes[0]: Probe.kind='fa'"),
        ('{"probes": [{"prompt": "x", "id": 1}]}', "record 0: probes[0].id=1 is not known here"),
        ('LINE\n{"id": "no", "probes": []}', "line 2, record 1: id='no' is not the id of an edit"),
        ('{"id": "", "probes": [{"prompt": "x", "kind": "far"}]}', "id='' is not an id that"),
    ],
)
def test_what_is_wrong_with_a_line_is_named_with_its_number(
    text: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text.replace("LINE", LINE), encoding="utf-8")
    with pytest.raises(ValueError, match=f"bad.jsonl, .*{re.escape(named)}"):
        load_stream(f"jsonl:{path}")


@pytest.mark.parametrize("read", [read_array, read_lines])
def test_a_byte_order_mark_and_crlf_change_nothing(
    read: Callable[[Path], Iterator[Field]], tmp_path: Path
) -> None:
    records = [{"a": "\u2028 \x85\n"}, {"b": [" \ufeff"]}]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    text = "\n".join(lines) if read is read_lines else "[\n" + ",\n".join(lines) + "\n]\n"
    plain, windows = tmp_path / "plain", tmp_path / "windows"
    plain.write_bytes(text.encode())
    windows.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    fields = [(field.value, field.place.partition(", ")[2]) for field in read(plain)]
    assert [value for value, _ in fields] == records
    assert fields == [(f.value, f.place.partition(", ")[2]) for f in read(windows)]
