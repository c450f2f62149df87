"""An editor leaves no trace but its edits: in its caller's things, the process or the memory."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from properties.altered import too_long
from properties.bench import Bench
from properties.findings import Broken, require
from properties.snapshots import Snapshot, is_same, require_same, snapshot
from properties.surroundings import Surroundings, undisturbed
from wise.editor import Editor, Erasable, Generates, Persistent, Retrieves, Routed

_N_QUESTIONS = 4  # after the first two
_N_CYCLES = 2
_N_ANEW = 2  # times two edits of one prompt
_EDITING = ("edit", "remove", "load", "reset")

_DECODING = dict(do_sample=True, temperature=9.0, num_beams=2, repetition_penalty=9.0,
                 max_length=2, min_new_tokens=8)  # fmt: skip
_CHAT = "{% for message in messages %}User: {{ message['content'] }}\nAssistant:{% endfor %}"
# What a caller may have set: its name, and how a model and a tokenizer are set so.
_SETTINGS: dict[str, Callable[[PreTrainedModel, PreTrainedTokenizerBase], object]] = {
    "frozen weights": lambda model, tokenizer: model.requires_grad_(False),
    "a model in training mode": lambda model, tokenizer: model.train(),
    "a tokenizer that pads on the right": lambda model, tokenizer: setattr(
        tokenizer, "padding_side", "right"
    ),
    "a tokenizer with a chat template": lambda model, tokenizer: setattr(
        tokenizer, "chat_template", _CHAT
    ),
    "gradients off": lambda model, tokenizer: torch.set_grad_enabled(False),
    "a configuration without a cache": lambda model, tokenizer: setattr(
        model.config, "use_cache", False
    ),
    "hooks of the caller's own": lambda model, tokenizer: _watched(model),
    "a generation configuration with sampling, beams, a penalty and lengths": (
        lambda model, tokenizer: setattr(model, "generation_config", GenerationConfig(**_DECODING))
    ),
}


def _watched(model: PreTrainedModel) -> None:
    """A hook before and behind each module, that changes nothing."""
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: None)
        module.register_forward_hook(lambda module, args, output: None)


_Call = tuple[str, Callable[[], object]]


def _calls(bench: Bench, editor: Editor, folder: Path) -> Iterator[_Call]:
    """Every call of the protocol in turn, each by its name."""
    first, second, *_ = bench.edits(least=2)
    batch = bench.batch(bench.few_prompts)
    ids, mask = batch.input_ids, batch.attention_mask
    yield "logits", lambda: editor.logits(ids, mask)
    yield "edit", lambda: editor.edit([first, second])
    yield "logits", lambda: editor.logits(ids, mask)
    if isinstance(editor, Generates):
        yield "generate", lambda: editor.generate(ids, mask, bench.reader.max_new_tokens)
    if isinstance(editor, Routed):
        yield "routing_activation", lambda: editor.routing_activation(ids, mask)
    if isinstance(editor, Retrieves):
        yield "retrieved", lambda: editor.retrieved(ids, mask)
    beyond = torch.full_like(ids, bench.loaded.model.config.vocab_size)
    yield "logits, of tokens that there are not,", lambda: editor.logits(beyond, mask)
    yield "edit, of a turn without edits,", lambda: editor.edit([])
    yield (
        "edit, of a turn with a target beyond the context,",
        lambda: editor.edit([first, too_long(bench, second)]),
    )
    if isinstance(editor, Persistent):
        yield "save", lambda: editor.save(folder / "state")
        yield "load", lambda: editor.load(folder / "state")
    if isinstance(editor, Erasable):
        yield "remove", lambda: editor.remove([first])
    yield "reset", editor.reset
    yield "reset", editor.reset


def check_every_call_leaves_the_world_as_it_was(bench: Bench) -> None:
    """No call changes the caller's model, its tokenizer or the process, but an edit the weights.

    That is, between making and the last reset: values, dtypes, training mode and hooks of the
    model, both configurations, the tokenizer, the modes, threads and random states of torch,
    logging, interrupts, the environment, and files in the working folder. A call that raises is no
    exception. Nor is a caller whose settings are unusual: weights frozen, a model in training mode,
    a tokenizer that pads on the right and has a chat template, gradients off, hooks of its own on
    the model, a generation configuration that is not greedy. An edit that changes no weight leaves
    no gradient in any.
    """
    for settings in ((), tuple(_SETTINGS)):
        with undisturbed(bench.loaded.tokenizer):
            _leaves_the_world(bench, settings)


def _leaves_the_world(bench: Bench, settings: Sequence[str]) -> None:
    model, tokenizer = bench.copy_model(), bench.loaded.tokenizer
    for name in settings:
        _SETTINGS[name](model, tokenizer)
    original = Surroundings.of(model, tokenizer)
    editor = bench.editor(model=model)
    found = original.change_to(Surroundings.of(model, tokenizer))
    require(not found, f"making the editor changed {found}")
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "work"
        inside.mkdir()
        with chdir(inside):
            before = first = Surroundings.of(model, tokenizer)
            for name, call in _calls(bench, editor, Path(folder)):
                had = _with_gradients(model)
                with suppress(Exception):
                    call()
                after = Surroundings.of(model, tokenizer)
                if not before.is_written(after):
                    left = sorted(_with_gradients(model) - had)
                    require(
                        not left,
                        f"{name} left gradients in {len(left)} weights that it does not change, "
                        f"first {', '.join(left[:1])}; needed: none",
                    )
                is_edit = name.partition(",")[0] in _EDITING
                found = before.change_to(after, by_an_edit=is_edit)
                require(not found, f"{name} changed {found}")
                before = after
            found = first.change_to(before)
            require(not found, f"after the last reset, something is not as it was: {found}")


def _with_gradients(model: PreTrainedModel) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.grad is not None}


def check_the_callers_settings_change_no_answer(bench: Bench) -> None:
    """An editor learns and answers bitwise alike, whatever settings its caller has chosen.

    Weights frozen, a model in training mode, a tokenizer that pads on the right and has a chat
    template, gradients off, hooks of its own on the model, a generation configuration that is not
    greedy. An editor may refuse to edit with some of them, by an error.
    """
    expected = _with_settings(bench, ())
    assert expected is not None
    together = _with_settings(bench, tuple(_SETTINGS))
    if together is not None and is_same(together, expected):
        return
    for name in _SETTINGS:
        found = _with_settings(bench, (name,))
        if found is not None:
            require_same(found, expected, f"edited with {name}, and not as without: now")
    if together is not None:
        require_same(together, expected, f"edited with {' and '.join(_SETTINGS)}: now")


def _with_settings(bench: Bench, settings: Sequence[str]) -> Snapshot | None:
    """What an editor shows after a turn and an edit; None where it refuses with these settings."""
    one, two, three, _ = bench.edits()
    model = bench.copy_model()
    with undisturbed(bench.loaded.tokenizer):
        for name in settings:
            _SETTINGS[name](model, bench.loaded.tokenizer)
        editor = bench.editor(model=model)
        try:
            editor.edit([one, two])
            editor.edit([three])
        except Exception:
            if settings:
                return None
            raise
        return snapshot(bench, editor)


def check_answers_are_the_callers_own(bench: Bench) -> None:
    """Questions leave their tensors as they were, and answers neither change nor hold a graph."""
    editor = bench.editor(bench.edits(least=1))
    half = max(1, len(bench.prompts) // 2)
    batch = bench.batch(bench.prompts)
    rows = slice(0, half), slice(-half, None)
    read, is_prompt = batch.attention_mask, batch.prompt_mask
    asked: dict[str, tuple[Callable[[Tensor, Tensor], object], Tensor]]
    asked = {"logits": (editor.logits, read)}
    if isinstance(editor, Generates):
        n_new = bench.reader.max_new_tokens
        asked["generate"] = lambda ids, mask: editor.generate(ids, mask, n_new), read
    if isinstance(editor, Routed):
        asked["routing_activation"] = editor.routing_activation, read
        asked["logits, with a prompt_mask,"] = (
            (lambda ids, mask: cast(Any, editor).logits(ids, mask.long(), prompt_mask=mask)),
            is_prompt,
        )
    for name, (ask, needed) in asked.items():
        ids, mask = batch.input_ids.clone(), needed.clone()
        answer = ask(ids[rows[0]], mask[rows[0]])
        is_same = torch.equal(ids, batch.input_ids) and torch.equal(mask, needed)
        require(is_same, f"{name} changed the tensors that it was asked with")
        if not isinstance(answer, Tensor):
            raise Broken(f"{name} gives a {type(answer).__name__}; needed: a tensor")
        require(not answer.requires_grad, f"{name} gives an answer that holds a graph of gradients")
        first = answer.clone()
        ask(ids[rows[1]], mask[rows[1]])
        require(torch.equal(answer, first), f"an answer of {name} changed with the next question")


def _held() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    tensors = (each for each in gc.get_objects() if issubclass(type(each), Tensor))
    storages = {}
    for each in tensors:
        if each.layout == torch.strided and each.device.type != "meta":
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def check_questions_keep_nothing(bench: Bench) -> None:
    """However many questions are asked, no more tensors are held than after two."""
    editor = bench.editor(bench.edits(least=1))

    def ask(number: int) -> None:
        batch = bench.batch([f"{number} {prompt}" for prompt in bench.few_prompts])
        editor.logits(batch.input_ids, batch.attention_mask)
        if isinstance(editor, Generates):
            editor.generate(batch.input_ids, batch.attention_mask, 2)
        if isinstance(editor, Routed):
            editor.routing_activation(batch.input_ids, batch.attention_mask)

    held = []
    for numbers in (range(2), range(2, 2 + _N_QUESTIONS)):
        for number in numbers:
            ask(number)
        held.append(_held())
    require(
        held[1] <= held[0],
        f"after {_N_QUESTIONS} more questions the tensors alive take {held[1] - held[0]:,} bytes "
        "more; needed: a question leaves nothing in memory",
    )


def check_an_edit_anew_takes_the_memory_of_the_old(bench: Bench) -> None:
    """However often one prompt is edited anew, an editor holds no more tensors than after twice."""
    one, other, *_ = bench.edits(least=2)
    editor, held = bench.editor(), []
    for n_times in (1, _N_ANEW):
        for _ in range(n_times):
            for target in (one.target, other.target):
                editor.edit([replace(one, target=target)])
        held.append(_held())
    require(
        held[1] <= held[0],
        f"after {one.prompt!r} was edited {2 * _N_ANEW} more times, to {one.target!r} and to "
        f"{other.target!r} in turn, the tensors alive take {held[1] - held[0]:,} bytes more, and "
        "one edit is in force; needed: what is no longer in force takes no memory",
    )


def check_a_reset_gives_back_the_memory(bench: Bench) -> None:
    """However often an editor is edited, asked and reset, it holds no more tensors than before."""
    editor = bench.editor()
    held = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            for _ in range(_N_CYCLES):
                for _, call in _calls(bench, editor, Path(folder)):
                    with suppress(Exception):
                        call()
            held.append(_held())
    require(
        held[1] <= held[0],
        f"after {_N_CYCLES} more rounds of edits, questions and a reset the tensors alive take "
        f"{held[1] - held[0]:,} bytes more; needed: a reset leaves nothing of an edit in memory",
    )
