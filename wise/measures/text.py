"""Text of any origin, made safe to show: no hidden or reordering characters, no formulas."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = [
    "UNSPACED",
    "by_number",
    "hidden",
    "markdown",
    "markdown_grid",
    "normalized",
    "quoted",
    "spreadsheet_safe",
    "visible",
]

# Chinese, Japanese, Thai, Lao, Burmese and Khmer letters, and full-width signs: no space follows.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff"
)
# Control characters, bidirectional controls, zero-width and tag characters, noncharacters and lone
# surrogates. The joiners U+200C and U+200D stay: Persian, Hindi and emoji are written with them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)
_ACCENTS = re.compile(
    "([\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{3})"
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+"
)
# What a spreadsheet takes for the start of a formula, also in its full-width forms.
_FORMULA = re.compile("[=+@\uff1d\uff0b\uff20\uff0d-]")
_EITHER = re.compile(r"(\w+)\|(\w+)")  # a word for one, and for several
_MARKED = re.compile(r"([\\|]|<(?=[A-Za-z/!?]))")  # ends a cell, hides a mark or opens a tag


def _symbol(match: re.Match[str]) -> str:
    return {"\n": "↵", "\t": "⇥"}.get(match[0], f"⟨U+{ord(match[0]):04X}⟩")


def by_number(n: int, text: str) -> str:
    """`1 record is` or `2,000 records are` of `record|records is|are`."""
    return f"{n:,} " + _EITHER.sub(lambda match: match[1 if n == 1 else 2], text)


def normalized(text: str) -> str:
    """`text` with each run of white space as one space, and none at the ends."""
    return " ".join(text.split())


def quoted(text: str, shown: Callable[[str], str] = repr) -> str:
    """An answer as `shown` quotes it, and in words where it is empty."""
    return shown(text) if text else "an empty text"


def visible(text: str) -> str:
    """`text` with every hidden character in a form that can be seen; valid in XML 1.0.

    A letter keeps at most three accents; more would cover the lines above.
    """
    return _ACCENTS.sub(r"\1", _HIDDEN.sub(_symbol, text))


def hidden(text: str) -> str:
    """The characters of `text` that cannot be seen, line breaks and tabs apart."""
    return "".join(each for each in _HIDDEN.findall(text) if each not in "\n\r\t")


def spreadsheet_safe(text: str) -> str:
    """`text` in a form that no spreadsheet runs: an apostrophe stands before a formula."""
    shown = visible(text)
    return f"'{shown}" if _FORMULA.match(shown.lstrip()) else shown


def markdown(text: str) -> str:
    """`text` as one line of Markdown that shows as written: it ends no cell, tag or line."""
    return _MARKED.sub(r"\\\1", visible(normalized(text)))


def markdown_grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned as plain text too."""
    table = [[markdown(cell) for cell in line] for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
