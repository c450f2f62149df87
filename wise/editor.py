"""What an editor is: three methods, and optional capabilities that are found by isinstance."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Concatenate, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from wise.edits import Background, Edit

__all__ = [
    "BUILT_IN",
    "Editor",
    "EditorFactory",
    "Erasable",
    "Exports",
    "Generates",
    "Growing",
    "Layered",
    "Persistent",
    "Precomputes",
    "Prepares",
    "Retrieves",
    "Routed",
    "factory_options",
    "load_editor",
    "module_of",
    "takes",
    "with_cache",
    "with_options",
]

# One line for each editor: name -> "module:factory". Modules load with their editor.
BUILT_IN: Mapping[str, str] = {
    "alphaedit": "wise.editors.key_value.alphaedit:make",
    "anyedit": "wise.editors.key_value.memit:make_anyedit",
    "defer": "wise.editors.scoped:make_defer",
    "elder": "wise.editors.lora:make_elder",
    "emmet": "wise.editors.key_value.emmet:make",
    "ft-ewc": "wise.editors.finetune:make_ft_ewc",
    "ft-l": "wise.editors.finetune:make_ft_l",
    "ft-m": "wise.editors.finetune:make_ft_m",
    "grace": "wise.editors.grace:make",
    "horen": "wise.editors.horen:make",
    "ike": "wise.editors.incontext:make_ike",
    "ke": "wise.editors.knowledge_editor:make",
    "locft-bf": "wise.editors.finetune:make_locft_bf",
    "melo": "wise.editors.lora:make_melo",
    "memllm-lite": "wise.editors.external:make_memllm",
    "memit": "wise.editors.key_value.memit:make",
    "memoir": "wise.editors.memoir:make",
    "memoria-lite": "wise.editors.memoria:make",
    "memoryllm-lite": "wise.editors.pool:make",
    "mend": "wise.editors.mend:make",
    "none": "wise.editors.corners:make_unedited",
    "prune": "wise.editors.key_value.memit:make_prune",
    "r-rome": "wise.editors.key_value.rome:make_r_rome",
    "rect": "wise.editors.key_value.memit:make_rect",
    "retrieval": "wise.editors.incontext:make_retrieval",
    "rome": "wise.editors.key_value.rome:make",
    "serac": "wise.editors.scoped:make_serac",
    "spalm-lite": "wise.editors.external:make_spalm",
    "ultraedit": "wise.editors.key_value.ultraedit:make",
    "unke": "wise.editors.longform:make_unke",
    "wise": "wise.editors.wise.wise:make",
}

_WORDS: Mapping[str, object] = {"true": True, "false": False, "none": None, "inf": math.inf}


@runtime_checkable
class Editor(Protocol):
    """A language model whose answers can be edited. B rows, T tokens, V vocabulary."""

    def edit(self, edits: Sequence[Edit]) -> None:
        """One turn: write these edits. On an error the state is as before the call."""

    def logits(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Next-token logits of the edited model; never changes state."""

    def reset(self) -> None:
        """Back to the unedited model, bitwise."""


@runtime_checkable
class Generates(Protocol):
    """Can decode by itself, with a key-value cache."""

    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
    ) -> Int[Tensor, "B S"]:
        """Greedy continuations, S <= `max_new_tokens`, padded after the end of sequence.

        The model's own generation configuration does not count, and is left as it is.
        """


@runtime_checkable
class Routed(Protocol):
    """Decides per prompt whether an edit applies.

    Its `logits` also takes `prompt_mask` [B, T]: the only tokens that it may route on, so that a
    teacher-forced target cannot open the gate.
    """

    threshold: float

    def routing_activation(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B"]:
        """How strongly each prompt is in scope; in scope means above `threshold`."""


@runtime_checkable
class Retrieves(Protocol):
    """Keeps its edits in several memories, of which a prompt opens one."""

    def retrieved(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> list[tuple[Edit, ...]]:
        """The edits of the memory that each prompt opens; none where it opens none."""


@runtime_checkable
class Prepares(Protocol):
    """Can compute in advance, for many edits together, the costly part of a first edit."""

    def prepare(self, edits: Sequence[Edit]) -> None:
        """Make a first turn of any one of `edits` cheap; its result differs by rounding at most.

        Neither the state nor any answer changes. Edits that a turn would refuse are left out; any
        other error is raised, and nothing is prepared.
        """


@runtime_checkable
class Precomputes(Protocol):
    """Layered, and can compute at once what its kind needs of the unedited model at many layers."""

    def precompute(self, layers: Sequence[int]) -> None:
        """Keep in the editor's cache what editors with its options need at each of `layers`.

        Nothing is done without a cache. Neither the state nor any answer changes.
        """


@runtime_checkable
class Layered(Protocol):
    """Edits one layer, 0 .. L-1; its factory takes `layer` too."""

    layer: int


@runtime_checkable
class Growing(Protocol):
    """Declares what one edit adds to a forward, as a share of the bare model's arithmetic."""

    growth_per_edit: float


@runtime_checkable
class Persistent(Protocol):
    """Can be written to and read from a folder."""

    def save(self, path: str | Path) -> None:
        """Write the state into the folder `path`, in place of an older one; it stays in force."""

    def load(self, path: str | Path) -> None:
        """Replace the state by a saved one, bitwise.

        One that is missing, damaged or of a model with other weights is an error and changes
        nothing.
        """


@runtime_checkable
class Exports(Protocol):
    """Can be taken away as a folder that answers as it does."""

    def export(self, path: str | Path) -> None:
        """Write the edited model into the new folder `path`, whole or not at all.

        Where its edits are weights, that is a Hugging Face folder: AutoModelForCausalLM and
        AutoTokenizer load it without this project. Where they are not, `wise.load_exported` does,
        with the editor's factory. Neither the state nor the model changes. Raises OSError where
        `path` is a file, or a folder that is not empty.
        """


@runtime_checkable
class Erasable(Protocol):
    """Can take edits back."""

    def remove(self, edits: Sequence[Edit]) -> None:
        """Take back the edits of these prompts, as if they had not been made.

        In any order, and once where a prompt is given twice. Raises KeyError or ValueError, and
        removes none, where one is not in force.
        """


# Makes an editor of a model. The background is all that it may see before the stream; `seed` and
# options of its own are named.
EditorFactory: TypeAlias = Callable[
    Concatenate["PreTrainedModel", "PreTrainedTokenizerFast", "Background", ...], Editor
]


def load_editor(spec: str) -> EditorFactory:
    """The factory that `spec` names: a built-in name, `module:factory` or `file.py:factory`.

    Raises ValueError saying what exists; errors inside the named module are passed on unchanged.
    """
    source, attribute = _split(spec)
    module = _module(source, spec)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [name for name in vars(module) if not name.startswith("_")]
        callables = sorted(name for name in public if callable(getattr(module, name)))
        raise ValueError(
            f"editor={spec!r}: {source} has no factory {attribute!r}; "
            f"it has {', '.join(callables) or 'no public function'}"
        )
    return factory


def module_of(spec: str) -> ModuleType:
    """The module or file that `spec` names. Raises as `load_editor`."""
    return _module(_split(spec)[0], spec)


def _split(spec: str) -> tuple[str, str]:
    """The module or file of a specification, and the factory in it."""
    source, colon, attribute = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon or not source or not attribute:
        raise ValueError(
            f"editor={spec!r} is not a built-in editor ({', '.join(sorted(BUILT_IN))}), "
            "and not of the form module:factory or file.py:factory"
        )
    return source, attribute


def _module(source: str, spec: str) -> ModuleType:
    return _file(source, spec) if source.endswith(".py") else _imported(source, spec)


def _imported(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"editor={spec!r}: there is no module {name!r}") from error


def _file(source: str, spec: str) -> ModuleType:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"editor={spec!r}: there is no file {source!r} in {Path.cwd()}")
    name = f"_editor_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"editor={spec!r}: {source!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for modules beside it; last, so that it shadows nothing
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def with_cache(factory: EditorFactory, folder: Path) -> EditorFactory:
    """`factory` with `folder` as its cache of what it computes on the unedited model.

    Unchanged where it takes no option `cache`. The cache is addressed by content, so that any
    number of editors may share it. A call's own `cache` wins.
    """
    if "cache" not in inspect.signature(factory).parameters:
        return factory
    return partial(factory, cache=folder)


def takes(function: Callable[..., object], option: str) -> bool:
    """Whether a factory, or another function, by its signature takes an option of this name."""
    taken = inspect.signature(function).parameters.values()
    return any(each.name == option or each.kind is each.VAR_KEYWORD for each in taken)


def factory_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts as keyword arguments.

    A value is a Python literal, as in `layers=[1, 2]`, or true, false, none or inf in any case;
    any other stays a text. Raises ValueError.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"editor option {pair!r} is not of the form KEY=VALUE")
        options[key] = _value(value)
    return options


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """An editor's name in rows: its own, and its options."""
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{name}({told})" if told else name


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError):
        return text
