"""Modules that an editor is named by: one that can be imported, or a Python file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["load_module"]


def load_module(source: str, spec: str) -> ModuleType:
    """The module `source`, a dotted name or a file that ends in .py, of the editor `spec`.

    Raises ValueError where there is none; errors inside it come through as they are.
    """
    return _file(source, spec) if source.endswith(".py") else _imported(source, spec)


def _imported(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"editor={spec!r}: there is no module {name!r}") from error


def _file(source: str, spec: str) -> ModuleType:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"editor={spec!r}: there is no file {source!r} in {Path.cwd()}")
    name = f"_editor_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"editor={spec!r}: {source!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for modules beside it; last, so that it shadows nothing
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
