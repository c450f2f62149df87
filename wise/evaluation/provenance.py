"""What was run: the content of everything on which the rows of a lifelong run depend.

It stands beside the rows, so that a run is resumed only as what it was begun as.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

import wise
from wise.editor import module_of
from wise.edits import fields_of
from wise.jobs.grid import write_json
from wise.jobs.ledger import json_digest
from wise.lm.architectures import LanguageModel
from wise.lm.digest import model_digest

if TYPE_CHECKING:
    from wise.evaluation.lifelong import LifelongRun

__all__ = ["check_provenance", "keep_provenance", "provenance_of", "sources_of"]

_MEASURING = "wise.evaluation.lifelong:run_lifelong"
_LIBRARIES = ("torch", "transformers", "tokenizers")
_MOST_NAMED = 3  # differences in one message
_MOST_SHOWN = 40  # characters of a value in a message


def provenance_of(
    run: LifelongRun, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, object]:
    """All that decides the rows of `run`, by name; files, weights and texts by their SHA-256.

    The device and the number of threads do not count, though rounding may depend on them.
    """
    texts = [f"{edit.prompt} {edit.target}" for edit in run.stream.edits]
    background = [run.background.texts, [fields_of(edit) for edit in run.background.edits]]
    return {
        **run.identity._asdict(),
        "options": {name: repr(value) for name, value in sorted(run.options.items())},
        "model_sha256": model_digest(LanguageModel(model)),
        "vocabulary_sha256": json_digest(tokenizer.get_vocab()),
        "tokens_sha256": json_digest([tokenizer.eos_token_id, tokenizer(texts).input_ids]),
        "background_sha256": json_digest(background),
        "edits": len(run.stream.edits),
        "checkpoints": sorted(run.checkpoints),
        "protocols": list(run.protocols),
        "edits_per_turn": run.edits_per_turn,
        "tells_knowledge": run.tells_knowledge,
        **{name: version(name) for name in _LIBRARIES},
        **sources_of(_MEASURING),
        **(sources_of(run.spec) if run.spec else {}),
    }


def sources_of(spec: str) -> dict[str, str]:
    """By file, the SHA-256 of the source that `spec` names: its file and all that this imports.

    Followed are imports from the folder of its file, or where it is installed from its package, and
    from `wise`. Raises as `load_editor`.
    """
    module = module_of(spec)
    if module.__file__ is None:
        return {}
    first = Path(module.__file__).resolve()
    depth = module.__name__.count(".") + (first.stem == "__init__")
    own, suite = first.parents[depth], Path(wise.__file__).resolve().parents[1]
    top = first.relative_to(own).parts[0]
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    found, todo = dict[str, str](), [(own, first)]
    while todo:
        root, file = todo.pop()
        name = file.relative_to(root).as_posix()
        if name in found:
            continue
        content = file.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
        if file.suffix == ".py":
            for imported in _imports(content, file.relative_to(root).parent.parts):
                if own not in installed or imported[0] == top:
                    todo += [(own, each) for each in _files(own, imported)]
                if imported[0] == "wise":
                    todo += [(suite, each) for each in _files(suite, imported)]
    return dict(sorted(found.items()))


@cache
def _imports(content: bytes, package: tuple[str, ...]) -> tuple[list[str], ...]:
    """What a file of `package` imports, as parts of a name; the last may be no module's."""
    found: list[list[str]] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            found += [[*base, alias.name] for alias in node.names]
    return tuple(found)


def _files(root: Path, parts: list[str]) -> Iterator[Path]:
    """The files below `root` that importing this name runs."""
    for n in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:n])
        yield from filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py"))


def keep_provenance(rows: Path, provenance: Mapping[str, object]) -> None:
    """Write what was run beside its rows."""
    write_json(provenance, _beside(rows))


def check_provenance(rows: Path, provenance: Mapping[str, object]) -> None:
    """Raise ValueError, naming what differs, where `rows` holds rows of anything else."""
    if not rows.exists() or not rows.stat().st_size:
        return
    try:
        found = json.loads(_beside(rows).read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{rows} cannot be resumed: there is no {_beside(rows).name} beside it, "
            "which says what was run"
        ) from None
    expected = json.loads(json.dumps(provenance))
    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    if names:
        told = [f"{name} was {_shown(found, name)} and is {_shown(expected, name)}"
                for name in names[:_MOST_NAMED]]  # fmt: skip
        more = len(names) - len(told)
        told += [f"{more} more differ"] * bool(more)
        raise ValueError(f"{rows} is of another run: {'; '.join(told)}. Name another file")


def _beside(rows: Path) -> Path:
    return rows.with_name(f"{rows.name}.run.json")


def _shown(values: Mapping[str, object], name: str) -> str:
    if name not in values:
        return "missing"
    value = values[name]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_digest = name.endswith(("sha256", ".py", ".so"))
    most = 10 if is_digest else _MOST_SHOWN
    return text if len(text) <= most else f"{text[:most]}..."
