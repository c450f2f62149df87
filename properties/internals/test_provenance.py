"""Laws of provenance: the source of an editor is its file and all that the file imports."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tokenizers.normalizers import Lowercase

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.watched import RUN
from wise.evaluation.provenance import (
    check_provenance,
    keep_provenance,
    provenance_of,
    sources_of,
)

pytestmark = pytest.mark.internals

FILES = {
    "my_editor.py": "import one\ndef make():\n    from pack.sub import name\n",
    "one.py": "import json, torch\n",
    "pack/__init__.py": "",
    "pack/sub.py": "from . import deep\nfrom .inner import name\n",
    "pack/deep.py": "from ..pack.sub import name\n",
    "pack/inner.py": "name = 1\n",
    "unused.py": "",
}


def editor_in(folder: Path, files: dict[str, str] = FILES) -> str:
    (folder / "pack").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return f"{folder / 'my_editor.py'}:make"


def test_the_source_of_an_editor_is_its_file_and_what_it_imports_from_beside_it(
    tmp_path: Path,
) -> None:
    assert list(sources_of(editor_in(tmp_path))) == sorted(FILES.keys() - {"unused.py"})


def test_a_change_of_any_imported_file_is_one_of_the_source(tmp_path: Path) -> None:
    spec = editor_in(tmp_path)
    before = sources_of(spec)
    for name in before:
        editor_in(tmp_path, {name: FILES[name] + "# changed\n"})
        after = sources_of(spec)
        assert {each for each in after if after[each] != before[each]} == {name}
        editor_in(tmp_path)


def test_the_source_of_an_editor_has_what_it_imports_from_the_library(tmp_path: Path) -> None:
    spec = editor_in(tmp_path, {"my_editor.py": "from wise.editors.corners import make_unedited\n"
                                                "make = make_unedited\n"})  # fmt: skip
    assert {"my_editor.py", "wise/editors/corners.py", "wise/lm/decoding.py"} <= {*sources_of(spec)}


def test_a_built_in_editor_has_its_source_and_that_of_no_other() -> None:
    found = sources_of("grace")
    assert "wise/editors/grace.py" in found
    assert "wise/editors/incontext.py" not in found


def test_what_was_run_has_the_source_of_what_measures_and_the_versions_of_libraries() -> None:
    found = provenance_of(RUN, tiny_model("gpt2"), tiny_tokenizer())
    measuring = ("wise/evaluation/metrics.py", "wise/evaluation/routing.py",
                 "wise/lm/decoding.py", "wise/measures/rows.py")  # fmt: skip
    assert {*measuring, "torch", "transformers", "tokenizers"} <= found.keys()


def test_a_tokenizer_that_reads_a_text_otherwise_is_another_one() -> None:
    lowercasing = copy.deepcopy(tiny_tokenizer())
    lowercasing.backend_tokenizer.normalizer = Lowercase()
    one, other = (
        provenance_of(RUN, tiny_model("gpt2"), each) for each in (tiny_tokenizer(), lowercasing)
    )
    assert {name for name in one if one[name] != other[name]} == {"tokens_sha256"}


def test_rows_files_of_one_stem_each_have_their_provenance(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("rows", "rows.look-1", "rows.jsonl")]
    for path in paths:
        path.write_text("{}\n")
        keep_provenance(path, {"stream": path.name})
    for path in paths:
        check_provenance(path, {"stream": path.name})
