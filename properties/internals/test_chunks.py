"""Laws of targets in chunks (AnyEdit): where their keys are, what is optimised behind them, and
which outputs are to stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fixtures.models import load_model
from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_editors import (
    EDITS,
    facts_of,
    least_squares_problem,
    make,
)
from properties.internals.tiny_wise import is_same
from wise.editor import load_editor
from wise.editors.key_value.facts import chunk_of, n_chunks
from wise.editors.key_value.keyvalue import KeyValueConfig, optimize, read
from wise.edits import Edit
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Reader
from wise.lm.hooks import frozen
from wise.lm.tail import block_states, value_inputs
from wise.lm.tokens import IGNORED, encode

pytestmark = pytest.mark.internals

LONG = replace(EDITS[0], target="Oslo and Riga and Bonn")
MIXED = (EDITS[1], LONG, replace(EDITS[2], target="Rome or Bonn"))
three_architectures = pytest.mark.parametrize("model_type", ["gpt2", "opt", "gemma2"])


def tokens_of(edit: Edit) -> tuple[list[int], list[int]]:
    """Of a prompt, and of its target with EOS."""
    batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
    labels = batch.labels[0]
    return batch.input_ids[0][batch.prompt_mask[0]].tolist(), labels[labels != IGNORED].tolist()


def test_a_chunk_is_asked_for_behind_the_earlier_ones() -> None:
    edits = [edit for edit in MIXED for _ in range(2)]
    prompts, targets = [edit.prompt for edit in edits], [edit.target for edit in edits]
    batch = encode(tiny_tokenizer(), prompts, targets)
    for n in (0, 3):
        found = chunk_of(batch, [0, 3] * len(MIXED), n, padding=0)
        for row, (edit, begin) in enumerate(zip(edits, [0, 3] * len(MIXED), strict=True)):
            (prompt, target), own = tokens_of(edit), found.attention_mask[row].bool()
            told, labels = prompt + target[:begin], target[begin : begin + n]
            assert found.input_ids[row][found.prompt_mask[row]].tolist() == told
            assert found.input_ids[row][own].tolist() == told + labels[:-1]
            at = found.labels[row] != IGNORED
            assert found.labels[row][at].tolist() == labels
            if labels:
                assert int(at.nonzero()[0]) == int(found.prompt_mask[row].nonzero()[-1])
        assert found.attention_mask.any(0).all()
        assert found.attention_mask[:, -1].all()


def test_the_end_of_the_sequence_is_a_token_of_the_last_chunk() -> None:
    n = len(tokens_of(LONG)[1])
    counted = [(chunk, n_chunks(tiny_tokenizer(), [LONG], chunk, append_eos=ends)[0])
               for ends in (True, False) for chunk in (n, n - 1, n - 2, 1)]  # fmt: skip
    assert counted == [(n, 1), (n - 1, 2), (n - 2, 2), (1, n), (n, 1), (n - 1, 1), (n - 2, 2),
                       (1, n - 1)]  # fmt: skip
    assert n_chunks(tiny_tokenizer(), MIXED, None, append_eos=True) == [1, 1, 1]


@three_architectures
@pytest.mark.parametrize("fact_token", ["last", "subject-last"])
def test_keys_are_at_the_ends_of_chunks(model_type: str, fact_token: str) -> None:
    facts = facts_of(model_type, chunk=3, fact_token=fact_token)
    (found,) = read(facts, [1], MIXED)
    expected = []
    for edit in MIXED:
        prompt, target = tokens_of(edit)
        inputs = value_inputs(facts.lm, 1, encode(tiny_tokenizer(), [edit.prompt], [edit.target]))[
            0
        ]
        end = edit.prompt.rfind(edit.subject) + len(edit.subject)
        first = {
            "last": len(prompt), "subject-last": len(tiny_tokenizer()(edit.prompt[:end]).input_ids)
        }[fact_token]  # fmt: skip
        ends = [first, *range(len(prompt) + 3, len(prompt) + len(target), 3)]
        expected += [inputs[end - 1] for end in ends]
    torch.testing.assert_close(found.key.float(), torch.stack(expected), atol=1e-5, rtol=1e-4)


def by_hand(model: Any, edit: Edit, chunk: int, config: KeyValueConfig) -> list[Tensor]:
    """The values of an edit's chunks in the stream behind block 1, by the whole model."""
    batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
    (labels,), start = batch.labels, int(batch.prompt_mask.sum()) - 1
    at = (labels != IGNORED).nonzero()[:, 0]
    lm = LanguageModel(model)
    (states,) = block_states(lm, [1], batch)
    keys = [start + chunk * number for number in range(-(-len(at) // chunk))]
    changes: dict[int, Tensor] = {}
    values = []
    for number, key in enumerate(keys):
        h = states.stream[0, key]
        unit = float(h.square().mean().sqrt())
        delta = torch.zeros_like(h, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=config.lr)
        asked = at[chunk * number : chunk * (number + 1)]
        for _ in range(config.n_steps):
            shift = torch.zeros_like(states.stream)
            for column, by in changes.items():
                shift[0, column] = by
            shift[0, key] = unit * delta

            def shifted(_block: Any, _args: Any, output: Any, by: Tensor = shift) -> Any:
                moved = (output[0] if isinstance(output, tuple) else output) + by
                return (moved, *output[1:]) if isinstance(output, tuple) else moved

            with lm.blocks[1].register_forward_hook(shifted):
                logits = model(batch.input_ids, position_ids=batch.position_ids).logits[0]
            loss = nn.functional.cross_entropy(logits[asked], labels[asked])
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                most = config.clamp * len(h) ** 0.5
                delta.mul_(min(1.0, most / float(delta.norm())))
        changes[key] = unit * delta.detach()
        values.append(h + changes[key])
    return values


def test_each_chunks_value_is_found_with_the_earlier_ones_in_place() -> None:
    config = KeyValueConfig(n_steps=5, kl=0.0, weight_decay=0.0, early_stop=0.0, clamp=2.0)
    facts = facts_of("gpt2", chunk=3, fact_token="last")
    with frozen(facts.lm.model):
        found = optimize(facts, 1, MIXED, config, site="stream").float()
    expected = [value for edit in MIXED for value in by_hand(tiny_model("gpt2"), edit, 3, config)]
    assert len(expected) > len(MIXED) + 2
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-2, rtol=1e-3)
    apart = replace(config, batch_size=1)
    with frozen(facts.lm.model):
        one_by_one = optimize(facts, 1, MIXED, apart, site="stream").float()
    torch.testing.assert_close(found, one_by_one, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unke", {}),
        *((kind, dict(fact_token=fact_token)) for kind in ("memit", "emmet", "alphaedit")
          for fact_token in ("last", "subject-last")),
    ],
)  # fmt: skip
def test_a_target_of_one_chunk_is_bitwise_the_edit_without_chunks(
    kind: str, options: dict[str, Any]
) -> None:
    n = max(len(tokens_of(edit)[1]) for edit in EDITS)

    def edited(chunk: int | None) -> object:
        editor = make(kind, chunk=chunk, **options)
        editor.edit(EDITS[:3])
        editor.edit(EDITS[3:])
        return editor._state

    whole = edited(None)
    assert is_same(edited(n), whole)
    assert is_same(edited(40), whole)
    assert not is_same(edited(n - 1), whole)


def test_a_block_is_retrained_to_the_states_of_all_chunks() -> None:
    editor = make("unke", chunk=3)
    with frozen(editor.lm.model):
        found = editor._new(MIXED)
        states = optimize(editor.facts, 1, MIXED, editor.config, site="stream").float()
    expected, number = [], 0
    for edit in MIXED:
        prompt, target = tokens_of(edit)
        batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
        stream = block_states(editor.lm, [1], batch)[0].stream[0]
        keys = range(len(prompt) - 1, len(prompt) + len(target) - 1, 3)
        for key in keys:
            stream[key] = states[number]
            number += 1
        expected.append(stream[: keys[-1] + 1])
    assert number == len(states)
    torch.testing.assert_close(found.outputs, torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_one_layers_update_is_the_least_squares_solution_with_other_tokens_held() -> None:
    weight, edits = 0.05, MIXED[:2]
    editor = make("anyedit", n_layers=1, covariance_weight=weight, ridge=1e-3, chunk=3)
    editor.edit(edits)
    C, values, stood = least_squares_problem(editor, edits, site="stream")
    lm = editor.lm
    others = []
    for edit in edits:
        prompt, target = tokens_of(edit)
        keys = range(len(prompt) - 1, len(prompt) + len(target) - 1, 3)
        inputs = value_inputs(lm, 1, encode(tiny_tokenizer(), [edit.prompt], [edit.target]))[0]
        others += [each for column, each in enumerate(inputs) if column not in keys]
    kept = torch.stack(others).double().numpy()
    residual = (values - stood.stream).numpy()
    root = np.linalg.cholesky(weight * 48 * C.numpy()).T  # of M = 48
    stacked = np.concatenate([stood.key.numpy(), kept, root])
    wanted = np.concatenate([residual, np.zeros((len(stacked) - len(residual), 32))])
    expected = torch.from_numpy(np.linalg.lstsq(stacked, wanted, rcond=None)[0])
    change = editor._state.changes[1].double()
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["anyedit", "alphaedit by chunks"])
def test_outputs_at_the_other_tokens_move_less_where_they_are_protected(kind: str) -> None:
    moved = {}
    for protects in (False, True):
        editor = make(kind, edits=[LONG], n_layers=1, protects=protects)
        with frozen(editor.lm.model):
            rows = editor.facts.whole([LONG])
            inputs = value_inputs(editor.lm, 1, rows.batch)
        out = inputs @ editor._state.changes[1]
        moved[protects] = float(out[rows.elsewhere].norm()), float(out[~rows.elsewhere].norm())
    assert moved[True][0] < 0.5 * moved[False][0]
    assert moved[True][1] > 0.1 * moved[False][1]


def test_alphaedit_keeps_the_keys_of_all_chunks_until_their_prompt_is_edited_again() -> None:
    editor = make("alphaedit by chunks", chunk=3)
    counts = dict(zip(MIXED, editor.facts.n_chunks(MIXED), strict=True))
    assert counts[LONG] > 2
    for edit in MIXED:
        editor.edit([edit])
    (keys, _) = editor._state.keys.values()
    assert len(keys) == sum(counts.values())
    editor.edit([replace(LONG, target="x")])
    rest = [edit for edit in MIXED if edit is not LONG]
    again, _ = editor._state.keys.values()
    assert again[: sum(counts[edit] for edit in rest)].equal(
        torch.cat([keys[: counts[MIXED[0]]], keys[-counts[MIXED[2]] :]])
    )
    assert len(again) == sum(counts[edit] for edit in rest) + 1


def test_what_is_prepared_has_all_chunks() -> None:
    editor = make("anyedit", chunk=3)
    editor.prepare(MIXED)
    for edit in MIXED:
        alone = make("anyedit", edits=[edit], chunk=3)._state
        editor.edit([edit])
        for layer, change in alone.changes.items():
            size = float(change.norm())
            assert float((editor._state.changes[layer] - change).norm()) < 1e-4 * size
        editor.reset()


def n_recovered(found: list[int], wanted: list[int]) -> int:
    """How many tokens of an answer are right before the first that is wrong."""
    same = (one == other for one, other in zip(found, wanted, strict=False))
    return next((n for n, is_same in enumerate(same) if not is_same), min(len(found), len(wanted)))


def test_a_long_answer_is_given_whole_where_one_value_gives_its_beginning() -> None:
    loaded = load_model("gpt2")
    assert loaded.world is not None
    stream = loaded.world.stream(1000, 9, split="tuning")
    edit = stream.edits[0].as_taught()
    edit = replace(edit, target=", ".join(each.target for each in stream.edits))
    background, found = loaded.world.background(), {}
    (told,) = encode(loaded.tokenizer, [edit.prompt], [edit.target], append_eos=False).labels
    wanted = told[told != IGNORED].tolist()
    for name in ("memit", "anyedit"):
        editor = load_editor(name)(loaded.model, loaded.tokenizer, background, seed=0, n_texts=200)
        editor.edit([edit])
        reader = Reader(loaded.tokenizer, max_new_tokens=len(wanted) + 2)
        (answer,) = reader.free(editor, [edit.prompt])
        found[name] = n_recovered([*answer.token_ids], wanted)
    assert found["anyedit"] == len(wanted)
    assert found["memit"] < len(wanted) / 2
