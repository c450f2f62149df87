"""The caller's model and the unedited editor: only edits change anything."""

from __future__ import annotations

import random

import numpy
import torch

from properties.bench import Bench
from properties.findings import require
from properties.surroundings import random_states

__all__ = [
    "check_global_random_state_does_not_matter",
    "check_making_an_editor_changes_nothing",
    "check_questions_change_nothing",
    "check_same_seed_gives_the_same_editor",
    "check_the_background_is_apart_from_the_stream",
    "check_two_editors_do_not_influence_each_other",
    "check_without_edits_it_is_the_base_model",
]


def check_making_an_editor_changes_nothing(bench: Bench) -> None:
    """The factory changes nothing in the model that it is given, and leaves no hook on it."""
    model = bench.copy_model()
    bench.editor(model=model)
    found = bench.change_of(model)
    require(not found, f"making the editor changed the caller's model: {found}")


def check_without_edits_it_is_the_base_model(bench: Bench) -> None:
    """Before the first edit, logits are bitwise those of the unedited model."""
    found = bench.logits(bench.editor(), bench.prompts)
    bench.same(found, bench.logits(bench.base, bench.prompts), "before any edit")


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
    before = random_states()
    bench.ask(bench.editor(bench.edits(2, least=1)), bench.prompts[:2])
    names = [name for name, state in random_states().items() if state != before[name]]
    require(
        not names,
        f"editing or asking advanced the global generator of {', '.join(names)}; draw from a "
        "generator of the editor's own, seeded by `seed`",
    )


def _from_global_seeds(bench: Bench, seeds: tuple[int, int], when: str) -> None:
    found = []
    for seed in seeds:
        random.seed(seed)
        numpy.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        found.append(bench.logits(bench.editor(bench.edits(least=1)), bench.prompts))
    bench.same(found[1], found[0], when)


def check_the_background_is_apart_from_the_stream(bench: Bench) -> None:
    """The background contains no edit, paraphrase or probe of the stream."""
    try:
        bench.background.check_disjoint(bench.stream)
    except ValueError as error:
        require(False, str(error))
