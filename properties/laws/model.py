"""The caller's model and the unedited editor: only edits change anything."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from properties.bench import Bench
from properties.findings import Broken, Unasked, gap, needs, require
from properties.processes import asked_in_another_process
from properties.snapshots import require_close, snapshot
from properties.surroundings import random_states
from wise.editor import Editor, Layered, takes
from wise.edits import Background
from wise.lm import hooks
from wise.lm.architectures import LanguageModel

_N_ELSEWHERE = 4  # edits
_N_TEXTS = 16  # of a small background


def check_making_an_editor_changes_nothing(bench: Bench) -> None:
    """The factory changes nothing in the model that it is given, and leaves no hook on it."""
    model = bench.copy_model()
    bench.editor(model=model)
    found = bench.change_of(model)
    require(not found, f"making the editor changed the caller's model: {found}")


def check_an_editor_without_a_background_edits_or_says_why_not(bench: Bench) -> None:
    """Without any background an editor is made, edits and answers, or raises a ValueError.

    That is what it is given on a model of which no world is known.
    """
    edits = bench.edits(least=1)
    try:
        editor = replace(bench, background=Background()).editor(edits)
        bench.logits(editor, bench.few_prompts)
    except ValueError as error:
        if "background" not in str(error):
            raise Broken(f"without a background there is a ValueError that does not name it: "
                         f"{error}") from error  # fmt: skip
    except Exception as error:
        raise Broken(f"without a background, {type(error).__name__}: {error}; needed: an editor, "
                     "or a ValueError that names the background") from error  # fmt: skip


def check_without_edits_it_is_the_base_model(bench: Bench) -> None:
    """Before the first edit, logits are bitwise those of the unedited model.

    Also of a row with EOS between two texts, which is padding elsewhere: the mask tells.
    """
    editor = bench.editor()
    bench.same(bench.logits(editor, bench.prompts), bench.base_logits, "before any edit")
    batch = bench.batch(bench.few_prompts)
    second = batch.attention_mask.cumsum(-1).clamp(max=2).argmax(-1, keepdim=True)  # B 1
    ids = batch.input_ids.scatter(1, second, bench.loaded.tokenizer.eos_token_id)
    found, needed = (e.logits(ids, batch.attention_mask)[:, -1] for e in (editor, bench.base))
    require(
        torch.equal(found, needed),
        f"before any edit, logits of rows with EOS as a token of theirs differ by up to "
        f"{gap(found, needed):.1e} from the unedited model's; needed: bitwise "
        "equal, as the mask alone tells what is padding",
    )


def check_two_editors_do_not_influence_each_other(bench: Bench) -> None:
    """Edits of one editor change nothing in another that has a model of its own.

    Nor do they in another of the same model, where they are none of its weights.
    """
    one, other, *_ = bench.edits(least=2)
    model, edited = bench.copy_model(), bench.editor([one])
    alone = bench.logits(edited, bench.prompts)
    pairs = {"": (edited, bench.editor())}
    edited = bench.editor([one], model=model)
    if not bench.change_of(model):
        pairs[" of the same model"] = edited, bench.editor(model=model)
    for which, (first, second) in pairs.items():
        when = f"with edits in another editor{which}"
        bench.same(bench.logits(second, bench.prompts), bench.base_logits, when)
        second.edit([other])
        when = f"after edits in another editor{which}"
        bench.same(bench.logits(first, bench.prompts), alone, when)


def check_what_is_computed_of_one_model_serves_no_other(bench: Bench) -> None:
    """Beside editors of less background, of other weights under one name, and of another layer, an
    editor is itself.

    They are alive at once, and each has computed for its edit what it computes of a model: none is
    changed by a later one, and a further editor of the first kind is as the first was alone. Where
    they share a cache, each is as one without it.
    """
    (edit,), batch = bench.edits(1), bench.batch(bench.few_prompts)
    less = replace(bench, background=Background(bench.background.texts[:_N_TEXTS]))

    def asked(editor: Editor) -> Tensor:
        return editor.logits(batch.input_ids, batch.attention_mask)[:, -1].clone()

    def require_equal(which: str, found: Tensor, needed: Tensor, when: str) -> None:
        n_apart = int((found != needed).any(-1).sum())
        require(
            not n_apart,
            f"an editor{which} is not as {when}: logits of {n_apart} of {len(found)} prompts "
            f"differ by {gap(found, needed):.1e}; needed: what is kept of a "
            "model, a layer or a background is kept for these alone, by content",
        )

    kinds: dict[str, Callable[..., Editor]] = {
        "": partial(bench.editor, [edit]),
        " of less background": partial(less.editor, [edit]),
        " of other weights under the same name": lambda **options: less.editor(
            [edit], model=bench.tuned_model(), **options
        ),
    }
    if (layer := bench.another_layer) is not None:
        kinds[f" of layer {layer}"] = partial(less.editor, [edit], layer=layer)
    editors, expected = dict[str, Editor](), dict[str, Tensor]()
    for which, make in kinds.items():
        editors[which] = make()
        expected[which] = asked(editors[which])  # before the next is made
    again = " made once more"
    editors[again], expected[again] = bench.editor([edit]), expected[""]
    for which, editor in editors.items():
        when = "it was before others of its class were edited"
        require_equal(which, asked(editor), expected[which], when)
    if takes(bench.factory, "cache"):
        for which in [*kinds][2:]:
            when = "without the cache that it shares with others of its class"
            require_equal(which, expected[which], asked(kinds[which](cache=None)), when)


def check_another_process_gives_the_same_editor(bench: Bench) -> None:
    """The same seed and edits give bitwise the same logits in a new process with other hashes.

    There two others were edited first: one of a model with its blocks in reverse order and half of
    the background, and one with another tokenizer. Asked on another number of threads, it adds in
    another order: two thirds of the first tokens are the same then. Starting the process takes some
    seconds.
    """
    if not bench.spec:
        raise Unasked("the editor is given as a function, which another process cannot find")
    edits, own = bench.edits(_N_ELSEWHERE, least=2), torch.get_num_threads()
    turns = [edits[:1], edits[1:]]
    editor = bench.editor()
    for turn in turns:
        editor.edit(turn)
    expected = bench.logits(editor, bench.prompts)
    other = 1 if own > 1 else 2
    hash_seed = 2 if os.environ.get("PYTHONHASHSEED") == "1" else 1
    elsewhere = partial(
        asked_in_another_process, bench, turns, hash_seed=hash_seed, n_threads=(own, other)
    )
    found, again = elsewhere(after_others=True)
    if not found.equal(expected):
        when = f"made again in another process (PYTHONHASHSEED={hash_seed})"
        bench.same(elsewhere()[0], expected, when)
        bench.same(found, expected, "made after editors of other models, with other weights, "
                   "background and tokenizer, in one process: something of theirs is kept, and "
                   "used for this one")  # fmt: skip
    n_changed = int((again.argmax(-1) != expected.argmax(-1)).sum())
    require(
        3 * n_changed <= len(expected),
        f"asked on {other} threads in place of {own}, {n_changed} of {len(expected)} prompts are "
        "answered otherwise; needed: a third at most",
    )


def check_same_seed_gives_the_same_editor(bench: Bench) -> None:
    """The same seed and edits give bitwise the same logits, from the same global random state."""
    _from_global_seeds(bench, (0, 0), "made twice with one seed")


def check_another_thread_gives_the_same_answers(bench: Bench) -> None:
    """What one thread edits, another asks, and the other way round, as where a server answers."""
    edits = bench.edits(2, least=1)
    asked = [edit.prompt for edit in edits]
    editor = bench.editor(edits)
    expected = snapshot(bench, editor, asked)
    with ThreadPoolExecutor(max_workers=1) as other:
        found = other.submit(snapshot, bench, editor, asked).result()
        made = other.submit(bench.editor, edits).result()
    require_close(found, expected, "asked from another thread than that of its edits")
    when = "made and edited in another thread"
    require_close(snapshot(bench, made, asked), expected, when)


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
        raise Broken(str(error)) from error


@needs(Layered)
def check_an_edit_changes_no_layer_below_its_own(bench: Bench) -> None:
    """An editor of layer l says that it is, and what enters the block l stays bitwise the same."""
    if not takes(bench.factory, "layer"):
        raise Unasked("its factory takes no layer")
    n_layers = LanguageModel(bench.loaded.model).n_layers
    for layer in sorted({min(1, n_layers - 1), n_layers - 1}):
        model = bench.copy_model()
        editor = bench.editor(bench.edits(1), model=model, layer=layer)
        assert isinstance(editor, Layered)
        require(editor.layer == layer, f"made with layer={layer}, its layer is {editor.layer}")
        found = _entering(bench, editor, model, layer)
        expected = _entering(bench, bench.base, bench.loaded.model, layer)
        if found:  # an editor may run a model of its own
            require(torch.equal(found[0], expected[0]), f"an edit at layer {layer} changes what "
                    "enters its block: something is edited below")  # fmt: skip


def _entering(bench: Bench, editor: Editor, model: PreTrainedModel, layer: int) -> Sequence[Tensor]:
    """What enters the block `layer` of `model` while `editor` is asked."""
    found: list[Tensor] = []

    def see(args: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append((*args, *named.values())[0].clone())

    with hooks.observe(LanguageModel(model).blocks[layer], see):
        bench.logits(editor, bench.prompts)
    return found
