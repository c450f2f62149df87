"""What cannot be learned is refused by a clear error, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from properties.bench import Bench, Undecided, require
from wise.editor import Editor, Layered
from wise.edits import Edit
from wise.lm.architectures import LanguageModel

__all__ = [
    "check_an_interrupted_edit_leaves_the_editor_as_it_was",
    "check_refuses_a_layer_outside_the_model",
    "check_refuses_a_prompt_beyond_the_context",
    "check_refuses_a_target_without_tokens",
    "check_refuses_weights_that_are_not_numbers",
]


class _Interrupted(Exception):  # noqa: N818 - raised on purpose
    """Raised from inside the model, in the middle of an edit."""


def _unchecked(edit: Edit, **fields: Any) -> Edit:
    """An edit as a careless loader would make it: its fields are not validated."""
    record = object.__new__(Edit)
    for name in Edit.__slots__:
        object.__setattr__(record, name, fields.get(name, getattr(edit, name)))
    return record


def _refuses(bench: Bench, editor: Editor, turn: Sequence[Edit], what: str) -> None:
    """Require that `turn` raises ValueError, and that the editor then is bitwise as before."""
    before = bench.logits(editor, bench.prompts)
    try:
        editor.edit(turn)
    except ValueError as error:
        require(bool(str(error).strip()), f"{what} is refused by a ValueError that says nothing")
    except Exception as error:  # noqa: BLE001 - whatever a stranger's editor raises
        require(False, f"{what} ends in {type(error).__name__}: {error}; needed: a ValueError")
    else:
        require(False, f"{what} is accepted; needed: a ValueError that names what is wrong")
    changed = not torch.equal(bench.logits(editor, bench.prompts), before)
    require(not changed, f"{what} is refused, but it has changed what the editor answers")


def check_refuses_a_prompt_beyond_the_context(bench: Bench) -> None:
    """A turn with one prompt longer than the model reads is refused, its other edits with it."""
    length = LanguageModel(bench.loaded.model).context_length
    if length is None or length > 100_000:
        raise Undecided(f"the model's context of {length} tokens is too long to exceed")
    good, other, last, *_ = bench.edits()
    text = " ".join([other.prompt] * (1 + length // 2))
    _refuses(bench, bench.editor([last]), [good, Edit(text, other.target)],
             f"a turn with a prompt beyond the context of {length} tokens")  # fmt: skip


def check_refuses_a_target_without_tokens(bench: Bench) -> None:
    """A turn with one blank target is refused, its other edits with it."""
    good, other, last, *_ = bench.edits()
    _refuses(bench, bench.editor([last]), [good, _unchecked(other, target="")],
             "a turn with the target ''")  # fmt: skip


def check_refuses_weights_that_are_not_numbers(bench: Bench) -> None:
    """On a model with NaN among its weights, making the editor or editing is refused."""
    model = bench.copy_model()
    lm = LanguageModel(model)
    with torch.no_grad():
        for layer in range(lm.n_layers):
            lm.value_weight(layer)[0, 0] = float("nan")
    what = "a model with NaN weights"
    try:
        bench.editor(bench.edits(1), model=model)
    except (ValueError, ArithmeticError) as error:
        require(bool(str(error).strip()), f"{what} is refused by an error that says nothing")
    except Exception as error:  # noqa: BLE001
        require(False, f"{what} ends in {type(error).__name__}: {error}; needed: a ValueError")
    else:
        require(False, f"{what} is edited; needed: a ValueError that names what is wrong")


def check_refuses_a_layer_outside_the_model(bench: Bench) -> None:
    """The factory refuses a layer that the model has not, naming it."""
    n_layers = LanguageModel(bench.loaded.model).n_layers
    editor = bench.editor()
    assert isinstance(editor, Layered)
    for layer in (n_layers, -1):
        what = f"layer={layer} of a model with the layers 0..{n_layers - 1}"
        try:
            bench.editor(layer=layer)
        except ValueError as error:
            require(str(layer) in str(error), f"the refusal of {what} does not name it: {error}")
        except Exception as error:  # noqa: BLE001
            require(False, f"{what} ends in {type(error).__name__}: {error}; needed: a ValueError")
        else:
            require(False, f"{what} is accepted; needed: a ValueError")


def check_an_interrupted_edit_leaves_the_editor_as_it_was(bench: Bench) -> None:
    """An error from inside the model, in the middle of an edit, changes nothing."""
    *edits, last = bench.edits()
    model = bench.copy_model()
    editor = bench.editor(edits, model=model)
    before = bench.logits(editor, bench.prompts)
    if not _interrupt(model, editor, last):
        return  # the edit does not run the model at all
    found = bench.logits(editor, bench.prompts)
    require(torch.equal(found, before), "an edit was interrupted, and answers have changed")
    editor.reset()
    found, expected = (bench.logits(each, bench.prompts) for each in (editor, bench.base))
    require(torch.equal(found, expected), "an edit was interrupted, and reset does not undo it")


def _interrupt(model: nn.Module, editor: Editor, edit: Edit) -> bool:
    """Edit, and raise at the end of the second forward of the last block, or of the only one."""
    block = LanguageModel(model).blocks[-1]
    for n_forwards in (2, 1):
        left = [n_forwards]

        def hook(*_: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise _Interrupted

        handle = block.register_forward_hook(hook)
        try:
            editor.edit([edit])
        except _Interrupted:
            return True
        finally:
            handle.remove()
    return False
