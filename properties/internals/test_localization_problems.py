"""Laws of the five editing problems: what each asks, and that an editor can do it or says no."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fixtures.models import LoadedModel, load_model
from fixtures.tiny import tiny_model, tiny_tokenizer
from wise.editor import BUILT_IN, Editor, EditorFactory, load_editor, takes
from wise.editors.corners import make_unedited
from wise.editors.finetune import make_ft_m
from wise.editors.key_value.facts import Facts
from wise.editors.key_value.rome import make as make_rome
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Reader, Unedited
from wise.localization.editing_scores import essence, neighborhood, overall, rewrite
from wise.localization.forced import Forced
from wise.localization.known_facts import fact_of
from wise.localization.problems import (
    PROBLEMS,
    SubjectNoise,
    UnsuitedEditorError,
    make_editor,
    noised_answer,
    pose,
)

pytestmark = pytest.mark.internals

EDIT = Edit("So Bo Ra lives at", "sea", subject="Bo Ra", ground_truth="home")
BACKGROUND = Background(("Al is up to no good.", "Is it so? It is, at sea."))
SIGMA = 0.2
probability = st.floats(0.0, 1.0)


@cache
def loaded() -> LoadedModel:
    return load_model("llama")


@cache
def known_edit() -> Edit:
    world = loaded().world
    assert world is not None
    return world.stream(0, 1, split="tuning").edits[0]


def edited(
    name: str, edit: Edit, *, make: EditorFactory = make_rome
) -> tuple[Editor, LanguageModel, Edit]:
    """An editor of an embedded model after one problem, and the edit that it was given."""
    model, tokenizer = loaded().model, loaded().tokenizer
    asked = pose(PROBLEMS[name], edit, model, tokenizer, sigma=SIGMA)
    editor = make_editor(
        make, PROBLEMS[name], model, tokenizer, loaded_background(), sigma=SIGMA, seed=0
    )
    editor.edit([asked])
    return editor, LanguageModel(model), asked


@cache
def loaded_background() -> Background:
    world = loaded().world
    assert world is not None
    return world.background(n_texts=200)


def test_each_problem_has_the_papers_target_and_objective() -> None:
    found = {name: (p.target, p.objective, p.is_noised) for name, p in PROBLEMS.items()}
    assert found == {
        "error-injection": ("false", "raise", False),
        "tracing-reversal": ("noise", "raise", False),
        "fact-erasure": ("true", "lower", False),
        "fact-amplification": ("true", "raise", False),
        "fact-forcing": ("true", "raise", True),
    }


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_changes_the_target_alone(name: str) -> None:
    model, tokenizer = loaded().model, loaded().tokenizer
    edit = known_edit()
    asked = pose(PROBLEMS[name], edit, model, tokenizer, sigma=SIGMA)
    assert replace(asked, target=edit.target) == edit
    kind = PROBLEMS[name].target
    if kind == "noise":
        assert asked.target == noised_answer(
            model, tokenizer, fact_of(edit), sigma=SIGMA
        ).strip()  # fmt: skip
    else:
        assert asked.target == {"false": edit.target, "true": edit.ground_truth}[kind]


def test_without_noise_the_noised_answer_is_the_models_own() -> None:
    model, tokenizer, edit = loaded().model, loaded().tokenizer, known_edit()
    answer = noised_answer(model, tokenizer, fact_of(edit), sigma=0.0, length=8)
    assert answer.strip() == edit.ground_truth


def test_what_is_hardly_known_is_not_to_be_erased_nor_what_noise_left_to_be_reversed() -> None:
    model, tokenizer, edit = loaded().model, loaded().tokenizer, known_edit()
    unknown = replace(edit, target="x", ground_truth=edit.target)
    with pytest.raises(ValueError, match=r"is below min_probability=0\.02"):
        pose(PROBLEMS["fact-erasure"], unknown, model, tokenizer, sigma=SIGMA)
    with pytest.raises(ValueError, match="still answers the truth: there is nothing to reverse"):
        pose(PROBLEMS["tracing-reversal"], edit, model, tokenizer, sigma=0.0)


def test_noise_falls_on_the_subject_of_every_row_wherever_it_stands() -> None:
    lm = LanguageModel(tiny_model("llama"))
    rows = Facts(lm, tiny_tokenizer(), ("It is", "At sea, no")).asked([EDIT, replace(EDIT, prompt=
        "Bo Ra", id="b")])  # fmt: skip
    embedded = torch.zeros(*rows.batch.input_ids.shape, 8)
    noised = SubjectNoise(1.0)(embedded, rows.subject, *rows.readings)
    assert rows.subject.float().argmax(-1).unique().numel() > 1
    assert torch.equal((noised != 0).any(-1), rows.subject)
    assert not embedded.any()


def test_the_noise_of_a_row_depends_on_its_edit_its_number_and_the_step_alone() -> None:
    subject = torch.tensor([[False, True, True], [True, True, False], [True, True, False]])
    other = replace(EDIT, prompt="Bo Ra is")
    noise, blank = SubjectNoise(1.0, seed=3), torch.zeros(3, 3, 4)
    first = noise(blank, subject, [EDIT, EDIT, other])
    alone = noise(blank[:1], subject[:1], [EDIT])
    assert torch.equal(first[0], alone[0])
    assert torch.equal(
        noise(blank, subject, [EDIT, EDIT, other], 7)[0],
        noise(blank[:1], subject[:1], [EDIT], 7)[0],
    )
    assert not torch.equal(noise(blank[:1], subject[:1], [EDIT], 7)[0], first[0])
    assert not torch.equal(first[0, 1:], first[1, :2])
    assert not torch.equal(first[0, 1:], first[2, :2])
    for another in (SubjectNoise(1.0, seed=4), SubjectNoise(1.0, seed=3, of="answers")):
        assert not torch.equal(first, another(blank, subject, [EDIT, EDIT, other]))


def probabilities(
    editor: Editor,
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    edit: Edit,
    **options: Any,
) -> list[float]:
    forced = Forced.of(tokenizer, [(prompt, edit.target) for prompt in prompts], edit, **options)
    return [float(p) for p in forced.log_probabilities(editor, lm).exp().mean(-1)]


def test_probabilities_are_teacher_forced_and_noise_moves_those_about_the_subject() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    lm, editor = LanguageModel(model), Unedited(model, tokenizer)
    prompts = [EDIT.prompt, "Where is Bo Ra", "Al is up to"]
    plain = probabilities(editor, lm, tokenizer, prompts, EDIT)
    forced = Reader(tokenizer).forced(editor, prompts, [EDIT.target] * 3)
    assert plain == pytest.approx([math.exp(a.log_probability) for a in forced], rel=1e-4, abs=0)
    noised = probabilities(editor, lm, tokenizer, prompts, EDIT, noise=SubjectNoise(3.0))
    assert noised[0] != pytest.approx(plain[0], rel=1e-2, abs=0)
    assert noised[1] != pytest.approx(plain[1], rel=1e-2, abs=0)
    assert noised[2] == pytest.approx(plain[2], rel=1e-4, abs=0)
    still = probabilities(editor, lm, tokenizer, prompts, EDIT, noise=SubjectNoise(0.0))
    assert still == pytest.approx(plain, rel=1e-4, abs=0)


@pytest.mark.parametrize("name", ["error-injection", "fact-amplification"])
def test_an_editor_raises_the_target(name: str) -> None:
    editor, lm, asked = edited(name, known_edit())
    [after] = probabilities(editor, lm, loaded().tokenizer, [asked.prompt], asked)
    assert after > 0.9


def test_an_editor_erases_the_truth() -> None:
    editor, lm, asked = edited("fact-erasure", known_edit())
    bare = Unedited(loaded().model, loaded().tokenizer)
    before, after = (
        probabilities(e, lm, loaded().tokenizer, [asked.prompt], asked)[0] for e in (bare, editor)
    )
    assert before > 0.5
    assert rewrite(before, after, objective="lower") > 0.9


def forced(make: EditorFactory, noise: SubjectNoise, n_noise: int) -> float:
    """How much of the truth's lost probability an editor wins back under `noise`."""
    editor, lm, asked = edited("fact-forcing", known_edit(), make=make)
    bare = Unedited(loaded().model, loaded().tokenizer)
    before, after = (
        probabilities(
            e, lm, loaded().tokenizer, [asked.prompt], asked, noise=noise, n_noise=n_noise
        )[0]
        for e in (bare, editor)
    )  # fmt: skip
    assert before < 0.5
    return rewrite(before, after, objective="raise")


@pytest.mark.parametrize(("make", "least"), [(make_rome, 0.1), (make_ft_m, 0.5)])
def test_an_editor_forces_the_truth_through_noise_that_it_has_not_seen(
    make: EditorFactory, least: float
) -> None:
    assert forced(make, SubjectNoise(SIGMA, of="answers"), 10) > least


def test_rome_forces_the_truth_best_through_the_noise_that_its_key_was_read_under() -> None:
    unseen = forced(make_rome, SubjectNoise(SIGMA, of="answers"), 10)
    assert forced(make_rome, SubjectNoise(SIGMA), 1) > unseen + 0.1


@pytest.mark.parametrize(
    ("name", "needed"), [("fact-erasure", "objective='lower'"), ("fact-forcing", "corruption=")]
)
def test_an_editor_that_cannot_says_so(name: str, needed: str) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(UnsuitedEditorError, match=f"{name} needs an editor that takes {needed}"):
        make_editor(
            make_unedited, PROBLEMS[name], model, tokenizer, BACKGROUND, sigma=1.0, seed=0
        )  # fmt: skip


@pytest.mark.parametrize("name", ["fact-erasure", "fact-forcing"])
@pytest.mark.parametrize("error", [TypeError("a fault"), ValueError("a fault")])
def test_a_fault_in_a_factory_that_takes_what_is_needed_is_an_error(
    name: str, error: Exception
) -> None:
    def make(*_: Any, seed: int, objective: str = "raise", corruption: Any = None) -> Editor:
        if objective == "lower" or corruption is not None:
            raise error
        return Unedited(*_[:2])

    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(type(error), match="a fault") as raised:
        make_editor(make, PROBLEMS[name], model, tokenizer, BACKGROUND, sigma=1.0, seed=0)
    assert raised.value is error


@pytest.mark.parametrize("editor", BUILT_IN)
def test_a_built_in_factory_tells_by_its_signature_what_it_takes(editor: str) -> None:
    factory = load_editor(editor)
    for option, value in (("objective", "lower"), ("corruption", SubjectNoise(1.0)), ("x", 1)):
        assert takes(factory, option) == (not refuses(factory, option, value))


def refuses(factory: EditorFactory, option: str, value: object) -> bool:
    try:
        factory(tiny_model("llama"), tiny_tokenizer(), BACKGROUND, seed=0, **{option: value})
    except (TypeError, ValueError):
        return True
    return False


def test_options_that_are_wrong_by_themselves_are_not_the_problems_fault() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(ValueError, match="layer=9 is outside"):
        make_editor(
            make_rome, PROBLEMS["fact-erasure"], model, tokenizer, BACKGROUND, sigma=1.0, seed=0,
            layer=9,
        )  # fmt: skip


@given(before=probability, after=probability)
def test_scores_are_at_most_one_and_one_only_where_all_was_done(
    before: float, after: float
) -> None:
    raised = rewrite(before, after, objective="raise")
    lowered = rewrite(before, after, objective="lower")
    assert raised <= 1.0
    assert 0.0 <= lowered <= 1.0
    assert 0.0 <= neighborhood(before, after) <= 1.0
    assert neighborhood(before, before) == 1.0
    assert rewrite(before, 1.0, objective="raise") == 1.0
    assert rewrite(before, 0.0, objective="lower") == 1.0


def test_scores_are_the_papers_on_known_numbers() -> None:
    assert rewrite(0.2, 0.6, objective="raise") == pytest.approx(0.5)
    assert rewrite(0.8, 0.2, objective="lower") == pytest.approx(0.75)
    assert neighborhood(0.2, 0.6) == pytest.approx(0.5)
    assert neighborhood(0.75, 0.0) == pytest.approx(0.0)
    assert [essence(10.0, after) for after in (9.0, 12.5, 20.0)] == [1.0, 0.5, 0.0]
    assert overall([1.0, 0.5, 0.0]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"probability 1\.2 is outside \[0, 1\]"):
        rewrite(0.5, 1.2, objective="raise")
