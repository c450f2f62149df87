"""MEND: a network that was trained on the background turns an edit's gradient into its update.

Mitchell et al. 2022, arXiv 2110.11309. The gradient of W_v is a sum over tokens of u delta^T; the
network maps each (u, delta) to (u~, delta~), and an edit adds -alpha sum u~ delta~^T. The minus is
the paper's: the released code adds, so that its untrained network raises the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from wise.editors.base import factory, floats, summed
from wise.editors.options import Checked, Units, is_large
from wise.editors.stepped import SteppedEditor, SteppedState
from wise.editors.trained import Asked, Lessons, lessons, trained
from wise.edits import Edit
from wise.lm import hooks
from wise.lm.divergence import divergence
from wise.lm.tail import Tail
from wise.lm.tokens import encode, of_like_length
from wise.seeds import seeded

__all__ = [
    "MEND", "PRESETS", "Exercise", "MENDConfig", "MENDState", "Network", "Training", "make",
    "with_gradient",
]  # fmt: skip

_N_BLOCKS = 2  # of the network
_CLIP = 100.0  # the norm of a gradient, as released
_N_ROWS = 16  # that are read together


@dataclass(frozen=True, slots=True, kw_only=True)
class MENDConfig(Checked):
    """How the network is trained. Raises ValueError naming field, value and what is allowed.

    layer, n_layers: the highest block whose W_v is edited (None: the last), and how many blocks
        are, down from it (released: 3, and both matrices of their MLPs).
    rank: of the network's two weights, at most its width M + D (released: 1,920).
    scale: alpha at the start, one number a block, which is learned (released: 1e-4).
    units: alpha "absolute", or in units of the "model": the root mean square of W_v's entries.
    n_steps, lr, scale_lr: Adam's steps, and its rates for the network and, relative, for alpha;
        both fall linearly to 0 (released: 1e-6, until the validation loss no longer falls, which
        takes some 10^5 steps).
    n_turns, n_edits: turns of so many edits whose losses a step adds up (released: 10, 1).
    edit_weight, locality_weight: c_e of -log p of a turn's edits in other words, and c_loc of the
        divergence from the unedited model on texts that they must leave alone (released: .1, 1).
    n_others: such texts for each edit (released: 1).
    n_lessons: edits of the background to train on, at most.
    append_eos: a target ends with EOS, so that free-run answers stop.
    """

    layer: int | None = None
    n_layers: PositiveInt = 3
    rank: PositiveInt = 1920
    scale: PositiveFloat = 1e-4
    units: Units = "absolute"
    n_steps: NonNegativeInt = 200
    lr: NonNegativeFloat = 1e-6
    scale_lr: NonNegativeFloat = 1e-2
    n_turns: PositiveInt = 10
    n_edits: PositiveInt = 1
    edit_weight: NonNegativeFloat = 0.1
    locality_weight: NonNegativeFloat = 1.0
    n_others: NonNegativeInt = 1
    n_lessons: PositiveInt = 1000
    append_eos: bool = True


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Chosen on tuning streams; "real" on SmolLM2, whose atlas has some 500 edits to train on.
    "embedded": dict(
        n_layers=1, rank=64, scale=0.05, units="model", n_steps=40, lr=1e-4, n_turns=8,
        edit_weight=1.0, n_others=3,
    ),
    "real": dict(
        rank=128, scale=0.002, units="model", n_steps=250, lr=2e-4, n_turns=4, edit_weight=0.3,
    ),
    "released": {},
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """g, which maps [u; delta] of a token, of width F = M + D, to [u~; delta~].

    Two blocks h + max(0, s (U V h + b) + o), in which s and o are of each of the L edited matrices
    and all else is shared. Source: MEND section 3.2, and the released configuration.
    """

    mean: Float[Tensor, " F"]
    deviation: Float[Tensor, " F"]
    alpha: Float[Tensor, " L"]
    U: Float[Tensor, "2 F R"]
    V: Float[Tensor, "2 R F"]
    b: Float[Tensor, "2 F"]
    s: Float[Tensor, "2 L F"]
    o: Float[Tensor, "2 L F"]

    @classmethod
    def start(
        cls, rows: Sequence[Float[Tensor, "n F"]], *, rank: int, alpha: Sequence[float], seed: int
    ) -> Network:
        """The identity (U = 0), normalised by the rows of all edited matrices together."""
        every = torch.cat([*rows]).double()
        F, L, device = every.shape[1], len(rows), every.device
        V = torch.randn(_N_BLOCKS, min(rank, F), F, generator=seeded(seed, "network"))
        zeros = partial(torch.zeros, device=device)
        return cls(
            every.mean(0).float(), every.std(0, correction=0).float(),
            torch.tensor(alpha, device=device), zeros(_N_BLOCKS, F, V.shape[1]), V.to(device),
            zeros(_N_BLOCKS, F), 1 + zeros(_N_BLOCKS, L, F), zeros(_N_BLOCKS, L, F),
        )  # fmt: skip

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def normalised(self, rows: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        return (rows - self.mean) / (self.deviation + 1e-7)

    def __call__(self, rows: Float[Tensor, "n F"], index: int) -> Float[Tensor, "n F"]:
        """[u~; delta~] of the tokens of edited matrix `index`."""
        h = self.normalised(rows)
        for U, V, b, s, o in zip(self.U, self.V, self.b, self.s, self.o, strict=True):
            # clamp and not relu, whose gradient at 0 is 0: U would stay 0.
            h = h + (s[index] * (h @ V.T @ U.T + b) + o[index]).clamp(min=0)
        return h

    def change(self, rows: Float[Tensor, "n F"], n_inner: int, index: int) -> Float[Tensor, "M D"]:
        """-alpha sum u~ delta~^T over tokens; u has `n_inner` = M entries."""
        u, delta = self(rows, index).tensor_split([n_inner], dim=-1)
        return -self.alpha[index] * (u.T @ delta)


@dataclass(frozen=True)
class MENDState(SteppedState):
    """The state after the turns so far, with the network that made them."""

    network: Network | None = None  # None before the first turn


def with_gradient(
    found: tuple[Float[Tensor, "B T M"], Float[Tensor, "B T D"]],
) -> tuple[Float[Tensor, "n M+D"], Bool[Tensor, "B T"]]:
    """[u; delta] of the tokens at which neither is zero, and which these are."""
    u, delta = found
    at = u.any(-1) & delta.any(-1)
    return torch.cat([u[at], delta[at]], -1).float(), at


class MEND(SteppedEditor[MENDConfig, MENDState]):
    """Each turn adds the network's change, by the gradient of the edited model.

    The network is trained on the unedited model when the first turn is made, and kept in the cache.
    It knows of no other turns: where many are made, they add up unseen (the paper edits once).
    """

    empty = MENDState()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        given, n = self.config.layer, self.config.n_layers
        top = self.lm.n_layers - 1 if given is None else self.lm.check_layer(given)
        self.layers = tuple(range(max(0, top - n + 1), top + 1))

    def _after(self, state: MENDState, edits: tuple[Edit, ...]) -> MENDState:
        _, found = self._gradients(state, edits)
        network = state.network or self.network
        changes = dict(state.changes)
        for index, (layer, each) in enumerate(zip(self.layers, found, strict=True)):
            by = network.change(with_gradient(each)[0], self._shape[0], index)
            changes[layer] = summed(changes, layer, by)
        return MENDState((*state.turns, edits), changes, network)

    @cached_property
    def network(self) -> Network:
        """The trained network."""
        texts = [*self.background.texts, *(edit.prompt for edit in self.background.edits)]
        what = f"mend {self.config} {self.layers} {self.seed} {self._background_sha256}"

        def compute(path: Path | None) -> dict[str, Tensor]:
            return self.training().tensors(path)

        return Network(**self.kept.get_resumable(what, texts, compute))

    def training(self) -> Training:
        """How the network is trained, on the edits of the background."""
        n, seed = self.config.n_lessons, self.seed
        return Training(self, lessons(self.lm, self.tokenizer, self.background, n=n, seed=seed))

    def _tensors(self, state: MENDState) -> dict[str, Tensor]:
        return super()._tensors(state) | ({} if state.network is None else state.network.tensors)

    def _restored_with(
        self, state: SteppedState, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> MENDState:
        F, L = sum(self._shape), len(self.layers)
        R, B = min(self.config.rank, F), _N_BLOCKS
        shapes = dict(
            mean=(F,), deviation=(F,), alpha=(L,), U=(B, F, R), V=(B, R, F), b=(B, F), s=(B, L, F),
            o=(B, L, F),
        )  # fmt: skip
        network = Network(**{name: floats(tensors, name, *shape) for name, shape in shapes.items()})
        return MENDState(state.turns, state.changes, network)


@dataclass(frozen=True)
class Exercise:
    """Edits of a turn in training, by number and in other words, and what it must leave alone."""

    edits: list[tuple[int, str]]
    others: list[Asked]


@dataclass(frozen=True)
class Training:
    """How the network of an editor is trained, on its model without edits."""

    editor: MEND
    lessons: Lessons

    def tensors(self, path: Path | None = None) -> dict[str, Tensor]:
        """Those of the trained network; `path` as in `trained`."""
        editor, config = self.editor, self.editor.config
        alpha = [config.scale * self._unit(layer) for layer in editor.layers]
        start = Network.start(
            [torch.cat(rows) for rows in self.rows], rank=config.rank, alpha=alpha, seed=editor.seed
        )
        learned = start.tensors
        given = {name: learned.pop(name) for name in ("mean", "deviation")}
        learned["alpha"] = torch.ones_like(start.alpha)  # relative to the start

        def of(found: Mapping[str, Tensor]) -> Network:
            return Network(**given, **{**found, "alpha": start.alpha * found["alpha"]})

        found = trained(
            learned, lambda found, step: self.loss(of(found), step),
            lr={name: config.scale_lr if name == "alpha" else config.lr for name in learned},
            n_steps=config.n_steps, clip=_CLIP, path=path, name="training MEND",
        )  # fmt: skip
        return {name: each.detach() for name, each in of(found).tensors.items()}

    def _unit(self, layer: int) -> float:
        if self.editor.config.units == "absolute":
            return 1.0
        return float(self.editor.lm.value_weight(layer).detach().float().square().mean().sqrt())

    @cached_property
    def rows(self) -> list[list[Float[Tensor, "n F"]]]:
        """[u; delta] of each lesson's tokens with a gradient, by edited matrix.

        They are those of the unedited model, and so the same at every step.
        """
        edits = self.lessons.edits
        lengths = torch.tensor([len(edit.prompt) + len(edit.target) for edit in edits])
        rows: list[dict[int, Tensor]] = [{} for _ in self.editor.layers]
        for some in of_like_length(lengths, _N_ROWS):
            numbers = some.tolist()
            _, found = self.editor._gradients(MEND.empty, tuple(edits[n] for n in numbers))
            for of_layer, each in zip(rows, found, strict=True):
                every, at = with_gradient(each)
                of_layer |= zip(numbers, every.split(at.sum(-1).tolist()), strict=True)
        return [[of_layer[n] for n in range(len(edits))] for of_layer in rows]

    def turns(self, step: int) -> list[Exercise]:
        """The turns of a step, as many edits in each."""
        config, n = self.editor.config, len(self.lessons.edits)
        generator = seeded(self.editor.seed, "mend", step)
        K = min(config.n_edits, n)
        drawn = torch.randperm(n, generator=generator)[: K * min(config.n_turns, n // K)]
        turns = list[Exercise]()
        for numbers in drawn.view(-1, K).tolist():
            others = [each for number in numbers for each in
                      self.lessons.others(number, config.n_others, generator)]  # fmt: skip
            words = [(number, self.lessons.wording(number, generator)) for number in numbers]
            turns.append(Exercise(words, others))
        return turns

    def loss(self, network: Network, step: int) -> Float[Tensor, ""]:
        """c_e L_e + c_loc L_loc of a step's turns. Source: MEND eq. 4 and algorithm 1."""
        L_e, L_loc = self.losses(network, self.turns(step))
        config = self.editor.config
        return config.edit_weight * L_e + config.locality_weight * L_loc

    def losses(
        self, network: Network, turns: Sequence[Exercise]
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
        self, network: Network, tail: Tail, turns: Sequence[Sequence[int]]
    ) -> Float[Tensor, "N V"]:
        """The tail's logits, its rows in as many equal parts as `turns`, each after its own."""
        layers, M, G = self.editor.layers, self.editor._shape[0], len(turns)
        by = list[tuple[Tensor, Tensor]]()  # u~ and -alpha delta~ of each turn
        for index, rows in enumerate(self.rows):
            each = [torch.cat([rows[number] for number in turn]) for turn in turns]
            mapped = network(torch.cat(each), index).split([*map(len, each)])
            u, delta = nn.utils.rnn.pad_sequence(mapped, batch_first=True).tensor_split([M], -1)
            by.append((u, -network.alpha[index] * delta))

        def changed(by: tuple[Tensor, Tensor], inputs: Tensor, value: Tensor) -> Tensor:
            a = inputs.float().reshape(G, -1, M)
            change = a @ by[0].mT @ by[1]  # G R*T D
            return value + change.view(value.shape).to(value.dtype)

        with torch.enable_grad(), ExitStack() as stack:
            for layer, of_layer in zip(layers[1:], by[1:], strict=True):
                part = self.editor.lm.part(layer, "value")
                stack.enter_context(hooks.replace(part, partial(changed, of_layer)))
            return tail.logits(changed(by[0], tail.inputs, tail.value))


make = factory(
    MEND, MENDConfig, PRESETS, default=lambda model: "real" if is_large(model) else "embedded"
)
