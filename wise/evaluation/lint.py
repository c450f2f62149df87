"""What is wrong with an edit stream, found without a model.

Published files contradict themselves, ask within a scope for what must not change, and mark their
probes by an opening that no edit has. Such faults bound a score, or take its meaning. Notes tell
what any stream may hold, and what it means for the numbers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice, product
from types import MappingProxyType
from typing import NamedTuple, TypeVar
from unicodedata import combining, is_normalized

from wise.edits import PROBE_KINDS, Background, Edit, EditStream, Probe
from wise.measures.text import by_number, hidden, normalized

__all__ = ["Spelling", "StreamFinding", "lint"]

# What is found, the most important first. Faults bound a score or take its meaning.
_FAULTS = (
    "contradicted-edit", "unwritable-target", "shared-paraphrase", "shared-probe",
    "contradicted-paraphrase", "edited-probe", "probe-in-scope", "contradicted-wording", "shortcut",
    "shared-background", "unwritable-alias", "no-change", "known-target", "target-in-prompt",
    "repeated-edit",
    "repeated-id", "template", "special-token", "hidden-character", "outer-space", "decomposed",
    "prompt-as-paraphrase", "respelled-prompt", "repeated-paraphrase",
)  # fmt: skip
_NOTES = (
    "shared-subject", "made-probe", "repeated-probe", "blind-probe", "no-subject",
    "rewritten-target",
)  # fmt: skip
# What cannot be seen, in a field of edits or probes.
_UNSEEN = {
    "hidden-character": "{} has|have a character in {} that cannot be seen, or another kind "
    "of space; a text that looks the same has other tokens",
    "outer-space": "{} begins|begin or ends|end {} with a space; texts are taken as they "
    "are, and it has tokens of its own",
    "decomposed": "{} has|have letters in {} that are put together (not in NFC); a text "
    "that looks the same has other tokens",
}
_OF_EDITS: Mapping[str, Callable[[Edit], Sequence[str]]] = {
    "the prompt": lambda edit: (edit.prompt,),
    "the subject": lambda edit: (edit.subject,),
    "the target": lambda edit: (edit.target,),
    "a paraphrase": lambda edit: edit.paraphrases,
}
_OF_PROBES: Mapping[str, Callable[[Probe], Sequence[str]]] = {
    "the prompt": lambda probe: (probe.prompt,),
    "the answer": lambda probe: (probe.answer,) * (probe.kind == "portability"),
}
_ANSWERS = ("the target", "the answer")  # which are taught, or asked for, behind a space
# What stands for a subject or an object: {}, {0}, {subject}, {{name}}, [X], <SUBJ>, %s.
_GAP = re.compile(
    r"\{\d*\}|%s\b|\[[XYZ]\]"
    r"|[{<\[](subj|obj|subject|object|entity|target|answer|name|head|tail|mask|blank)[}>\]]",
    re.IGNORECASE,
)
# How special tokens are written: <s>, </s>, <eos>, <|im_end|>, [CLS], <extra_id_0>.
_MARK = re.compile(
    r"</?s>|<(eos|bos|pad|unk|sep|cls|(start|end)_of_turn|extra_id_\d+)>|<\|\w+\|>"
    r"|\[/?(CLS|SEP|PAD|UNK|EOS|BOS|INST)\]",
    re.IGNORECASE,
)
_NO_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # but for the one of Chinese
_LEAST = 10  # texts on either side, for what they share to be no chance
_TELLING = 0.95  # least difference of two shares that tells one group from the other
_MOST_NAMED = 5  # edits that one example names
_SHOWN = 60  # letters of a text in an example
_BY_NUMBER = re.compile(  # the verb of one, and of several
    r"\b(is|has|shares|writes|names|holds|begins|ends)\|(are|have|share|write|name|hold|begin|end)\b"
)


class StreamFinding(NamedTuple):
    """`n` of `n_of` items of which `claim` holds; `example` is the shortest, with its ids, and its
    lines where they are known."""

    kind: str
    n: int
    n_of: int
    claim: str
    example: str

    @property
    def is_fault(self) -> bool:
        """Whether the file should be mended; else it is a note."""
        return self.kind in _FAULTS

    def __str__(self) -> str:
        return f"{self.n:,} of {self.n_of:,} {self.claim}"


_Record = TypeVar("_Record", Edit, Probe)
_Found = Iterator[StreamFinding | None]


class Spelling(NamedTuple):
    """What a tokenizer makes of a text.

    Why no answer of a model is the same, empty where one is; the text as it is written; the special
    token that it holds, empty where it holds none.
    """

    why_unwritable: Callable[[str], str] = lambda text: ""
    written: Callable[[str], str] = normalized
    special_token: Callable[[str], str] = lambda text: ""


def lint(
    stream: EditStream,
    background: Background | None = None,
    *,
    spelling: Spelling | None = None,
    is_known: Callable[[Edit], bool] | None = None,
    made_probes: bool = False,
    lines: Mapping[Edit | Probe, int] = MappingProxyType({}),
) -> list[StreamFinding]:
    """What is found in `stream`, and in `background` as that of it: faults first, then notes.

    `spelling` is that of a tokenizer; `is_known` tells, of an unedited model, whether it answers an
    edit by its target already. `made_probes` are those that a reader made of the file's own edits:
    what they repeat is no fault of the file. `lines` are those of the file, where they are known.
    """
    facts = _Facts(stream, made_probes, lines)
    found = [
        *facts.on_edits(),
        *facts.on_texts(),
        facts.on_templates(),
        *facts.on_paraphrases(),
        *facts.on_probes(),
        *facts.on_openings(),
    ]
    if background is not None:
        found += facts.on_background(background)
    found += facts.on_marks() if spelling is None else facts.on_spelling(spelling)
    if is_known is not None:
        found += facts.on_known(is_known)
    found += facts.on_subjects()
    told = [each for each in found if each is not None]
    return sorted(told, key=lambda finding: (*_FAULTS, *_NOTES).index(finding.kind))


def _finding(
    kind: str, examples: Iterable[str], n_of: int, claim: str, n: int | None = None
) -> StreamFinding | None:
    """The finding of `examples`; None where there is none. `is|are` goes by their number."""
    told = list(examples)
    if not told:
        return None
    n = len(told) if n is None else n
    by_number = _BY_NUMBER.sub(lambda match: match[1 if n == 1 else 2], claim)
    return StreamFinding(kind, n, n_of, by_number, min(told, key=len))


@dataclass(frozen=True)
class _Facts:
    """A stream by what its texts are; each `on_...` gives findings, or None, in their order."""

    stream: EditStream
    made_probes: bool
    lines: Mapping[Edit | Probe, int]

    @cached_property
    def live(self) -> dict[str, int]:
        """The place of the last edit of each prompt."""
        return {edit.prompt: place for place, edit in enumerate(self.stream.edits)}

    @cached_property
    def in_force(self) -> list[Edit]:
        return list(self.stream.live())

    @cached_property
    def paraphrases(self) -> dict[str, list[Edit]]:
        """The edits in force that each paraphrase is of, once for each time that it is asked."""
        found = defaultdict(list)
        for edit in self.in_force:
            for text in edit.paraphrases:
                found[text].append(edit)
        return found

    @cached_property
    def of_id(self) -> dict[str, Edit]:
        return {edit.id: edit for edit in self.stream.edits if edit.id}

    def editing(self, prompt: str) -> Edit | None:
        """The edit in force of a prompt."""
        return self.stream.edits[self.live[prompt]] if prompt in self.live else None

    def told(self, edit: Edit, text: str = "") -> str:
        """`zsre-3 'Who ...?' -> 'Ada'`, of the prompt or of a paraphrase."""
        return f"{self.of(edit, text or edit.prompt)} -> {_short(edit.target)}"

    def of_probe(self, probe: Probe) -> str:
        """`zsre-3 'Who ...?' -> 'Ada'`, of a consequence."""
        return f"{self.of(probe, probe.prompt)} -> {_short(probe.answer)}"

    def of(self, record: Edit | Probe, text: str) -> str:
        """`zsre-3 'Who ...?'`, of any text of an edit or a probe."""
        return f"{self.name(record)} {_short(text)}".lstrip()

    def name(self, record: Edit | Probe) -> str:
        """The id of an edit, and with a file its line; of a probe that of its edit, if it has one,
        and the line of its own."""
        if isinstance(record, Probe):
            name = record.edit_id
        else:
            name = record.id or f"edit {self.stream.edits.index(record) + 1}"
        line = self.lines.get(record)
        return name if line is None else f"{name} (line {line})".lstrip()

    def both(self, edit: Edit, other: Edit, text: str = "") -> str:
        """Two edits that ask for one text."""
        return f"{self.told(edit, text)}; {self.name(other)} -> {_short(other.target)}"

    def on_edits(self) -> _Found:
        edits = self.stream.edits
        late = [(edit, edits[self.live[edit.prompt]]) for place, edit in enumerate(edits)
                if self.live[edit.prompt] != place]  # fmt: skip
        yield _finding(
            "contradicted-edit",
            (self.both(*pair) for pair in late if not _agree(*pair)), len(edits),
            "edits is|are contradicted by a later edit of the same prompt; only the last is in "
            "force, and no other is scored",
        )  # fmt: skip
        alike = defaultdict(list)
        for edit in self.in_force:
            alike[_words(edit.prompt)].append(edit)
        apart = [(len(each), pair) for each in alike.values() if (pair := _apart(each))]
        yield _finding(
            "contradicted-wording",
            (self.both(*pair) for _, pair in apart), len(edits),
            "edits has|have the prompt of another up to case, spaces and signs, and another "
            "target; a reader takes them for one fact",
            n=sum(n for n, _ in apart),
        )  # fmt: skip
        yield _finding(
            "no-change",
            (self.told(edit) for edit in edits
             if edit.ground_truth.strip() and _is_right(edit.ground_truth, edit.answers)),
            len(edits),
            "edits writes|write what was right before, as target and ground_truth are the same; "
            "an editor that does nothing gets them right",
        )  # fmt: skip
        yield _finding(
            "repeated-edit", (self.both(*pair) for pair in late if _agree(*pair)), len(edits),
            "edits is|are made again by a later one with the same answer; only the last is scored",
        )  # fmt: skip
        yield _finding(
            "target-in-prompt", (self.told(edit) for edit in edits if _holds_target(edit)),
            len(edits),
            "edits names|name the target in the prompt; a model can copy it from there",
        )  # fmt: skip
        n_named = Counter(edit.id for edit in edits if edit.id)
        again = [edit_id for edit_id, n in n_named.items() if n > 1]
        first = {edit.id: edit for edit in reversed(edits)}
        yield _finding(
            "repeated-id", (self.name(first[edit_id]) for edit_id in again), len(edits),
            "edits shares|share an id with another; probes of that id are taken for the last one's",
            n=sum(n_named[edit_id] for edit_id in again),
        )  # fmt: skip

    def on_texts(self) -> _Found:
        """What cannot be seen in a prompt, subject, target or paraphrase, or in a probe."""
        for texts, (kind, claim) in product(_OF_EDITS.items(), _UNSEEN.items()):
            yield self._unseen(kind, claim, "edits", self.stream.edits, *texts)
        for of_probe, (kind, claim) in product(_OF_PROBES.items(), _UNSEEN.items()):
            yield self._unseen(kind, claim, "probes", self.stream.probes, *of_probe)

    def _unseen(
        self, kind: str, claim: str, what: str, records: Sequence[_Record], field: str,
        texts: Callable[[_Record], Sequence[str]],
    ) -> StreamFinding | None:  # fmt: skip
        """The finding of a kind in one field of edits or probes, with the first that have it."""
        unseen = {record: text for record in records for text in texts(record)
                  if _is_unseen(kind, field, text)}  # fmt: skip
        if not unseen:
            return None
        named = ", ".join(self.name(each) or "none" for each in islice(unseen, _MOST_NAMED))
        named += f" and {len(unseen) - _MOST_NAMED} more" * (len(unseen) > _MOST_NAMED)
        whose = "in" if what == "edits" else "in a probe of" if len(unseen) == 1 else "in probes of"
        return _finding(
            kind, [f"{_bare(min(unseen.values(), key=len))}, {whose} {named}"], len(records),
            claim.format(what, field), n=len(unseen),
        )  # fmt: skip

    @cached_property
    def asked(self) -> list[tuple[Edit | Probe, str]]:
        """All prompts, paraphrases and probes, with what they are of."""
        edits, probes = self.stream.edits, self.stream.probes
        own = ((edit, text) for edit in edits for text in (edit.prompt, *edit.paraphrases))
        return [*own, *((probe, probe.prompt) for probe in probes)]

    def on_templates(self) -> StreamFinding | None:
        """Prompts and targets that still have a gap for a subject or an object."""
        texts = [*self.asked, *((edit, edit.target) for edit in self.stream.edits)]
        return _finding(
            "template", [self.of(*each) for each in texts if _GAP.search(each[1])], len(texts),
            "prompts, paraphrases, probes and targets holds|hold a gap such as {} or [X], as a "
            "template that was not filled in; each is taken as it stands",
        )  # fmt: skip

    def on_paraphrases(self) -> _Found:
        n_all = sum(map(len, self.paraphrases.values()))
        n_held = sum(len(edit.paraphrases) for edit in self.stream.edits)
        what = "paraphrases" if n_all == n_held else "paraphrases of edits in force"
        edited, own, clashing, again, respelled = (list[str]() for _ in range(5))
        for text, edits in self.paraphrases.items():
            writer = self.editing(text)
            for edit in edits:
                if writer is not None:
                    where = own if _is_right(writer.target, edit.answers) else edited
                    is_own = writer.prompt == edit.prompt
                    where.append(self.told(edit) if is_own else self.both(edit, writer, text))
                elif other := next((each for each in edits if not _agree(each, edit)), None):
                    clashing.append(self.both(edit, other, text))
            respelled += [
                f"{self.name(edit)} {_cut(text)} beside {_cut(edit.prompt)}"
                for edit in edits
                if text != edit.prompt and _folded(text) == _folded(edit.prompt)
            ]
            n_apart = len({normalized(edit.target) for edit in edits})
            again += [self.told(edits[0], text)] * (len(edits) - n_apart) * (writer is None)
        yield _finding(
            "contradicted-paraphrase", edited, n_all,
            f"{what} is|are the prompt of an edit with another target, and not scored",
        )  # fmt: skip
        yield _finding(
            "shared-paraphrase", clashing, n_all,
            f"{what} is|are a paraphrase of an edit with another target too; one model cannot "
            "answer both",
        )  # fmt: skip
        yield _finding(
            "prompt-as-paraphrase", own, n_all,
            f"{what} is|are the prompt of an edit with that target; asking them is asking for "
            "reliability",
        )  # fmt: skip
        yield _finding(
            "respelled-prompt", respelled, n_all,
            f"{what} is|are the prompt of the edit but for case and white space, in no other "
            "words; they ask for little more than reliability",
        )  # fmt: skip
        yield _finding(
            "repeated-paraphrase", again, n_all,
            f"{what} is|are asked before, for the same target; each time counts as an item, in the "
            "cluster of the first",
        )  # fmt: skip

    def on_probes(self) -> _Found:
        for kind in PROBE_KINDS:
            probes = [probe for probe in self.stream.probes if probe.kind == kind]
            yield from (self._on_consequences if kind == "portability" else self._on_kept)(
                kind, probes
            )

    def _on_kept(self, kind: str, probes: Sequence[Probe]) -> _Found:
        """Findings on probes that must keep their answer."""
        edited, in_scope, blind = (list[str]() for _ in range(3))
        for probe in probes:
            writer, own = self.editing(probe.prompt), self.of_id.get(probe.edit_id)
            if writer is not None:
                edited.append(self.told(writer))
            elif probe.prompt in self.paraphrases:
                in_scope.append(self.told(self.paraphrases[probe.prompt][0], probe.prompt))
            elif own is not None and _is_right(own.target, probe.answers):
                blind.append(f"{_short(probe.prompt)} -> {_short(probe.answer)}, "
                             f"beside {self.told(own)}")  # fmt: skip
        of_reader = "; they are other facts of the file, and fewer edits leave more of them"
        yield _finding(
            "made-probe" if self.made_probes else "edited-probe", edited, len(probes),
            f"{kind} probes is|are the prompt of an edit, so within its scope, and not scored"
            f"{of_reader * self.made_probes}",
        )  # fmt: skip
        yield _finding(
            "probe-in-scope", in_scope, len(probes),
            f"{kind} probes is|are a paraphrase of an edit; the answer is to change and to stay, "
            "and no editor does both",
        )  # fmt: skip
        yield _finding(
            "blind-probe", blind, len(probes),
            f"{kind} probes has|have the target of the edit as right answer; they cannot show that "
            "it leaked",
        )  # fmt: skip
        if not self.made_probes:
            yield self._repeated(kind, probes)

    def _repeated(self, kind: str, probes: Sequence[Probe]) -> StreamFinding | None:
        n_asked = Counter(probe.prompt for probe in probes)
        first = {probe.prompt: probe for probe in reversed(probes)}
        again = {prompt: n for prompt, n in n_asked.items() if n > 1}
        return _finding(
            "repeated-probe",
            (f"{self.of(first[prompt], prompt)}, {n} times" for prompt, n in again.items()),
            len(probes),
            f"{kind} probes is|are asked before; each time counts as an item, in the cluster of "
            "the first",
            n=sum(again.values()) - len(again),
        )  # fmt: skip

    def _on_consequences(self, kind: str, probes: Sequence[Probe]) -> _Found:
        asked = defaultdict(list)
        for probe in probes:
            asked[probe.prompt].append(probe)
        edited, in_scope = list[str](), list[str]()
        for probe in probes:
            told = self.of_probe(probe)
            writer = self.editing(probe.prompt)
            if writer is not None and not _is_right(writer.target, probe.answers):
                edited.append(f"{told}; {self.name(writer)} -> {_short(writer.target)}")
            same = asked[probe.prompt]
            other = next((each for each in same if not _agree(each, probe)), None)
            if writer is None and other is not None:
                in_scope.append(f"{told}; {self.name(other)} -> {_short(other.answer)}")
        yield _finding(
            "edited-probe", edited, len(probes),
            f"{kind} probes is|are the prompt of an edit with another target, and not scored",
        )  # fmt: skip
        yield _finding(
            "shared-probe", in_scope, len(probes),
            f"{kind} probes is|are asked elsewhere for another answer; one model cannot give both",
        )  # fmt: skip

    def on_openings(self) -> _Found:
        """What tells the probes of a kind from the edits at a glance."""
        texts = [text for edit in self.stream.edits for text in (edit.prompt, *edit.paraphrases)]
        for kind in PROBE_KINDS[:-1]:
            first = {p.prompt: p for p in reversed(self.stream.probes) if p.kind == kind}
            probes = list(reversed(first))
            n_all = sum(probe.kind == kind for probe in self.stream.probes)
            which = kind if len(probes) == n_all else f"distinct {kind}"
            if min(len(probes), len(self.stream.edits)) < _LEAST:
                continue
            openings = dict.fromkeys(filter(None, map(_opening, (probes, texts))))
            marks: list[tuple[str, Callable[[str], bool]]] = [
                (f"begin with {opening!r}", _begins(opening)) for opening in openings
            ]
            marks += [("end with a question mark", lambda text: text.rstrip().endswith("?")),
                      ("begin with a small letter", lambda text: text[:1].islower())]  # fmt: skip
            for what, has in marks:
                marked, n_edits = [p for p in probes if has(p)], sum(map(has, texts))
                apart = len(marked) / len(probes) - n_edits / len(texts)
                told = marked if apart > 0 else [p for p in probes if not has(p)]
                if abs(apart) >= _TELLING:
                    yield _finding(
                        "shortcut", (self.of(first[p], p) for p in told), len(probes),
                        f"{which} probes {'do not ' * (apart < 0)}{what}, but {n_edits:,} of "
                        f"{len(texts):,} prompts and paraphrases of edits do; a router can tell "
                        "them apart by that alone",
                    )  # fmt: skip

    def on_background(self, background: Background) -> _Found:
        apart = background.apart_from(self.stream)
        texts, edits = set(apart.texts), set(apart.edits)
        shared = [_short(text) for text in background.texts if text not in texts]
        shared += [_short(edit.prompt) for edit in background.edits if edit not in edits]
        yield _finding(
            "shared-background", shared, len(background.texts) + len(background.edits),
            "texts and edits of the background holds|hold a prompt of the stream; an editor sees "
            "beforehand what it will be asked",
        )  # fmt: skip

    def on_marks(self) -> _Found:
        """What is a special token to some tokenizers."""
        records: list[Edit | Probe] = [*self.stream.edits, *self.stream.probes]
        answers = ((record, text) for record in records for text in record.answers if text)
        texts = [*self.asked, *answers]
        yield _finding(
            "special-token",
            [f"{mark[0]} in {self.of(*each)}" for each in texts if (mark := _MARK.search(each[1]))],
            len(texts),
            "prompts, paraphrases, probes and answers holds|hold what is a special token to some "
            "tokenizers; one that has it reads no text there",
        )  # fmt: skip

    def on_spelling(self, spelling: Spelling) -> _Found:
        edits = self.stream.edits
        chains = [probe for probe in self.stream.probes if probe.kind == "portability"]
        asked = [(edit.answers, self.told(edit)) for edit in edits]
        asked += [(probe.answers, self.of_probe(probe)) for probe in chains]
        why = {text: spelling.why_unwritable(text) for answers, _ in asked for text in answers}
        for of, what in (
            (asked[: len(edits)], "edits has|have a target"),
            (asked[len(edits) :], "portability probes has|have an answer"),
        ):
            yield _finding(
                "unwritable-target",
                (f"{told} {why[answers[0]]}" for answers, told in of
                 if all(why[text] for text in answers)),
                len(of),
                f"{what} that the tokenizer cannot write; free-run no answer is right",
            )  # fmt: skip
        yield _finding(
            "unwritable-alias",
            (f"{_short(text)} beside {told}: {why[text]}" for answers, told in asked
             for text in answers[1:] if why[text] and not all(why[each] for each in answers)),
            self.stream.n_aliases,
            "aliases is|are such as the tokenizer cannot write, and never right; only the other "
            "answers count",
        )  # fmt: skip
        written = {edit: spelling.written(edit.target) for edit in edits if not why[edit.target]}
        yield _finding(
            "rewritten-target",
            (f"{self.told(edit)} is written {_short(text)}" for edit, text in written.items()
             if text != normalized(edit.target)),
            len(edits),
            "edits has|have a target that the tokenizer writes in another way, as it changes or "
            "drops letters; what it writes is right",
        )  # fmt: skip
        special = {text: spelling.special_token(text) for text in {text for _, text in self.asked}}
        yield _finding(
            "special-token",
            [f"{special[text]} in {self.of(record, text)}" for record, text in self.asked
             if special[text]],
            len(self.asked),
            "prompts, paraphrases and probes holds|hold a special token of the tokenizer; a model "
            "reads it as a mark, and not as its letters",
        )  # fmt: skip

    def on_known(self, is_known: Callable[[Edit], bool]) -> _Found:
        edits = self.stream.edits
        yield _finding(
            "known-target", (self.told(edit) for edit in edits if is_known(edit)), len(edits),
            "edits is|are answered by the target before any edit; an editor that does nothing gets "
            "them right",
        )  # fmt: skip

    def on_subjects(self) -> _Found:
        edits = self.stream.edits
        n_edits = Counter(edit.subject for edit in edits if edit.subject)
        shared = {subject: n for subject, n in n_edits.items() if n > 1}
        first = {edit.subject: edit for edit in reversed(edits)}
        yield _finding(
            "shared-subject",
            (f"{_short(subject)}, {n} edits, first {self.name(first[subject])}"
             for subject, n in shared.items()),
            len(edits),
            f"edits share their subject with another "
            f"({by_number(len(n_edits), 'subject|subjects carries|carry')} "
            f"{n_edits.total():,} edits); items of one subject are one cluster, so that every "
            "interval is wider",
            n=sum(shared.values()),
        )  # fmt: skip
        yield _finding(
            "no-subject", (self.told(edit) for edit in edits if not edit.subject), len(edits),
            "edits has|have no subject; an editor that writes at the last token of a subject, as "
            "ROME does, has no place for them",
        )  # fmt: skip


def _is_right(text: str, answers: Sequence[str]) -> bool:
    """Whether it is one of the answers, up to white space."""
    return normalized(text) in map(normalized, answers)


def _agree(one: Edit | Probe, other: Edit | Probe) -> bool:
    """Whether one answer is right for both."""
    return any(_is_right(text, other.answers) for text in one.answers)


def _apart(edits: Sequence[Edit]) -> tuple[Edit, Edit] | None:
    """The first two that no one answer is right for."""
    return next((pair for pair in combinations(edits, 2) if not _agree(*pair)), None)


def _folded(text: str) -> str:
    """A text but for case and white space."""
    return normalized(text).casefold()


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _holds_target(edit: Edit) -> bool:
    target = re.escape(normalized(edit.target))
    found = re.search(rf"(?<!\w){target}(?!\w)", normalized(edit.prompt), re.IGNORECASE)
    return found is not None


def _opening(texts: Sequence[str]) -> str:
    """The longest run of words with which nearly all texts begin; empty where there is none."""
    n_words, opening = 0, ""
    while True:
        n_words += 1
        begun = Counter(" ".join(text.split()[:n_words]) for text in texts)
        most, n = begun.most_common(1)[0]
        if n < _TELLING * len(texts) or most == opening:
            return opening
        opening = most


def _begins(opening: str) -> Callable[[str], bool]:
    return lambda text: normalized(text).startswith(opening)


def _is_unseen(kind: str, field: str, text: str) -> bool:
    if kind == "outer-space":  # one space before an answer is where any other answer has it
        text = text.removeprefix(" ") if field in _ANSWERS else text
        return text != text.strip()
    if kind == "hidden-character":
        return bool(hidden(text) or _NO_SPACE.search(text))
    return not is_normalized("NFC", text)


def _bare(text: str) -> str:
    """A text as it is, with letters put together as their parts."""
    shown = _cut(text)
    if is_normalized("NFC", text):
        return shown
    return "".join(f"\\u{ord(each):04x}" if combining(each) else each for each in shown)


def _short(text: str) -> str:
    return _cut(normalized(text))


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
