"""Editors whose step is what a network makes of the gradient, trained on the background before.

The gradient of W_v is a sum over tokens of u delta^T, and what an edit adds to it one of
u~ delta~^T. A family defines the network that maps the ones to the others. It is trained on turns
of the unedited model, which are asked for in other words, and on texts that they must leave alone.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from wise.editors.base import floats, summed
from wise.editors.options import Checked, Units
from wise.editors.stepped import SteppedEditor, SteppedState
from wise.editors.trained import Asked, Lessons, lessons, trained
from wise.edits import Edit
from wise.lm.divergence import divergence
from wise.lm.tail import Tail, ValueChanger
from wise.lm.tokens import encode, of_like_length
from wise.seeds import seeded

__all__ = [
    "Exercise", "Hypernetwork", "HypernetworkConfig", "HypernetworkEditor", "HypernetworkState",
    "Reading", "Training", "with_gradient",
]  # fmt: skip

Reading = tuple[Float[Tensor, "n M+D"], ...]  # of an edit: [u; delta] by edited matrix
_CLIP = 100.0  # the norm of a gradient (MEND, as released)
_N_ROWS = 16  # that are read together


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernetworkConfig(Checked):
    """What is edited, and how the network is trained. Raises ValueError naming field, value and
    what is allowed.

    layer, n_layers: the highest block whose W_v is edited (None: the last), and how many blocks
        are, down from it.
    units: of a change, "absolute", or of the "model".
    n_steps: Adam's steps; its rates fall linearly to 0.
    n_turns: turns whose losses a step adds up.
    n_others: texts for each edit that it must leave alone.
    n_lessons: edits of the background to train on, at most.
    append_eos: a target ends with EOS, so that free-run answers stop.
    """

    layer: int | None = None
    n_layers: PositiveInt = 3
    units: Units = "absolute"
    n_steps: NonNegativeInt = 200
    n_turns: PositiveInt = 10
    n_others: NonNegativeInt = 1
    n_lessons: PositiveInt = 1000
    append_eos: bool = True


@dataclass(frozen=True)
class Hypernetwork(ABC):
    """What maps the gradient of a turn to its change. All its fields are tensors."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @abstractmethod
    def factors(
        self, turns: Sequence[Sequence[Reading]], index: int, n_inner: int
    ) -> list[Float[Tensor, "n M+D"]]:
        """[u~; delta~] of each turn at edited matrix `index`: it adds sum u~ delta~^T to W_v.

        u and u~ have `n_inner` = M entries.
        """


C = TypeVar("C", bound=HypernetworkConfig)
N = TypeVar("N", bound=Hypernetwork)


@dataclass(frozen=True)
class HypernetworkState(SteppedState, Generic[N]):
    """The state after the turns so far, with the network that made them."""

    network: N | None = None  # None before the first turn


def with_gradient(
    found: tuple[Float[Tensor, "B T M"], Float[Tensor, "B T D"]],
) -> tuple[Float[Tensor, "n M+D"], Bool[Tensor, "B T"]]:
    """[u; delta] of the tokens at which neither is zero, and which these are."""
    u, delta = found
    at = u.any(-1) & delta.any(-1)
    return torch.cat([u[at], delta[at]], -1).float(), at


class HypernetworkEditor(SteppedEditor[C, HypernetworkState[N]]):
    """Each turn adds the network's change, by the gradient of the edited model.

    The network is trained on the unedited model when the first turn is made, and kept in the cache.
    It knows of no other turns: where many are made, they add up unseen.
    """

    empty = HypernetworkState[Any]()
    kind: ClassVar[type[Any]]  # N

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        given, n = self.config.layer, self.config.n_layers
        top = self.lm.n_layers - 1 if given is None else self.lm.check_layer(given)
        self.layers = tuple(range(max(0, top - n + 1), top + 1))

    @abstractmethod
    def training(self) -> Training[Any]:
        """How the network is trained, on the edits of the background."""

    @abstractmethod
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the network's tensors."""

    def _after(self, state: HypernetworkState[N], edits: tuple[Edit, ...]) -> HypernetworkState[N]:
        readings, network = self.readings(state, edits), state.network or self.network
        changes, M = dict(state.changes), self._shape[0]
        for index, layer in enumerate(self.layers):
            (found,) = network.factors([readings], index, M)
            u, delta = found.tensor_split([M], -1)
            changes[layer] = summed(changes, layer, u.T @ delta)
        return HypernetworkState((*state.turns, edits), changes, network)

    def readings(self, state: HypernetworkState[N], edits: Sequence[Edit]) -> list[Reading]:
        """Those of edits, on the model as `state` has it."""
        of_layers = list[Sequence[Tensor]]()
        for found in self._gradients(state, tuple(edits))[1]:
            rows, at = with_gradient(found)
            of_layers.append(rows.split(at.sum(-1).tolist()))
        return list(zip(*of_layers, strict=True))

    @cached_property
    def network(self) -> N:
        """The trained network."""
        texts = [*self.background.texts, *(edit.prompt for edit in self.background.edits)]
        of = type(self)
        what = (f"{of.__name__} {self.config} {self.layers} {self.seed} {self._background_sha256}\n"
                f"{inspect.getsource(sys.modules[of.__module__])}")  # fmt: skip

        def compute(path: Path | None) -> dict[str, Tensor]:
            return self.training().trained(path).tensors

        return cast(N, self.kind(**self.kept.get_resumable(what, texts, compute)))

    def unit(self, layer: int) -> float:
        """The root mean square of W_v's entries where options are in units of the model, else 1."""
        if self.config.units == "absolute":
            return 1.0
        return float(self.lm.value_weight(layer).detach().float().square().mean().sqrt())

    def _lessons(self) -> Lessons:
        n, seed = self.config.n_lessons, self.seed
        return lessons(self.lm, self.tokenizer, self.background, n=n, seed=seed)

    def _tensors(self, state: HypernetworkState[N]) -> dict[str, Tensor]:
        return super()._tensors(state) | ({} if state.network is None else state.network.tensors)

    def _restored_with(
        self, state: SteppedState, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> HypernetworkState[N]:
        shapes = self._shapes().items()
        network = self.kind(**{name: floats(tensors, name, *shape) for name, shape in shapes})
        return HypernetworkState(state.turns, state.changes, network)


@dataclass(frozen=True)
class Exercise:
    """Edits of a turn in training, by number and in other words, and what it must leave alone."""

    edits: list[tuple[int, str]]
    others: list[Asked]


@dataclass(frozen=True)
class Training(ABC, Generic[N]):
    """How the network of an editor is trained, on its model without edits."""

    editor: HypernetworkEditor[Any, N]
    lessons: Lessons
    n_edits: int = 1  # of a turn
    least: ClassVar[Mapping[str, float]] = {}  # of what is learned, by name

    @property
    @abstractmethod
    def start(self) -> N:
        """The untrained network."""

    @abstractmethod
    def learned(self) -> Mapping[str, tuple[Tensor, float]]:
        """What is learned: its start and its rate."""

    @abstractmethod
    def network(self, learned: Mapping[str, Tensor]) -> N:
        """The network of what is learned."""

    @abstractmethod
    def objective(self, learned: Mapping[str, Tensor], step: int) -> Float[Tensor, ""]:
        """What `step` lowers."""

    def trained(self, path: Path | None = None) -> N:
        """The trained network; `path` as in `trained`."""
        learned, config = self.learned(), self.editor.config
        found = trained(
            {name: each for name, (each, _) in learned.items()}, self.objective,
            lr={name: lr for name, (_, lr) in learned.items()}, n_steps=config.n_steps,
            clip=_CLIP, least=self.least, path=path, name=f"training {type(self.editor).__name__}",
        )  # fmt: skip
        network = self.network(found)
        tensors = {name: each.detach() for name, each in network.tensors.items()}
        return replace(network, **tensors)

    @cached_property
    def readings(self) -> list[Reading]:
        """Those of the lessons, on the unedited model, and so the same at every step."""
        edits, found = self.lessons.edits, dict[int, Reading]()
        lengths = torch.tensor([len(edit.prompt) + len(edit.target) for edit in edits])
        for some in of_like_length(lengths, _N_ROWS):
            numbers = some.tolist()
            asked = [edits[number] for number in numbers]
            found |= zip(numbers, self.editor.readings(self.editor.empty, asked), strict=True)
        return [found[number] for number in range(len(edits))]

    def turns(self, step: int) -> list[Exercise]:
        """The turns of a step, as many edits in each."""
        config, n = self.editor.config, len(self.lessons.edits)
        generator = seeded(self.editor.seed, type(self.editor).__name__.lower(), step)
        K = min(self.n_edits, n)
        drawn = torch.randperm(n, generator=generator)[: K * min(config.n_turns, n // K)]
        turns = list[Exercise]()
        for numbers in drawn.view(-1, K).tolist():
            others = [each for number in numbers for each in
                      self.lessons.others(number, config.n_others, generator)]  # fmt: skip
            words = [(number, self.lessons.wording(number, generator)) for number in numbers]
            turns.append(Exercise(words, others))
        return turns

    def losses(
        self, network: N, turns: Sequence[Exercise]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """L_e, the mean of -log p of the tokens of edits in other words, and L_loc, the mean
        divergence at the answers that must stay as they were."""
        editor = self.editor
        asked, is_edit = list[Asked](), list[bool]()
        for turn in turns:
            asked += [(words, self.lessons.edits[n].target) for n, words in turn.edits]
            asked += turn.others
            is_edit += [True] * len(turn.edits) + [False] * len(turn.others)
        prompts, answers = map(list, zip(*asked, strict=True))
        batch = encode(
            editor.tokenizer, prompts, answers, append_eos=editor.config.append_eos,
            max_length=editor.lm.context_length,
        ).to(editor.lm.device)  # fmt: skip
        tail = Tail.capture(editor.lm, editor.layers[0], batch)
        with torch.no_grad():
            base = tail.logits(tail.value)
        edited = self._edited(network, tail, [[n for n, _ in turn.edits] for turn in turns])
        at = torch.tensor(is_edit, device=tail.rows.device)[tail.rows]
        L_e = nn.functional.cross_entropy(edited[at].float(), tail.labels[at])
        apart = divergence(*(each[~at].float().log_softmax(-1) for each in (base, edited)))
        return L_e, apart.mean() if len(apart) else apart.sum()

    def _edited(
        self, network: N, tail: Tail, turns: Sequence[Sequence[int]]
    ) -> Float[Tensor, "N V"]:
        """The tail's logits, its rows in as many equal parts as `turns`, each after its own."""
        M, G = tail.inputs.shape[-1], len(turns)
        readings = [[self.readings[number] for number in turn] for turn in turns]

        def changed(u: Tensor, delta: Tensor, inputs: Tensor, value: Tensor) -> Tensor:
            change = inputs.float().reshape(G, -1, M) @ u.mT @ delta  # G R*T D
            return value + change.view(value.shape).to(value.dtype)

        changes = dict[int, ValueChanger]()
        for index, layer in enumerate(self.editor.layers):
            found = network.factors(readings, index, M)
            both = nn.utils.rnn.pad_sequence(found, batch_first=True)  # u~ and delta~ of each turn
            changes[layer] = partial(changed, *both.tensor_split([M], -1))
        with torch.enable_grad():
            return tail.changed(changes)
