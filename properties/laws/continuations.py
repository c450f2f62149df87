"""`generate` is decoding by `logits`: for every row of a batch, every limit, and every beam."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from fixtures.world_facts import unrelated_sentences
from properties.bench import Bench
from properties.findings import Broken, Unasked, close, gap, needs, require, tolerance
from properties.laws.batches import padded, questions
from wise.editor import Editor, Generates, Routed, takes
from wise.edits import Edit
from wise.lm.architectures import context_length
from wise.lm.decoding import Answer, answer_length, answer_of, batch_logits, greedy_by_logits
from wise.lm.tokens import IGNORED, Batch, pad, prompt_tokens

__all__ = ["is_near_tie"]

_N_EDITS = 6
_N_MANY, _N_FEW = 65, 8  # rows of a batch
_N_ASKED = 16
_N_SHORT = 3  # edits of a prompt of one token
_N_RESPELLED = 2  # prompts in scope, and as many out of it, in tokens that are not their text's
_N_STEPPED = 8  # prompts whose decoding is watched step by step
_N_PADDED = 2  # prompts that are padded to the whole context
_WIDEST = 1024  # tokens: a context to which rows are padded
_N_BEAMS = 3
_N_ENDLESS = 65  # new tokens, on a model that ends no answer
_N_BEAMED = 4  # prompts on which beams differ from decoding without
_N_LONG, _N_SENTENCES = 2, 6  # prompts of edits, each after so many sentences
_IN_PIECES = " (tokens that are not those of their text)"
_NEAR = 0.01  # nats a token: two continuations as likely as that are nearly tied


def _edits(bench: Bench) -> list[Edit]:
    """Edits with the longest and the shortest targets of the stream."""
    tokenizer = bench.loaded.tokenizer
    by_length = sorted(
        bench.edits(20, least=1), key=lambda edit: -answer_length(tokenizer, edit.target)
    )
    n_long = min(_N_EDITS // 2, len(by_length))
    return [*by_length[:n_long], *by_length[n_long:][-_N_EDITS // 2 :]]


def _punctuated(edits: Sequence[Edit]) -> list[Edit]:
    """The edits, the last two to targets that go on after a full stop, or a line break.

    What goes on is the same again. The targets of the stream are single names.
    """
    marks = dict(zip(edits[-2:], (". ", "\n"), strict=False))
    return [replace(edit, target=marks[edit].join([edit.target] * 2)) if edit in marks else edit
            for edit in edits]  # fmt: skip


def _of_one_token(bench: Bench) -> list[Edit]:
    """The longest targets after words of the stream that are one token; none where none is."""
    edits = _edits(bench)[:_N_SHORT]
    words = dict.fromkeys(word for edit in edits for word in edit.prompt.split())
    short = [word for word in words if bench.batch([word]).input_ids.shape[1] == 1]
    return [Edit(word, edit.target) for word, edit in zip(short, edits, strict=False)]


def _prompts(bench: Bench, edits: Sequence[Edit]) -> list[str]:
    """What the edits ask, and other prompts in and out of scope."""
    asked = [edit.prompt for edit in edits]
    return list(dict.fromkeys([*asked, *questions(bench, _N_ASKED)]))[:_N_ASKED]


def _beamed(bench: Bench) -> list[str]:
    """Prompts that the unedited model continues otherwise with beams: others would show nothing.

    They are beginnings of questions, for how a whole one goes on is hardly in doubt.
    """
    whole = questions(bench, _N_ASKED)
    begun = (" ".join(text.split()[:n]) for n in (1, 2, 3) for text in whole)
    asked = list(dict.fromkeys(begun))
    batch, most = bench.batch(asked), bench.reader.max_new_tokens
    beams = bench.base.generate(
        batch.input_ids, batch.attention_mask, most, num_beams=_N_BEAMS
    ).tolist()  # fmt: skip
    return [
        prompt
        for prompt, greedy, ids in zip(asked, bench.base_answers(asked), beams, strict=True)
        if answer_of(bench.loaded.tokenizer, ids).token_ids != greedy.token_ids
    ]


def _respelled(bench: Bench, prompts: Sequence[str]) -> Batch | None:
    """Some of `prompts` with a word in pieces, in tokens that no text is read as; None where none.

    The word is the longest, which says most. Such rows come of texts that end within a word.
    """
    tokenizer = bench.loaded.tokenizer
    rows = []
    for prompt in prompts:
        word = max(prompt.split(), key=len)
        cut = prompt.index(word) + len(word) // 2
        (begin,) = prompt_tokens(tokenizer, [prompt[:cut]])
        ids = [*begin, *tokenizer(prompt[cut:], add_special_tokens=False).input_ids]
        read = str(tokenizer.decode(ids, skip_special_tokens=True))
        if prompt_tokens(tokenizer, [read]) != [ids]:
            rows.append(ids)
    if not rows:
        return None
    padded_rows, mask = pad(rows, 0)
    return Batch.of_prompts(padded_rows, mask.bool()).to(bench.loaded.model.device)


def _generate(
    bench: Bench,
    editor: Editor,
    prompts: Sequence[str],
    n_new: int,
    batch: Batch | None = None,
) -> Tensor:
    """[B S]: the new tokens, at most `n_new` for each prompt, and only padding after EOS.

    `batch` holds the rows where they are not those of the prompts' texts.
    """
    assert isinstance(editor, Generates)
    batch = bench.batch(prompts) if batch is None else batch
    found = editor.generate(batch.input_ids, batch.attention_mask, n_new)
    require(
        found.ndim == 2 and found.shape[1] <= n_new and len(found) == len(prompts),
        f"generate gives {tuple(found.shape)} tokens for {len(prompts)} prompts and "
        f"max_new_tokens={n_new}; it must give only the new tokens",
    )
    tokenizer = bench.loaded.tokenizer
    eos, padding = tokenizer.eos_token_id, {tokenizer.eos_token_id, tokenizer.pad_token_id}
    for prompt, ids in zip(prompts, found.tolist(), strict=True):
        after = ids[ids.index(eos) :] if eos in ids else []
        require(
            set(after) <= padding,
            f"after {prompt!r}, generate ends its answer with EOS and goes on with "
            f"{tokenizer.decode(after[1:])!r}; only padding may follow",
        )
    return found


def _require_answers(
    bench: Bench,
    editor: Editor,
    prompts: Sequence[str],
    found: Tensor,
    expected: Sequence[Sequence[int]],
    says: str,
    wanted: str,
    batch: Batch | None = None,
) -> None:
    """Require equal answers up to EOS, but for nearly tied tokens."""
    for row, (prompt, *both) in enumerate(zip(prompts, found.tolist(), expected, strict=True)):
        one, other = (answer_of(bench.loaded.tokenizer, list(ids)) for ids in both)
        asked = prompt if batch is None else batch[torch.tensor([row])]
        require(
            one == other or is_near_tie(bench, editor, asked, one, other),
            f"after {prompt!r}, {says} {_quoted(one)}, but {wanted} {_quoted(other)}",
        )


def _quoted(answer: Answer) -> str:
    return f"{answer.text!r} {'and stops' if answer.stopped else 'without an end'}"


def _whole(bench: Bench, prompt: str | Batch, follows: Sequence[int]) -> Batch:
    """A prompt, or its row, and the tokens after it as one row."""
    batch = bench.batch([prompt]) if isinstance(prompt, str) else prompt
    more = torch.tensor([list(follows)], dtype=torch.long, device=batch.input_ids.device)
    ids = torch.cat([batch.input_ids, more], dim=1)
    mask, prompt_mask = (
        nn.functional.pad(x, (0, len(follows))) for x in (batch.attention_mask, batch.prompt_mask)
    )
    mask[:, -len(follows) - 1 :] = 1
    return Batch(ids, mask, prompt_mask, torch.full_like(ids, IGNORED))


def is_near_tie(
    bench: Bench, editor: Editor, prompt: str | Batch, one: Answer, other: Answer
) -> bool:
    """Whether two answers of a prompt, or row, diverge where the best tokens are nearly tied."""
    same = list(
        takewhile(
            lambda pair: pair[0] == pair[1], zip(one.token_ids, other.token_ids, strict=False)
        )
    )
    shared = [token for token, _ in same]
    logits = batch_logits(editor, _whole(bench, prompt, shared))[0, -1]
    best, second = logits.topk(2).values
    return float(best - second) <= tolerance(logits)


def _require_all_tokens(bench: Bench, prompt: str) -> None:
    """Require as many tokens as were asked for of an unedited editor of a model that never ends.

    The answers of the bench's own model are too short to show how many an editor gives at most.
    """
    model, eos = bench.copy_model(), bench.loaded.tokenizer.eos_token_id
    with torch.no_grad():
        model.get_output_embeddings().weight[eos] = 0  # a logit below the best others
    n_new = _N_ENDLESS
    if bench.reader.max_length is not None:
        n_new = min(n_new, bench.reader.max_length - bench.batch([prompt]).input_ids.shape[1])
    found = _generate(bench, bench.editor(model=model), [prompt], n_new)
    require(
        found.shape[1] == n_new or eos in found,
        f"generate with max_new_tokens={n_new} ends after {found.shape[1]} tokens, without EOS; "
        f"needed: all {n_new}, on a model that ends no answer",
    )


@needs(Generates)
def check_cached_generation_says_the_same(bench: Bench) -> None:
    """`generate` gives the greedy continuation by `logits`, to 1, 2 or many tokens.

    On a model that ends no answer, as many as were asked for. Of edited prompts of one token, too:
    each is as long as what a cached step reads. Of rows whose tokens are not those of their text:
    what is asked is a row, and no text. And to targets that repeat words, after a full stop or a
    line break.
    """
    edits, short = _punctuated(_edits(bench)), _of_one_token(bench)
    most, tokenizer = bench.reader.max_new_tokens, bench.loaded.tokenizer
    for made, prompts in ((edits, _prompts(bench, edits)), (short, [e.prompt for e in short])):
        if not prompts:
            continue
        editor, batch = bench.editor(made), bench.batch(prompts)
        ends = prompts[:_N_RESPELLED] + prompts[-_N_RESPELLED:]
        # Rows of one token stay alone: beside a longer one they would be as wide.
        respelled = _respelled(bench, ends) if made is edits else None
        if respelled is not None:
            batch = batch.above(respelled)
            rows = zip(respelled.input_ids, respelled.attention_mask.bool(), strict=True)
            prompts = [*prompts, *("|".join(tokenizer.batch_decode(ids[own][:, None])) + _IN_PIECES
                                   for ids, own in rows)]  # fmt: skip
        by_logits = greedy_by_logits(editor, tokenizer, batch.input_ids, batch.attention_mask, most)
        for n_new in (1, 2, most):
            _require_answers(
                bench, editor, prompts, _generate(bench, editor, prompts, n_new, batch),
                by_logits[:, :n_new].tolist(), f"generate with max_new_tokens={n_new} says",
                "logits, token by token, say", batch,
            )  # fmt: skip
    _require_all_tokens(bench, edits[0].prompt)


@needs(Generates)
def check_a_cached_step_has_the_logits_of_the_whole_row(bench: Bench) -> None:
    """Each token is decoded from the logits that `logits` gives for the row up to it.

    Read at the head of the model that the editor was given. Prompts are not judged that it answers
    without this model, or whose first token it decodes from logits that are changed after the head.
    """
    edits, model, steps = _edits(bench), bench.copy_model(), list[Tensor]()
    editor = bench.editor(edits, model=model)
    n_judged = 0
    for prompt in _prompts(bench, edits)[:_N_STEPPED]:
        steps.clear()
        head = model.get_output_embeddings().register_forward_hook(
            lambda head, inputs, logits: steps.append(logits[0, -1].detach().clone())
        )
        try:
            new = _generate(bench, editor, [prompt], bench.reader.max_new_tokens)[0].tolist()
        finally:
            head.remove()
        if not new or len(steps) < len(new):
            continue
        whole = _whole(bench, prompt, new[:-1])
        logits = batch_logits(editor, whole)[0, -len(new) :]
        first, *later = zip(steps[-len(new) :], logits, strict=True)
        if not close(*first):
            continue
        n_judged += 1
        for n, (found, needed) in enumerate(later, start=2):
            said = bench.loaded.tokenizer.decode(new[: n - 1])
            if close(found, needed):
                continue
            anew = editor.logits(whole.input_ids, whole.attention_mask)[0, n - 1 - len(new)]
            require(
                not close(found, anew),
                f"after {prompt!r}, generate decides the route anew on the answer that it has "
                f"begun: token {n}, which follows {said!r}, is decoded from the logits of the "
                "whole row where the answer too may open or close an edit; needed: the route of "
                "the prompt, for every token of its answer",
            )
            raise Broken(
                f"after {prompt!r}, generate decodes token {n}, which follows {said!r}, from "
                f"logits that differ by {gap(found, needed):.1e} from those of "
                "the whole row; its first token has the same: what is edited is lost, or another, "
                "in the steps that read the cache",
            )
    if not n_judged:
        raise Unasked("no prompt is decoded from the logits of the model that the editor was given")


@needs(Generates)
def check_beams_of_a_batch_are_those_of_its_rows_alone(bench: Bench) -> None:
    """With beams, or several continuations of each, a prompt is continued in a batch as alone.

    Short prompts beside long ones: each of their beams is read by the mask of its own prompt.
    """
    edits, rng = _edits(bench), random.Random(bench.seed)
    beamed = _beamed(bench)[:_N_BEAMED]
    long = [f"{unrelated_sentences(rng, _N_SENTENCES)} {edit.prompt}" for edit in edits[:_N_LONG]]
    asked = dict.fromkeys([*beamed, *long, *_prompts(bench, edits)])
    editor, prompts = bench.editor(edits), [*asked]
    assert isinstance(editor, Generates)
    if not takes(editor.generate, "num_beams"):
        raise Unasked("its generate takes no num_beams")
    wanted: list[dict[str, int]] = [{"num_beams": _N_BEAMS}]
    if takes(editor.generate, "num_return_sequences"):
        wanted.append({"num_beams": _N_BEAMS, "num_return_sequences": _N_BEAMS - 1})
    most = bench.reader.max_new_tokens

    def continued(asked: Sequence[str], **options: int) -> list[list[list[int]]]:
        batch = bench.batch(asked)
        found = cast(Any, editor).generate(
            batch.input_ids, batch.attention_mask, most, **options
        ).tolist()  # fmt: skip
        n_each = options.get("num_return_sequences", 1)
        require(
            len(found) == n_each * len(asked),
            f"generate with {options} gives {len(found)} rows for {len(asked)} prompts; needed: "
            f"{n_each} for each",
        )
        return [found[n : n + n_each] for n in range(0, len(found), n_each)]

    for options in wanted:
        for prompt, together in zip(prompts, continued(prompts, **options), strict=True):
            for found, needed in zip(together, continued([prompt], **options)[0], strict=True):
                one, other = (answer_of(bench.loaded.tokenizer, ids) for ids in (found, needed))
                require(
                    one == other or _is_as_likely(bench, editor, prompt, one, other),
                    f"after {prompt!r}, with {options}, generate says {_quoted(one)} in a batch "
                    f"of {len(prompts)} prompts, but {_quoted(other)} alone",
                )


def _is_as_likely(bench: Bench, editor: Editor, prompt: str, one: Answer, other: Answer) -> bool:
    """Whether two answers are equally likely, by the mean of their tokens' log p."""
    scores = []
    for answer in (one, other):
        ids = [*answer.token_ids, *[bench.loaded.tokenizer.eos_token_id] * answer.stopped]
        log_p = batch_logits(editor, _whole(bench, prompt, ids))[0].float().log_softmax(-1)
        labels = torch.tensor(ids, device=log_p.device)
        scores.append(log_p[-len(ids) - 1 : -1].gather(-1, labels[:, None]).mean())
    return abs(float(scores[0] - scores[1])) <= _NEAR


@needs(Generates)
def check_a_row_is_continued_as_alone(bench: Bench) -> None:
    """An answer is the same whether its row ends first or last in its batch, or is alone.

    So is an unedited answer beside a short edited one.
    """
    edits = _edits(bench)
    editor, prompts = bench.editor(edits), _prompts(bench, edits)
    most = bench.reader.max_new_tokens
    alone = {prompt: _generate(bench, editor, [prompt], most)[0].tolist() for prompt in prompts}
    eos = bench.loaded.tokenizer.eos_token_id
    shortest_first = sorted(prompts, key=lambda prompt: [*alone[prompt], eos].index(eos))
    edited, bare = {edit.prompt for edit in edits}, bench.base_answers(prompts)
    plain = {
        prompt
        for prompt, answer in zip(prompts, bare, strict=True)
        if answer_of(bench.loaded.tokenizer, alone[prompt]).token_ids == answer.token_ids
    }
    shortest = [prompt for prompt in shortest_first if prompt in edited - plain][:1]
    longest = [prompt for prompt in shortest_first if prompt in plain - edited][-1:]
    for order in (shortest_first, shortest_first[::-1], [*shortest, *longest]):
        expected = [alone[prompt] for prompt in order]
        as_alone = partial(
            _require_answers, bench, prompts=order, expected=expected, wanted="alone",
            says=f"generate says, in a batch of {len(order)} rows of different lengths,",
        )  # fmt: skip
        try:
            as_alone(editor, found=_generate(bench, editor, order, most))
        except Broken as error:
            fresh = bench.editor(edits)
            as_alone(fresh, found=_generate(bench, fresh, order, most))
            raise Broken(
                "an answer is kept from an earlier question, and given to another: asked the same "
                f"batch first, an editor with these edits answers it as its rows alone; {error}"
            ) from None


@needs(Generates)
def check_many_rows_are_continued_as_few(bench: Bench) -> None:
    """Each of 65 rows of mixed lengths is continued as in a batch of eight.

    That a row of a small batch is continued as alone is another law's.
    """
    edits = _edits(bench)
    editor, prompts = bench.editor(edits), questions(bench, _N_MANY)
    most = bench.reader.max_new_tokens
    few: list[list[int]] = []
    for start in range(0, len(prompts), _N_FEW):
        few += _generate(bench, editor, prompts[start : start + _N_FEW], most).tolist()
    _require_answers(
        bench, editor, prompts, _generate(bench, editor, prompts, most), few,
        f"generate says, in a batch of {len(prompts)} rows,", f"among {_N_FEW}",
    )  # fmt: skip


@needs(Generates)
def check_only_its_own_tokens_take_room_from_an_answer(bench: Bench) -> None:
    """A short row that is padded to the model's whole context is continued in full.

    And a row that fills the context, or leaves room for an answer alone, is read by an editor as by
    the unedited model: what was edited takes no room from it.
    """
    limit = context_length(bench.loaded.model)
    if limit is None or limit > _WIDEST:
        raise Unasked(f"the model reads {limit or 'any number of'} tokens; this law pads rows to "
                      f"{_WIDEST} at most")  # fmt: skip
    edits, most = bench.edits(1), bench.reader.max_new_tokens
    editor = bench.editor(edits)
    assert isinstance(editor, Generates)
    for prompt in _prompts(bench, edits)[:_N_PADDED]:
        alone = _generate(bench, editor, [prompt], most)
        n = bench.batch([prompt]).input_ids.shape[1]
        batch = padded(bench, [prompt], "left", limit - n)
        wide = f"its {n} tokens padded to the {limit} of the model's context,"
        try:
            found = editor.generate(batch.input_ids, batch.attention_mask, most)
        except ValueError as error:
            raise Broken(f"{prompt!r}, {wide} has room, and is refused: {error}") from error
        _require_answers(
            bench, editor, [prompt], found, alone.tolist(), f"{wide} generate says", "alone"
        )
    words = " ".join([edit.prompt for edit in bench.stream.edits])
    ids = bench.batch([words]).input_ids
    ids = ids.repeat(1, 1 + limit // ids.shape[1])[:, :limit]
    for name, ask, n in (
        ("logits", editor.logits, limit),
        ("generate", lambda ids, mask: editor.generate(ids, mask, most), limit - most),
    ):
        row = ids[:, :n]
        try:
            ask(row, torch.ones_like(row))
        except Exception as error:
            raise Broken(
                f"once an edit is made, a prompt of {n} tokens, of the {limit} of the model's "
                f"context, is refused by {name}: {error}; needed: an answer, as before any edit"
            ) from error


@needs(Generates)
def check_generating_first_changes_no_answer(bench: Bench) -> None:
    """Answers are bitwise the same whether `generate` or `logits` is asked first."""
    edits = bench.edits(least=1)
    one, other = bench.editor(edits), bench.editor(edits)
    most = bench.reader.max_new_tokens
    generated_first = _generate(bench, one, bench.prompts, most)
    read_after, read_first = (bench.logits(each, bench.prompts) for each in (one, other))
    bench.same(read_after, read_first, "asked for logits after it has generated")
    generated_after = _generate(bench, other, bench.prompts, most)
    _require_answers(
        bench, other, bench.prompts, generated_after, generated_first.tolist(),
        "generate says, once logits have been asked,", "before",
    )  # fmt: skip


@needs(Generates, Routed)
def check_out_of_scope_prompts_are_continued_by_the_unedited_model(bench: Bench) -> None:
    """A prompt that opens no edit is continued as by the unedited model, in a batch with others."""
    edits = _edits(bench)
    editor, prompts = bench.editor(edits), _prompts(bench, edits)
    assert isinstance(editor, Routed)
    most = bench.reader.max_new_tokens
    found, expected = (_generate(bench, each, prompts, most) for each in (editor, bench.base))
    closed = [n for n, opens in enumerate(bench.opens(editor, prompts)) if not opens]
    _require_answers(
        bench, bench.base, [prompts[n] for n in closed], found[closed], expected[closed].tolist(),
        "which opens no edit, generate says", "the unedited model",
    )  # fmt: skip
