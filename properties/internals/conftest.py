"""What all tests of the parts share: one thread, and rows as a page reads them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from properties.internals.measured import write_rows
from reports.reading import Items, read_items
from wise.measures.rows import Row


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tiny models, where torch is loaded at all, run fastest on one thread."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def items_of(tmp_path: Path) -> Callable[..., Items]:
    """Rows as a page reads them, from a file of that name."""

    def items_of(rows: Sequence[Row], name: str = "rows") -> Items:
        return read_items([write_rows(tmp_path / f"{name}.jsonl", rows)])

    return items_of
