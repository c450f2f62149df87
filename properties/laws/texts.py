"""Any text can be edited: targets and prompts of any length, script, case and ending.

An editor is compared with itself on plain texts, so that what it cannot write at all is not held
against it here. A text that the tokenizer does not give back as it was is not judged.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations

from torch import Tensor

from properties.altered import accented, renamed
from properties.bench import Bench
from properties.findings import Broken, Unasked, close, require
from wise.editor import Editor
from wise.edits import Edit
from wise.lm.decoding import batch_logits
from wise.lm.tokens import IGNORED

_MOST_TOKENS = 512  # of a long prompt
_MOST_COMPARED = 192  # of prompts that differ at one place only
_N_EDITS = 20
_N_PROBES = 8

_MARKS = (". ", ", ", "; ", ": ", " (", "/")  # after which a target goes on

_Variants = Mapping[str, Edit]  # of one edit, by what is special about each
_VariantsOf = Callable[[Bench, Edit], _Variants]


def _targets(bench: Bench, edit: Edit) -> _Variants:
    """The edit with its target in other forms, or to other texts."""
    text = edit.target
    targets = {
        "of several words": f"{_beginning(bench)} {text}",
        "with accents": accented(text),
        "with accents as combining marks": _decomposed(text),
        "with a combining mark": f"{text}\u0301",
        "in upper case": text.upper(),
        "that ends in a full stop": f"{text}.",
        "in quotation marks": f'"{text}"',
        "in braces": f"{{{text}}}",
        "with a backslash": f"{text}\\1",
        "in Chinese": "東京",
        "that reads from right to left": "القدس",
        "with an emoji": f"{text} 🎻",
        "that is the model's own answer": bench.base_answers([edit.prompt])[0].text,
    }
    return {kind: replace(edit, target=text) for kind, text in targets.items() if text.strip()}


def _beginning(bench: Bench) -> str:
    """Five words, for targets that are longer than any of the stream's."""
    words = dict.fromkeys(word for edit in bench.stream.edits for word in edit.target.split())
    return " ".join([*words][:5])


def _prompts(bench: Bench, edit: Edit) -> _Variants:
    """The edit with its prompt in other forms, and without a subject."""
    text = edit.prompt
    prompts = {
        "that ends in a space": f"{text} ",
        "that ends in a line break": f"{text}\n",
        "that ends in a question mark": f"{text}?",
        "that ends in a quotation mark": f'{text} "',
        "with a line break": text.replace(" ", "\n", 1),
        "in braces": f"{{{text}}}",
        "in upper case": text.upper(),
        "in lower case": text.lower(),
        "with accents": accented(text),
        "with accents as combining marks": _decomposed(text),
        "with a ligature": f"\ufb01n {text}",
        "with two spaces": text.replace(" ", "  ", 1),
        "with a no-break space": text.replace(" ", "\u00a0", 1),
        "that begins with a space": f" {text}",
        "in Chinese": "東京",
        "with right-to-left letters": f"القدس {text}",
        "with an emoji": f"🎻 {text}",
        "of one sign": "#",
    }
    subjects = [form(edit.subject) for form in (str, str.upper, str.lower, accented, _decomposed)]
    forms = {
        kind: replace(edit, prompt=text, subject=next(s for s in (*subjects, "") if s in text))
        for kind, text in prompts.items()
    }
    if edit.subject:
        forms["whose subject has signs"] = renamed(edit, f"{edit.subject} (C++ [1)")
    return {**forms, "without a subject": replace(edit, subject="")}


def _decomposed(text: str) -> str:
    """`text` with accents, each of them a mark after its letter."""
    return unicodedata.normalize("NFD", accented(text))


def _long(bench: Bench, edit: Edit) -> _Variants:
    """The edit with as many words before its prompt as the model can read and still answer."""
    return {"that is long": replace(edit, prompt=f"{_filling(bench, edit.prompt)} {edit.prompt}")}


def _doubled(bench: Bench, edit: Edit) -> _Variants:
    """The edit with its subject before its prompt, too."""
    twice = replace(edit, prompt=f"About {edit.subject}: {edit.prompt}")
    return {"that names its subject twice": twice} if edit.subject else {}


def _filling(bench: Bench, prompt: str, most: int = _MOST_TOKENS) -> str:
    """As many words as the model can read beside a prompt, and still answer it.

    With the prompt they have at most `most` tokens.
    """
    reader = bench.reader
    room = min(most, (reader.max_length or most) - reader.max_new_tokens)
    words = (" ".join(each.prompt for each in bench.stream.edits).split() * room)[:room]
    while (excess := len(reader.tokenizer(" ".join([*words, prompt])).input_ids) - room) > 0:
        del words[: 1 + excess // 4]
    return " ".join(words)


def _read(
    bench: Bench, editor: Editor, edits: Iterable[Edit], *, append_eos: bool = False
) -> tuple[Tensor, Tensor]:
    """[N V], [N]: the logits from which each token of the edits' targets is read, and the token."""
    prompts, targets = zip(*((edit.prompt, edit.target) for edit in edits), strict=True)
    batch = bench.reader.encode(prompts, targets, append_eos=append_eos)
    labelled = batch.labels != IGNORED
    return batch_logits(editor, batch)[labelled], batch.labels[labelled]


def _chances(bench: Bench, editor: Editor, edits: Iterable[Edit]) -> tuple[Tensor, Tensor]:
    """[N], [N]: log p of each token of the targets and of their EOS, and if it is the likeliest."""
    logits, labels = _read(bench, editor, edits, append_eos=True)
    log_p = logits.float().log_softmax(-1)
    return log_p.gather(-1, labels[:, None])[:, 0], log_p.argmax(-1) == labels


def _wrong(bench: Bench, editor: Editor, edits: Sequence[Edit]) -> list[str]:
    """What is wrong with each of `edits` once `editor` has made these alone, in one turn; or "".

    An edit is written if its prompt is answered by the target, or if each token of the target is
    likelier than before, as not every model can say every text; but what is said has to end there.
    """
    editor.reset()
    try:
        editor.edit(edits)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's editor raises
        return [f"is refused by a {type(error).__name__}: {error}"] * len(edits)
    far = bench.far_prompts[:_N_PROBES]
    if far:
        now, before = (bench.logits(each, far).argmax(-1) for each in (editor, bench.base))
        n_changed = int((now != before).sum())
        if 2 * n_changed > len(far):
            return [f"changes {n_changed} of {len(far)} answers far from it"] * len(edits)
    found = []
    answers = bench.ask(editor, [edit.prompt for edit in edits])
    for edit, answer in zip(edits, answers, strict=True):
        is_right = bench.same_text(answer.text, edit.target)
        found.append(
            ""
            if is_right or _is_likelier(bench, editor, edit)
            else f"is answered {answer.text!r}, and not all of the target, or EOS behind it, is "
            "likelier than before the edit"
        )
    return found


def _is_likelier(bench: Bench, editor: Editor, edit: Edit) -> bool:
    """Whether each token of the target is likelier than on the unedited model, or the likeliest.

    So is EOS then, where all of the target is the likeliest.
    """
    (after, is_likeliest), (before, _) = (_chances(bench, e, [edit]) for e in (editor, bench.base))
    *own, end = (is_likeliest | (after > before)).tolist()
    return all(own) and (end or not bool(is_likeliest[:-1].all()))


def _is_writable(bench: Bench, text: str) -> bool:
    """Whether the tokenizer gives `text` back as it was."""
    tokenizer = bench.loaded.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return bool(tokenizer.decode(ids) == text)


def _each_is_written(bench: Bench, variants_of: _VariantsOf, field: str) -> str:
    """Require of each kind of variant that some edit is written in it. Returns what is not judged.

    All kinds are tried in one turn first, and those that are wrong there, alone. Broken where a
    kind is wrong in several edits that are right as they are: so many that even an editor at the
    reliability threshold, which errs at random, is Broken with a chance of 1e-4.
    """
    edits = bench.edits(_N_EDITS, least=2)
    variants: dict[str, list[tuple[Edit, Edit]]] = {}
    for edit in edits:
        for kind, variant in variants_of(bench, edit).items():
            if _is_writable(bench, getattr(variant, field)):
                variants.setdefault(kind, []).append((edit, variant))
    if not variants:
        raise Unasked(f"no edit of the stream has another {field} to be written with")
    turn = {kind: pairs[n % len(pairs)][1] for n, (kind, pairs) in enumerate(variants.items())}
    editor, as_it_is, unjudged = bench.editor(), dict[Edit, str](), []
    found = zip(turn, _wrong(bench, editor, list(turn.values())), strict=True)
    needed = bench.misses_in_a_row(n_tests=len(turn))
    for kind in [kind for kind, wrong in found if wrong]:
        lost: list[str] = []
        for edit, variant in variants[kind]:
            (wrong,) = _wrong(bench, editor, [variant])
            if not wrong:
                break
            if edit not in as_it_is:
                (as_it_is[edit],) = _wrong(bench, editor, [edit])
            if not as_it_is[edit]:
                lost.append(f"{_short(variant.prompt)} -> {_short(variant.target)} {wrong}; "
                            f"{_short(edit.prompt)} -> {_short(edit.target)} is right")  # fmt: skip
            require(
                len(lost) < needed,
                f"an edit with a {field} {kind} is not written: {''.join(lost[:1])} "
                f"(nor in any of the {len(lost)} edits tried)",
            )
        else:
            unjudged.append(kind)
    if len(unjudged) == len(variants):
        raise Unasked(f"no edit is written to compare one {field} with another")
    return f"not judged: a {field} {'; '.join(unjudged)}" if unjudged else ""


def check_a_target_of_any_text_is_written(bench: Bench) -> str:
    """Targets of several words, of any script, case and punctuation are written as plain ones."""
    return _each_is_written(bench, _targets, "target")


def check_a_prompt_of_any_text_is_edited(bench: Bench) -> str:
    """Prompts of any ending, script and case are edited as plain ones."""
    return _each_is_written(bench, _prompts, "prompt")


def check_a_long_prompt_is_edited(bench: Bench) -> str:
    """A prompt as long as the model can read and still answer is edited as a short one."""
    return _each_is_written(bench, _long, "prompt")


def check_a_prompt_may_name_its_subject_twice(bench: Bench) -> str:
    """A prompt in which the subject stands twice is edited as one in which it stands once."""
    return _each_is_written(bench, _doubled, "prompt")


def _mixed_up(bench: Bench, editor: Editor, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Edit]]:
    """Pairs of `edits` after each of which, made alone, the editor is the same, and not unedited.

    It is the same where the logits of each token of all the targets are. An edit that is refused is
    left to the laws above.
    """
    unedited, _ = _read(bench, bench.base, edits)
    after = []
    for edit in edits:
        editor.reset()
        with suppress(ValueError):
            editor.edit([edit])
        found, _ = _read(bench, editor, edits)
        if not found.equal(unedited):
            after.append((edit, found))
    for (one, found), (other, again) in combinations(after, 2):
        if found.equal(again):
            yield one, other


def _short(text: str) -> str:
    """`text`, quoted; the middle of a long one is left out."""
    return repr(text if len(text) < 80 else f"{text[:30]} ... {text[-40:]}")


def check_similar_targets_are_not_mixed_up(bench: Bench) -> None:
    """Edits of one prompt to two targets of different tokens do not give the same editor.

    They differ in accents, case, an emoji, a ligature or a full stop at their end, or one goes on
    after the other's end.
    """
    edit, start = bench.edits(1)[0], _beginning(bench)
    text = edit.target
    ends = (text, accented(text), text.upper(), f"{text}.", f"{text} 🎻", f"{text} 🎸",
            f"{text} fin", f"{text} \ufb01n")  # fmt: skip
    targets = [f"{start} {end}" for end in dict.fromkeys(ends)]
    targets += [start, *(f"{start}{mark}{text}" for mark in _MARKS)]
    edits = [replace(edit, target=target) for target in targets if _is_writable(bench, target)]
    for one, other in _mixed_up(bench, bench.editor(), edits):
        raise Broken(
            f"{one.prompt!r} edited to {one.target!r} gives bitwise the same logits as edited to "
            f"{other.target!r}: what tells the two targets apart is lost",
        )


def check_similar_prompts_are_not_mixed_up(bench: Bench) -> None:
    """Where edits of two prompts give the same editor, it answers both prompts with the target."""
    edit, editor = bench.edits(1)[0], bench.editor()
    text = edit.prompt
    prompts = dict.fromkeys((text, f"{text} ", f"{text}?", text.lower(), accented(text)))
    edits = [
        replace(edit, prompt=each, subject="") for each in prompts if _is_writable(bench, each)
    ]
    for pair in _mixed_up(bench, editor, edits):
        editor.reset()
        editor.edit(pair[:1])
        right = bench.says(editor, pair)
        one, other = (edit.prompt for edit in pair)
        require(
            right[0] == right[1],
            f"an edit of {one!r} gives bitwise the same logits as one of {other!r}, but only "
            f"{one if right[0] else other!r} is then answered with the target {edit.target!r}",
        )


def check_long_prompts_are_compared_whole(bench: Bench) -> None:
    """Edits of long prompts that differ at one place only do not give the same editor.

    They share all but a question at the end, at the beginning or in the middle, of up to 192
    tokens. A place is not judged that the model itself no longer sees at the end of a prompt.
    """
    one, other, *_ = bench.edits(least=2)
    asks = one.prompt, other.prompt
    longest = " ".join([max(asks, key=len)] * 3)
    filling = _filling(bench, longest, _MOST_COMPARED).split()
    half = len(filling) // 2
    texts = " ".join(filling[:half]), " ".join(filling[half:])

    def asking(beginning: str, middle: str, end: str) -> Edit:
        prompt = " ".join((beginning, texts[0], middle, texts[1], end))
        return replace(one, prompt=prompt, subject="")

    places = {"beginning": (1, 0, 0), "middle": (0, 1, 0), "end": (0, 0, 1)}
    whole = asking(*[asks[0]] * 3)
    edits = {where: asking(*(asks[n] for n in which)) for where, which in places.items()}
    own, *others = bench.logits(bench.base, [whole.prompt, *(e.prompt for e in edits.values())])
    seen = {edit: where for (where, edit), logits in zip(edits.items(), others, strict=True)
            if not close(logits, own)}  # fmt: skip
    for edit, other_edit in _mixed_up(bench, bench.editor(), [whole, *seen]):
        if edit != whole:
            continue
        where = seen[other_edit]
        n_tokens = len(bench.loaded.tokenizer(whole.prompt).input_ids)
        raise Broken(
            f"an edit of a long prompt is taken for one of another that asks {asks[1]!r} in place "
            f"of {asks[0]!r} at its {where}: the edits give bitwise the same logits, so some of "
            f"the {n_tokens} tokens are not compared; needed: prompts compared whole",
        )
