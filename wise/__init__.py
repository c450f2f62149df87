"""Lifelong model editing with WISE, the editors it is compared with, and how all are measured.

Importing this package loads no torch; its names are loaded when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wise.editors.exported import load_exported
    from wise.editors.wise.wise import WISE, WISEConfig
    from wise.edits import Background, Edit

__all__ = ["WISE", "Background", "Edit", "WISEConfig", "__version__", "load_exported"]

__version__ = "0.1.0"

_MODULES = {
    "Background": "wise.edits",
    "Edit": "wise.edits",
    "WISE": "wise.editors.wise.wise",
    "WISEConfig": "wise.editors.wise.wise",
    "load_exported": "wise.editors.exported",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
