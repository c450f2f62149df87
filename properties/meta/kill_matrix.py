"""Which checks catch which planted fault: `python -m properties.meta.kill_matrix`.

The matrix is data, in kill_matrix.toml. Without options it is printed, whole or for the faults
named; `--measure` runs every check on the faults named (or on all) and says where the data is
wrong; `--write` corrects it; `--perfect N` runs every check on the perfect editor at N seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from hypothesis import Phase
from tqdm import tqdm

from fixtures.faulty import FAULTS
from fixtures.models import LoadedModel, load_model
from fixtures.perfect import make_perfect
from properties.checks import CHECKS, Result, run_check
from properties.runs import world_bench
from wise.edits import Background

__all__ = ["MATRIX", "N_EDITS", "THRESHOLDS", "failures_of_the_perfect", "measure", "read"]

MATRIX = Path(__file__).with_suffix(".toml")
N_EDITS = 90  # about the least at which far probes, all right, pass at the first of three looks
THRESHOLDS = {"portability": 0.5}  # the one rate that has none by default
_N_EXAMPLES = 15
_CAUGHT = ("fail", "error")


@cache
def _loaded(model: str) -> tuple[LoadedModel, Background]:
    loaded = load_model(model)
    assert loaded.world is not None
    return loaded, loaded.world.background()


def measure(
    fault: str, checks: Iterable[str] = tuple(CHECKS), *, seed: int = 0
) -> dict[str, Result]:
    """What each of `checks` finds of one fault."""
    planted = FAULTS[fault]
    loaded, background = _loaded(planted.model)
    assert loaded.world is not None
    stream = planted.stream(loaded.world.stream(seed, 40))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        bench = world_bench(
            planted.editor, loaded, Path(folder), n_edits=N_EDITS, seed=seed, name=fault,
            spec=f"{planted.editor.__module__}:{planted.editor.__name__}",
            thresholds=THRESHOLDS, n_examples=_N_EXAMPLES, of_stream=planted.stream,
            phases=(Phase.generate,),  # that a law is broken is enough here; how, is not asked
            # Its own object: the fault of shared state is planted in editors of one background.
            background=replace(planted.background(background, stream)),
        )  # fmt: skip
        return {name: run_check(CHECKS[name], bench) for name in checks}


def failures_of_the_perfect(seed: int, model: str = "mistral") -> list[Result]:
    """Everything that the perfect editor does not pass, though it should: all but what is unasked.

    Its rates may only be undecided where the stream asks nothing.
    """
    loaded, background = _loaded(model)
    with tempfile.TemporaryDirectory() as folder:
        bench = world_bench(
            make_perfect, loaded, Path(folder), n_edits=N_EDITS, seed=seed, name="perfect",
            spec=f"{make_perfect.__module__}:make_perfect",
            thresholds=THRESHOLDS, n_examples=_N_EXAMPLES, background=background,
        )  # fmt: skip
        results = [run_check(check, bench) for check in CHECKS.values()]
    return [r for r in results if r.outcome != "pass" and r.outcome != "not asked"]


def read() -> dict[str, list[str]]:
    """Fault -> the checks that catch it, as the data says."""
    return dict(tomllib.loads(MATRIX.read_text())["faults"])


def write(matrix: Mapping[str, Sequence[str]]) -> None:
    """Make `matrix` the data, in the order of the faults."""
    lines = ["# Fault -> the checks that catch it.", "[faults]"]
    for fault in FAULTS:
        if fault in matrix:
            checks = "".join(f'\n  "{check}",' for check in matrix[fault])
            lines.append(f"{fault} = [{checks}\n]")
    MATRIX.write_text("\n".join(lines) + "\n")


def _print(matrix: Mapping[str, Sequence[str]]) -> None:
    """A line for each fault and for what catches it; then, of all, how many each check catches."""
    for fault, checks in matrix.items():
        print(f"{fault}: {FAULTS[fault].claim}")
        print(f"    caught by {', '.join(checks) or 'NOTHING'}")
    if matrix.keys() < FAULTS.keys():
        return
    print(f"\n{len(matrix)} faults, {len(CHECKS)} checks; faults caught by each check:")
    for check in CHECKS:
        print(f"{sum(check in checks for checks in matrix.values()):>4}  {check}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="default: all")
    parser.add_argument("--measure", action="store_true", help="run the checks")
    parser.add_argument("--write", action="store_true", help="run them and correct the data")
    parser.add_argument("--perfect", type=int, default=0, metavar="N", help="seeds 0 .. N-1")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.faults) - set(FAULTS))
    if unknown:
        parser.error(f"fault {unknown[0]!r} is none of {', '.join(FAULTS)}")
    torch.set_num_threads(1)
    matrix, wrong = read(), 0
    for seed in tqdm(range(options.perfect), unit="seed", disable=not options.perfect):
        for result in failures_of_the_perfect(seed):
            wrong += 1
            print(f"perfect, seed {seed}: {result.outcome}: {result.check}: {result.message}")
    if options.measure or options.write:
        for fault in tqdm(options.faults or list(FAULTS), unit="fault"):
            found = measure(fault)
            caught = [name for name, result in found.items() if result.outcome in _CAUGHT]
            if caught != matrix.get(fault):
                wrong += 1
                print(f"{fault}: listed {matrix.get(fault)}, found:")
                for name in caught:
                    print(f"    {name}: {found[name].message}")
            if options.write:
                write({**read(), fault: caught})
    elif not options.perfect:
        _print({fault: matrix.get(fault, []) for fault in options.faults or matrix})
    return 1 if wrong and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
