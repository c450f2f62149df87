"""What an editor is trained on before its first edit, and a training that goes on where it stopped.

Lessons are edits of the background, each with other wordings and with texts that it must leave
alone. What is trained follows from the model, the background and a seed.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from wise.edits import Background, Edit
from wise.jobs.ledger import write_whole
from wise.lm.architectures import LanguageModel
from wise.lm.sampling import model_prefixes
from wise.lm.tokens import why_no_target
from wise.seeds import seeded

__all__ = ["Asked", "Lessons", "lessons", "trained"]

T = TypeVar("T")
Asked = tuple[str, str]  # a prompt and an answer

_MOST_WORDS = 24  # of a text, its last ones
_N_DRAWN, _DRAWN = 100, 12  # texts of the model itself, and their tokens
_SPARE = 8  # tokens: BOS, EOS, and what a prompt alone has more
_KEPT_EVERY = 20.0  # seconds
_PATIENCE = 10.0  # seconds without a bar


@dataclass(frozen=True)
class Lessons:
    """Edits to train on, and texts that are about none of them: their first and second halves."""

    edits: tuple[Edit, ...]
    texts: tuple[Asked, ...]

    def wording(self, number: int, generator: torch.Generator) -> str:
        """The prompt of an edit or one of its paraphrases."""
        edit = self.edits[number]
        return _drawn((edit.prompt, *edit.paraphrases), generator)

    def others(self, number: int, n: int, generator: torch.Generator) -> list[Asked]:
        """`n` questions that an edit must leave alone, with what is true, of three kinds in turn.

        Another fact of its subject, its question of another subject, and a text without the
        subject; where there is none, another edit's question.
        """
        edit = self.edits[number]
        about = self._by_subject[edit.subject or edit.prompt]
        alike = self._by_relation[_relation(edit)]
        far = [each for each in self.texts if not edit.subject or edit.subject not in each[0]]
        kinds = [_asked(about, edit), _asked(alike, edit), far]
        rest = _asked(self.edits, edit)
        first = int(torch.randint(len(kinds), (1,), generator=generator))
        among = [kinds[(first + k) % len(kinds)] or rest for k in range(n)]
        return [_drawn(each, generator) for each in among if each]

    @cached_property
    def _by_subject(self) -> Mapping[str, list[Edit]]:
        """Edits without a subject are about nothing that others are about."""
        return _grouped(self.edits, lambda edit: edit.subject or edit.prompt)

    @cached_property
    def _by_relation(self) -> Mapping[str, list[Edit]]:
        return _grouped(self.edits, _relation)


def lessons(
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    *,
    n: int,
    seed: int,
) -> Lessons:
    """At most `n` edits of the background, and its texts.

    Without edits, a text is one: its last word becomes another text's; and without texts, the model
    draws some. What the model cannot read is left out. Raises ValueError where nothing is left.
    Source of edits from texts: MEND section 4 (Wikitext, with continuations of a model).
    """
    texts = background.texts
    if not texts and not background.edits:
        texts = model_prefixes(lm, tokenizer, n=_N_DRAWN, length=_DRAWN, seed=seed)
    words = [each for each in (text.split()[-_MOST_WORDS:] for text in texts) if each[1:]]
    edits = background.edits or _of_texts(words)
    order = torch.randperm(len(edits), generator=seeded(seed, "lessons")).tolist()
    room = (lm.context_length or 2**20) - _SPARE

    def fits(asked: Sequence[Asked]) -> bool:
        if any(why_no_target(tokenizer, answer) for _, answer in asked):
            return False
        texts = [f"{prompt} {answer}" for prompt, answer in asked]
        return max(map(len, tokenizer(texts, add_special_tokens=False).input_ids)) <= room

    chosen = list[Edit]()
    for number in order:
        edit = edits[number]
        wordings = [(each, edit.target) for each in (edit.prompt, *edit.paraphrases)]
        truth = [(edit.prompt, edit.ground_truth)] if edit.ground_truth else []
        if len(chosen) < n and fits([*wordings, *truth]):
            chosen.append(edit)
    if not chosen:
        raise ValueError(f"the background has {len(edits)} edits and texts to train on, of which "
                         "the model can read none; give it some")  # fmt: skip
    halves = dict.fromkeys(_parted(each, len(each) // 2) for each in words)
    return Lessons(tuple(chosen), tuple(each for each in halves if fits([each])))


def trained(
    start: Mapping[str, Tensor],
    loss_of: Callable[[Mapping[str, Tensor], int], Tensor],
    *,
    lr: Mapping[str, float],
    n_steps: int,
    clip: float,
    least: Mapping[str, float] | None = None,
    early_stop: float = -math.inf,
    path: Path | None = None,
    name: str = "training",
) -> dict[str, Tensor]:
    """The parameters after at most `n_steps` of Adam on `loss_of(parameters, step)`.

    It ends before a step whose loss is `early_stop` or less. Rates fall linearly to 0; the
    gradient's norm is at most `clip`; entries of the parameters that `least` names never are below
    its numbers. With `path`, what a training needs to go on is kept there, and one that was
    interrupted ends in the same bits. Raises ValueError for a loss or a parameter that is not
    finite.
    """
    learned = {key: value.clone().requires_grad_() for key, value in start.items()}
    optimizer = torch.optim.Adam([{"params": [each]} for each in learned.values()])
    begin = _resumed(path, learned, optimizer) if path and path.is_file() else 0
    kept_at = time.monotonic()
    with tqdm(total=n_steps, initial=begin, desc=name, unit="step", delay=_PATIENCE,
              leave=False) as bar:  # fmt: skip
        for step in range(begin, n_steps):
            loss = loss_of(learned, step)
            if not bool(loss.isfinite()):
                raise ValueError(f"loss={loss.item()} at step {step} of {name}; lower lr")
            if loss.item() <= early_stop:
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned.values(), clip)
            for group, key in zip(optimizer.param_groups, learned, strict=True):
                group["lr"] = lr[key] * (1 - step / n_steps)
            optimizer.step()
            for key, bound in (least or {}).items():
                learned[key].data.clamp_(min=bound)
            bar.update()
            if path and time.monotonic() - kept_at >= _KEPT_EVERY:
                _keep(path, learned, optimizer, step + 1)
                kept_at = time.monotonic()
    for key, value in learned.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"lr={lr[key]} of {name} made a non-finite {key}; lower lr")
    return {key: value.detach() for key, value in learned.items()}


def _keep(
    path: Path, learned: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, n_done: int
) -> None:
    tensors = {"n_done": torch.tensor(n_done)}
    for key, value in learned.items():
        tensors[key] = value.detach()
        tensors |= {f"{key} {part}": each for part, each in optimizer.state[value].items()}
    write_whole(path, save({key: each.cpu().contiguous() for key, each in tensors.items()}))


def _resumed(path: Path, learned: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """The number of steps that are done, with all else as it was after them."""
    kept = load_file(path)
    n_done = int(kept["n_done"])
    for key, value in learned.items():
        with torch.no_grad():
            value.copy_(kept[key])
        marked = f"{key} "
        optimizer.state[value] = {
            name.removeprefix(marked): each if name.endswith("step") else each.to(value.device)
            for name, each in kept.items() if name.startswith(marked)
        }  # fmt: skip
    return n_done


def _parted(words: Sequence[str], n: int) -> Asked:
    return " ".join(words[:n]), " ".join(words[n:])


def _of_texts(texts: Sequence[Sequence[str]]) -> tuple[Edit, ...]:
    """The words of each before its last, with the next text's last one; other wordings have the
    whole of that text before them."""
    asked = [_parted(words, -1) for words in texts]
    return tuple(
        Edit(prompt, asked[n - 1][1], paraphrases=(f"{' '.join(texts[n - 1])} {prompt}",),
             ground_truth=answer)
        for n, (prompt, answer) in enumerate(asked)
    )  # fmt: skip


def _asked(edits: Sequence[Edit], but: Edit) -> list[Asked]:
    """What is true of other prompts."""
    return [(e.prompt, e.ground_truth or e.target) for e in edits if e.prompt != but.prompt]


def _relation(edit: Edit) -> str:
    return edit.prompt.replace(edit.subject, "\0") if edit.subject else edit.prompt


def _grouped(edits: Sequence[Edit], key: Callable[[Edit], str]) -> Mapping[str, list[Edit]]:
    found: dict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        found[key(edit)].append(edit)
    return found


def _drawn(among: Sequence[T], generator: torch.Generator) -> T:
    return among[int(torch.randint(len(among), (1,), generator=generator))]
