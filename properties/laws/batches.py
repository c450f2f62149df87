"""How a prompt is asked does not matter: padding, batch mates, cache, and a target after it."""

from __future__ import annotations

from itertools import takewhile

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fixtures.strategies import Queries, queries
from properties.bench import Bench
from properties.findings import close, needs, require, tolerance
from wise.editor import Editor, Generates, Routed
from wise.lm.decoding import Answer, answer_of, greedy_by_logits
from wise.lm.tokens import IGNORED, Batch, encode

__all__ = [
    "check_a_target_does_not_open_the_gate",
    "check_batch_mates_do_not_matter",
    "check_cached_generation_says_the_same",
    "check_padding_does_not_matter",
    "check_padding_side_does_not_matter",
]


def _check_query(bench: Bench, editor: Editor, query: Queries, alone: dict[str, Tensor]) -> None:
    """Require that each prompt of `query` has the same next-token logits as when it is alone."""
    tokenizer, side, extra = bench.loaded.tokenizer, query.padding_side, query.extra_padding
    batch = encode(tokenizer, query.prompts, padding_side=side).to(bench.loaded.model.device)
    room = (extra, 0) if side == "left" else (0, extra)
    mask = nn.functional.pad(batch.attention_mask, room)  # B T
    ids = nn.functional.pad(batch.input_ids, room)  # B T
    ordinary = int(batch.input_ids[0][batch.attention_mask[0].bool()][0])
    ids = ids.masked_fill(mask == 0, ordinary)  # only the mask shows what is padding
    logits = editor.logits(ids, mask)
    last = mask.shape[1] - 1 - mask.flip(-1).argmax(-1)
    for row, prompt in enumerate(query.prompts):
        found, expected = logits[row, int(last[row])], alone[prompt]
        require(
            close(found, expected),
            f"after {prompt!r}, logits differ by {_gap(found, expected)} from those of the prompt "
            f"alone when it is asked with {len(query.prompts) - 1} others, padded on the {side} by "
            f"{int((mask[row] == 0).sum())}",
        )


def _gap(one: Tensor, other: Tensor) -> str:
    return f"{float((one - other).abs().max()):.1e}"


def _check(bench: Bench, side: str, **sizes: int) -> None:
    editor = bench.editor(bench.edits(least=1))
    alone = {prompt: bench.logits(editor, [prompt])[0] for prompt in bench.prompts}
    drawn = queries(st.sampled_from(bench.prompts), **sizes)
    bench.for_all(
        drawn.map(lambda query: query._replace(padding_side=side)),
        lambda query: _check_query(bench, editor, query, alone),
    )


def check_padding_does_not_matter(bench: Bench) -> None:
    """A single prompt, padded on the left to any length, is answered as without padding."""
    _check(bench, "left", max_prompts=1)


def check_padding_side_does_not_matter(bench: Bench) -> None:
    """A single prompt, padded on the right, is answered as without padding."""
    _check(bench, "right", max_prompts=1)


def check_batch_mates_do_not_matter(bench: Bench) -> None:
    """A prompt is answered the same whatever else is asked in its batch."""
    _check(bench, "left", max_prompts=8, max_padding=0)


@needs(Generates)
def check_cached_generation_says_the_same(bench: Bench) -> None:
    """`generate` gives the greedy continuation by `logits`, token by token."""
    editor = bench.editor(bench.edits(least=1))
    assert isinstance(editor, Generates)
    n_new = bench.reader.max_new_tokens
    batch = bench.batch(bench.prompts)
    found = editor.generate(batch.input_ids, batch.attention_mask, n_new)
    by_logits = greedy_by_logits(
        editor, bench.loaded.tokenizer, batch.input_ids, batch.attention_mask, n_new
    )
    require(
        found.shape[1] <= n_new and len(found) == len(bench.prompts),
        f"generate gives {tuple(found.shape)} tokens for {len(bench.prompts)} prompts and "
        f"max_new_tokens={n_new}; it must give only the new tokens",
    )
    rows = zip(bench.prompts, found.tolist(), by_logits.tolist(), strict=True)
    for prompt, *both in rows:
        one, other = (answer_of(bench.loaded.tokenizer, ids) for ids in both)
        require(
            one.text == other.text or _is_near_tie(bench, editor, prompt, one, other),
            f"after {prompt!r}, generate says {one.text!r}, but logits, token by token, "
            f"{other.text!r}",
        )


def _is_near_tie(bench: Bench, editor: Editor, prompt: str, one: Answer, other: Answer) -> bool:
    """Whether two answers diverge where the two best tokens are nearly tied."""
    same = list(
        takewhile(
            lambda pair: pair[0] == pair[1], zip(one.token_ids, other.token_ids, strict=False)
        )
    )
    shared = [token for token, _ in same]
    batch = bench.batch([prompt])
    follows = torch.tensor([shared], dtype=torch.long, device=batch.input_ids.device)
    ids = torch.cat([batch.input_ids, follows], dim=1)
    mask, prompt_mask = (
        nn.functional.pad(x, (0, len(shared))) for x in (batch.attention_mask, batch.prompt_mask)
    )
    mask[:, -len(shared) - 1 :] = 1
    whole = Batch(ids, mask, prompt_mask, torch.full_like(ids, IGNORED))
    logits = bench.routed(editor, whole)[0, -1]
    best, second = logits.topk(2).values
    return float(best - second) <= tolerance(logits)


@needs(Routed)
def check_a_target_does_not_open_the_gate(bench: Bench) -> None:
    """Tokens outside `prompt_mask` change no route, in scope or out of scope."""
    edits = bench.edits(least=1)
    editor = bench.editor(edits)
    assert isinstance(editor, Routed)
    is_open = bench.opens(editor, bench.prompts)
    for prompt, opens in zip(bench.prompts, is_open, strict=True):
        for follows in (edits[0].prompt, edits[-1].target):
            batch = bench.batch([prompt], [follows])
            n = int(batch.prompt_mask.sum())
            forced = bench.routed(editor, batch)[0, n - 1 :]
            expected = bench.logits(editor, [prompt])
            if not opens:  # then the unedited model answers at every token of the target
                expected = bench.routed(bench.base, batch)[0, n - 1 :]
            found = forced[: len(expected)]
            require(
                close(found, expected),
                f"{prompt!r} alone is routed to {'an edit' if opens else 'no edit'}; with "
                f"{follows!r} teacher-forced after it, logits differ by {_gap(found, expected)}; "
                "the route must be decided on the prompt",
            )
