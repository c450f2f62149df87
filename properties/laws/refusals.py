"""What cannot be learned is refused with a clear error and leaves no trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from transformers import PreTrainedModel

from properties.altered import context_to_exceed
from properties.bench import Bench
from properties.findings import Broken, Unasked, needs, remade, require, require_error
from properties.snapshots import require_same, snapshot
from properties.surroundings import Surroundings, undisturbed
from wise.editor import Editor, Layered, takes
from wise.edits import Edit
from wise.lm.architectures import LanguageModel
from wise.lm.tokens import encode

_LONGEST = 4096  # tokens of a context that is filled


class _Interrupted(Exception):  # noqa: N818 - raised on purpose
    """Raised from inside the model, in the middle of an edit."""


def _unchecked(edit: Edit, **fields: Any) -> Edit:
    """An edit whose fields are not validated, as a careless loader would make it."""
    record = object.__new__(Edit)
    for name in Edit.__slots__:
        object.__setattr__(record, name, fields.get(name, getattr(edit, name)))
    return record


def _refuses(bench: Bench, editor: Editor, turn: Sequence[Edit], what: str) -> None:
    """Require that `turn` raises ValueError, and that the editor then is bitwise as before."""
    before = bench.logits(editor, bench.few_prompts)
    require_error(lambda: editor.edit(turn), what, ValueError)
    changed = not torch.equal(bench.logits(editor, bench.few_prompts), before)
    require(not changed, f"{what} is refused, but has changed the editor's answers")


def check_refuses_a_prompt_beyond_the_context(bench: Bench) -> None:
    """A turn with one prompt longer than the model's context is refused as a whole."""
    length = context_to_exceed(bench)
    good, other, last, *_ = bench.edits(least=3)
    text = " ".join([other.prompt] * (1 + length // 2))
    _refuses(bench, bench.editor([last]), [good, replace(other, prompt=text)],
             f"a turn with a prompt beyond the context of {length} tokens")  # fmt: skip


def _filled_to(bench: Bench, edit: Edit, n_tokens: int) -> Edit:
    """`edit` with words before its prompt, so that it has as many tokens with target and EOS.

    Raises Unasked where the words do not come out at that.
    """
    tokenizer = bench.loaded.tokenizer

    def longer(words: Sequence[str]) -> Edit:
        return replace(edit, prompt=" ".join([*words, edit.prompt]))

    def excess(words: Sequence[str]) -> int:
        tried = longer(words)
        batch = encode(tokenizer, [tried.prompt], [tried.target])
        return batch.input_ids.shape[1] + 1 - n_tokens  # the last token is never read

    words: list[str] = []
    one_token = [word for word in (*edit.prompt.split(), "a", "the", "of", "x")
                 if excess([word, word]) - excess([word]) == 1]  # fmt: skip
    if not one_token:
        raise Unasked("no word is one token, to fill a context exactly")
    while (missing := -excess(words)) > 0:
        words += one_token[:1] * missing
    if excess(words):
        raise Unasked(f"no prompt comes out at {n_tokens} tokens")
    return longer(words)


def check_an_edit_may_fill_the_context(bench: Bench) -> None:
    """Prompt, target and EOS may be exactly as long as the context; one token more is refused."""
    length = bench.reader.max_length
    if length is None or length > _LONGEST:
        raise Unasked(f"a context of {length} tokens is too long to fill")
    edit, other, *_ = bench.edits(least=2)
    editor = bench.editor([other])
    fitting, longer = (_filled_to(bench, edit, n) for n in (length, length + 1))
    what = f"an edit whose prompt, target and EOS have {{}} tokens, where the context has {length},"
    _refuses(bench, editor, [longer], what.format(length + 1))
    try:
        editor.edit([fitting])
    except ValueError as error:
        raise Broken(f"{what.format(length)} is refused, though it fits: {error}") from error


def check_refuses_a_target_without_tokens(bench: Bench) -> None:
    """A turn with one blank target, or one blank prompt, is refused as a whole."""
    good, other, last, *_ = bench.edits(least=3)
    editor = bench.editor([last])
    for field, text in product(("target", "prompt"), ("", " ")):
        blank = _unchecked(other, subject="", **{field: text})
        for turn in ([good, blank], [blank, good]):
            _refuses(bench, editor, turn, f"a turn with the {field} {text!r}")


def check_refuses_weights_that_are_not_numbers(bench: Bench) -> None:
    """On a model with NaN weights, making the editor or editing is refused."""
    model = bench.copy_model()
    lm = LanguageModel(model)
    with torch.no_grad():
        for layer in range(lm.n_layers):
            lm.value_weight(layer)[0, 0] = float("nan")
    edit = partial(bench.editor, bench.edits(1), model=model)
    require_error(edit, "an edit of a model with NaN weights", ValueError, ArithmeticError)


@needs(Layered)
def check_refuses_a_layer_outside_the_model(bench: Bench) -> None:
    """The factory refuses a layer outside the model, naming it."""
    n_layers = LanguageModel(bench.loaded.model).n_layers
    editor = bench.editor()
    is_taken = takes(bench.factory, "layer")
    if not (isinstance(editor, Layered) and type(editor.layer) is int and is_taken):
        raise Unasked("its factory takes no layer")
    for layer in (n_layers, -1):
        what = f"layer={layer} of a model with the layers 0..{n_layers - 1}"
        error = require_error(partial(bench.editor, layer=layer), what, ValueError)
        require(str(layer) in str(error), f"the refusal of {what} does not name it: {error}")


def check_an_interrupted_edit_leaves_the_editor_as_it_was(bench: Bench) -> None:
    """An error from inside the model changes nothing, neither early in a turn nor where it ends.

    The turn gives an edit in force another target and makes a new one. Afterwards the next edit is
    written, and a reset done, as if that turn had never begun. Nor does it change the tokenizer or
    the process, such as for the length of a turn alone.
    """
    known, new = bench.edits(2)
    turn = [replace(known, target=new.target), new]
    other = replace(new, target=known.target)
    tokenizer, n_interrupted = bench.loaded.tokenizer, 0
    for block, n, n_forwards in _moments(bench, known, turn):
        model = bench.copy_model()
        editor = bench.editor([known], model=model)
        before = snapshot(bench, editor, bench.prompts)
        when = f"at forward {n} of the {n_forwards} of block {block} in a turn"
        with undisturbed(tokenizer):
            world = Surroundings.of(model, tokenizer)
            is_interrupted = _interrupt(model, editor, turn, block, n)
            found = world.change_to(Surroundings.of(model, tokenizer), by_an_edit=True)
        if not is_interrupted:
            continue  # it keeps what it computed for the first one
        n_interrupted += 1
        require(not found, f"an interruption {when} changed {found}")
        require_same(
            snapshot(bench, editor, bench.prompts), before, f"after an interruption {when}"
        )
        editor.edit([other])
        after = snapshot(bench, editor, bench.prompts)
        remade(editor, [[known], [other]])
        require_same(after, snapshot(bench, editor, bench.prompts),
                     f"after an interruption {when}, and another edit")  # fmt: skip
        editor.reset()
        bench.same(
            bench.logits(editor, bench.prompts), bench.base_logits, "interrupted, then reset"
        )
        found = bench.change_of(model)
        require(not found, f"an edit was interrupted, and after reset the caller's model is not as "
                f"it was: {found}")  # fmt: skip
    if not n_interrupted:
        raise Unasked("an edit does not run the model")


def _moments(bench: Bench, known: Edit, turn: Sequence[Edit]) -> list[tuple[int, int, int]]:
    """A block, a number and how many: the second forward of the last block that a turn runs, and
    the last forward of any; Unasked where it runs none."""
    model = bench.copy_model()
    editor = bench.editor([known], model=model)
    blocks = LanguageModel(model).blocks
    ran: list[int] = []
    handles = [block.register_forward_hook(lambda *_, place=place: ran.append(place))
               for place, block in enumerate(blocks)]  # fmt: skip
    try:
        editor.edit(turn)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise Unasked("an edit does not run the model")
    n_forwards, deepest, last = Counter(ran), max(ran), ran[-1]
    moments = (deepest, min(2, n_forwards[deepest])), (last, n_forwards[last])
    return list(dict.fromkeys((block, n, n_forwards[block]) for block, n in moments))


def _interrupt(
    model: PreTrainedModel, editor: Editor, turn: Sequence[Edit], block: int, n_forwards: int
) -> bool:
    """Edit, raising at the end of the n-th forward of a block; whether it got that far."""
    left = [n_forwards]

    def hook(*_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise _Interrupted

    handle = LanguageModel(model).blocks[block].register_forward_hook(hook)
    try:
        editor.edit(turn)
    except _Interrupted:
        return True
    finally:
        handle.remove()
    return False
