"""Texts that try to be more than text, and files that hold them in every place they can be in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from properties.internals.measured import RUN, rows_of, write_rows
from wise.measures.rows import Row

__all__ = ["HOSTILE", "PageReader", "hostile_files", "hostile_rows"]

HOSTILE = (
    "<script>window.owned = 1</script>",
    "<img src=x onerror='window.owned = 1'>",
    "</title></svg></style><script>window.owned = 1</script>",
    "\"><svg onload=\"window.owned = 1\">",
    "' onmouseover='window.owned = 1",
    "]]><script>window.owned = 1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.owned=1",
    "=HYPERLINK(\"http://example.org\")",
    "+1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "-2+3",
    "\uff1d1+1",
    "a\x00b\x07c\x1b[31md\x7f\x85",
    "one\ntwo\ttabs\r\nthree\u2028four",
    "\u202egnp.exe\u202c \u2066x\u2069",
    "שלום עולם مرحبا بالعالم",
    "$\\frac{1}{2}$ $unclosed \\textbf{x}",
    "x" * 10_000,
    "word " * 2_000,
    "e" + "\u0301" * 500,
    "🧑‍🚀 zero\u200bwidth \ufeff",
    "&lt;b&gt; &amp; &#60;",
    "../../etc/passwd",
)  # fmt: skip


def hostile_rows(texts: Sequence[str] = HOSTILE) -> list[Row]:
    """Each text as an editor, a model, a stream, a prompt, an answer, a reason, a subject."""
    rows = []
    for number, text in enumerate(texts):
        run = RUN._replace(editor=text, seed=number)
        of_run = rows_of("reliability", "", [0.0] * 12 + [None], run=run, t=13)
        of_run += rows_of("locality", "far", [1.0] * 5 + [0.0], run=run, t=13)
        fields = dict.fromkeys(("prompt", "expected", "answer", "edit_id", "cluster"), text)
        of_run = [replace(row, **fields) for row in of_run]
        of_run[12] = replace(of_run[12], excluded=text)
        rows += of_run
    for field in ("model", "stream"):
        run = RUN._replace(**{field: " ".join(texts[:6])})
        rows += rows_of("reliability", "", [1.0, 0.0], run=run)
    return rows


def hostile_files(folder: Path, texts: Sequence[str] = HOSTILE) -> dict[str, Path]:
    """Rows and all that stands beside them, by the name of the option that takes it."""
    files = {"rows": write_rows(folder / "<b>=rows'&.jsonl", hostile_rows(texts))}
    for name in ("checks", "costs", "study", "r2", "effects", "kill_matrix"):
        files[name] = folder / f"{name}.file"
    checks = [
        dict(name=text, editor=text, outcome=outcome, detail=text, stream=text, replay=text)
        for text in texts
        for outcome in ("fail", "pass")
    ]
    lines = (json.dumps(check) + "\n" for check in checks)
    files["checks"].write_text("".join(lines), encoding="utf-8")
    plain = [text for text in texts if "\x00" not in text]
    keys = [json.dumps(text, ensure_ascii=False) for text in plain if "\x7f" not in text]
    pairs = [f"{key} = [{key}]\n" for key in keys]
    files["kill_matrix"].write_text("[faults]\n" + "".join(pairs), encoding="utf-8")
    tables: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
        "costs": ("editor model seed t seconds_per_edit bytes inference_ratio",
                  [(x, "llama", 0, t, 1.5, 10, 1.0) for x in plain for t in (1, 10)]),
        "study": ("fact subject model layer editor problem tracing rewrite paraphrase "
                  "neighborhood overall essence",
                  [(f, x, "gpt2", l, x, "p", l / 9 + f / 99, 0.5 + f / 9, 0.5, 1, 0.5, 0.1)
                   for x in plain[:3] for l in (0, 1) for f in range(3)]),
        "r2": ("editor problem r2_layer r2_both partial_r2",
               [(x, x, 0.5, 0.6, 0.1) for x in plain]),
        "effects": ("fact token_index token role layer site effect",
                    [(x, 0, x, x, l, "mlp", 0.1 * l) for x in plain for l in (0, 1)]),
    }  # fmt: skip
    for name, (header, lines_of) in tables.items():
        with files[name].open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header.split(), *lines_of])
    return files


class PageReader(HTMLParser):
    """The elements of a page with their attributes, its text, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))
