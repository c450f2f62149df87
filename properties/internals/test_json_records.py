"""Laws of `wise.evaluation.json_records`: what is wrong with a file is named, with its place."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from wise.evaluation import json_records
from wise.evaluation.datasets import load_stream
from wise.evaluation.json_records import read_objects

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
        (b"prompt,target\r\n", "line 1: the file starts with 'prompt,target'; it must hold"),
        (
            b'\n"GOOD"',
            "line 2: the file starts with '\"GOOD\"'; it must hold a JSON array of objects, or",
        ),
        ("\n\u00e9".encode(), "line 2: the file starts with '\u00e9'; it must hold a JSON array"),
        (b"\n[\n]", "line 2: the array is empty"),
        (b"[\n[GOOD]\n[GOOD]]", "line 2, record 0: found '{' after the record, not ',' or ']'"),
        (b"[\n[GOOD]\n", "line 2, record 0: found the end of the file after the record"),
        (
            b"[\n[GOOD],\n",
            "line 6, record 1: the record is not JSON: Expecting value at line 6",
        ),
        (
            b"[\n[GOOD],\n]",
            "line 6, record 1: a comma after the last record, and then ']'; take the comma away",
        ),
        (
            b'[\n[GOOD], {\n"prompt": "x',
            "line 5, record 1: the record is not JSON: Unterminated string starting at line 6",
        ),
        (
            b'[\n{"prompt": ',
            "line 2, record 0: the record is not JSON: Expecting value at line 2 column 12; the "
            "file ends before the record does",
        ),
        (
            b'[\n{"prompt": "x", \n}]',
            "line 2, record 0: the record is not JSON: found '}' at line 3 column 1 after a comma; "
            "the last value has none behind it",
        ),
        (
            b'[{"a": [1,]}]',
            "line 1, record 0: the record is not JSON: found ']' at line 1 column 11 after a comma",
        ),
        (
            b'[\r{"prompt" 7}]',
            "line 2, record 0: the record is not JSON: Expecting ':' delimiter at line 2 column "
            "11, found '7'",
        ),
        (b"[\n[GOOD]\n]\n[]", "line 7: found '[' after the array"),
        (b"[\n[GOOD],\n 7]", "line 6, record 1: 7 is not an object"),
        (b'[\n[GOOD],\n{"id": [1]}]', "line 6, record 1: id=[1] is not a whole number or a non"),
        (
            b'[\n{"case_id": true}]',
            "line 2, record 0: case_id=true is not a whole number or a non-blank text",
        ),
        (b'[\n{"prompt": NaN}]', "line 2, record 0: prompt=NaN is not JSON"),
        (b'[\n{"a": [{"b": -Infinity}]}]', "line 2, record 0: a[0].b=-Infinity is not JSON"),
        (b'[\n{"a": "\\ud800"}]', "line 2, record 0: a='\\ud800' is not Unicode text"),
        (b'[\n{"a": 1, "a": 1}]', "line 2, record 0: the record is not JSON: the key 'a' occurs"),
        (
            b'[\n{"a": 1, "a": 1, "a": 1}]',
            "line 2, record 0: the record is not JSON: the key 'a' occurs 3 times in one object",
        ),
        (b'[\n{"a": ' + b"[" * 200_000, "line 2, record 0: the record has arrays or objects in"),
        (b"[\n[GOOD], null]", "line 5, record 1: null is not an object"),
        (b"[\n[GOOD], [true]]", "line 5, record 1: [true] is not an object"),
        (b'[\n{"case_id": 2.50}]', "line 2, record 0: case_id=2.50 is not a whole number"),
        (b'[\n{"case_id": 1e999}]', "line 2, record 0: case_id=1e999 is not a whole number"),
        (b'[\n{"id": ' + b"7" * 9_999 + b"}]", "line 2, record 0: id=7777"),
        (
            b'[\n{"id": -' + b"7" * 9_999 + b"}]",
            f"line 2, record 0: id=-{'7' * 12}...{'7' * 14} is not a whole number or a non-blank "
            "text: it has 9,999 digits",
        ),
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
        ("LINE LINE", 'line 1, record 0: found \'{"prompt"'),
        (
            "LINE,\nLINE",
            "line 1, record 0: a comma ends the line; only in an array do records have",
        ),
        ("LINE\nLINE ,\r\n", "line 2, record 1: a comma ends the line"),
        (
            '{\n"prompt": "x",\n"target": "y"\n}\nLINE',
            "line 1, record 0: the object goes on to line 4, and more follows it; several objects "
            "are an array, or stand one a line",
        ),
        ("LINE; fine", "line 1, record 0: found '; fine' after the object; a line holds one"),
        (
            'LINE\n{"prompt": "x",}',
            "not JSON: found '}' at line 2 column 16 after a comma; the last",
        ),
        (
            "LINE\n\ufeffLINE",
            "line 2, record 1: the record is not JSON: Expecting value at line 2 "
            "column 1, found '\\ufeff'",
        ),
        ("LINE\n[]", "line 2, record 1: [] is not an object"),
        ("LINE\n\xa0\n", "line 2, record 1: the record is not JSON: Expecting value at line 2 col"),
        ("LINE\n{}", "line 2, record 1: prompt is missing; the record has no keys"),
        ('LINE\n{"prompt": "x"}', "line 2, record 1: target is missing; the record has prompt"),
        (
            'LINE\n{"prompts": "x"}',
            "line 2, record 1: prompts='x' is not known here; did you mean prompt",
        ),
        (
            '{"prompt": "x", "target": "y", "id": 7.5}',
            "line 1, record 0: id=7.5 is not a text or a whole number",
        ),
        ('{"prompt": "x", "target": "y", "subject": "z"}', "line 1, record 0: subject='z' is"),
        ('{"prompt": "x", "target": "y", "paraphrases": "z"}', "record 0: paraphrases='z' is not"),
        ('{"prompt": "x", "target": "y", "paraphrases": [1]}', "record 0: paraphrases[0]=1 is not"),
        ('{"prompt": "x", "target": "y", "levels": [true]}', "record 0: levels[0]=true is not a"),
        (
            '{"prompt": "x", "target": "y", "paraphrases": ["z"], "levels": [6]}',
            "line 1, record 0: levels[0]=6 is not a level: a whole number from 1 to 5",
        ),
        ('{"prompt": "x", "target": "y", "levels": [1]}', "line 1, record 0: levels=[1] grades 1"),
        ('{"promt": "x", "target": "y"}', "promt='x' is not known here; did you mean prompt? The"),
        ('{"probes": [{"kind": "far"}]}', "line 1, record 0: probes[0].prompt is missing"),
        ('{"probes": [{"prompt": "x", "kind": "fa"}]}', "record 0: probes[0].kind='fa' is"),
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


OTHER_KINDS = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:bc\nsize 7\n", "`git lfs pull`"),
    (b"/annex/objects/MD5E-s190--ab.json\n", "`git annex get` fetches it"),
    (b"PAR1\x15\x04", "is Parquet: pandas.read_parquet(FILE).to_json('facts.jsonl', orient="),
    (b"PK\x03\x04\x14\x00", "is a zip archive: unpack it"),
    (gzip.compress(gzip.compress(b"[{}]")), "is compressed by gzip twice: unpack it once"),
    (b"BZh91AY", "is compressed by bzip2: unpack it, or compress it by gzip"),
    (b"\x80\x04\x95", "is a pickle, which can run code and is not read"),
    *((text.encode(code), "is UTF-16: save it as UTF-8")
      for text in ("[{}]", '{"a": 1}') for code in ("utf-16", "utf-16-le", "utf-16-be")),
    ("[{}]".encode("utf-32"), "is UTF-32: save it as UTF-8"),
    (b"SQLite format 3\0", "is binary: it holds NUL bytes, which no text has"),
    (b"\n<!DOCTYPE html>\n<p>Sign in", "is a web page, not the data"),
    (b"facts.json".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive: unpack it"),
    (
        b'prompt,"target new",id\r\n"a, b",c,1\r\n',
        'a table of prompt, "target new", id: pandas.read_',
    ),
    (b"prompt\ttarget\nx\ty\n", "is a table of prompt, target: pandas.read_table(FILE)"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "said"), OTHER_KINDS)
def test_a_file_of_another_kind_is_told_as_what_it_is(
    content: bytes, said: str, tmp_path: Path
) -> None:
    for number, each in enumerate([content, gzip.compress(content)]):
        path = tmp_path / f"{number}"
        path.write_bytes(each)
        with pytest.raises(ValueError, match=f"{path}, line 1: the file is .*; it must") as error:
            read_objects(path)
        assert said in str(error.value)


RECORDS = [{"a": "\u2028 \x85\n"}, {"b": [" \ufeff", "\U0001f9ea" * 40]}, {"c": {"d": 7}}] * 3


def text_of(records: Sequence[object], *, form: str) -> str:
    """An array, one record a line from line 2, or on one line; or JSON lines."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    return {
        "array": "[\n" + ",\n".join(lines) + "\n]\n",
        "one line": f"[{', '.join(lines)}]",
        "lines": "\n" + "\n".join(lines),
    }[form]


@pytest.mark.parametrize("form", ["array", "one line", "lines"])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_blocks_a_byte_order_mark_ends_of_lines_and_gzip_change_nothing(
    block: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "_BLOCK", block)
    text = text_of(RECORDS, form=form)
    windows = text.replace("\n", "\r\n").encode("utf-8-sig")
    mac = text.replace("\n", "\r").encode()
    found = []
    for number, content in enumerate([text.encode(), windows, gzip.compress(windows), mac]):
        path = tmp_path / f"{number}"
        path.write_bytes(content)
        found.append([(f.value, f.place.removeprefix(str(path))) for f in read_objects(path)])
    plain = found[0]
    assert [value for value, _ in plain] == RECORDS
    first_line = {"array": 2, "one line": 1, "lines": 2}[form]
    by_line = form != "one line"
    assert [place for _, place in plain] == [
        f", line {first_line + by_line * index}, record {index}" for index in range(len(RECORDS))
    ]
    assert found == [plain] * 4


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_a_place_in_a_long_line_is_counted_from_its_start(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "_BLOCK", block)
    path = tmp_path / "bad.json"
    path.write_text('\n [{"a": 1}, {"b": 2}, {"c" 3}]')
    with pytest.raises(ValueError, match=r"line 2, record 2: .* delimiter at line 2 column 28"):
        list(read_objects(path))


@pytest.mark.parametrize("cut", [1, 9])
def test_a_damaged_gzip_file_is_named(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.json.gz"
    path.write_bytes(gzip.compress(text_of(RECORDS, form="lines").encode())[:-cut])
    with pytest.raises(ValueError, match=r"bad.json.gz: the gzip file is damaged: .*end"):
        list(read_objects(path))


def test_bad_records_are_refused_one_by_one_where_the_next_can_be_found(tmp_path: Path) -> None:
    path, refused = tmp_path / "some.json", list[str]()
    bad = ["7", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": ["\\udc00"]}']
    good = '{"a": 1}'
    path.write_text(f"[{', '.join([*bad, good])}]")
    assert [f.value for f in read_objects(path, lambda e: refused.append(e.reason))] == [{"a": 1}]
    assert refused == [
        "the record is not an object", "a is not JSON, in which every number is finite",
        "the key 'a' occurs more than once in one object",
        "a is not Unicode text: it holds a lone surrogate",
    ]  # fmt: skip
    lines = [good, *bad, '{"a": ', "\xa0", good * 2, f"{good},{good}", f"{good},", f"{good};", good]
    path.write_text("\n".join(lines))
    refused.clear()
    found = [f.place for f in read_objects(path, lambda e: refused.append(e.reason))]
    assert [place.partition(", ")[2] for place in found] == [
        "line 1, record 0", "line 12, record 11",
    ]  # fmt: skip
    assert refused[4:] == [
        *["it is not JSON"] * 2, *["more than one object is in the line"] * 2,
        "a comma ends the line", "other text follows its object",
    ]  # fmt: skip


def test_a_bad_byte_ends_an_array_and_one_line(tmp_path: Path) -> None:
    path, refused = tmp_path / "some.json", list[str]()
    path.write_bytes(b'{"a": 1}\n{"a": "\xe9"}\n{"a": 3}')
    found = [f.value for f in read_objects(path, lambda e: refused.append(str(e)))]
    assert found == [{"a": 1}, {"a": 3}]
    assert refused == [f"{path}, line 2, record 1: byte 0xe9 is not UTF-8; save the file as UTF-8"]
    path.write_bytes(b'[{"a": 1},\n{"a": "\xe9"},\n{"a": 3}]')
    with pytest.raises(ValueError, match="line 2: byte 0xe9 is not UTF-8"):
        list(read_objects(path, lambda e: refused.append(str(e))))
