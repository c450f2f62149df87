"""What a published schema is: the keys of its records, and how one becomes edits with probes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from wise.edits import Edit, Probe
from wise.evaluation.fields import BlankTextError, Field
from wise.evaluation.loading_notes import LoadingNotes

__all__ = ["ID_KEYS", "Case", "Keys", "Parsed", "Schema", "answer_of"]

Parsed = tuple[list[Edit], list[Probe]]

ID_KEYS = ("case_id", "id")
_GAP = "{}"  # for the subject, in a template


def answer_of(field: Field, notes: LoadingNotes, *, blank: bool = False) -> str:
    """An answer as text; of a number that is what the file has written, and it is noted."""
    if field.is_number:
        notes.add("number|numbers among the answers, taken as text|texts")
        return str(field.value)
    if not isinstance(field.value, str):
        raise field.error(f"a {'' if blank else 'non-blank '}text or a number")
    return field.text(blank=blank)


@dataclass(frozen=True, slots=True)
class Case:
    """A record, the id of its edit, and the notes on its file."""

    record: Field
    id: str
    notes: LoadingNotes

    def edit(
        self,
        prompt: Field,
        target: Field,
        subject: Field | None = None,
        paraphrases: Iterable[Field] = (),
        truth: str = "",
        *,
        aliases: Field | None = None,
        part: int | None = None,
    ) -> Edit:
        """The record's edit, or its edit number `part`. Without `subject`, the schema has none.

        `paraphrases` are texts or arrays of them; a blank one is left out.
        """
        text, right = prompt.text(), self.right(target, aliases)
        if not right:
            raise target.error("a non-blank text", BlankTextError)
        others = [other for field in paraphrases for other in self._phrasings(field)]
        name = subject.value if subject is not None and isinstance(subject.value, str) else ""
        if _GAP in text and name.strip() and name not in text:
            self.notes.add(f"prompt|prompts with {_GAP} in place of the subject, filled in")
            text, *others = (each.replace(_GAP, name) for each in (text, *others))
        span = self._span(subject, text) if subject is not None else ""
        edit_id = self.id if part is None else f"{self.id}#{part}"
        return Edit(text, right[0], span, tuple(others), truth, edit_id, aliases=right[1:])

    def _phrasings(self, field: Field) -> list[str]:
        items = field.items() if isinstance(field.value, list) else [field]
        texts = [item.text(blank=True) for item in items if item.value is not None]
        kept = [text for text in texts if text.strip()]
        if n_blank := len(texts) - len(kept):
            self.notes.add("blank paraphrase|paraphrases, left out", n_blank)
        return kept

    def _span(self, field: Field, prompt: str) -> str:
        """A subject as a span of its prompt, without spaces at its ends; "" where it is none."""
        subject = "" if field.value is None else field.text(blank=True).strip()
        if subject and subject in prompt:
            return subject
        if 0 < len(subject) <= len(prompt):
            words = rf"(?<!\w){re.escape(subject)}(?!\w)"
            if found := re.search(words, prompt, re.IGNORECASE):
                how = "in its|their prompt's spelling, as only the case differs"
                self.notes.add(f"subject|subjects taken {how}")
                return found.group()
        self.notes.add(
            "subject|subjects not in its|their prompt, left empty: it|they has|have no span"
        )
        return ""

    def probe(
        self, prompt: Field, kind: str, answer: Field, *, of: Edit | None = None
    ) -> list[Probe]:
        """What the record's edit, or the edit `of`, must leave; none where the prompt is blank."""
        first, *aliases = self.right(answer) or ("",)
        if not (text := self._question(prompt, kind)):
            return []
        return [Probe(text, kind, first, self.id if of is None else of.id, "", tuple(aliases))]

    def _question(self, prompt: Field, kind: str) -> str:
        text = "" if prompt.value is None else prompt.text(blank=True)
        if text.strip():
            return text
        self.notes.add(f"{kind} probe|probes without a question, left out")
        return ""

    def portability(
        self,
        prompt: Field,
        answer: Field,
        truth: str = "",
        *,
        aliases: Field | None = None,
        of: Edit | None = None,
    ) -> list[Probe]:
        """A consequence of the record's edit, or of the edit `of`; none where the prompt is blank
        or has no answer."""
        right = self.right(answer, aliases)
        if not (text := self._question(prompt, "portability")):
            return []
        if right:
            edit_id = self.id if of is None else of.id
            return [Probe(text, "portability", right[0], edit_id, truth, right[1:])]
        self.notes.add("portability probe|probes without an answer, left out")
        return []

    def leave_out(self, holder: Field, notes: Mapping[str, str]) -> None:
        """Count by these notes what the holder has at their keys: an array's items, or a value."""
        for key, note in notes.items():
            value = holder.members().get(key)
            n = len(value) if isinstance(value, list) else int(value is not None)
            if n:
                self.notes.add(note, n)

    def truth(self, field: Field) -> str:
        """The answer before the edit, of several the first; "" where there is none."""
        first, *others = self.right(field) or ("",)
        if others:
            self.notes.add("answer|answers before the edit, of which the first of several is taken")
        return first

    def right(self, field: Field, aliases: Field | None = None) -> tuple[str, ...]:
        """The different right answers that are not blank, in the order of the file."""
        groups = self.answers(field) + ([] if aliases is None else self.answers(aliases))
        texts = dict.fromkeys(text for group in groups for text in group)
        return tuple(filter(str.strip, texts))

    def answers(self, field: Field) -> list[list[str]]:
        """The right answers, each with its aliases: of an answer, or an array of them or of arrays.

        Each is as in `answer_text`.
        """
        entries = field.items() if isinstance(field.value, list) else [field]
        groups = [entry.items() if isinstance(entry.value, list) else [entry] for entry in entries]
        return [[self.answer_text(alias) for alias in group] for group in groups]

    def answer_text(self, field: Field) -> str:
        """A text, a number as text, or "" for null."""
        if field.value is None:
            return ""
        if not field.is_number and not isinstance(field.value, str):
            raise field.error("a text, a number, null or an array of these")
        return answer_of(field, self.notes, blank=True)

    def given(self, *keys: str) -> list[Field]:
        """The values at those of `keys` that the record has; null is none."""
        found = (self.record[key] for key in keys if key in self.record)
        return [field for field in found if field.value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of a kind of record, separated by spaces.

    Each record `needs` these (a|b is either) and has the first; `may` are further keys that are
    read, `ignores` known metadata.
    """

    needs: str
    may: str = ""
    ignores: str = ""

    @property
    def tells(self) -> list[str]:
        """The keys of which a record of this kind has one."""
        return self.needs.split()[0].split("|")

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(re.split(r"[ |]", f"{self.needs} {self.may}".strip()))

    @property
    def known(self) -> frozenset[str]:
        return self.reads.union(ID_KEYS, self.ignores.split())

    def lacks(self, keys: Collection[str]) -> list[str]:
        """The needed keys that are not there."""
        needed = (word.split("|") for word in self.needs.split())
        return [" or ".join(either) for either in needed if not any(k in keys for k in either)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema(Keys):
    """A published kind of record, and how one is parsed."""

    parse: Callable[[Case], Parsed]
