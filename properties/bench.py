"""What a check is given: a way to make the editor, models for it, and edits."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import ceil, log
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy
from scipy.stats import binom
from torch import Tensor
from transformers import PreTrainedModel

from fixtures.models import LoadedModel
from properties.findings import Broken, Unasked, gap, remade
from properties.surroundings import Surroundings
from wise.editor import Editor, EditorFactory, Layered, Persistent, Retrieves, Routed, takes
from wise.edits import PROBE_KINDS, Background, Edit, EditStream
from wise.evaluation.lifelong import reader_of
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Answer, Reader, Unedited
from wise.lm.tokens import Batch, canonical, encode
from wise.measures.rows import Row

__all__ = ["PHASES", "Bench", "Compared", "Operation"]

Operation = tuple[str, list[dict[str, Any]]]  # its name, and its edits
_FALSE_FAIL = 1e-4
_LOOKS = (24, 48, 120)  # edits compared when a law that compares is judged
_TOGETHER = 6  # of them, in force together
PHASES = (Phase.generate, Phase.shrink)  # explaining takes most of a failing law's time


@dataclass(frozen=True)
class Compared:
    """How edits fare with what a law is about, beside how they fare without it.

    `n` hold with it or without; `worse` says what is wrong with each that holds without it alone;
    `n_better` hold with it alone.
    """

    n: int
    worse: Sequence[str]
    n_better: int


@dataclass(frozen=True)
class Bench:
    """One editor on one model, and everything that its checks need.

    `loaded.model` is the reference: no editor is ever made on it, only on copies. `spec` names the
    factory to another process, as `load_editor` reads it; "" where it has no such name. Exact laws
    use `stream`, with `n_examples` of Hypothesis. Rates use `runs`: the rows of independent
    lifelong runs of `streams`, each made when it is needed, at most `max_looks` of them; with a
    `baseline`, they are compared with these rows instead of `thresholds`. A failed sequence of
    operations goes to `on_broken`, which says how to run it again.
    """

    name: str
    factory: EditorFactory
    loaded: LoadedModel
    stream: EditStream
    background: Background
    spec: str = ""
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    n_examples: int = 10
    is_random: bool = False
    phases: tuple[Phase, ...] = PHASES
    runs: Iterable[Sequence[Row]] = field(default=(), repr=False)
    streams: Iterable[EditStream] = field(default=(), repr=False)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.95
    max_looks: int = 1
    protocol: str = "free"
    baseline: Sequence[Row] = field(default=(), repr=False)
    on_broken: Callable[[list[Operation]], str] = field(default=lambda log: "", repr=False)

    def record(self, name: str, value: object) -> None:
        """Give a number that was found to whoever is `recording`."""
        for record in self._recorders:
            record(name, value)

    @contextmanager
    def recording(self, record: Callable[[str, object], object]) -> Iterator[None]:
        """What is found meanwhile goes to `record`, by its name."""
        self._recorders.append(record)
        try:
            yield
        finally:
            self._recorders.remove(record)

    @cached_property
    def _recorders(self) -> list[Callable[[str, object], object]]:
        return []

    def copy_model(self) -> PreTrainedModel:
        """The unedited model, for an editor to hold."""
        return copy.deepcopy(self.loaded.model)

    def tuned_model(self) -> PreTrainedModel:
        """A model of the same name whose weights are all a little larger."""
        model = self.copy_model()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1 + 2**-7)
        return model

    def nudged_model(self, seed: int) -> PreTrainedModel:
        """A model whose weights are each a rounding larger or smaller, drawn by `seed`."""
        model = self.copy_model()
        random = torch.Generator(model.device).manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                signs = torch.randint(0, 2, weight.shape, generator=random, device=weight.device)
                weight.mul_(1 + (2 * signs - 1) * torch.finfo(weight.dtype).eps)
        return model

    @cached_property
    def in_half_precision(self) -> Bench:
        """This bench with its model in bfloat16; itself where that is in half precision."""
        return self.in_precision(torch.bfloat16)

    def in_precision(self, half: torch.dtype) -> Bench:
        """This bench with its model in bfloat16 or float16; itself where it is in one of them."""
        if self.loaded.model.dtype.itemsize == 2:
            return self
        model = self.copy_model()
        for weight in model.parameters():  # as a model is loaded in `half`: not its buffers
            weight.data = weight.data.to(half)
        model.config.dtype = half
        return replace(self, loaded=replace(self.loaded, model=model))

    def change_of(self, model: PreTrainedModel) -> str:
        """The first difference of a model from the unedited one; "" where there is none."""
        return Surroundings.of(self.loaded.model).change_to(Surroundings.of(model))

    def editor(
        self,
        edits: Sequence[Edit] = (),
        *,
        model: PreTrainedModel | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Editor:
        """A fresh editor on its own model, after `edits` one by one."""
        editor = self.factory(
            self.copy_model() if model is None else model,
            self.loaded.tokenizer,
            self.background,
            seed=self.seed if seed is None else seed,
            **{**self.options, **options},
        )
        if not isinstance(editor, Editor):
            raise ValueError(
                f"its factory gives {type(editor).__name__}; needed: an object with the methods "
                "edit, logits and reset"
            )
        for edit in edits:
            editor.edit([edit])
        return editor

    @cached_property
    def example(self) -> Editor:
        """An unedited editor, to see its capabilities; it is never edited."""
        return self.editor()

    @cached_property
    def another_layer(self) -> int | None:
        """A layer that the factory takes, and a Layered editor does not have by itself; or None.

        Where it is not Layered, its factory must name the option: `**options` may be others.
        """
        editor = self.example
        if not isinstance(editor, Layered):
            return 0 if "layer" in inspect.signature(self.factory).parameters else None
        layer = 0 if editor.layer else 1
        is_layer = layer < LanguageModel(self.loaded.model).n_layers
        return layer if is_layer and takes(self.factory, "layer") else None

    @cached_property
    def base(self) -> Unedited:
        return Unedited(self.loaded.model, self.loaded.tokenizer)

    @cached_property
    def base_logits(self) -> Tensor:
        """[B, V]: the unedited model's next-token logits after each of `prompts`."""
        return self.logits(self.base, self.prompts)

    @cached_property
    def reader(self) -> Reader:
        return reader_of(self.loaded.model, self.loaded.tokenizer, self.stream)

    def edits(self, n: int = 4, *, least: int | None = None) -> tuple[Edit, ...]:
        """The first `n` edits of the stream with different prompts, as an editor is given them.

        Raises Unasked where the stream has fewer, or fewer than `least`.
        """
        live = self.stream.live()
        needed = n if least is None else least
        if len(live) < needed:
            raise Unasked(f"the stream has {len(live)} edits; this law needs {needed}")
        return tuple(edit.as_taught() for edit in live[:n])

    @cached_property
    def many_edits(self) -> tuple[Edit, ...]:
        """Up to 120 edits with different prompts: the stream's, and more of its world.

        Raises Unasked where the stream has fewer than two.
        """
        own, world = self.edits(max(_LOOKS), least=2), self.loaded.world
        known = {edit.prompt for edit in own}
        more = () if world is None else world.stream(self.seed, 2 * max(_LOOKS)).live()
        others = (edit.as_taught() for edit in more if edit.prompt not in known)
        return (*own, *others)[: max(_LOOKS)]

    @cached_property
    def wordings(self) -> dict[str, tuple[str, ...]]:
        """The paraphrases of each edit of the stream, by its prompt."""
        return {edit.prompt: edit.paraphrases for edit in self.stream.live()}

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of a few edits, in scope (a paraphrase of each, levels in turn) and out of it."""
        edits = self.stream.live()[:4]
        asked = [edit.prompt for edit in edits]
        asked += [e.paraphrases[n % len(e.paraphrases)] for n, e in enumerate(edits, start=1)
                  if e.paraphrases]  # fmt: skip
        for kind in PROBE_KINDS:
            asked += [probe.prompt for probe in self.stream.probes if probe.kind == kind][:2]
        return tuple(dict.fromkeys(asked))

    @cached_property
    def few_prompts(self) -> tuple[str, ...]:
        """The first of `prompts`, in the scope of edits, and the last, out of it."""
        return tuple(dict.fromkeys(self.prompts[:6] + self.prompts[-2:]))

    @cached_property
    def far_prompts(self) -> tuple[str, ...]:
        """The stream's prompts far from every edit."""
        return tuple(probe.prompt for probe in self.stream.probes if probe.kind == "far")

    def batch(self, prompts: Sequence[str], targets: Sequence[str] | None = None) -> Batch:
        batch = encode(self.loaded.tokenizer, prompts, targets)
        return batch.to(self.loaded.model.device)

    def logits(self, editor: Editor, prompts: Sequence[str]) -> Tensor:
        """[B, V]: next-token logits of `editor` after each prompt, all in one batch."""
        batch = self.batch(prompts)
        return editor.logits(batch.input_ids, batch.attention_mask)[:, -1]

    def activations(self, editor: Routed, prompts: Sequence[str]) -> Tensor:
        """[B]: the routing activation of each prompt, all in one batch."""
        batch = self.batch(prompts)
        return editor.routing_activation(batch.input_ids, batch.attention_mask)

    def opens(self, editor: Routed, prompts: Sequence[str]) -> list[bool]:
        """Whether each prompt is routed to an edit."""
        return [float(each) > editor.threshold for each in self.activations(editor, prompts)]

    def opened(self, editor: Retrieves, prompts: Sequence[str]) -> Sequence[tuple[Edit, ...]]:
        """The edits of the memory that each prompt opens."""
        batch = self.batch(prompts)
        return editor.retrieved(batch.input_ids, batch.attention_mask)

    def ask(self, editor: Editor, prompts: Sequence[str]) -> list[Answer]:
        """Free-run answers."""
        return self.reader.free(editor, prompts)

    def base_answers(self, prompts: Sequence[str]) -> list[Answer]:
        """The unedited model's free-run answers; each prompt is asked once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._asked]
        if new:
            self._asked.update(zip(new, self.ask(self.base, new), strict=True))
        return [self._asked[prompt] for prompt in prompts]

    @cached_property
    def _asked(self) -> dict[str, Answer]:
        return {}

    @cached_property
    def filled(self) -> Editor:
        """An editor after all edits of the stream, one by one; it is asked, and never edited."""
        return self.editor(self.edits(len(self.stream.live()), least=2))

    def changed(self, editor: Editor, prompts: Sequence[str]) -> list[bool]:
        """Whether each prompt is answered otherwise than by the unedited model."""
        pairs = zip(self.ask(editor, prompts), self.base_answers(prompts), strict=True)
        return [not self.same_text(is_now.text, was.text) for is_now, was in pairs]

    def held(self, turns: Sequence[Sequence[Edit]], edits: Sequence[Edit]) -> list[bool]:
        """Whether each of `edits` is answered by its target after `turns` alone.

        What laws compare with: the same turns are made once for all of them.
        """
        key = tuple(map(tuple, turns)), tuple(edits)
        if key not in self._held:
            self._held[key] = self.says(remade(self._control, turns), edits)
        return self._held[key]

    @cached_property
    def _control(self) -> Editor:
        return self.editor()

    @cached_property
    def _held(self) -> dict[tuple[tuple[tuple[Edit, ...], ...], tuple[Edit, ...]], list[bool]]:
        return {}

    def stream_of(self, rows: Sequence[Row]) -> EditStream | None:
        """The stream of a run, by its digest; None where it is none of `streams`."""
        streams = islice(self.streams, self.max_looks)
        return next((each for each in streams if each.sha256 == rows[0].stream_sha256), None)

    def says(self, editor: Editor, edits: Sequence[Edit]) -> list[bool]:
        """Whether each edited prompt is answered by its target."""
        answers = self.ask(editor, [edit.prompt for edit in edits])
        pairs = zip(answers, edits, strict=True)
        return [self.same_text(answer.text, edit.target) for answer, edit in pairs]

    def canonical(self, text: str) -> str:
        """What two texts share if they are one answer to the model's tokenizer."""
        return canonical(self.loaded.tokenizer, text)

    def same_text(self, one: str, other: str) -> bool:
        """Whether two texts are one answer."""
        return self.canonical(one) == self.canonical(other)

    def tries(self, **more: Any) -> settings:
        """How Hypothesis tries a law."""
        return settings(
            max_examples=self.n_examples,
            deadline=None,
            derandomize=not self.is_random,
            database=None,
            report_multiple_bugs=False,
            phases=self.phases,
            suppress_health_check=list(HealthCheck),
            **more,
        )

    def for_all(self, strategy: SearchStrategy[Any], law: Callable[[Any], None]) -> None:
        """Run `law` on examples of `strategy`; raises Broken for the simplest that breaks it."""
        run = self.tries()(given(strategy)(law))
        try:
            run()
        except Flaky as error:
            raise Broken("the same question, asked again, was answered differently") from error

    def same(self, found: Tensor, expected: Tensor, when: str) -> None:
        """Require bitwise equal next-token logits for all prompts."""
        apart = (found != expected).any(-1).nonzero()[:, 0].tolist()
        if apart:
            row = apart[0]
            raise Broken(
                f"{when}, logits differ by up to {gap(found[row], expected[row]):.1e} on "
                f"{len(apart)} of {len(found)} prompts, first on {self.prompts[row]!r}; needed: "
                "bitwise equal"
            )

    def allowed_misses(self, n: int, *, n_tests: int = 1) -> int:
        """How many of `n` edits an editor exactly at the reliability threshold may miss.

        It misses more with probability at most 1e-4, over `n_tests` such tests.
        """
        rate = self.thresholds.get("reliability", 0.5)
        return int(binom.isf(_FALSE_FAIL / n_tests, n, 1 - rate)) if n else 0

    def misses_in_a_row(self, *, n_tests: int) -> int:
        """How many edits in a row an editor just at the reliability threshold does not miss.

        It misses as many, in any of `n_tests` rows, with a chance of 1e-4 at most.
        """
        miss = 1 - self.thresholds.get("reliability", 0.5)
        return ceil(log(_FALSE_FAIL / n_tests) / log(miss)) if miss else 1

    def repeatedly(self, find: Callable[[Sequence[Edit]], Sequence[str]], *, n: int = 6) -> None:
        """Require that `find`, given `n` edits, finds at most a third of them wrong.

        It says what is wrong with each. Broken where it finds more of every set of edits; of those
        there are so many that an editor just at the reliability threshold, which errs at random,
        is Broken with a chance of 1e-4.
        """
        edits = self.edits(20, least=2)
        n = min(n, len(edits))
        chance = float(binom.sf(n // 3, n, 1 - self.thresholds.get("reliability", 0.5)))
        n_sets = max(1, ceil(log(_FALSE_FAIL) / log(chance)))
        for begin in range(0, n_sets * (n - 1), n - 1):
            wrong = find([edits[(begin + k) % len(edits)] for k in range(n)])
            if len(wrong) <= n // 3:
                return
        raise Broken(
            f"{wrong[0]} ({len(wrong)} of {n} edits are wrong so, and in each of {n_sets} sets of "
            "edits more than a third; needed: a third at most)"
        )

    def no_worse(self, compare: Callable[[Sequence[Edit]], Compared]) -> None:
        """Require that `compare`, given six edits, finds no more of them worse than better.

        It is given further ones while it finds more, none of them twice, and judged after 24, 48
        and 120. Broken where more than a fifth of those that hold, with or without, are worse,
        those that are better taken off, and where by chance so many are in one of 10,000 editors
        that err at random, alike with and without (exact sign test, over all looks). Unasked where
        none holds.
        """
        edits = self.many_edits
        edits = edits[: len(edits) - (len(edits) % _TOGETHER == 1)]  # one alone has none beside it
        n_held, n_better = 0, 0
        worse: list[str] = []
        for begin in range(0, len(edits), _TOGETHER):
            found = compare(edits[begin : begin + _TOGETHER])
            n_held, n_better = n_held + found.n, n_better + found.n_better
            worse += found.worse
            excess, n_asked = len(worse) - n_better, min(begin + _TOGETHER, len(edits))
            if n_held and excess <= 0:
                return
            if n_asked not in (*_LOOKS, len(edits)):
                continue
            if not n_held:
                raise Unasked(f"none of {n_asked} edits is answered by its target, either way")
            chance = binom.sf(len(worse) - 1, len(worse) + n_better, 0.5)
            if excess > n_held / 5 and chance < _FALSE_FAIL / len(_LOOKS):
                gained = f", and {n_better} the other way round" if n_better else ""
                raise Broken(f"{worse[0]} ({len(worse)} of {n_held} edits are wrong so{gained})")

    def saved_copy(self, editor: Persistent, folder: Any) -> Editor:
        """Another editor that has loaded what `editor` saved."""
        editor.save(folder)
        other = self.editor()
        assert isinstance(other, Persistent)
        other.load(folder)
        return other
