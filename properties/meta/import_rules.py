"""The import arrows: who may import whom, read from the source without importing anything.

A dotted name stands for itself and for everything below it, on either side of an arrow. Written
by hand, as import-linter (2.17) does not tell an import at load from one inside a function.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["ROOMS", "RULES", "Import", "Rule", "loads_torch", "violations"]

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("wise", "fixtures", "properties", "reports", "benchmarks")
PROJECT = (*ROOMS, "conftest")

MEASURED = ("wise.measures",)
# Ledgers lie below all that is kept in them: rows here, and above here traces and studies.
LEDGER = ("wise.jobs.ledger",)
RECORDS = ("wise.edits", "wise.editor", *LEDGER, *MEASURED)
VOCABULARY = (*RECORDS, "wise.seeds")
COMMAND_LINE = ("reports.__main__", "reports.cli")
IMPORTS_TORCH = ("torch", "transformers", "safetensors.torch")


@dataclass(frozen=True)
class Import:
    """One imported name, and when: as the module "load"s, as a function is "called", or, being
    only a "type", never."""

    name: str
    when: str
    line: int


@dataclass(frozen=True)
class Rule:
    """What `modules` (less `but`) may import at `whens`: of the project only what is `only`, from
    anywhere nothing that is `never`, and with `third_party` false nothing from outside."""

    claim: str
    modules: tuple[str, ...]
    but: tuple[str, ...] = ()
    only: tuple[str, ...] = PROJECT
    never: tuple[str, ...] = ()
    third_party: bool = True
    whens: tuple[str, ...] = ("load", "called", "type")

    def binds(self, module: str) -> bool:
        return _is_under(module, self.modules) and not _is_under(module, self.but)

    def forbids(self, imported: Import) -> bool:
        name, package = imported.name, imported.name.partition(".")[0]
        if imported.when not in self.whens:
            return False
        if _is_under(name, self.never):
            return True
        if package in PROJECT:
            return not _is_under(name, self.only)
        return not self.third_party and package not in sys.stdlib_module_names


RULES = (
    Rule("the vocabulary imports only itself", modules=VOCABULARY, only=VOCABULARY),
    Rule(
        "records, rows and statistics are without torch",
        modules=RECORDS,
        but=("wise.editor",),
        never=IMPORTS_TORCH,
    ),
    Rule(
        "the protocol and the package load without torch",
        modules=("wise.editor", "wise.__init__"),
        only=VOCABULARY,
        never=IMPORTS_TORCH,
        whens=("load",),
    ),
    Rule(
        "ledgers and rows need the standard library alone",
        modules=(*LEDGER, "wise.measures.rows"),
        third_party=False,
    ),
    Rule(
        "jobs know nothing of what is run",
        modules=("wise.jobs",),
        only=("wise.jobs",),
        never=IMPORTS_TORCH,
    ),
    Rule("wise.lm stands on the vocabulary", modules=("wise.lm",), only=(*VOCABULARY, "wise.lm")),
    Rule("the library knows nothing of its tests", modules=("wise",), only=("wise",)),
    Rule(
        "WISE stands without the other editors",
        modules=("wise.editors.wise",),
        only=(
            *VOCABULARY,
            "wise.lm",
            "wise.editors.wise",
            "wise.editors.base",
            "wise.editors.gated",
            "wise.editors.kept",
            "wise.editors.options",
            "wise.editors.router",
            "wise.editors.routing_inputs",
            "wise.editors.saved",
        ),
    ),
    Rule("fixtures stand on the library", modules=("fixtures",), only=("fixtures", "wise")),
    Rule(
        "the rules and their tests stand on the fixtures",
        modules=("properties",),
        but=("properties.internals", "properties.meta"),
        only=("fixtures", "properties", "wise"),
    ),
    Rule(
        "reports stand on rows, without torch or a model",
        modules=("reports",),
        but=COMMAND_LINE,
        only=("reports", *MEASURED),
        never=IMPORTS_TORCH,
    ),
    Rule(
        "the command line imports the rest inside its commands",
        modules=COMMAND_LINE,
        only=("reports", *MEASURED),
        never=IMPORTS_TORCH,
        whens=("load",),
    ),
)


def _is_under(name: str, parents: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{parent}.") for parent in parents)


def _imports(source: str, module: str) -> Iterator[Import]:
    """Every import in `source`; a package's own file goes by the name `package.__init__`."""

    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        if isinstance(node, ast.stmt | ast.expr):
            for name in _imported_names(node, module):
                yield Import(name, when, node.lineno)
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            for statement in node.body:
                yield from visit(statement, "type")
            for statement in node.orelse:
                yield from visit(statement, when)
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "load":
            when = "called"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, when)

    return visit(ast.parse(source), "load")


def _imported_names(node: ast.AST, module: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = module.split(".")[: -node.level] if node.level else []
        base += node.module.split(".") if node.module else []
        return [".".join([*base, alias.name]) for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__", "importorskip"):
            return [str(node.args[0].value)]
    return []


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def violations(root: Path, rule: Rule) -> list[str]:
    """`file:line: module imports name` for each import in the rooms under `root` that breaks it."""
    found = []
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        place = path.relative_to(root)
        module = ".".join(place.with_suffix("").parts)
        if rule.binds(module):
            source = path.read_text(encoding="utf-8")
            broken = [each for each in _imports(source, module) if rule.forbids(each)]
            found += [f"{place}:{each.line}: {module} imports {each.name}" for each in broken]
    return found


def loads_torch(path: Path, root: Path = ROOT) -> bool:
    """Whether torch is imported as the file, or any of the project's that it loads, is loaded."""
    seen, waiting = set(), [path]
    while waiting:
        seen.add(file := waiting.pop())
        names = _loaded(file, root)
        if any(_is_under(name, IMPORTS_TORCH) for name in names):
            return True
        waiting += {found for name in names for found in _files(name, root)} - seen
    return False


@cache
def _loaded(path: Path, root: Path) -> frozenset[str]:
    """What a file imports as it loads."""
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    imports = _imports(path.read_text(encoding="utf-8"), module)
    return frozenset(each.name for each in imports if each.when == "load")


@cache
def _files(name: str, root: Path) -> frozenset[Path]:
    """The project's files that run when the module or attribute `name` is imported."""
    parts = name.split(".")
    if parts[0] not in PROJECT:
        return frozenset()
    folders = [root.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    files = [
        file for folder in folders for file in (folder / "__init__.py", folder.with_suffix(".py"))
    ]
    return frozenset(file for file in files if file.is_file())
