"""Every check of the suite by name, chosen by capability: importable, without pytest.

`check_editor(factory)` runs them all on one model. A check that fails is broken; one that cannot be
decided says what it would take.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fixtures.models import load_model
from properties import machine, patterns, rates, routes
from properties.bench import Bench
from properties.findings import Broken, Unasked, Undecided
from properties.laws import batches, model, refusals, states, streams, traces, writes
from properties.runs import LEVELS, world_bench
from properties.surroundings import undisturbed
from wise.editor import (
    Editor,
    EditorFactory,
    Erasable,
    Generates,
    Layered,
    Persistent,
    Prepares,
    Retrieves,
    Routed,
)

__all__ = [
    "CHECKS", "CONTRACT", "LIFELONG", "ROUTER", "TRIANGLE", "Check", "EditorFailedError", "Result",
    "check_editor", "checks_for", "run_check", "table_of",
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
        """What the law finds; whatever the editor does to the process ends with it."""
        with undisturbed(bench.loaded.tokenizer):
            return self.law(bench)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found of one editor; the message says what, and what was needed."""

    check: str
    outcome: Literal["pass", "fail", "error", "inconclusive", "not asked"]
    message: str


class EditorFailedError(AssertionError):
    """Raised by `check_editor`; the message holds every check that failed."""


def _named(laws: Iterable[Law], *needs: type) -> Iterator[Check]:
    """Checks named by their functions: check_reset_works is "reset-works"."""
    for law in laws:
        name = law.__name__.removeprefix("check_").replace("_", "-")
        yield Check(name, law, needs)


CONTRACT: Sequence[Check] = (
    *_named(getattr(model, name) for name in model.__all__ if name.startswith("check_")),
    *_named([
        batches.check_padding_does_not_matter,
        batches.check_padding_side_does_not_matter,
        batches.check_batch_mates_do_not_matter,
    ]),
    *_named([batches.check_cached_generation_says_the_same], Generates),
    *_named([batches.check_a_target_does_not_open_the_gate], Routed),
    *_named([
        refusals.check_refuses_a_prompt_beyond_the_context,
        refusals.check_refuses_a_target_without_tokens,
        refusals.check_refuses_weights_that_are_not_numbers,
        refusals.check_an_interrupted_edit_leaves_the_editor_as_it_was,
    ]),
    *_named([refusals.check_refuses_a_layer_outside_the_model], Layered),
    *_named(getattr(writes, name) for name in writes.__all__),
    *_named([
        states.check_a_saved_editor_goes_on_as_if_never_stopped,
        states.check_a_saved_state_holds_no_pickle,
        states.check_saved_states_are_kept_apart,
    ], Persistent),
    *_named([states.check_removing_an_edit_leaves_the_others], Erasable),
    *_named([states.check_preparing_edits_changes_no_answer], Prepares),
    *_named([streams.check_the_background_is_apart_from_the_stream]),
    *_named(getattr(traces, name) for name in traces.__all__),
)  # fmt: skip

TRIANGLE: Sequence[Check] = tuple(
    Check(metric, partial(rates.check_rate, metric=metric))
    for metric in (
        "reliability", "generalization", *(f"generalization-{level}" for level in LEVELS),
        "far", "near-subject", "near-relation", "portability",
    )
)  # fmt: skip

LIFELONG: Sequence[Check] = tuple(_named([
    machine.check_any_sequence_of_operations,
    streams.check_the_order_of_edits_does_not_matter,
    streams.check_inference_does_not_grow,
    rates.check_retention,
    rates.check_at_edit_is_not_below_final,
    patterns.check_misses_look_like_chance,
]))  # fmt: skip

ROUTER: Sequence[Check] = (
    *(Check(name, partial(routes.check_separation, metric=name), (Routed,))
      for name in ("separation-far", "separation-near")),
    *(Check(name, partial(routes.check_gate, metric=name), (Routed,))
      for name in (*routes.IN_SCOPE, *routes.OUT_OF_SCOPE)),
    *_named([routes.check_router_does_not_drift, routes.check_router_needs_no_shortcut], Routed),
    *_named([routes.check_retrieval], Retrieves),
)  # fmt: skip

CHECKS: Mapping[str, Check] = {
    check.name: check for check in (*CONTRACT, *TRIANGLE, *LIFELONG, *ROUTER)
}


def checks_for(editor: Editor) -> list[Check]:
    """The checks that apply to `editor`, by its capabilities."""
    return [check for check in CHECKS.values() if not check.lacks(editor)]


def run_check(check: Check, bench: Bench) -> Result:
    """What `check` finds; whatever else the editor raises is an error that names it."""
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
        return Result(check.name, "error", f"{type(error).__name__}: {error}")
    return Result(check.name, "pass", found if isinstance(found, str) else "")


def check_editor(
    factory: EditorFactory,
    *,
    model: str = "llama",
    n_edits: int = 100,
    seed: int = 0,
    thresholds: Mapping[str, float] | None = None,
    checks: Sequence[str] | None = None,
    on_fail: Literal["raise", "warn"] | None = "raise",
    **options: Any,
) -> list[Result]:
    """Every check (or those named) on the editor that `factory` makes of an embedded model.

    `options` go to the factory. With `on_fail` "raise", EditorFailedError follows at the end, with
    "warn" a warning for each failure, with None nothing but the table. Raises ValueError for a name
    that is no check, or a model without a world.
    """
    names = list(CHECKS) if checks is None else list(checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ValueError(f"check={unknown[0]!r} is none of {', '.join(CHECKS)}")
    if on_fail not in ("raise", "warn", None):
        raise ValueError(f"on_fail={on_fail!r} is none of 'raise', 'warn', None")
    with tempfile.TemporaryDirectory() as folder:
        bench = world_bench(
            factory, load_model(model), Path(folder), n_edits=n_edits, seed=seed,
            thresholds=thresholds, options=options,
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
    """One line a check: outcome, name, message."""
    width = max((len(result.check) for result in results), default=0)
    return "\n".join(f"{r.outcome:<12} {r.check:<{width}}  {r.message}".rstrip() for r in results)
