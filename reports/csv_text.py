"""Words for a page: counts, lists, shortened texts, and tables safe for a spreadsheet."""

from __future__ import annotations

import pandas as pd

from wise.measures.text import spreadsheet_safe

__all__ = ["counted", "listed", "safe_for_csv", "shorten"]


def shorten(text: str, most: int) -> str:
    """About the first `most` characters of `text`, and how long it was."""
    if len(text) <= most:
        return text
    return f"{text[:most].rstrip()}… ({len(text):,} characters)"


def safe_for_csv(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each formula, so that no spreadsheet runs it."""

    def safe(value: object) -> object:
        return spreadsheet_safe(value) if isinstance(value, str) else value

    shown = table.rename(columns=safe)
    for name in shown.columns[[not pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]]:
        shown[name] = shown[name].astype(object).map(safe)
    return shown


def counted(n: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: list[str], most: int = 6) -> str:
    """`a, b and c`; from `most` on `a, b and 7 more`."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
