"""What editors share: a state that a turn replaces as a whole, applied by hooks, kept in a folder.

The caller's model is never written to.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wise.editors import exported, saved
from wise.editors.kept import Kept
from wise.editors.options import configured
from wise.edits import Background, Edit, fields_of, turn_of
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited
from wise.lm.digest import model_digest
from wise.lm.tail import changed_values
from wise.lm.tokens import Batch, encode, of_like_length

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "EditorBase",
    "ErasableBase",
    "ValueEditorBase",
    "added",
    "factory",
    "floats",
    "live",
    "prepared",
    "summed",
    "without",
]


class _State(Protocol):
    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force."""


C = TypeVar("C", bound="DataclassInstance")
S = TypeVar("S", bound=_State)
E = TypeVar("E")


class EditorBase(ABC, Generic[C, S]):
    """An editor of `config` C whose edits are a state S beside a model that stays as it was.

    It is an Editor, Generates and Persistent. S is never written to: a turn replaces it at its
    end, so that an error leaves it as it was. Raises ValueError where the model is of no known type
    or has no layer of that number.
    """

    empty: ClassVar[Any]  # S before the first edit
    layers: tuple[int, ...] = ()  # the blocks whose W_v counts, from the lowest

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        background: Background,
        config: C,
        *,
        seed: int = 0,
        cache: str | Path | None = None,
    ):
        self.lm = LanguageModel(model)
        self.tokenizer = tokenizer
        self.background = background
        self.config = self._settled(config)
        self.seed = seed
        self.kept = Kept(self.lm, tokenizer, cache)
        self._bare = Unedited(model, tokenizer)
        self._state: S = self.empty

    def _settled(self, config: C) -> C:
        """`config` with the fields filled in that depend on the model."""
        return config

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force, the last write of each prompt."""
        return self._state.edits

    @abstractmethod
    def _after(self, state: S, edits: tuple[Edit, ...]) -> S:
        """The state after a turn."""

    def _record(self, state: S) -> dict[str, Any]:
        """The parts of a state that are not tensors, as JSON."""
        return {"edits": [fields_of(edit) for edit in state.edits]}

    def _tensors(self, state: S) -> dict[str, Tensor]:
        """The tensors of a state: those of its fields that are one."""
        return {name: part for name, part in vars(state).items() if isinstance(part, Tensor)}

    @abstractmethod
    def _restored(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> S:
        """The state of a record with edits, and tensors; ValueError or KeyError where they make
        none."""

    def _weights(self, state: S) -> Mapping[int, Float[Tensor, "M D"]] | None:
        """The change of W_v by layer, where the edits are that and nothing else; else None."""
        return None

    def _new_weights(self, state: S) -> Mapping[str, Tensor] | None:
        """The model's weights that edits have changed, by name and in its precision; None where the
        edits are not weights and nothing else."""
        changes = self._weights(state)
        return None if changes is None else self.lm.weights_with(changes)

    def _applied(self, prompt_mask: Tensor) -> AbstractContextManager[None]:
        """The model as edited, for rows with this mask."""
        changes = self._weights(self._state)
        return nullcontext() if changes is None else added(self.lm, changes)

    def _encoded(self, edits: Sequence[Edit], *, append_eos: bool = True) -> Batch:
        """The prompts of edits with their targets; raises as `encode`."""
        prompts, targets = [edit.prompt for edit in edits], [edit.target for edit in edits]
        return encode(
            self.tokenizer, prompts, targets, append_eos=append_eos,
            max_length=self.lm.context_length,
        ).to(self.lm.device)  # fmt: skip

    def edit(self, edits: Sequence[Edit]) -> None:
        """One turn; a prompt edited before gets its new target.

        Raises ValueError, with the state as it was, for an empty turn, a prompt edited twice in it,
        text that encodes to nothing or is too long for the model, and a non-finite loss.
        """
        edits = turn_of(edits)
        with _learning(self.lm):
            self._state = self._after(self._state, edits)

    def reset(self) -> None:
        """Back to the unedited model, bitwise."""
        self._state = self.empty

    def logits(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the edited model; a router sees `prompt_mask`, or else all tokens."""
        with self._applied(attention_mask if prompt_mask is None else prompt_mask):
            return self._bare.logits(input_ids, attention_mask)

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "B S"]:
        """Continuations, greedy unless `options` of transformers say otherwise."""
        with self._applied(attention_mask):
            return self._bare.generate(input_ids, attention_mask, max_new_tokens, **options)

    @property
    def n_bytes(self) -> int:
        """Bytes of the state: what edits have added, and what a saved one holds."""
        return sum(tensor.nbytes for tensor in self._tensors(self._state).values())

    def save(self, path: str | Path) -> None:
        """Write the state into the folder `path`: safetensors and a JSON manifest."""
        record, tensors = self._record(self._state), self._tensors(self._state)
        saved.write(Path(path), self._identity(), record, tensors)

    def load(self, path: str | Path) -> None:
        """Load a saved state. One that does not fit raises ValueError and changes nothing."""

        def state_of(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> S:
            return self.empty if record.get("edits") == [] else self._restored(record, tensors)

        self._state = saved.read(Path(path), self._identity(), state_of, self.lm.device)

    def export(self, path: str | Path) -> None:
        """Write the edited model into the new folder `path`; see `wise.editor.Exports`."""
        weights = self._new_weights(self._state)
        with exported.new_folder(path) as folder:
            if weights is not None:
                exported.write_model(folder, self.lm, self.tokenizer, weights)
                return
            exported.write_with_state(
                folder, self.lm, self.tokenizer, self.background, self.save,
                editor=type(self), seed=self.seed, options=asdict(self.config),
            )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What a saved state belongs to: the editor, its model and how it was made."""
        of = self.lm.model.config
        model = {
            "model_type": of.model_type, "n_layers": self.lm.n_layers, "vocab_size": of.vocab_size,
            "sha256": model_digest(self.lm),
        }  # fmt: skip
        return {
            "editor": type(self).__name__, "model": model, "config": asdict(self.config),
            "background sha256": self._background_sha256, "seed": self.seed,
        }  # fmt: skip

    @cached_property
    def _background_sha256(self) -> str:
        return saved.background_digest(self.background)


class ErasableBase(EditorBase[C, S]):
    """An editor that can take edits back."""

    def remove(self, edits: Sequence[Edit]) -> None:
        """Unedit: the state is that of the stream without the edits of these prompts.

        Raises KeyError naming a prompt that no edit in force has, with the state as it was.
        """
        known = {edit.prompt for edit in self.edits}
        for edit in edits:
            if edit.prompt not in known:
                raise KeyError(f"no edit of the prompt {edit.prompt!r} is in force")
        with _learning(self.lm):
            prompts = frozenset(edit.prompt for edit in edits)
            self._state = self._without(self._state, prompts)

    @abstractmethod
    def _without(self, state: S, prompts: frozenset[str]) -> S:
        """The state without the edits of `prompts`."""


class ValueEditorBase(EditorBase[C, S]):
    """An editor at the W_v of one block: `config.layer`, or at the share `config.depth` (else 3/4)
    of the blocks."""

    def _settled(self, config: C) -> C:
        given = cast(Any, config).layer
        at_depth = min(int(getattr(config, "depth", 0.75) * self.lm.n_layers), self.lm.n_layers - 1)
        self.layer = at_depth if given is None else self.lm.check_layer(given)
        self.layers = (self.layer,)
        return replace(config, layer=self.layer)

    @property
    def _weight(self) -> Float[Tensor, "M D"]:
        """W_v."""
        return self.lm.value_weight(self.layer)


def factory(
    editor: Callable[..., E],
    config: type[C],
    presets: Mapping[str, Mapping[str, Any]],
    *,
    own: Sequence[str] = (),
    default: Callable[[PreTrainedModel], str] = lambda _model: "embedded",
) -> Callable[..., E]:
    """The factory of an editor; options: `preset`, `cache`, fields of `config`, and `own`.

    `default` names the preset of a model for which none is given.
    """

    def make(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        background: Background,
        *,
        seed: int = 0,
        preset: str | None = None,
        cache: str | Path | None = None,
        **options: Any,
    ) -> E:
        """The editor of a preset, some of its fields changed by `options`.

        The folder `cache` keeps what the editor computes of the unedited model.
        """
        further = {name: options.pop(name) for name in own if name in options}
        chosen = configured(config, presets, default(model) if preset is None else preset, options)
        return editor(model, tokenizer, background, chosen, seed=seed, cache=cache, **further)

    # The signature names every option that the factory takes.
    signature = inspect.signature(make)
    *named, options = signature.parameters.values()
    names = (*own, *(field.name for field in fields(config)))
    taken = [inspect.Parameter(name, options.KEYWORD_ONLY, default=None) for name in names]
    vars(make)["editor"] = editor
    vars(make)["__signature__"] = signature.replace(parameters=[*named, *taken])
    return make


@contextmanager
def _learning(lm: LanguageModel) -> Iterator[None]:
    """The model frozen, with gradients for what is learned, whatever the caller's mode."""
    with hooks.frozen(lm.model), torch.inference_mode(False), torch.enable_grad():
        yield


def added(
    lm: LanguageModel, taus: Mapping[int, Float[Tensor, "M D"]]
) -> AbstractContextManager[None]:
    """The model with W_v + tau at each layer of `taus`."""

    def add(tau: Tensor, inputs: Tensor, value: Tensor) -> Tensor:
        return value + (inputs.to(tau.dtype) @ tau).to(value.dtype)

    return changed_values(lm, {layer: partial(add, tau) for layer, tau in taus.items()})


def summed(
    changes: Mapping[int, Float[Tensor, "M D"]], layer: int, by: Float[Tensor, "M D"]
) -> Float[Tensor, "M D"]:
    """The change of W_v at `layer` with another added, in float32; ValueError if not finite."""
    found = (changes.get(layer, torch.zeros(())).double() + by).float()
    if not bool(found.isfinite().all()):
        raise ValueError(f"the change of W_v at layer={layer} is not finite")
    return found


def floats(tensors: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """A saved tensor. Raises KeyError without it, ValueError where it is not of this shape."""
    found = tensors[name]
    if found.shape != shape or found.dtype != torch.float32 or not found.isfinite().all():
        raise ValueError(f"{name} is not {shape} finite numbers in float32")
    return found


def live(edits: Sequence[Edit], turn: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits in force after a turn: the last write per prompt wins."""
    return (*without(edits, {edit.prompt for edit in turn}), *turn)


def without(edits: Iterable[Edit], prompts: Collection[str]) -> tuple[Edit, ...]:
    """The edits of other prompts."""
    return tuple(edit for edit in edits if edit.prompt not in prompts)


def prepared(
    edits: Sequence[Edit],
    learn: Callable[[list[Edit]], Iterable[Tensor]],
    *,
    n_columns: Callable[[Edit], int],
    most: int,
) -> dict[Edit, Tensor]:
    """What `learn` finds of single edits, at most `most` of like length together.

    Edits of the same prompt are left out: under corruption they would share a draw of noise. So are
    those for which there is a ValueError, as their turn will raise it.
    """
    prompts = Counter(edit.prompt for edit in edits)
    widths: dict[Edit, int] = {}
    for edit in edits:
        if prompts[edit.prompt] == 1:
            with suppress(ValueError):
                widths[edit] = n_columns(edit)
    asked, found = [*widths], dict[Edit, Tensor]()
    for batch in of_like_length(torch.tensor([*widths.values()]), most):
        some = [asked[number] for number in batch.tolist()]
        with suppress(ValueError):
            found |= zip(some, learn(some), strict=True)
    return found
