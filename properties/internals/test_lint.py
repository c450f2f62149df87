"""Laws of `wise.evaluation.lint`: it finds what was planted, and in the worlds nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.encyclopedia import Encyclopedia
from fixtures.world import World
from properties.internals.test_datasets import DATA
from reports.__main__ import main
from wise.edits import Background, Edit, EditStream, Probe
from wise.evaluation.asked import final_questions
from wise.evaluation.datasets import load_stream, makes_probes, write_jsonl
from wise.evaluation.lint import Spelling, lint
from wise.evaluation.lint_text import brief_lines
from wise.measures.ceilings import ceilings
from wise.measures.text import normalized

pytestmark = pytest.mark.internals

NAMES = ("Ada", "Bo", "Cleo", "Dag", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jon", "Kim", "Lea")


def fact(name: str) -> Edit:
    paraphrases = (f"{name}'s home:", f"Where is {name}?")
    return Edit(f"{name} lives in", f"{name}ville", name, paraphrases, f"Old {name}by", name)


def probes(name: str) -> list[Probe]:
    asked = [("far", f"{name} Creek ends in"), ("near-subject", f"{name} works as a"),
             ("near-relation", f"{name}son lives in")]  # fmt: skip
    told = [Probe(prompt, kind, "the sea", name) for kind, prompt in asked]
    return [*told, Probe(f"{name}'s mayor is", "portability", f"Mr {name}", name)]


CLEAN = EditStream(tuple(map(fact, NAMES)), tuple(probe for n in NAMES for probe in probes(n)))
ADA, BO, CLEO, *_ = CLEAN.edits


def plus(*records: Edit | Probe) -> EditStream:
    edits = [each for each in records if isinstance(each, Edit)]
    return EditStream(
        (*CLEAN.edits, *edits), (*CLEAN.probes, *(p for p in records if isinstance(p, Probe)))
    )


def changed(edit: Edit, **fields: object) -> EditStream:
    return EditStream(
        tuple(replace(e, **fields) if e == edit else e for e in CLEAN.edits),
        CLEAN.probes,
    )


def changed_all(change: Callable[[Edit], Edit]) -> EditStream:
    return EditStream(tuple(map(change, CLEAN.edits)), CLEAN.probes)


def asking(change: Callable[[str], str], kind: str = "far") -> EditStream:
    """The probes of a kind with other prompts."""
    asked = [replace(p, prompt=change(p.prompt)) if p.kind == kind else p for p in CLEAN.probes]
    return EditStream(CLEAN.edits, tuple(asked))


def late(prompt: str, target: str = "Lima") -> Edit:
    return Edit(prompt, target, prompt, id="late")


PLANTED = {
    "contradicted-edit": (plus(late(ADA.prompt)), 1,
                          "Ada 'Ada lives in' -> 'Adaville'; late -> 'Lima'"),
    "repeated-edit": (plus(late(ADA.prompt, " Adaville")), 1,
                      "Ada 'Ada lives in' -> 'Adaville'; late -> 'Adaville'"),
    "contradicted-wording": (plus(late("ADA lives in ...")), 2,
                             "Ada 'Ada lives in' -> 'Adaville'; late -> 'Lima'"),
    "no-change": (changed(BO, target="Old Boby"), 1, "Bo 'Bo lives in' -> 'Old Boby'"),
    "target-in-prompt": (changed(BO, prompt="Bo of Lima lives in", target="Lima"), 1,
                         "Bo 'Bo of Lima lives in' -> 'Lima'"),
    "repeated-id": (plus(replace(late("Zoe lives in"), id="Ada")), 2, "Ada"),
    "contradicted-paraphrase": (plus(late("Ada's home:")), 1,
                                "Ada \"Ada's home:\" -> 'Adaville'; late -> 'Lima'"),
    "shared-paraphrase": (changed(BO, paraphrases=("Ada's home:",)), 2,
                          "Ada \"Ada's home:\" -> 'Adaville'; Bo -> 'Boville'"),
    "prompt-as-paraphrase": (changed(BO, paraphrases=("Bo lives in", "Bo's home:")), 1,
                             "Bo 'Bo lives in' -> 'Boville'"),
    "repeated-paraphrase": (changed(BO, paraphrases=("Bo's home:",) * 3), 2,
                            "Bo \"Bo's home:\" -> 'Boville'"),
    "edited-probe": (plus(Probe(ADA.prompt, "near-relation")), 1,
                     "Ada 'Ada lives in' -> 'Adaville'"),
    "probe-in-scope": (plus(Probe("Ada's home:", "far")), 1, "Ada \"Ada's home:\" -> 'Adaville'"),
    "shared-probe": (plus(Probe("Ada's mayor is", "portability", "Mrs Lo", "Bo")), 2,
                     "Ada \"Ada's mayor is\" -> 'Mr Ada'; Bo -> 'Mrs Lo'"),
    "shortcut": (asking("nq question: {}".format), 12, None),
    "blind-probe": (plus(Probe("Ann lives in", "near-relation", "Adaville", "Ada")), 1,
                    "'Ann lives in' -> 'Adaville', beside Ada 'Ada lives in' -> 'Adaville'"),
    "repeated-probe": (plus(Probe("Bo works as a", "near-subject")), 1,
                       "Bo 'Bo works as a', 2 times"),
    "shared-subject": (plus(replace(late("Ada's car:"), subject="Ada")), 2,
                       "'Ada', 2 edits, first Ada"),
    "hidden-character": (changed(BO, target="Bo\u200bville"), 1, r"'Bo\u200bville', in Bo"),
    "outer-space": (changed(BO, target="Boville "), 1, "'Boville ', in Bo"),
    "decomposed": (changed(BO, target="Bovi\u0301lle"), 1, r"'Bovi\u0301lle', in Bo"),
    "template": (plus(Probe("{} lives in", "far")), 1, "'{} lives in'"),
    "respelled-prompt": (changed(BO, paraphrases=("BO lives  in", "Bo's home:")), 1,
                         "Bo 'BO lives  in' beside 'Bo lives in'"),
    "special-token": (changed(BO, aliases=("Boby</s>",)), 1, "</s> in Bo 'Boby</s>'"),
    "no-subject": (changed(BO, subject=""), 1, "Bo 'Bo lives in' -> 'Boville'"),
}  # fmt: skip


def test_a_fault_is_told_by_its_number() -> None:
    told = [
        str(*lint(changed(BO, target="Boville "))),
        str(*lint(changed(BO, prompt="Bo lives in "))),
    ]
    assert [each.partition(";")[0] for each in told] == [
        "1 of 12 edits begins or ends the target with a space",
        "1 of 12 edits begins or ends the prompt with a space",
    ]


EXPECTED = {
    "contradicted-edit": 7, "shared-paraphrase": 10, "shared-probe": 2,
    "contradicted-paraphrase": 10, "shortcut": 1912, "no-change": 35, "target-in-prompt": 7,
    "repeated-edit": 5, "prompt-as-paraphrase": 4, "repeated-paraphrase": 2, "shared-subject": 261,
    "repeated-probe": 88, "blind-probe": 14, "outer-space": 1,
}  # fmt: skip
TOLD = r"""jsonl:facts.jsonl: 13 edits, 23 paraphrases, 13 far probes, 12 near-subject probes, 12 near-relation
probes, 12 portability probes

faults: 3
  1 of 13 edits is contradicted by a later edit of the same prompt; only the last is in force, and
    no other is scored
    e.g. Cleo (line 3) 'Cleo lives in' -> 'Cleoville'; late (line 13) -> 'Lima\u202e'
  2 of 21 paraphrases of edits in force are a paraphrase of an edit with another target too; one
    model cannot answer both
    e.g. Ada (line 1) "Ada's home:" -> 'Adaville'; Bo (line 2) -> 'Boville'
  1 of 13 edits has a character in the target that cannot be seen, or another kind of space; a text
    that looks the same has other tokens
    e.g. 'Lima\u202e', in late (line 13)

notes: 1
  1 of 13 far probes is asked before; each time counts as an item, in the cluster of the first
    e.g. Ada (line 1) 'Ada Creek ends in', 2 times

the most that any editor can reach after 13 edits:
                  asked  not scored  free-run
  reliability        13           1      1.00
  generalization     23           2       .95
  far                13           0      1.00
  near-subject       12           0      1.00
  near-relation      12           0      1.00
  portability        12           1      1.00
  generalization: 2 of 21 questions share a prompt with one that has another answer, such as "Ada's
    home:" -> 'Boville' (Bo) and 'Adaville' (Ada)

Whether a model can read and write each text, and its length, is judged with --model.
"""  # noqa: E501


def test_a_clean_stream_has_no_finding() -> None:
    assert lint(CLEAN, Background(("Rome lies in Italy.",), (fact("Zoe"),))) == []


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(kind: str) -> None:
    stream, n, example = PLANTED[kind]
    found = {each.kind: each for each in lint(stream)}
    assert found.keys() == {kind}
    assert found[kind].n == n
    if example is not None:
        assert found[kind].example == example


def then(stream: EditStream, *edits: Edit) -> EditStream:
    return EditStream((*stream.edits, *edits), stream.probes)


@pytest.mark.parametrize(
    ("stream", "kinds"),
    [
        (changed(BO, paraphrases=("Ada's home:",), aliases=("Adaville",)), []),
        (plus(Probe("Ada's mayor is", "portability", "Mrs Lo", "Bo", "", ("Mr  Ada",))), []),
        (then(changed(BO, aliases=("Lima",)), late(BO.prompt)), ["repeated-edit"]),
        (then(changed(BO, aliases=("Lima",)), late("Bo's home:")), ["prompt-as-paraphrase"]),
        # An alias of what another edit writes is right there, and not what is written.
        (plus(replace(late("Bo's home:"), aliases=("Boville",))), ["contradicted-paraphrase"]),
        # The first agrees with both others, which do not agree.
        (then(changed(BO, aliases=("Lima",)), late("BO lives in"), late("bo lives in", "Boville")),
         ["contradicted-wording", "repeated-id"]),
        (changed(BO, aliases=("Old Boby",)), ["no-change"]),
        (plus(Probe("Ann lives in", "far", "Adaby", "Ada", aliases=("Adaville",))),
         ["blind-probe"]),
    ],
)  # fmt: skip
def test_an_answer_that_is_right_by_an_alias_contradicts_nothing(
    stream: EditStream, kinds: list[str]
) -> None:
    assert [each.kind for each in lint(stream)] == kinds


def test_a_target_with_an_alias_that_can_be_written_has_a_right_answer() -> None:
    streams = [changed(ADA, aliases=aliases) for aliases in ((), ("Lima",), ("Adaby",))]
    spelling = Spelling(lambda text: "holds an A" * text.startswith("A"))
    found = [lint(stream, spelling=spelling) for stream in streams]
    assert [[each.kind for each in told] for told in found] == [
        ["unwritable-target"], [], ["unwritable-target"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "claim"),
    [
        (asking("nq question: {}".format), "begin with 'nq question:', but 0 of 36 prompts"),
        (asking("{} ...".format), ""),
        (asking("{}?".format), ""),  # a third of the edits' wordings end so too
        (asking(str.swapcase), "begin with a small letter, but 0 of 36 prompts"),
        (changed_all(lambda e: replace(e, paraphrases=(), prompt=f"Say: {e.prompt}")),
         "do not begin with 'Say:', but 12 of 12 prompts"),
        (changed_all(lambda e: replace(e, paraphrases=(), prompt=f"{e.prompt}?")),
         "do not end with a question mark, but 12 of 12 prompts"),
    ],
)  # fmt: skip
def test_a_shortcut_is_what_nearly_all_of_one_side_have_and_nearly_none_of_the_other(
    stream: EditStream, claim: str
) -> None:
    found = [each for each in lint(stream) if each.kind == "shortcut"]
    assert bool(found) == bool(claim)
    assert all(claim in each.claim for each in found[:1])


def test_a_probe_that_is_asked_twice_is_one_of_the_distinct_that_share_a_shortcut() -> None:
    stream = asking("nq question: {}".format)
    twice = stream.probes[:1]
    for again, claim in (((), "far probes begin"), (twice, "distinct far probes begin")):
        told = lint(EditStream(stream.edits, (*stream.probes, *again)))
        found = next(each for each in told if each.kind == "shortcut")
        assert found.claim.startswith(claim)
        assert (found.n, found.n_of) == (12, 12)


def test_of_few_texts_no_shortcut_is_told() -> None:
    stream = asking("nq question: {}".format)
    assert lint(stream.prefix(9)) == []


def test_what_follows_from_an_overwritten_edit_is_no_finding() -> None:
    stream = changed(ADA, paraphrases=("Bo's home:",))
    assert [each.kind for each in lint(stream)] == ["shared-paraphrase"]
    over = EditStream((*stream.edits, late(ADA.prompt)), stream.probes)
    assert [each.kind for each in lint(over)] == ["contradicted-edit"]


def test_the_background_must_not_hold_what_is_asked() -> None:
    background = Background(("Ask Ada lives in", "Rome"), (replace(BO, prompt="Bo's home:"),))
    (found,) = lint(CLEAN, background)
    assert str(found) == (
        "2 of 3 texts and edits of the background hold a prompt of the stream; an editor sees "
        "beforehand what it will be asked"
    )


def test_targets_are_told_that_a_tokenizer_cannot_write_and_that_a_model_knows() -> None:
    found = lint(
        CLEAN,
        spelling=Spelling(lambda text: "holds a v" * text.startswith("Lea")),
        is_known=lambda edit: edit in (ADA, BO),
    )
    assert [(each.kind, each.n, each.example) for each in found] == [
        ("unwritable-target", 1, "Lea 'Lea lives in' -> 'Leaville' holds a v"),
        ("known-target", 2, "Bo 'Bo lives in' -> 'Boville'"),
    ]


def test_a_target_that_a_tokenizer_writes_in_another_way_is_a_note() -> None:
    stream = changed(ADA, target="Adaville  by")
    (found,) = lint(stream, spelling=Spelling(written=lambda text: normalized(text).upper()))
    assert (found.kind, found.n, found.is_fault) == ("rewritten-target", len(NAMES), False)
    assert found.example == "Bo 'Bo lives in' -> 'Boville' is written 'BOVILLE'"
    assert lint(stream, spelling=Spelling()) == []


@pytest.mark.parametrize("kind", ["edit", "portability"])
def test_an_alias_that_a_tokenizer_cannot_write_is_a_fault(kind: str) -> None:
    aliases = ("v1", "Botown", "v2")
    chain = Probe("Bo's mayor has", "portability", "a cat", "Bo", aliases=aliases)
    stream = changed(BO, aliases=aliases) if kind == "edit" else plus(chain)
    (found,) = lint(stream, spelling=Spelling(lambda text: "holds a v" * text.startswith("v")))
    assert (found.kind, found.n, found.n_of, found.is_fault) == ("unwritable-alias", 2, 3, True)
    of = "'Bo lives in' -> 'Boville'" if kind == "edit" else "\"Bo's mayor has\" -> 'a cat'"
    assert found.example == f"'v1' beside Bo {of}: holds a v"


def test_a_consequence_that_a_tokenizer_cannot_write_is_told_as_a_target_is() -> None:
    spelling = Spelling(lambda text: "holds Mr" * text.startswith("Mr Bo"))
    (found,) = lint(CLEAN, spelling=spelling)
    assert (found.kind, found.n, found.n_of) == ("unwritable-target", 1, len(NAMES))
    assert found.example == "Bo \"Bo's mayor is\" -> 'Mr Bo' holds Mr"


@pytest.mark.parametrize("mark", ["<s>", "</s>", "<|endoftext|>", "<eos>", "[CLS]", "<|im_end|>"])
def test_what_some_tokenizer_takes_for_a_special_token_is_a_fault_wherever_it_stands(
    mark: str,
) -> None:
    streams = [plus(late(f"{mark}Zoe lives in")), changed(ADA, paraphrases=(f"Home {mark}:",)),
               plus(Probe(f"Zoe {mark}", "far", "x", aliases=("y",))),
               plus(Probe("Zoe is", "far", f"x{mark}")), changed(ADA, target=f"Rome{mark}"),
               changed(ADA, aliases=(f"Rome{mark}",))]  # fmt: skip
    for stream in streams:
        assert [each.kind for each in lint(stream)] == ["special-token"]
        assert lint(stream, spelling=Spelling()) == []


@pytest.mark.parametrize("text", ["<e>Ada's home:", "Ada's <e> home:"])
def test_a_special_token_in_what_is_asked_is_a_fault(text: str) -> None:
    spelling = Spelling(special_token=lambda text: "<e>" * ("<e>" in text))
    streams = [plus(late(text)), changed(ADA, paraphrases=(text,)), plus(Probe(text, "far"))]
    for stream, of in zip(streams, ("late ", "Ada ", ""), strict=True):
        (found,) = lint(stream, spelling=spelling)
        assert (found.kind, found.n, found.is_fault) == ("special-token", 1, True)
        assert found.example == f"<e> in {of}{text!r}"


@pytest.mark.parametrize(
    "gap",
    ["{}", "{0}", "{subject}", "{{name}}", "[X]", "[y]", "<SUBJ>", "<subject>", "[MASK]", "%s"],
)
def test_a_gap_that_was_not_filled_in_is_a_fault_wherever_it_stands(gap: str) -> None:
    streams = [plus(late(f"{gap} lives on")), changed(ADA, paraphrases=(f"Home of {gap}?",)),
               plus(Probe(f"{gap} rests in", "far")), changed(ADA, target=gap)]  # fmt: skip
    for stream in streams:
        assert [each.kind for each in lint(stream)] == ["template"]


@pytest.mark.parametrize("text", ["{x: 1}", "[12]", "<b>", "100 %shares", "[Xanadu]", "a[i]"])
def test_other_brackets_are_no_gap(text: str) -> None:
    assert lint(plus(Probe(f"{text} rests in", "far"))) == []


@pytest.mark.parametrize("world", [Encyclopedia(), Encyclopedia(n_people=190, n_cities=64)])
@pytest.mark.parametrize("n_edits", [20, 300])
def test_the_streams_of_a_world_have_no_fault(world: World, n_edits: int) -> None:
    stream = world.stream(0, n_edits)
    faults = [each for each in lint(stream, world.background()) if each.is_fault]
    assert faults == []
    assert {float(each.share) for each in ceilings(final_questions(stream)).values()} == {1.0}


@pytest.fixture
def published() -> str:
    """ZsRE as KnowEdit publishes it."""
    path = DATA / "zsre_knowedit_test.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there; MODEL_EDITOR_DATA can name its folder")
    return f"zsre:{path}"


def test_a_thousand_edits_of_a_published_file_contradict_themselves(published: str) -> None:
    stream = load_stream(published, n_edits=1000)
    found = {each.kind: each.n for each in lint(stream)}
    assert found == EXPECTED
    at_most = ceilings(final_questions(stream))
    assert {measure.name: str(each) for measure, each in at_most.items()} == {
        "reliability": "1.00", "generalization": ".99", "near-subject": "1.00",
        "portability": ".999",
    }  # fmt: skip


@pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u202f"])
def test_a_space_of_another_kind_is_no_plain_space(space: str) -> None:
    (found,) = lint(changed(BO, target=f"Bo{space}ville"))
    assert (found.kind, found.n) == ("hidden-character", 1)
    assert found.example == f"{f'Bo{space}ville'!r}, in Bo"


def test_at_most_three_lines_tell_the_first_faults() -> None:
    lines = list(brief_lines(lint(CLEAN), "a command"))
    assert lines == ["no contradictions, and no probes within a scope"]
    noted = lint(plus(CLEAN.probes[0]))
    assert [*brief_lines(noted, "a command")] == ["no faults, and 1 note: a command"]
    stream = plus(late(ADA.prompt), late("Bo's home:"), Probe("Cleo lives in", "far"))
    assert list(brief_lines(lint(stream), "a command")) == [
        "1 of 14 edits is contradicted by a later edit of the same prompt",
        "1 of 22 paraphrases of edits in force is the prompt of an edit with another target, and "
        "not scored",
        "2 more findings: a command",
    ]


def test_the_command_tells_faults_notes_and_ceilings(tmp_path: Path) -> None:
    stream = EditStream(
        (*changed(BO, paraphrases=("Ada's home:",)).edits, late(CLEO.prompt, "Lima\u202e")),
        (*CLEAN.probes, CLEAN.probes[0]),
    )
    write_jsonl(stream, tmp_path / "facts.jsonl")
    result = CliRunner().invoke(main, ["lint", f"jsonl:{tmp_path / 'facts.jsonl'}"])
    assert (result.exit_code, result.output) == (0, TOLD)


def test_the_command_counts_the_aliases(tmp_path: Path) -> None:
    write_jsonl(changed(BO, aliases=("Botown",)), tmp_path / "facts.jsonl")
    result = CliRunner().invoke(main, ["lint", f"jsonl:{tmp_path / 'facts.jsonl'}"])
    assert "12 portability probes, 1 alias\n" in result.output


@pytest.mark.parametrize("text", [" Bo's home:", "Bo's home: ", "Bo's\u2060 home:"])
def test_what_cannot_be_seen_in_a_paraphrase_is_told(text: str) -> None:
    (found,) = lint(changed(BO, paraphrases=("Where is Bo?", text)))
    assert (found.n, " a paraphrase " in found.claim) == (1, True)
    assert found.example == f"{text!r}, in Bo"


UNSEEN = {"outer-space": "{} ", "hidden-character": "{}\u2060", "decomposed": "{}i\u0301"}


@pytest.mark.parametrize("kind", UNSEEN)
@pytest.mark.parametrize("field", ["prompt", "answer"])
def test_what_cannot_be_seen_in_a_probe_is_told_as_in_an_edit(kind: str, field: str) -> None:
    probe = Probe("Bo's boss is", "portability", "Mr Lo", "Bo")
    text = UNSEEN[kind].format(getattr(probe, field))
    (found,) = lint(plus(replace(probe, **{field: text})))
    assert (found.kind, found.n, found.n_of) == (kind, 1, len(CLEAN.probes) + 1)
    assert f" the {field} " in found.claim
    assert found.example.endswith("', in a probe of Bo") or found.example.endswith(
        '", in a probe of Bo'
    )


def test_the_answer_that_a_probe_must_keep_is_asked_of_none() -> None:
    assert lint(plus(Probe("Zoe is", "far", "x "), Probe("Zoe has", "portability", " x"))) == []


def test_each_example_names_its_edit_and_the_line_of_the_file() -> None:
    for kind, (stream, _, _) in PLANTED.items():
        records = [*stream.edits, *stream.probes]
        of = {each: n for n, each in enumerate(records, start=101)}
        found = next(each for each in lint(stream, lines=of) if each.kind == kind)
        assert "(line 1" in found.example or found.example.startswith("line 1"), kind


def test_where_all_is_in_one_line_no_line_is_named(tmp_path: Path) -> None:
    facts = [{"prompt": f"{name} is in", "target": "Rome"} for name in ("Ada", "Bo")]
    told = []
    for indent in (None, 1):
        (tmp_path / "facts.json").write_text(json.dumps(facts, indent=indent))
        result = CliRunner().invoke(main, ["lint", f"{tmp_path}/facts.json"])
        told.append(result.output.partition("e.g. ")[2].partition(" '")[0])
    assert told == ["jsonl-1", "jsonl-1 (line 6)"]


@pytest.mark.parametrize("space", [" {}", "{} ", "\n{}"])
def test_a_paraphrase_that_outer_space_sets_apart_from_its_prompt_is_the_prompt(space: str) -> None:
    found = lint(changed(BO, paraphrases=("Bo's home:", space.format(BO.prompt))))
    assert [each.kind for each in found] == ["outer-space", "respelled-prompt"]


@pytest.mark.parametrize("field", ["prompt", "subject", "target"])
def test_what_cannot_be_seen_is_told_by_field_with_the_first_edits(field: str) -> None:
    def change(edit: Edit) -> Edit:
        prompt = f"{edit.subject}\u2060 lives in" if field == "subject" else f"{edit.prompt}\u2060"
        more = {"prompt": prompt} if field != "target" else {"target": f"{edit.target}\u2060"}
        return replace(edit, **more, **{"subject": prompt[:-9]} if field == "subject" else {})

    found = [each for each in lint(changed_all(change)) if f"in the {field} that" in each.claim]
    assert [(each.kind, each.n) for each in found] == [("hidden-character", len(NAMES))]
    assert found[0].example.endswith(", in Ada, Bo, Cleo, Dag, Eva and 7 more")


def test_a_space_before_a_target_is_none_of_its_own_and_line_breaks_can_be_seen() -> None:
    assert not lint(changed(BO, target=" Boville"))
    assert not lint(changed(BO, target="Boville\nand more"))


def test_probes_that_a_reader_made_of_the_files_facts_are_no_fault_of_it(tmp_path: Path) -> None:
    facts = [{"prompt": f"{name} lives in", "subject": name, "attribute": f"{name}by"}
             for name in NAMES]  # fmt: skip
    (tmp_path / "known.json").write_text(json.dumps(facts))
    stream = load_stream(str(tmp_path / "known.json"))
    assert stream.probes
    assert any(each.kind == "edited-probe" for each in lint(stream))
    found = lint(stream, made_probes=makes_probes(stream))
    assert [each.kind for each in found if each.is_fault] == []
    assert [each.kind for each in found] == ["made-probe"]
    assert not makes_probes(replace(stream, name="jsonl:known.json"))


def test_the_command_draws_as_many_edits_as_asked(tmp_path: Path) -> None:
    write_jsonl(plus(late(ADA.prompt)), tmp_path / "facts.jsonl")
    result = CliRunner().invoke(main, ["lint", f"jsonl:{tmp_path}/facts.jsonl", "--edits", "12"])
    assert "12 edits, 24 paraphrases" in result.output
    assert "faults: none" in result.output


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text('{"prompt": "Ada"}')
    result = CliRunner().invoke(main, ["lint", f"jsonl:{tmp_path / 'facts.jsonl'}"])
    assert result.exit_code == 1
    assert "1 bad record left out: record 0, line 1: target is missing" in result.output


def test_bad_records_are_told_beside_the_rest_and_end_in_an_error(tmp_path: Path) -> None:
    good, bad = '{"prompt": "Ada is in", "target": "Rome"}', '{"prompt": 7, "target": "Rome"}'
    (tmp_path / "facts.jsonl").write_text(f"{good}\n{bad}\n")
    words = ["lint", f"{tmp_path / 'facts.jsonl'}"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    assert "1 bad record left out: record 1, line 2: prompt=7 is not a non-blank text" in told
    assert "the most that any editor can reach after 1 edit:" in told
    assert told.endswith(
        f"Error: lint read on, and a run would stop at {tmp_path}/facts.jsonl, line 2, record 1; "
        "--skip-bad-records leaves bad records out; lines count from 1, records from 0"
    )
    assert told.count("prompt=7 is not a non-blank text") == 1
    skipped = CliRunner().invoke(main, [*words, "--skip-bad-records"])
    assert skipped.exit_code == 0
    assert " ".join(skipped.output.split()) == told.partition(" Error: ")[0]


def test_of_a_file_without_a_good_record_each_kind_of_mistake_is_told(tmp_path: Path) -> None:
    bad = ['{"prompt": 7, "target": "Rome"}', '{"prompt": "Ada is in"}', '{"prompt": "Bo is in"}']
    (tmp_path / "facts.jsonl").write_text("\n".join(bad))
    result = CliRunner().invoke(main, ["lint", f"jsonl:{tmp_path / 'facts.jsonl'}"])
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    assert (
        "2 bad records of one kind left out: records 1 and 2; the first, line 2: target is missing;"
        in told
    )
    assert "1 bad record left out: record 0, line 1: prompt=7 is not a non-blank text" in told
    assert told.endswith(
        f"Error: jsonl:{tmp_path}/facts.jsonl: no record can be read; lines count from 1, records "
        "from 0"
    )


def test_of_fewer_edits_than_asked_all_are_judged_and_the_command_ends_in_an_error(
    tmp_path: Path,
) -> None:
    write_jsonl(plus(late(ADA.prompt)), tmp_path / "facts.jsonl")
    result = CliRunner().invoke(main, ["lint", f"{tmp_path}/facts.jsonl", "--edits=20", "--seed=0"])
    assert result.exit_code == 1
    assert "the most that any editor can reach after 13 edits:" in result.output
    said = "Error: --edits=20: jsonl:facts.jsonl has 13 edits, and a run would stop\n"
    assert result.output.endswith(said)


@pytest.mark.parametrize("more", [[], ["--model=gpt2"]])
def test_a_file_without_edits_is_told_as_such(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text('{"probes": []}')
    result = CliRunner().invoke(main, ["lint", f"{tmp_path}/facts.jsonl", *more])
    assert result.output == (
        "jsonl:facts.jsonl: no edits and no probes\n\nfaults: none\n"
        "Error: jsonl:facts.jsonl has no edits, and a run would stop\n"
    )


def test_a_file_of_which_no_edit_is_left_is_told_as_one_without_edits(tmp_path: Path) -> None:
    long = {"prompt": "Bo is in", "target": "a room " * 600}
    (tmp_path / "facts.jsonl").write_text(json.dumps(long))
    words = ["lint", f"{tmp_path}/facts.jsonl", "--model=gpt2", "--skip-bad-records"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert result.output.endswith("Error: jsonl:facts.jsonl has no edits, and a run would stop\n")


def test_edits_that_a_model_cannot_read_are_told_as_bad_records_are(tmp_path: Path) -> None:
    good, long = (
        '{"prompt": "Ada is in", "target": "Rome"}',
        json.dumps({"prompt": "Bo is in", "target": "a room " * 600}),
    )
    (tmp_path / "facts.jsonl").write_text(f"{good}\n{long}\n")
    words = ["lint", f"{tmp_path / 'facts.jsonl'}"]
    assert CliRunner().invoke(main, words).exit_code == 0
    result = CliRunner().invoke(main, [*words, "--model=llama"])
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    limits = "what is asked has at most 128 tokens, and an answer 381"
    named = "jsonl-1 (target 'a room a room a room a r...': 1801 tokens)"
    assert f"1 edit with a text that is too long for llama ({limits}): {named}; left out" in told
    assert "the most that any editor can reach after 1 edit:" in told
    place = f"{tmp_path}/facts.jsonl, line 2, record 1"
    said = f"Error: lint read on, and a run would stop at {place}: edit 'jsonl-1': target 'a room"
    assert said in told
