"""How a prompt is asked does not matter: padding, batch mates, order, and a target after it.

Logits are compared at every token of a prompt, not only at its last.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fixtures.strategies import Queries, queries
from properties.bench import Bench
from properties.findings import Broken, close, gap, needs, require, tolerance
from wise.editor import Editor, Retrieves, Routed
from wise.edits import PROBE_KINDS
from wise.lm.decoding import batch_logits, most_rows
from wise.lm.tokens import Batch, encode

__all__ = ["padded", "questions"]

_SIZES = (2, 7, 65, 130)  # below, at and above what an editor might process at once
_N_TAUGHT = 30  # edits in one turn: more than one memory holds, where there are several
_N_MIXED = 12
_N_CUT = 4  # prompts
_N_TWO_WAYS = 33
_SHORT = (1, 2, 3)  # tokens


def questions(bench: Bench, n: int) -> list[str]:
    """Up to `n` different prompts, in and out of scope in turn, of many lengths.

    Where there are enough, they are so short that a batch of `n` has logits of 256 MiB at most.
    """
    edits = bench.stream.live()
    kinds = [[edit.prompt for edit in edits]]
    kinds += [[probe.prompt for probe in bench.stream.probes if probe.kind == kind]
              for kind in PROBE_KINDS]  # fmt: skip
    kinds.append([e.paraphrases[i % len(e.paraphrases)] for i, e in enumerate(edits)
                  if e.paraphrases])  # fmt: skip
    kinds.append([text for edit in edits for text in edit.paraphrases])
    in_turn = (kind[i] for i in range(max(map(len, kinds))) for kind in kinds if i < len(kind))
    found = list(dict.fromkeys(in_turn))
    lengths = [len(ids) for ids in bench.loaded.tokenizer(found).input_ids]
    n_short = sum(most_rows(bench.loaded.tokenizer, length) >= n for length in lengths)
    longest = sorted(lengths)[: max(n, n_short)][-1]
    fitting = zip(found, lengths, strict=True)
    return [prompt for prompt, length in fitting if length <= longest][:n]


def padded(bench: Bench, prompts: Sequence[str], side: str, extra: int = 0) -> Batch:
    """The prompts with `extra` more padding on one side than they need.

    Padding holds an ordinary token, so that only the mask shows it.
    """
    batch = encode(bench.loaded.tokenizer, prompts, padding_side=side)
    room = (extra, 0) if side == "left" else (0, extra)
    mask = nn.functional.pad(batch.attention_mask, room)  # B T
    ids = nn.functional.pad(batch.input_ids, room)  # B T
    ordinary = int(batch.input_ids[0][batch.attention_mask[0].bool()][0])
    padded = Batch.of_prompts(ids.masked_fill(mask == 0, ordinary), mask.bool())
    return padded.to(bench.loaded.model.device)


def _read(
    bench: Bench, editor: Editor, prompts: Sequence[str], *, side: str = "left", extra: int = 0
) -> list[Tensor]:
    """[T V] for each prompt, asked in one batch: the logits at its own tokens."""
    batch = padded(bench, prompts, side, extra)
    logits = editor.logits(batch.input_ids, batch.attention_mask)
    return [row[mask] for row, mask in zip(logits, batch.prompt_mask, strict=True)]


def _alone(bench: Bench, editor: Editor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """[T V] for each prompt, asked alone."""
    return {prompt: _read(bench, editor, [prompt])[0] for prompt in prompts}


def _require_rows(
    prompts: Sequence[str], found: Sequence[Tensor], expected: Sequence[Tensor], how: str, than: str
) -> None:
    """Require that each row of a batch has the expected logits at all of its tokens."""
    rows = zip(prompts, found, expected, strict=True)
    apart = [n for n, (_, one, other) in enumerate(rows) if not close(one, other)]
    if not apart:
        return
    row = apart[0]
    gaps = (found[row] - expected[row]).abs().amax(-1)
    raise Broken(
        f"{prompts[row]!r}, {how}, is answered otherwise than {than}: logits at its token "
        f"{int(gaps.argmax()) + 1} of {len(gaps)} differ by {float(gaps.max()):.1e} (row {row + 1} "
        f"of {len(prompts)}; {len(apart)} rows differ); only rounding may",
    )


def _check(bench: Bench, side: str, **sizes: int) -> None:
    editor = bench.editor(bench.edits(least=1))
    alone = _alone(bench, editor, bench.prompts)

    def law(query: Queries) -> None:
        found = _read(bench, editor, query.prompts, side=side, extra=query.extra_padding)
        n_others = len(query.prompts) - 1
        _require_rows(
            query.prompts, found, [alone[prompt] for prompt in query.prompts],
            f"asked with {n_others} others and {query.extra_padding} more columns of padding on "
            f"the {side}", "alone",
        )  # fmt: skip

    bench.for_all(queries(st.sampled_from(bench.prompts), **sizes), law)


def check_padding_does_not_matter(bench: Bench) -> None:
    """A single prompt, padded on the left to any length, is answered as without padding."""
    _check(bench, "left", max_prompts=1)


def check_padding_side_does_not_matter(bench: Bench) -> None:
    """A single prompt, padded on the right, is answered as without padding."""
    _check(bench, "right", max_prompts=1)


def check_a_row_does_not_depend_on_what_follows(bench: Bench) -> None:
    """The logits at each token are the same whatever comes after it, however long.

    A routed editor is told that only the prompt may open an edit.
    """
    edits = bench.edits(_N_CUT, least=1)
    editor = bench.editor(edits)
    for edit in edits:
        follows = " ".join([edit.target, *(other.prompt for other in edits)])
        whole = bench.batch([edit.prompt], [follows])
        n_prompt, n_tokens = int(whole.prompt_mask.sum()), whole.input_ids.shape[1]
        full = batch_logits(editor, whole)[0]
        for n in sorted({n_prompt, n_prompt + 1, (n_prompt + n_tokens) // 2}):
            gaps = (batch_logits(editor, whole.columns(slice(n)))[0] - full[:n]).abs().amax(-1)
            at = int(gaps.argmax())
            require(
                float(gaps[at]) <= tolerance(full),
                f"in a row that begins with {edit.prompt!r}, the logits at token {at + 1} differ "
                f"by {float(gaps[at]):.1e} between the row cut after {n} tokens and the whole one "
                f"of {n_tokens}; needed: logits that no later token changes",
            )


def check_a_short_row_is_answered_in_any_padding(bench: Bench) -> None:
    """A row of one, two or three tokens is answered alone as with padding, and beside longer ones.

    A decoding step with a cache is such a row too.
    """
    edits = bench.edits(_N_CUT, least=1)
    editor, device = bench.editor(edits), bench.loaded.model.device
    texts = [text for edit in edits for text in (edit.prompt, edit.subject) if text]
    rows = [bench.batch([text]).input_ids[0] for text in dict.fromkeys(texts)]
    for ids, n in ((ids[-n:], n) for ids in rows for n in _SHORT if len(ids) >= n):
        alone = editor.logits(ids[None], torch.ones_like(ids)[None])[0]
        longest = max(rows, key=len)
        padded = torch.full((2, len(longest)), int(ids[0]), device=device)
        padded[0, -n:], padded[1] = ids, longest
        mask = torch.ones_like(padded)
        mask[0, :-n] = 0
        found = editor.logits(padded, mask)[0, -n:]
        require(
            close(found, alone),
            f"the row {bench.loaded.tokenizer.decode(ids)!r} is answered otherwise in a batch with "
            f"a longer one than alone: logits differ by {gap(found, alone):.1e}; only rounding may",
        )


def check_batch_mates_do_not_matter(bench: Bench) -> None:
    """A prompt is answered the same whatever else is asked in its batch."""
    _check(bench, "left", max_prompts=8, max_padding=0)


def check_a_batch_of_any_size_is_answered_as_its_rows_alone(bench: Bench) -> None:
    """Each of 2, 7, 65 or 130 rows, of several memories and of none, is answered as alone.

    So it is with a prompt of its own: in a larger batch each text comes twice, with its whole for
    the prompt and with its last words for the answer.
    """
    editor = bench.editor()
    editor.edit(bench.edits(_N_TAUGHT, least=1))
    prompts = questions(bench, max(_SIZES))
    alone = _alone(bench, editor, prompts)
    for size, side in zip(_SIZES, ("left", "right", "left", "right"), strict=True):
        asked = prompts[:size]
        _require_rows(
            asked, _read(bench, editor, asked, side=side), [alone[prompt] for prompt in asked],
            f"in a batch of {len(asked)} rows", "alone",
        )  # fmt: skip
    if isinstance(editor, Routed):
        batch = _read_two_ways(bench, prompts[:_N_TWO_WAYS])
        rows = [batch[torch.tensor([row])] for row in range(len(batch.labels))]
        together = zip(batch_logits(editor, batch), batch.attention_mask.bool(), strict=True)
        texts = [str(bench.loaded.tokenizer.decode(row.input_ids[0])) for row in rows]
        _require_rows(
            texts, [logits[own] for logits, own in together],
            [batch_logits(editor, row)[0] for row in rows],
            f"with a prompt_mask of its own in a batch of {len(rows)} rows", "alone",
        )  # fmt: skip


def _read_two_ways(bench: Bench, prompts: Sequence[str]) -> Batch:
    """Each prompt with a target, in mixed order: all of it the row's prompt, or not its target."""
    edits = bench.stream.live()
    targets = [edits[n % len(edits)].target for n in range(len(prompts))]
    told = bench.batch(prompts, targets)
    whole = replace(told, prompt_mask=told.attention_mask.bool())
    order = list(range(2 * len(prompts)))
    random.Random(0).shuffle(order)
    return told.above(whole)[torch.tensor(order)]


def check_equal_rows_are_answered_alike(bench: Bench) -> None:
    """A prompt that is asked twice in a batch of mixed lengths is answered as alone both times."""
    editor = bench.editor(bench.edits(least=1))
    by_length = sorted(bench.prompts, key=len)
    pairs = zip(by_length, reversed(by_length), strict=True)
    twice = [prompt for pair in pairs for prompt in pair]  # each from both ends: short, long, ...
    alone = _alone(bench, editor, bench.prompts)
    for side in ("left", "right"):
        _require_rows(
            twice, _read(bench, editor, twice, side=side), [alone[prompt] for prompt in twice],
            "asked twice in one batch", "alone",
        )  # fmt: skip


def check_the_order_of_rows_does_not_matter(bench: Bench) -> None:
    """With the rows of a batch in another order, the answers are in that order too."""
    editor = bench.editor(bench.edits(least=1))
    prompts = questions(bench, _N_MIXED)
    found = dict(zip(prompts, _read(bench, editor, prompts), strict=True))
    shuffled = random.Random(bench.seed).sample(prompts, len(prompts))
    for order in (prompts[::-1], sorted(prompts, key=len), shuffled):
        _require_rows(
            order, _read(bench, editor, order), [found[prompt] for prompt in order],
            "with the rows of its batch in another order", "before",
        )  # fmt: skip


@needs(Routed)
def check_a_route_does_not_depend_on_the_batch(bench: Bench) -> None:
    """A prompt opens the same memory in a batch as alone, among prompts that open others."""
    editor = bench.filled
    assert isinstance(editor, Routed)
    prompts = questions(bench, 65)
    alone = [bench.opens(editor, [prompt])[0] for prompt in prompts]
    for prompt, found, expected in zip(prompts, bench.opens(editor, prompts), alone, strict=True):
        require(
            found == expected,
            f"{prompt!r} is routed to {'an edit' if expected else 'no edit'} alone, and to "
            f"{'an edit' if found else 'no edit'} in a batch of {len(prompts)} rows",
        )
    if isinstance(editor, Retrieves):
        opened = [bench.opened(editor, [prompt])[0] for prompt in prompts]
        rows = zip(prompts, bench.opened(editor, prompts), opened, strict=True)
        other = [prompt for prompt, one, two in rows if {*one} != {*two}]
        require(
            not other,
            f"{len(other)} of {len(prompts)} prompts open another memory together than alone, "
            f"first {other[0] if other else ''!r}",
        )


@needs(Routed)
def check_out_of_scope_rows_are_the_unedited_model_at_every_token(bench: Bench) -> None:
    """A prompt that opens no edit has the unedited model's logits at each token, in any batch."""
    editor = bench.editor(bench.edits(least=1))
    assert isinstance(editor, Routed)
    prompts = questions(bench, 4 * _N_MIXED)
    is_open = bench.opens(editor, prompts)
    closed = [n for n, opens in enumerate(is_open) if not opens]
    targets = [edit.target for edit in bench.stream.live()]
    forced = bench.batch(prompts, [targets[n % len(targets)] for n in range(len(prompts))])
    batches = {
        "": padded(bench, prompts, "left"),
        ", padded on the right": padded(bench, prompts, "right"),
        ", with a target teacher-forced after it": forced,
    }
    for how, batch in batches.items():
        one, other = (batch_logits(each, batch) for each in (editor, bench.base))
        own = batch.attention_mask.bool()
        _require_rows(
            [prompts[n] for n in closed],
            [one[n][own[n]] for n in closed],
            [other[n][own[n]] for n in closed],
            f"which opens no edit, in a batch with {sum(is_open)} prompts that do{how}",
            "by the unedited model",
        )


@needs(Routed)
def check_a_target_does_not_open_the_gate(bench: Bench) -> None:
    """Tokens outside `prompt_mask` change no route, in scope or out of scope."""
    edits = bench.edits(least=1)
    editor = bench.editor(edits)
    assert isinstance(editor, Routed)
    is_open = bench.opens(editor, bench.prompts)
    for prompt, opens in zip(bench.prompts, is_open, strict=True):
        alone = _alone(bench, editor, [prompt])[prompt]
        for follows in (edits[0].prompt, edits[-1].target):
            batch = bench.batch([prompt], [follows])
            forced = batch_logits(editor, batch)[0]
            expected = alone
            if not opens:  # then the unedited model answers at every token of the target
                expected = batch_logits(bench.base, batch)[0]
            found = forced[: len(expected)]
            require(
                close(found, expected),
                f"{prompt!r} alone is routed to {'an edit' if opens else 'no edit'}; with "
                f"{follows!r} teacher-forced after it, logits differ by "
                f"{gap(found, expected):.1e}; the route must be decided on the prompt",
            )
