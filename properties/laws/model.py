"""The caller's model and the unedited editor: only edits change anything, and reset undoes all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import nn

from properties.bench import Bench
from properties.findings import require

__all__ = [
    "check_global_random_state_does_not_matter",
    "check_making_an_editor_changes_nothing",
    "check_questions_change_nothing",
    "check_reset_forgets_everything",
    "check_reset_restores_the_base_model",
    "check_same_seed_gives_the_same_editor",
    "check_two_editors_do_not_influence_each_other",
    "check_without_edits_it_is_the_base_model",
    "difference",
]


def difference(one: nn.Module, other: nn.Module) -> str:
    """The first difference of a model from its original; empty where there is none."""
    parts, originals = dict(one.named_modules()), dict(other.named_modules())
    for name in [*(originals.keys() - parts.keys()), *(parts.keys() - originals.keys())]:
        return f"module {name} was {'removed' if name in originals else 'added'}"
    weights = dict(one.named_parameters())
    for name, weight in other.named_parameters():
        own = weights.get(name)
        if own is None or own.dtype != weight.dtype or not torch.equal(own, weight):
            return f"weight {name} has changed"
        if own.requires_grad != weight.requires_grad:
            return f"weight {name} has requires_grad={own.requires_grad}"
    for name, module in originals.items():
        found = _marks(parts[name], module)
        if found:
            return f"module {name or 'model'} {found}"
    return ""


def _marks(module: nn.Module, original: nn.Module) -> str:
    """What was left behind on one module."""
    if type(module) is not type(original) or "forward" in vars(module):
        return "was replaced, or its forward was"
    if module.training != original.training:
        return f"is in {'training' if module.training else 'evaluation'} mode"
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(len(vars(module)[name]) != len(vars(original)[name]) for name in hooks):
        return "keeps a hook"
    return ""


def check_making_an_editor_changes_nothing(bench: Bench) -> None:
    """The factory changes nothing in the model that it is given, and leaves no hook on it."""
    model = bench.copy_model()
    bench.editor(model=model)
    found = difference(model, bench.loaded.model)
    require(not found, f"making the editor changed the caller's model: {found}")


def check_without_edits_it_is_the_base_model(bench: Bench) -> None:
    """Before the first edit, logits are bitwise those of the unedited model."""
    found = bench.logits(bench.editor(), bench.prompts)
    bench.same(found, bench.logits(bench.base, bench.prompts), "before any edit")


def check_reset_restores_the_base_model(bench: Bench) -> None:
    """After edits and a reset, logits and the caller's model are bitwise as before."""
    model = bench.copy_model()
    editor = bench.editor(bench.edits(least=1), model=model)
    bench.ask(editor, bench.prompts)
    editor.reset()
    expected = bench.logits(bench.base, bench.prompts)
    bench.same(bench.logits(editor, bench.prompts), expected, "after reset")
    found = difference(model, bench.loaded.model)
    require(not found, f"after reset, the caller's model is not as it was: {found}")


def check_reset_forgets_everything(bench: Bench) -> None:
    """After a reset, edits give bitwise the logits that they give in a fresh editor."""
    first, *others = bench.edits(least=2)
    editor = bench.editor(others)
    editor.reset()
    editor.edit([first])
    fresh = bench.logits(bench.editor([first]), bench.prompts)
    bench.same(bench.logits(editor, bench.prompts), fresh, "edited after a reset")


def check_questions_change_nothing(bench: Bench) -> None:
    """Questions change no later answer, no weight, and nothing that is learned later."""
    *edits, last = bench.edits(least=2)
    model = bench.copy_model()
    editor, unasked = bench.editor(edits, model=model), bench.editor(edits)
    before = bench.logits(editor, bench.prompts)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    for _ in range(3):
        bench.ask(editor, bench.prompts)
    bench.same(bench.logits(editor, bench.prompts), before, "asked again after other questions")
    changed = [n for n, weight in model.state_dict().items() if not torch.equal(weight, weights[n])]
    require(not changed, f"questions changed weights of the caller's model: {changed[:3]}")
    editor.edit([last])
    unasked.edit([last])
    expected = bench.logits(unasked, bench.prompts)
    bench.same(bench.logits(editor, bench.prompts), expected, "edited after questions")


def check_two_editors_do_not_influence_each_other(bench: Bench) -> None:
    """Edits of one editor change nothing in another that has a model of its own."""
    one, other, *_ = bench.edits(least=2)
    alone = bench.logits(bench.editor([one]), bench.prompts)
    first = bench.editor([one])
    second = bench.editor()
    expected = bench.logits(bench.base, bench.prompts)
    bench.same(bench.logits(second, bench.prompts), expected, "with edits in another editor")
    second.edit([other])
    bench.same(bench.logits(first, bench.prompts), alone, "after edits in another editor")


def check_same_seed_gives_the_same_editor(bench: Bench) -> None:
    """The same seed and edits give bitwise the same logits, from the same global random state."""
    _from_global_seeds(bench, (0, 0), "made twice with one seed")


def check_global_random_state_does_not_matter(bench: Bench) -> None:
    """The global random generators are neither read nor advanced; randomness is seeded."""
    _from_global_seeds(bench, (1, 2), "made with one seed under two global random states")
    before = _global_state()
    bench.ask(bench.editor(bench.edits(2, least=1)), bench.prompts[:2])
    names = [name for name, state in _global_state().items() if state != before[name]]
    require(
        not names,
        f"editing or asking advanced the global generator of {', '.join(names)}; draw from a "
        "generator of the editor's own, seeded by `seed`",
    )


def _from_global_seeds(bench: Bench, seeds: tuple[int, int], when: str) -> None:
    found = []
    for seed in seeds:
        _with_global_seed(
            seed,
            lambda: found.append(bench.logits(bench.editor(bench.edits(least=1)), bench.prompts)),
        )
    bench.same(found[1], found[0], when)


def _with_global_seed(seed: int, run: Callable[[], Any]) -> None:
    """Run with the global generators at `seed`, and restore them."""
    python, legacy = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            numpy.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            run()
    finally:
        random.setstate(python)
        numpy.random.set_state(legacy)  # noqa: NPY002


def _global_state() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "CUDA": [state.tolist() for state in torch.cuda.get_rng_state_all()],
        "random": random.getstate(),
        "numpy": str(numpy.random.get_state()),  # noqa: NPY002
    }
