"""What an editor gives has the form that the protocol promises."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.bench import Bench
from properties.findings import Broken, Unasked, require
from wise.editor import Generates, Routed
from wise.lm.tokens import IGNORED


def _tensor(found: object, what: str, shape: tuple[int, ...]) -> Tensor:
    """`found`, once it is a tensor of `shape`."""
    if not isinstance(found, Tensor):
        raise Broken(f"{what} gives {type(found).__name__}; needed: a tensor of shape {shape}")
    given = tuple(found.shape)
    require(given == shape, f"{what} gives a tensor of shape {given}; needed: {shape}")
    return found


def check_answers_have_the_promised_form(bench: Bench) -> None:
    """Logits are finite numbers, one for each row, token and word, also after edits; so are others.

    `generate` gives whole numbers, one row a prompt; `routing_activation` a number a prompt.
    """
    n_words = bench.loaded.model.get_output_embeddings().weight.shape[0]
    batch = bench.batch(bench.prompts)
    ids, mask = batch.input_ids, batch.attention_mask
    for when, edits in (("before any edit", ()), ("after an edit", bench.edits(2, least=1))):
        editor = bench.editor(edits)
        logits = _tensor(editor.logits(ids, mask), f"{when}, logits", (*ids.shape, n_words))
        require(
            logits.is_floating_point() and bool(logits[mask.bool()].isfinite().all()),
            f"{when}, logits are not all finite numbers at the tokens of the prompts",
        )
        if isinstance(editor, Generates):
            new = editor.generate(ids, mask, 2)
            width = new.shape[-1] if isinstance(new, Tensor) else 2
            new = _tensor(new, f"{when}, generate", (len(ids), width))
            require(new.dtype == torch.long, f"{when}, generate gives {new.dtype}; needed: int64")
        if isinstance(editor, Routed):
            found = editor.routing_activation(ids, mask)
            activation = _tensor(found, f"{when}, routing_activation", (len(ids),))
            require(
                activation.is_floating_point() and not bool(activation.isnan().any()),
                f"{when}, routing_activation gives NaN or {activation.dtype}; needed: numbers",
            )


def check_a_right_answer_has_the_tokens_of_its_target(bench: Bench) -> None:
    """An edit that is answered rightly is answered in the tokens that follow its prompt in a text.

    With its space, so that prompt and answer read as one text, and the target is as likely where it
    is given as where it is said. Asked of all edits of the stream; a third may be read otherwise.
    """
    edits = bench.edits(len(bench.stream.live()), least=2)
    answers = bench.ask(bench.filled, [edit.prompt for edit in edits])
    pairs = zip(edits, answers, strict=True)
    right = [(edit, said) for edit, said in pairs if bench.same_text(said.text, edit.target)]
    if not right:
        raise Unasked("no edit is answered by its target")
    others = []
    for edit, said in right:
        labels = bench.reader.encode([edit.prompt], [edit.target], append_eos=False).labels
        if labels[labels != IGNORED].tolist() != list(said.token_ids):
            others.append((edit, said))
    if 3 * len(others) > len(right):
        edit, said = others[0]
        ids = [*bench.batch([edit.prompt]).input_ids[0].tolist(), *said.token_ids]
        text = str(bench.loaded.tokenizer.decode(ids))
        raise Broken(
            f"{edit.prompt!r}, edited to {edit.target!r}, is answered in other tokens than those "
            f"of the target behind it: they read {text!r} (so {len(others)} of {len(right)} edits "
            "that are answered rightly); needed: as a text goes on, with its space",
        )
