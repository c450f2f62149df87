"""Laws of WISE: what editing changes, and all that it must not."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_wise import (
    BACKGROUND,
    EDITS,
    FAMILIES,
    FAR,
    is_same,
    make_wise,
    prompts_of,
)
from wise.editor import Editor, Erasable, Generates, Persistent, Routed
from wise.editors.kept import Kept
from wise.editors.router import Router, margin_loss
from wise.editors.wise import learning
from wise.editors.wise.learning import TurnLoss, descend
from wise.editors.wise.memory import Change, WISEState, sample_mask
from wise.editors.wise.wise import WISE, WISEConfig, make
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tokens import IGNORED, encode
from wise.seeds import seeded

pytestmark = pytest.mark.internals

every_family = pytest.mark.parametrize("model_type", FAMILIES)
MASKED: dict[str, Any] = dict(memory="merge", n_shards=2, edits_per_shard=2, mask_ratio=0.3)
PROMPTS = [edit.prompt for edit in EDITS] + list(FAR)


def logits_of(editor: Editor, texts: list[str] = PROMPTS) -> Tensor:
    batch = prompts_of(texts)
    return editor.logits(batch.input_ids, batch.attention_mask)


def base_logits(editor: WISE, texts: list[str] = PROMPTS) -> Tensor:
    return logits_of(Unedited(editor.lm.model, editor.tokenizer), texts)


def bits(model: torch.nn.Module) -> dict[str, object]:
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    flags = {f"{name} grad": weight.requires_grad for name, weight in model.named_parameters()}
    modes = {f"{name} mode": module.training for name, module in model.named_modules()}
    return {**weights, **flags, **modes}


def test_wise_has_every_capability() -> None:
    editor = make_wise()
    assert isinstance(editor, Editor)
    for capability in (Generates, Routed, Persistent, Erasable):
        assert isinstance(editor, capability), capability


@every_family
def test_without_edits_the_logits_are_bitwise_the_models(model_type: str) -> None:
    editor = make_wise(model_type)
    assert logits_of(editor).equal(base_logits(editor))
    assert editor.threshold == float("inf")
    assert editor.n_bytes == 0


@every_family
@pytest.mark.parametrize("options", [{}, MASKED])
def test_edits_change_the_answers_and_no_bit_of_the_model(
    model_type: str, options: dict[str, Any]
) -> None:
    model = tiny_model(model_type).train()  # both kinds of flags, to be found as they were
    next(model.parameters()).requires_grad_(False)
    before = bits(model)
    editor = make_wise(model, edits=EDITS[:5], **options)
    editor.remove(EDITS[1:2])
    changed = logits_of(editor)
    assert is_same(bits(model), before)
    assert not changed.equal(base_logits(editor))


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(mask_ratio=0.3),
        dict(norm_constraint=2**-9),
        dict(routing_tokens="mean", n_prefixes=2, prefix_length=3),
        dict(routing_tokens="max", routing_activation="activated", replay=2, n_shards=2),
        dict(rehearsal=1),
        dict(routing="match", edits_per_shard=1),
        dict(routing="match", edits_per_shard=1, span="answer", n_contexts=2),
    ],
    ids=lambda options: " ".join(options) or "embedded",
)
def test_descent_by_outputs_is_that_of_the_weights(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every turn's tau is plain SGD's, with the loss written as a function of tau itself."""
    turns: list[tuple[Change, Tensor]] = []

    def seen(
        objective: TurnLoss, tau: Tensor, mask: Tensor | None, config: WISEConfig, *, lr: float
    ) -> Change:
        def loss_of(tau: Tensor) -> Tensor:
            loss = torch.stack([each(objective.read @ tau) for each in objective.answers]).sum()
            loss = loss / sum(len(each.at) for each in objective.answers)
            margin = objective.margin
            if margin is None:
                return loss
            rows = margin.edited, margin.irrelevant, margin.replayed
            deltas = [None if row is None else margin.router.own(row, Change(tau)) / margin.unit
                      for row in rows]  # fmt: skip
            return loss + margin_loss(
                *deltas, alpha=config.alpha, beta=config.beta, gamma=config.gamma
            )

        expected = tau.clone()
        for _ in range(config.n_steps):
            variable = expected.clone().requires_grad_()
            with torch.enable_grad():
                loss = loss_of(variable)
            if loss <= config.early_stop:
                break
            (gradient,) = torch.autograd.grad(loss, variable)
            expected -= lr * (gradient if mask is None else gradient * mask)
            expected.clamp_(-config.norm_constraint, config.norm_constraint)
        found = descend(objective, tau, mask, config, lr=lr)
        turns.append((found, expected))
        return found

    monkeypatch.setattr(learning, "descend", seen)
    make_wise(edits=EDITS[:4], **options)
    assert len(turns) == 4
    for found, expected in turns:
        assert expected.any()
        torch.testing.assert_close(found.dense(), expected, atol=1e-5, rtol=1e-3)


@every_family
def test_reset_gives_bitwise_the_unedited_model(model_type: str) -> None:
    editor = make_wise(model_type, edits=EDITS[:3])
    editor.reset()
    assert logits_of(editor).equal(base_logits(editor))
    assert editor.edits == ()


@pytest.mark.parametrize("background", [None, Background()])
def test_after_a_reset_a_stream_is_edited_as_by_a_new_editor(background: Background | None) -> None:
    options = {} if background is None else {"background": background}
    editor = make_wise(edits=EDITS[:2], **options)
    editor.reset()
    for edit in EDITS[2:4]:
        editor.edit([edit])
    assert is_same(editor._state, make_wise(edits=EDITS[2:4], **options)._state)


@every_family
def test_inference_changes_no_state_and_repeats_itself_bitwise(model_type: str) -> None:
    editor = make_wise(model_type, edits=EDITS[:3])
    state, batch = editor._state, prompts_of(PROMPTS)

    def infer() -> list[Tensor]:
        arguments = batch.input_ids, batch.attention_mask
        return [
            editor.logits(*arguments),
            editor.generate(*arguments, 4),
            editor.routing_activation(*arguments),
        ]

    first = infer()
    assert is_same(infer(), first)
    assert editor._state is state
    assert is_same(state, make_wise(model_type, edits=EDITS[:3])._state)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_entries_outside_the_mask_are_bitwise_zero(model_type: str) -> None:
    editor = make_wise(model_type, edits=EDITS[:3], **MASKED)
    for shard in editor._state.shards:
        tau = shard.change.dense()
        mask = sample_mask((48, 32), 0.3, seeded(0, "mask", shard.number))
        outside = tau[~mask]
        assert outside.view(torch.int32).eq(0).all()  # not even a negative zero
        assert tau[mask].count_nonzero() > 0.9 * mask.sum()


def test_the_same_seed_gives_the_same_state_and_another_one_other_masks() -> None:
    options: dict[str, Any] = dict(MASKED, edits=EDITS[:3], n_prefixes=2, prefix_length=3)
    one, same, other = (make_wise(seed=seed, **options)._state for seed in (1, 1, 2))
    assert is_same(one, same)
    changed = [state.shards[0].change.dense() != 0 for state in (one, other)]
    assert not changed[0].equal(changed[1])


def test_editing_neither_reads_nor_moves_the_global_generator() -> None:
    options: dict[str, Any] = dict(MASKED, edits=EDITS[:5], n_prefixes=2, merge="dare-ties")
    torch.manual_seed(1)
    one = make_wise(**options)._state
    before = torch.get_rng_state()
    other = make_wise(**options)._state
    assert torch.get_rng_state().equal(before)
    assert is_same(one, other)


@pytest.mark.parametrize("options", [{}, MASKED])
def test_an_earlier_state_is_never_written_to(options: dict[str, Any]) -> None:
    editor, kept = make_wise(**options), []
    for edit in (*EDITS[:4], replace(EDITS[0], target="Bonn")):
        kept.append((editor._state, copy.deepcopy(editor._state)))
        editor.edit([edit])
    editor.remove(EDITS[1:2])
    assert all(is_same(state, as_it_was) for state, as_it_was in kept)


def test_two_editors_of_one_model_do_not_know_of_each_other() -> None:
    model = tiny_model("llama")
    one, other = make_wise(model, edits=EDITS[:2]), make_wise(model)
    assert logits_of(other).equal(base_logits(other))
    assert is_same(one._state, make_wise(edits=EDITS[:2])._state)


def bad_turns() -> dict[str, tuple[list[Edit], str]]:
    return {
        "nothing": ([], "a turn needs at least one edit"),
        "twice": ([EDITS[3], Edit(EDITS[3].prompt, "Danish")], "same prompt twice"),
        "too long": ([EDITS[3], Edit("very " * 70 + "long", "x")], "reads at most 64"),
    }


@pytest.mark.parametrize("name", bad_turns())
@pytest.mark.parametrize("n_before", [0, 3])
def test_a_turn_that_is_refused_leaves_all_as_it_was(name: str, n_before: int) -> None:
    turn, named = bad_turns()[name]
    editor = make_wise(edits=EDITS[:n_before], background=Background())
    with pytest.raises(ValueError, match=named):
        editor.edit(turn)
    assert is_same(editor._state, make_wise(edits=EDITS[:n_before], background=Background())._state)
    editor.edit(EDITS[4:5])
    expected = make_wise(edits=[*EDITS[:n_before], EDITS[4]], background=Background())
    assert is_same(editor._state, expected._state)


@pytest.mark.parametrize(("lr", "n_steps"), [(1e30, 8), (1e38, 1), (1e300, 1)])
def test_a_loss_that_is_no_number_is_refused_and_leaves_all_as_it_was(
    lr: float, n_steps: int
) -> None:
    editor = make_wise(lr=lr, n_steps=n_steps)
    before = bits(editor.lm.model)
    with pytest.raises(ValueError, match="lower lr"):
        editor.edit(EDITS[:1])
    assert is_same(editor._state, WISEState())
    assert is_same(bits(editor.lm.model), before)
    assert logits_of(editor).equal(base_logits(editor))


@pytest.mark.parametrize("layer", [3, -1, True, "1"])
def test_a_layer_that_the_model_lacks_is_refused(layer: object) -> None:
    with pytest.raises(ValueError, match="layer="):
        make_wise(layer=layer)


def test_without_a_layer_three_quarters_of_the_depth_are_taken() -> None:
    assert make_wise(tiny_model("llama", n_layers=4), layer=None).layer == 3
    assert make_wise(tiny_model("llama", n_layers=3), layer=None).layer == 2


def test_the_constructor_and_the_factory_start_from_one_configuration() -> None:
    model = tiny_model("llama")
    made = make(model, tiny_tokenizer(), BACKGROUND)
    assert WISE(model, tiny_tokenizer(), BACKGROUND).config == made.config


def test_a_threshold_of_0_is_refused_where_activations_are_divided_by_it() -> None:
    with pytest.raises(ValueError, match=r"threshold_scale=0 is not allowed: .*per-memory"):
        WISEConfig(threshold_scale=0, thresholds="per-memory")
    assert WISEConfig(threshold_scale=0).threshold_scale == 0


def test_the_hardest_negatives_are_those_the_router_activates_most() -> None:
    """Under routing_activation="activated" too, where the order is not that of the plain norm."""
    editor = make_wise(
        edits=EDITS[:1], negatives="hardest", n_irrelevant=2, routing_activation="activated"
    )
    learner, change = editor._learner, editor._state.shards[0].change
    assert learner._background is not None
    assert isinstance(learner.router, Router)
    (delta,) = learner.router.deltas(learner._background, [change])
    found = learner._irrelevant(change, seeded(0, "irrelevant", 1))
    hardest = learner._background[delta.argsort(descending=True)[:2]]
    assert is_same(found, hardest)
    plain = (learner._background.keys.float() @ change.dense()).norm(dim=-1)[:, 0]
    assert delta.argsort().tolist() != plain.argsort().tolist()


def tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return list(Change(value).parts().values())
    if is_dataclass(value):
        return [t for f in fields(value) for t in tensors_in(getattr(value, f.name))]
    return [t for each in value for t in tensors_in(each)] if isinstance(value, tuple) else []


@pytest.mark.parametrize("options", [{}, MASKED, dict(routing_tokens="mean")])
def test_every_tensor_that_is_kept_for_edits_is_counted(options: dict[str, Any]) -> None:
    for n in range(1, 6):
        editor = make_wise(edits=EDITS[:n], n_steps=2, **options)
        assert editor.n_bytes == sum(tensor.nbytes for tensor in tensors_in(editor._state))


class Reads(TorchDispatchMode):
    """Counts the values that the host waits for."""

    n = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.n += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("n_edits", [1, 2])
def test_with_one_memory_the_gate_never_waits_for_the_device(n_edits: int) -> None:
    editor = make_wise(edits=EDITS[:n_edits])  # live, or full
    waits = []
    for asked in (Unedited(editor.lm.model, editor.tokenizer), editor):
        with Reads() as reads:
            logits_of(asked)
        waits.append(reads.n)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("routing", ["activation", "match"])
def test_an_editor_without_edits_answers_before_it_reads_the_background(
    routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, get = list[str](), Kept.get

    def counted(self: Kept, what: str, *more: Any) -> dict[str, Tensor]:
        read.append(what)
        return get(self, what, *more)

    monkeypatch.setattr(Kept, "get", counted)
    editor = make_wise(routing=routing)
    batch = prompts_of(PROMPTS)
    assert not editor.routing_activation(batch.input_ids, batch.attention_mask).any()
    assert editor.threshold == float("inf")
    assert is_same(logits_of(editor), base_logits(editor))
    assert not read
    editor.edit(EDITS[:1])
    assert read


def test_rehearsal_learns_earlier_edits_of_the_shard_beside_the_turns_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of a turn is the mean over its own edits and, as much again, over the rehearsed."""
    seen: list[TurnLoss] = []

    def first(objective: TurnLoss, *args: Any, **options: Any) -> Change:
        seen.append(objective)
        return descend(objective, *args, **options)

    monkeypatch.setattr(learning, "descend", first)
    turns = [[EDITS[0]], [EDITS[1], EDITS[2]], [EDITS[3]], [EDITS[4]]]
    turned = make_wise(rehearsal=3, edits_per_shard=4, n_steps=2)
    for turn in turns:
        turned.edit(turn)
    n_rows = [len(turn.answers[0].at) for turn in seen]
    assert n_rows == [1, 2 + 1, 1 + 3, 1]  # the fourth edit fills the shard: the last has a new one

    own, rows = seen[1].answers[0], seen[1].answers[0].tail.rows
    nothing = torch.zeros(len(seen[1].read), own.tail.value.shape[-1])
    losses = own.losses(nothing)
    of_row = torch.stack([losses[rows == row].mean() for row in range(3)])
    torch.testing.assert_close(own(nothing) / 3, of_row[:2].mean() + of_row[2])


def test_rehearsal_keeps_what_a_shard_would_forget() -> None:
    """Targets of earlier edits stay likelier, from turn to turn, with it than without."""
    earlier = EDITS[:-1]
    rows = encode(
        tiny_tokenizer(), [edit.prompt for edit in earlier], [edit.target for edit in earlier]
    )

    def loss(**options: Any) -> float:
        editor = make_wise(edits=EDITS, edits_per_shard=len(EDITS), **options)
        logits = editor.logits(rows.input_ids, rows.attention_mask, rows.prompt_mask)
        found = nn.functional.cross_entropy(logits.mT, rows.labels, ignore_index=IGNORED)
        return float(found)

    assert loss(rehearsal=len(EDITS)) < loss()
