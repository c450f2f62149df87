"""What is computed once of an unedited model, kept in a folder for every editor of it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.editors.saved import own_memory
from wise.jobs.ledger import write_whole
from wise.lm.architectures import LanguageModel
from wise.lm.digest import model_digest

__all__ = ["ComputeEach", "Kept"]

ComputeEach = Callable[[list[str]], Sequence[dict[str, Tensor]]]  # what is missing -> its tensors


@dataclass
class Kept:
    """Tensors that follow from a model and some texts, by a digest of all that they follow from.

    That is the model, the texts' tokens, what is asked for, the module that computes it, and the
    version of torch. Any number of editors and processes may share `folder`. Without one nothing is
    kept, and each is computed anew.
    """

    lm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    folder: str | Path | None = None

    def get(
        self, what: str, texts: Sequence[str], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The result of `compute`, or that kept of the same model, tokens of `texts` and `what`.

        `what` names the result and whatever else it depends on, such as its layer.
        """

        @wraps(compute)
        def each(_missing: list[str]) -> list[dict[str, Tensor]]:
            return [compute()]

        [found] = self.get_each([what], texts, each)
        return found

    def get_resumable(
        self, what: str, texts: Sequence[str], compute: Callable[[Path | None], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """`get` of what takes long: `compute` may keep how far it is in the file it is given."""
        path = None
        if self.folder is not None:
            path = self._paths(self.folder, [what], texts, compute)[what].with_suffix(".unfinished")

        @wraps(compute)
        def whole() -> dict[str, Tensor]:
            return compute(path)

        found = self.get(what, texts, whole)
        if path is not None:
            path.unlink(missing_ok=True)
        return found

    def get_each(
        self, whats: Sequence[str], texts: Sequence[str], compute: ComputeEach
    ) -> list[dict[str, Tensor]]:
        """The results of several `whats`; one call of `compute` gives all that are not kept."""
        if self.folder is None:
            return list(compute(list(whats)))
        paths = self._written(self.folder, whats, texts, compute)
        return [own_memory(load_file(path), self.lm.device) for path in paths]

    def keep(self, whats: Sequence[str], texts: Sequence[str], compute: ComputeEach) -> None:
        """What `get_each` would compute, for later; without a folder nothing is done."""
        if self.folder is not None:
            self._written(self.folder, whats, texts, compute)

    def _written(
        self, at: str | Path, whats: Sequence[str], texts: Sequence[str], compute: ComputeEach
    ) -> list[Path]:
        """The files of `whats`, those that were missing by one call of `compute`."""
        paths = self._paths(at, whats, texts, compute)
        missing = [what for what, path in paths.items() if not path.is_file()]
        if missing:
            for what, found in zip(missing, compute(missing), strict=True):
                tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
                write_whole(paths[what], save(tensors))
        return list(paths.values())

    def _paths(
        self,
        at: str | Path,
        whats: Sequence[str],
        texts: Sequence[str],
        compute: Callable[..., object],
    ) -> dict[str, Path]:
        """The files of `whats`, in a folder that is there."""
        folder = Path(at).expanduser()
        tokens = repr(self.tokenizer(list(texts)).input_ids if texts else [])
        folder.mkdir(parents=True, exist_ok=True)
        source = inspect.getsource(sys.modules[compute.__module__])
        parts = torch.__version__, source, self._model, tokens
        digests = [hashlib.sha256("\n".join((what, *parts)).encode()).hexdigest()
                   for what in whats]  # fmt: skip
        return {what: folder / f"{digest}.safetensors"
                for what, digest in zip(whats, digests, strict=True)}  # fmt: skip

    @cached_property
    def _model(self) -> str:
        return model_digest(self.lm)
