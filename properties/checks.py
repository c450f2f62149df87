"""Every check of the suite by name, chosen by capability: importable, without pytest.

`check_editor(factory)` runs them all on one model. A check that cannot be decided says what it
would take.
"""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from fixtures.models import load_model
from properties import laws, machine, patterns, rates, retention, routes, streams
from properties.bench import Bench
from properties.findings import Broken, Unasked, Undecided
from properties.runs import world_bench
from properties.surroundings import undisturbed
from wise.editor import Editor, EditorFactory

__all__ = [
    "CHECKS", "CONTRACT", "LIFELONG", "ROUTER", "TRIANGLE", "Check", "EditorFailedError", "Result",
    "check_editor", "checks_for", "laws_of", "run_check", "table_of", "told",
]  # fmt: skip

Law = Callable[[Bench], object]


@dataclass(frozen=True)
class Check:
    """A law by name; it applies to editors that have all capabilities that it `needs`."""

    name: str
    law: Law
    needs: tuple[type, ...] = ()

    def lacks(self, editor: Editor) -> str:
        """The first capability that `editor` does not have; empty where the check applies."""
        return next((each.__name__ for each in self.needs if not isinstance(editor, each)), "")

    def run(self, bench: Bench) -> object:
        """What the law finds; what the editor does to the process is undone afterwards."""
        with undisturbed(bench.loaded.tokenizer):
            return self.law(bench)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check on one editor; the message says what was found and needed."""

    check: str
    outcome: Literal["pass", "fail", "error", "inconclusive", "not asked"]
    message: str


class EditorFailedError(AssertionError):
    """Raised by `check_editor`; the message holds every check that failed."""


def laws_of(*modules: ModuleType) -> Iterator[Check]:
    """A check for each law that stands in `modules`, in the order in which they are written.

    A law is a function whose name begins with check_: check_reset_works is "reset-works", or, where
    it is of several metrics, one check for each by its name. What it needs is marked on it.
    """
    for module in modules:
        for name, law in vars(module).items():
            if name.startswith("check_") and law.__module__ == module.__name__:
                marks = vars(law)
                needed, metrics = marks.get("needs", ()), marks.get("metrics", ())
                if not metrics:
                    yield Check(name.removeprefix("check_").replace("_", "-"), law, needed)
                for metric in metrics:
                    yield Check(metric, partial(law, metric=metric), needed)


_LAWS = [importlib.import_module(f"{laws.__name__}.{each.name}")
         for each in pkgutil.iter_modules(laws.__path__)]  # fmt: skip
CONTRACT: Sequence[Check] = tuple(laws_of(*_LAWS))
TRIANGLE: Sequence[Check] = tuple(laws_of(rates))
LIFELONG: Sequence[Check] = tuple(laws_of(machine, streams, retention, patterns))
ROUTER: Sequence[Check] = tuple(laws_of(routes))

CHECKS: Mapping[str, Check] = {
    check.name: check for check in (*CONTRACT, *TRIANGLE, *LIFELONG, *ROUTER)
}


def checks_for(editor: Editor) -> list[Check]:
    """The checks that apply to `editor`, by its capabilities."""
    return [check for check in CHECKS.values() if not check.lacks(editor)]


def told(error: Exception) -> str:
    """An editor's own error in one line: what, where in the stream, and in which line of code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{notes} ({frame.filename}, line {frame.lineno})"


def run_check(check: Check, bench: Bench) -> Result:
    """The result of `check`; any other exception of the editor is an error that names it."""
    try:
        lacks = check.lacks(bench.example)
        if lacks:
            return Result(check.name, "not asked", f"the editor is not {lacks}")
        found = check.run(bench)
    except Broken as error:
        return Result(check.name, "fail", str(error))
    except Unasked as error:
        return Result(check.name, "not asked", str(error))
    except Undecided as error:
        return Result(check.name, "inconclusive", str(error))
    except Exception as error:  # noqa: BLE001 - an editor may raise anything
        return Result(check.name, "error", told(error))
    return Result(check.name, "pass", found if isinstance(found, str) else "")


def check_editor(
    factory: EditorFactory,
    *,
    model: str = "llama",
    dataset: str | None = None,
    skip_bad_records: bool = False,
    n_edits: int = 100,
    seed: int = 0,
    thresholds: Mapping[str, float] | None = None,
    checks: Sequence[str] | None = None,
    on_fail: Literal["raise", "warn"] | None = "raise",
    **options: Any,
) -> list[Result]:
    """Every check (or those named) on the editor that `factory` makes of a model.

    The facts are those of the model's world, or of `dataset`, FILE or FORMAT:FILE, without its bad
    records where these are to be skipped; the log says once what was left out. `options` go to the
    factory. With `on_fail` "raise", EditorFailedError follows at the end; with "warn", a warning
    for each failure; with None, nothing. Raises ValueError for an unknown check, or a model
    without a world where there is no `dataset`.
    """
    names = list(CHECKS) if checks is None else list(checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ValueError(f"check={unknown[0]!r} is none of {', '.join(CHECKS)}")
    for argument, value in (("n_edits", n_edits), ("seed", seed)):
        least = 1 if argument == "n_edits" else 0
        if type(value) is not int or value < least:
            raise ValueError(f"{argument}={value!r} is not a whole number >= {least}")
    if not isinstance(thresholds, Mapping | None):
        raise ValueError(f"thresholds={thresholds!r} is not a mapping of metrics to numbers")
    if on_fail not in ("raise", "warn", None):
        raise ValueError(f"on_fail={on_fail!r} is none of 'raise', 'warn', None")
    with tempfile.TemporaryDirectory() as folder:
        bench = world_bench(
            factory, load_model(model), Path(folder), n_edits=n_edits, seed=seed,
            dataset=dataset, skip_bad_records=skip_bad_records, thresholds=thresholds,
            options=options,
        )  # fmt: skip
        results = [run_check(CHECKS[name], bench) for name in names]
    failed = [result for result in results if result.outcome in ("fail", "error")]
    if on_fail == "warn":
        for result in failed:
            warnings.warn(f"{result.check}: {result.message}", stacklevel=2)
    if on_fail == "raise" and failed:
        raise EditorFailedError("\n".join(f"{each.check}: {each.message}" for each in failed))
    return results


def table_of(results: Sequence[Result]) -> str:
    """One line for each check: outcome, name, message."""
    width = max((len(result.check) for result in results), default=0)
    return "\n".join(f"{r.outcome:<12} {r.check:<{width}}  {r.message}".rstrip() for r in results)
