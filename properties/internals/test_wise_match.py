"""Laws of WISE's routing by match and of a memory that changes the answer alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_wise import (
    BACKGROUND,
    EDITS,
    FAMILIES,
    FAR,
    is_same,
    make_wise,
    routes,
)
from wise.editors.router import RoutingInputs
from wise.editors.wise import learning
from wise.editors.wise.config import WISEConfig, default_preset
from wise.editors.wise.learning import TurnLoss, descend
from wise.editors.wise.matcher import (
    Matcher,
    Whitening,
    _above,
    _near_cosines,
    _thresholds,
    fitted_weights,
)
from wise.editors.wise.memory import Change
from wise.editors.wise.references import Prompts, Read, References, _chosen, pooled
from wise.editors.wise.windows import Windows
from wise.editors.wise.wise import WISE
from wise.edits import Background, Edit
from wise.lm.decoding import Unedited
from wise.lm.tail import value_inputs
from wise.lm.tokens import Batch, encode, last_column

MATCH: dict[str, Any] = dict(
    routing="match", span="answer", edits_per_shard=1, threshold="running", lr=0.3, n_steps=40
)


def matching(model: str = "llama", **options: Any) -> WISE:
    return make_wise(model, **{**MATCH, **options})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(4, 30), inner=st.integers(2, 12), seed=st.integers(0, 99))
def test_whitening_is_the_inverse_root_of_a_dense_covariance(n: int, inner: int, seed: int) -> None:
    rows, *changes = (random(n, inner, seed=seed + i) for i in range(3))
    white = Whitening.of(rows, *changes, share=0.3, ridge=0.1)
    found = torch.nn.functional.normalize(white(rows), dim=-1)
    centred = (rows - rows.mean(0)).double()
    parts = [0.3 * centred.T @ centred / centred.square().sum()]
    for change in changes:
        parts.append(0.35 * change.double().T @ change.double() / change.double().square().sum())
    values, vectors = torch.linalg.eigh(sum(parts))
    root = vectors @ torch.diag((values.clamp(min=0) + 0.1 / inner).rsqrt()) @ vectors.T
    needed = torch.nn.functional.normalize(centred @ root, dim=-1)
    torch.testing.assert_close(found, needed.float(), atol=1e-3, rtol=0)


def test_what_tells_relations_apart_is_kept_and_nothing_else() -> None:
    """Prompts are subject + relation + wording, each in directions of its own."""
    n, inner = 200, 30
    subjects, wordings, relations = random(n, 10), random(n, 10, seed=1), random(n, 2, seed=2)

    def row(subject: Tensor, wording: Tensor, relation: Tensor) -> Tensor:
        return torch.cat([subject, wording, relation, torch.zeros(n, 8)], 1)

    prompts = row(subjects, wordings, relations)
    assert prompts.shape[1] == inner
    reworded = row(subjects, random(n, 10, seed=3), relations)
    near = row(subjects, random(n, 10, seed=4), random(n, 2, seed=5))
    white = Whitening.of(prompts, reworded - prompts, share=0.0).keeping(near - prompts, 2)
    elsewhere = row(random(n, 10, seed=6), random(n, 10, seed=7), relations)
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(white(prompts), white(elsewhere)).quantile(0.1)) > 0.9
    assert float(cosine(white(prompts), white(near)).median()) < 0.5


@given(
    n_tokens=st.integers(1, 6), width=st.integers(1, 4), before=st.integers(0, 3),
    after=st.integers(0, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_phrase_is_as_like_a_prompt_as_its_nearest_words(
    n_tokens: int, width: int, before: int, after: int, seed: int
) -> None:
    prompt, phrase = random(n_tokens, 5, seed=seed), random(width, 5, seed=seed + 1)
    places = [prompt[i : i + width] for i in range(max(n_tokens - width, 0) + 1)]
    padded = [torch.nn.functional.pad(each, (0, 0, 0, width - len(each))) for each in places]
    cosine = torch.nn.functional.cosine_similarity
    needed = max(cosine(phrase.flatten(), each.flatten(), dim=0) for each in padded)
    tokens = torch.nn.functional.pad(prompt, (0, 0, before, after), value=3.0)
    mask = torch.nn.functional.pad(torch.ones(n_tokens), (before, after)).bool()
    windows = Windows.of(torch.stack([tokens, -tokens]), torch.stack([mask, mask]))
    found = windows.likeness(torch.cat([prompt, phrase]), torch.tensor([n_tokens, width]))
    torch.testing.assert_close(found[1, 0], needed, atol=1e-5, rtol=0)
    assert float(found[0, 0]) == pytest.approx(1.0, abs=1e-5)


@given(n_tokens=st.integers(0, 6), width=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_phrase_is_as_like_the_end_of_a_prompt_as_its_last_words(
    n_tokens: int, width: int, seed: int
) -> None:
    prompt, phrase = random(n_tokens, 5, seed=seed), random(1, 5, seed=seed + 1)
    windows = Windows(torch.cat([phrase, prompt, phrase]), torch.tensor([1, n_tokens, 1]))
    needed = torch.nn.functional.cosine_similarity(phrase[0], prompt[-width:].sum(0), dim=0)
    found = windows.likeness_of_ends(torch.cat([-phrase, phrase]), torch.tensor([width + 1, width]))
    torch.testing.assert_close(
        found[1], torch.stack([torch.tensor(1.0), needed, torch.tensor(1.0)]), atol=1e-5, rtol=0
    )


def test_what_stands_before_a_question_does_not_count() -> None:
    editor = matching(edits=EDITS[:1])
    batch = encode(tiny_tokenizer(), [EDITS[0].prompt])
    rows = editor._rows(batch.input_ids, batch.attention_mask)
    keys, (low, edited) = rows.keys[:, :2], rows.keys[:, 2:].chunk(2, 1)
    before = random(1, 3, keys.shape[-1])
    told = torch.cat([keys, before, low, before, edited], 1)
    more = RoutingInputs(told, torch.ones(1, told.shape[1]).bool())
    router, memories = editor._learner.router, editor._state.memories
    own = float(router.activations(more, memories))
    assert own == pytest.approx(float(router.activations(rows, memories)), abs=1e-4)


@pytest.mark.parametrize("begin", ["", "Say it in a word: "])
def test_a_subject_is_found_wherever_it_stands(begin: str) -> None:
    """In a prompt of its own words and in another; another subject is not."""
    edit = replace(EDITS[0], subject="Ada Lorn")
    editor = matching(edits=[edit])
    router = editor._learner.router
    assert isinstance(router, Matcher)
    assert router._last is not None
    (known,) = router._last.settled[0].known

    def like(prompt: str) -> float:
        batch = encode(tiny_tokenizer(), [prompt])
        rows = editor._rows(batch.input_ids, batch.attention_mask)
        keys, mask = rows.keys[:, 2:].chunk(2, 1)[0], rows.mask[:, 2:].chunk(2, 1)[0]
        found = Windows.of(keys, mask).likeness(known.phrases, known.widths)
        return float(found.max())

    assert like(edit.prompt) == pytest.approx(1.0, abs=1e-4)
    assert like(f"{begin}{edit.subject} is here") > like(f"{begin}Bo Rask is here")


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_where_subjects_match_alike_the_rest_of_the_prompt_decides(order: tuple[int, ...]) -> None:
    """Edits of one subject, and one whose subject begins with it, where the subject alone counts:
    each one's own prompt opens it."""
    given = [
        Edit("Ada lives in", "Oslo", subject="Ada"),
        Edit("Ada speaks", "French", subject="Ada"),
        Edit("Ada Lorn has studied", "law", subject="Ada Lorn"),
    ]
    edits = [given[number] for number in order]
    editor = matching(edits=edits, match_weights=(0.0, 0.0))
    batch = encode(tiny_tokenizer(), [edit.prompt for edit in edits])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [(e,) for e in edits]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_that_a_prompt_is_matched_by(side: str) -> None:
    def keys(batch: Batch) -> Tensor:
        return pooled(batch.input_ids[..., None].float().expand(-1, -1, 3), batch.prompt_mask)

    texts = [edit.prompt for edit in EDITS]
    together = keys(encode(tiny_tokenizer(), texts, padding_side=side))
    alone = torch.cat([keys(encode(tiny_tokenizer(), [text])) for text in texts])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_is_answered_and_far_rows_keep_their_bits(family: str) -> None:
    editor = matching(family, edits=EDITS)
    bare = Unedited(tiny_model(family), tiny_tokenizer())
    for edit in EDITS:
        batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
        mask = batch.prompt_mask
        logits = editor.logits(batch.input_ids, batch.attention_mask, mask)
        rows, columns = (batch.labels >= 0).nonzero(as_tuple=True)
        assert logits[rows, columns].argmax(-1).equal(batch.labels[rows, columns])
        last = int(last_column(mask))
        assert logits[:, :last].equal(bare.logits(batch.input_ids, batch.attention_mask)[:, :last])
    batch = encode(tiny_tokenizer(), FAR)
    opened = editor.routing_activation(batch.input_ids, batch.attention_mask) > editor.threshold
    logits = editor.logits(batch.input_ids, batch.attention_mask)
    needed = bare.logits(batch.input_ids, batch.attention_mask)
    assert not bool(opened.all())
    assert logits[~opened].equal(needed[~opened])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cached_answer_is_the_forced_one(family: str) -> None:
    editor = matching(family, edits=EDITS)
    for edit in EDITS:
        prompt = encode(tiny_tokenizer(), [edit.prompt])
        free = editor.generate(prompt.input_ids, prompt.attention_mask, 4)
        answer = free[:, -4:] if free.shape[1] > 4 else free
        ids = torch.cat([prompt.input_ids, answer], 1)
        mask = torch.ones_like(ids)
        inside = torch.zeros_like(ids, dtype=torch.bool)
        inside[:, : prompt.input_ids.shape[1]] = True
        forced = editor.logits(ids, mask, inside)[:, prompt.input_ids.shape[1] - 1 : -1].argmax(-1)
        ends = (answer == tiny_tokenizer().eos_token_id).int().cumsum(1) - 1
        assert forced[ends <= 0].equal(answer[ends <= 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_one_token_is_continued_from_the_cache_as_by_whole_rows(family: str) -> None:
    """It is as long as what a cached step reads."""
    editor = matching(family, edits=[Edit("W", "Oslo in Norway")])
    batch = encode(tiny_tokenizer(), ["W"])
    assert batch.input_ids.shape == (1, 1)
    cached = editor.generate(batch.input_ids, batch.attention_mask, 6)
    whole = editor.generate(batch.input_ids, batch.attention_mask, 6, use_cache=False)
    assert cached.equal(whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_that_is_loaded_is_bitwise_the_one_that_was_saved(
    tmp_path: Path, family: str
) -> None:
    """Whatever was in force before, and from the first question on."""
    editor = matching(family, edits=EDITS)
    editor.reset()
    for edit in EDITS[::-1]:
        editor.edit([edit])
    editor.save(tmp_path / "state")
    loaded = matching(family)
    loaded.load(tmp_path / "state")
    batch = encode(tiny_tokenizer(), [*FAR, EDITS[0].prompt])
    asked = batch.input_ids, batch.attention_mask
    assert loaded.logits(*asked).equal(editor.logits(*asked))
    assert loaded.routing_activation(*asked).equal(editor.routing_activation(*asked))
    assert loaded.threshold == editor.threshold


def test_a_reset_editor_holds_no_edit_for_its_router() -> None:
    editor = matching(edits=EDITS[:2])
    editor.reset()
    assert vars(editor._learner.router)["_last"] is None


@pytest.mark.parametrize("n_texts", [0, 1])
@pytest.mark.parametrize("n_edits", [0, 1])
def test_a_background_of_next_to_nothing_is_enough(n_texts: int, n_edits: int) -> None:
    few = Background(BACKGROUND.texts[:n_texts], BACKGROUND.edits[:n_edits])
    assert routes(matching(background=few, edits=EDITS[:1]), [EDITS[0].prompt]) == [True]


@pytest.mark.parametrize("truth", ["", "Bonn"])
def test_no_wording_of_an_edit_is_a_text_near_to_it(truth: str) -> None:
    """Though the background says it twice, with different old answers."""
    told = Edit("Gus Hale lives in", "Rome", subject="Gus Hale", ground_truth="Oslo",
                paraphrases=("The home of Gus Hale is",))  # fmt: skip
    again = replace(told, ground_truth=truth)
    reworded = replace(told, prompt=told.paraphrases[0], ground_truth=truth)
    held, common = _chosen(Background(edits=(told, again, reworded)), 12, torch.Generator())
    assert not any(each.near for each in [*held, *common])


def test_a_bound_on_the_entries_of_a_memory_is_kept() -> None:
    editor = matching(edits=EDITS[:1], span="row", norm_constraint=2**-9)
    assert float(editor._state.memories[0].change.dense().abs().max()) <= 2**-9
    with pytest.raises(ValueError, match="norm_constraint=inf"):
        matching(norm_constraint=0.002)


def test_a_removed_edit_was_never_made() -> None:
    editor = matching(edits=EDITS)
    editor.remove(EDITS[1:3])
    never = matching(edits=[edit for edit in EDITS if edit not in EDITS[1:3]])
    assert [memory.edits for memory in editor._state.memories] == [
        memory.edits for memory in never._state.memories
    ]
    assert editor.threshold == pytest.approx(never.threshold)


def test_a_loaded_state_is_the_saved_one(tmp_path: Path) -> None:
    editor = matching(edits=EDITS[:3])
    editor.save(tmp_path / "state")
    other = matching()
    other.load(tmp_path / "state")
    assert is_same(other._state, editor._state)
    editor.edit(EDITS[3:4])
    other.edit(EDITS[3:4])
    assert is_same(other._state, editor._state)


@pytest.mark.parametrize("target", ["Oslo", "Oslo " * 6])
@pytest.mark.parametrize("n_contexts", [0, 2])
def test_a_memory_grows_by_its_answers_tokens_alone(n_contexts: int, target: str) -> None:
    edit = replace(EDITS[0], target=target)
    editor = matching(edits=[edit], n_contexts=n_contexts)
    (memory,) = editor._state.memories
    batch = encode(tiny_tokenizer(), [edit.prompt], [target])
    assert memory.change.span is not None
    n_read = int((batch.labels >= 0).sum()) - 1  # of the answer's tokens: the last is not read
    assert len(memory.change.span) == 1 + n_read + n_contexts * min(n_read, 15)


@pytest.mark.parametrize("target", ["Oslo", "Oslo " * 6])
def test_after_other_prompts_the_beginning_of_a_target_is_learned(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is that of each row alone, read by the whole model; a long target counts more, and
    more still its end, which is learned after the edit's prompt alone."""
    objectives: list[TurnLoss] = []

    def seen(objective: TurnLoss, *arguments: Any, **options: Any) -> Change:
        objectives.append(objective)
        return descend(objective, *arguments, **options)

    monkeypatch.setattr(learning, "descend", seen)
    edit = replace(EDITS[0], target=target)
    editor = matching(edits=[edit], n_contexts=2)
    learner = editor._sharding.learner
    rows = [edit.prompt, *learner._contexts(0, target)]
    assert len(rows) == 3
    tau = random(*learner.weight.shape) * 0.01
    own: Tensor | None = None
    losses: list[Tensor] = []
    for row in rows:
        batch = encode(tiny_tokenizer(), [row], [target])
        changed = batch.labels[0] >= 0
        inputs = value_inputs(editor.lm, learner.layer, batch)[0]
        if own is None:
            own = inputs[changed][0]
        inputs[changed.nonzero()[0]] = own

        def change(_module: Any, _args: Any, output: Tensor, inputs: Tensor = inputs,
                   changed: Tensor = changed) -> Tensor:  # fmt: skip
            return output + (inputs @ tau * changed[:, None]).view_as(output)

        handle = editor.lm.part(learner.layer, "value").register_forward_hook(change)
        logits = editor.lm.model(batch.input_ids).logits[0, changed]
        handle.remove()
        labels = batch.labels[0, changed]
        n_learned, n = 16 if losses else len(labels), min(16, len(labels))
        each = torch.nn.functional.cross_entropy(
            logits[:n_learned], labels[:n_learned], reduction="none"
        )
        losses.append((each[:16].sum() + len(rows) ** 0.5 * each[16:].sum()) / n)
    torch.testing.assert_close(
        objectives[0](objectives[0].inputs @ tau), torch.stack(losses).mean()
    )


def test_a_turn_goes_on_until_its_whole_target_is_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as many of the further steps as that needs, and no more."""
    edit = replace(EDITS[0], target="Oslo, as his aunts do")
    batch = encode(tiny_tokenizer(), [edit.prompt], [edit.target])
    n_asked: Counter[int] = Counter()  # how often the loss was taken, by the steps allowed
    taken = TurnLoss.__call__

    def least_likely(n_more_steps: int) -> float:
        def counted(objective: TurnLoss, outputs: Tensor) -> Tensor:
            n_asked[n_more_steps] += 1
            return taken(objective, outputs)

        monkeypatch.setattr(TurnLoss, "__call__", counted)
        editor = matching(edits=[edit], n_steps=3, n_more_steps=n_more_steps, n_contexts=2)
        logits = editor.logits(batch.input_ids, batch.attention_mask, batch.prompt_mask)[0]
        chosen = batch.labels[0] >= 0
        likely = logits[chosen].softmax(-1)
        return float(likely.gather(1, batch.labels[0, chosen, None]).min())

    assert least_likely(0) < 0.5 < least_likely(500)
    assert n_asked[0] == 3 < n_asked[500] < 503
    assert least_likely(n_asked[500] - 5) < 0.5  # with one step fewer


def test_long_contexts_are_cut_and_leave_the_target_room() -> None:
    context = tiny_model("llama").config.max_position_embeddings
    background = Background(texts=("word " * (2 * context), "letters" * (2 * context)))
    edit = replace(EDITS[0], target="word " * (context // 8))
    editor = matching(background=background, edits=[edit], n_contexts=2)
    (memory,) = editor._state.memories
    assert memory.edits == (edit,)


def test_an_editor_without_background_routes_its_edits() -> None:
    editor = matching(background=Background(), edits=EDITS[:2])
    batch = encode(tiny_tokenizer(), [edit.prompt for edit in EDITS[:2]])
    assert editor.retrieved(batch.input_ids, batch.attention_mask) == [(e,) for e in EDITS[:2]]


def test_a_kept_router_is_the_computed_one(tmp_path: Path) -> None:
    editors = [matching(edits=EDITS[:2], cache=cache) for cache in (None, tmp_path, tmp_path)]
    batch = encode(tiny_tokenizer(), [*FAR, EDITS[0].prompt])
    first, *others = (e.routing_activation(batch.input_ids, batch.attention_mask) for e in editors)
    assert all(other.equal(first) for other in others)
    assert len({editor.threshold for editor in editors}) == 1


def prompts(n: int, *, each: int = 1, n_near: int = 0) -> Prompts:
    """`n` groups of `each` rows, of which the last `n_near` are near texts."""
    rows = torch.arange(n * each)
    is_near = rows % each >= each - n_near
    return Prompts(["a text"] * len(rows), [""] * len(rows), rows // each * each, is_near)


@given(rate=st.sampled_from([0.05, 0.1, 0.3]), seed=st.integers(0, 20))
def test_no_more_held_prompts_open_a_memory_than_are_allowed(rate: float, seed: int) -> None:
    editor = matching(edits=EDITS[:3])
    inner = len(editor._learner.weight)

    def read(n: int, seed: int) -> Read:
        lengths = torch.full((n,), 4)
        low, edited = random(2, 4 * n, inner, seed=seed + 9)
        last, mean = edited[3::4], edited.reshape(n, 4, inner).mean(1)
        return Read(torch.stack([mean, last], 1), low, edited, lengths)

    references = References(prompts(40), read(40, seed), prompts(60), read(60, seed + 1))
    matcher = Matcher(
        editor._learner.kept, editor._learner.layers, references,
        weights=(0.0, 0.5), false_positives=rate,
    )  # fmt: skip
    seen = matcher._seen
    tokens = [each.tokens.reshape(60, 4, inner) for each in (seen.words, seen.relation)]
    keys = torch.stack([seen.last, seen.last], 1)  # a prompt's mean is of its own tokens
    held = RoutingInputs(torch.cat([keys, *tokens], 1), torch.ones(60, 10).bool())
    opened = int((matcher.choose(held, editor._state.memories) >= 0).sum())
    assert opened <= rate * 60 + 1


def cosines_of(rows: Tensor, held: Prompts) -> Tensor:
    """Of rows' keys [N, 3, M], those of the held edits with all prompts."""
    return torch.stack([rows[held.edits, i] @ rows[:, i].T for i in range(3)])


@given(share=st.sampled_from([0.02, 0.05, 0.1]), seed=st.integers(0, 20))
def test_the_threshold_lies_midway_between_other_subjects_and_paraphrases(
    share: float, seed: int
) -> None:
    strays, groups = random(20, 60, seed=seed).sigmoid() / 2, torch.arange(60) // 3
    exceeded, _ = _thresholds(strays, groups, 0.0, share)
    for reached in (0.0, float(exceeded) / 2):
        assert _thresholds(strays, groups, 0.0, share, reached)[0] == exceeded
    midway, of_edit = _thresholds(strays, groups, 0.0, share, 0.9)
    assert float(midway) == pytest.approx((float(exceeded) + 0.9) / 2)
    assert bool((of_edit >= midway).all())
    assert float(_thresholds(strays, groups, 0.8, share, 0.9)[0]) == pytest.approx(0.8)


@pytest.mark.parametrize("before", ["", "Zyx qov, "])
def test_the_threshold_goes_by_the_backgrounds_own_paraphrases(before: str) -> None:
    names = ("Ada Lorn", "Bo Rask", "Cleo Vane", "Dov Hale", "Gus Moss", "Ina Bell")
    edits = [Edit(f"{name} lives in", "Rome", name, paraphrases=(f"{before}{name} lives in",))
             for name in names]  # fmt: skip
    editor = matching(background=Background((), tuple(edits)), edits=EDITS[:2])
    router = editor._learner.router
    assert isinstance(router, Matcher)
    found, reached = editor.threshold, router._reached
    assert (reached == pytest.approx(1.0)) == (before == "")
    router._reached, router._last = 0.0, None
    alone = router.threshold(editor._state.memories)
    assert found == pytest.approx(max(alone, min(0.9, (alone + reached) / 2)))


@pytest.mark.parametrize("which", [1, 2])
def test_what_near_texts_differ_by_counts_and_else_nothing_does(which: int) -> None:
    """Every near text has its edit's subject and another relation or last token, or nothing."""
    n = 20
    edit = torch.eye(n)[:, None].expand(-1, 3, -1)  # subject, relation, last token

    def fitted(near: Tensor) -> tuple[float, float]:
        rows = torch.stack([edit, edit, near], 1).flatten(0, 1)  # an edit's three side by side
        held = prompts(n, each=3, n_near=1)
        return fitted_weights(held, cosines_of(rows, held), false_positives=0.02)

    differing = edit.clone()
    differing[:, which] = torch.eye(n).roll(1, 0)
    assert fitted(differing)[which - 1] > 0
    assert fitted(differing)[2 - which] == 0
    assert fitted(-edit) == (0, 0)


@pytest.mark.parametrize(("n", "n_without"), [(20, 0), (20, 200), (5, 30)])
def test_near_texts_seldom_open_their_own_edit(n: int, n_without: int) -> None:
    """Whatever share of the edits has one; of a few edits, they say nothing."""
    edits = torch.nn.functional.normalize(random(n, 3, 64), dim=-1)
    near = torch.nn.functional.normalize(edits + 0.1 * random(n, 3, 64, seed=1), dim=-1)
    with_near = torch.stack([edits, edits, near], 1).flatten(0, 1)
    others = torch.nn.functional.normalize(random(n_without, 3, 64, seed=2), dim=-1)
    rows = torch.cat([with_near, others.repeat_interleave(2, 0)])
    first, second = prompts(n, each=3, n_near=1), prompts(n_without, each=2)
    held = Prompts(
        [*first.texts, *second.texts], [*first.subjects, *second.subjects],
        torch.cat([first.prompt, second.prompt + 3 * n]),
        torch.cat([first.is_near, second.is_near]),
    )  # fmt: skip
    found = _above(_near_cosines(held, cosines_of(rows, held)), (0.0, 0.0))
    opened = int(((edits[:, 0] * near[:, 0]).sum(-1) > found).sum())
    assert opened == (n if n < 20 else 0)


def test_an_edit_with_close_neighbours_is_harder_to_open_and_no_other_is() -> None:
    """NGC 36 among galaxies: all that ask for one of them are near it, and foretell each other."""
    strays, groups = random(20, 60).sigmoid() / 2, torch.arange(60) // 3
    shared, of_edit = _thresholds(strays, groups, 0.0, 0.02)
    strays[0, :12] = 0.9
    beside, of_each = _thresholds(strays, groups, 0.0, 0.02)
    assert float(of_each[0]) == pytest.approx(0.9)
    assert float(beside) <= float(shared)
    assert bool((of_each[1:] <= of_edit[1:]).all())


@given(clear=st.sampled_from([0.0, 0.4, 0.8]), seed=st.integers(0, 20))
def test_no_held_prompt_of_another_subject_opens_an_edit(clear: float, seed: int) -> None:
    strays = random(8, 30, seed=seed).sigmoid()
    shared, of_edit = _thresholds(strays, torch.arange(30) // 2, clear, 0.1)
    assert bool((strays <= of_edit[:, None]).all())
    assert bool((of_edit >= shared).all())
    assert float(shared) >= clear


def test_no_subject_is_both_common_and_held() -> None:
    background = Background(
        edits=tuple(
            Edit(f"{subject} {relation}", answer, subject=subject, ground_truth=answer,
                 paraphrases=(f"{relation} of {subject}",), id=f"{subject}{relation}")
            for subject in ("Ann", "Ben", "Cid", "Dot")
            for relation, answer in (("lives in", "Rome"), ("plays", "chess"))
        )
    )  # fmt: skip
    held, common = _chosen(background, 12, torch.Generator())
    subjects = [{each.subject for each in part} for part in (held, common)]
    assert subjects[0].isdisjoint(subjects[1])
    assert [each.near for each in held if each.prompt.endswith("plays")] == [
        [f"{each.subject} lives in"] for each in held if each.prompt.endswith("plays")
    ]


@pytest.mark.parametrize(
    "options",
    [dict(routing="activation"), dict(edits_per_shard=2), dict(n_shards=2), dict(mask_ratio=0.5)],
)
def test_an_answers_memory_holds_one_matched_edit(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="span='answer' is not allowed: it needs routing='match'"):
        WISEConfig(**{**dict(routing="match", span="answer", edits_per_shard=1, n_shards=1,
                             mask_ratio=1.0), **options})  # fmt: skip


def test_what_is_matched_by_lies_at_or_below_the_edited_block() -> None:
    with pytest.raises(ValueError, match="match_layer=2 lies above the edited block, layer=1"):
        matching(match_layer=2)
    assert matching(match_layer=1, edits=EDITS[:1]).edits == EDITS[:1]


def test_a_large_model_is_matched_and_a_small_one_is_not() -> None:
    config = AutoConfig.for_model("llama", hidden_size=512, num_hidden_layers=8)
    with torch.device("meta"):
        large = AutoModelForCausalLM.from_config(config)
    assert default_preset(large) == "match"
    assert default_preset(tiny_model("llama")) == "embedded"
