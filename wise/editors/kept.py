"""What is computed once of an unedited model, kept in a folder for every editor of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wise.jobs.ledger import write_whole
from wise.lm.architectures import LanguageModel
from wise.lm.digest import model_digest

__all__ = ["Kept"]


@dataclass
class Kept:
    """Tensors that follow from a model and some texts, by a digest of all that they follow from.

    Any number of editors and processes may share `folder`. Without one nothing is kept, and each
    is computed anew.
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
        if self.folder is None:
            return compute()
        parts = what, self._model, repr(self.tokenizer(list(texts)).input_ids)
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        path = Path(self.folder).expanduser() / f"{digest}.safetensors"
        if not path.is_file():
            found = {name: tensor.cpu().contiguous() for name, tensor in compute().items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save(found))
        return {name: tensor.to(self.lm.device) for name, tensor in load_file(path).items()}

    @cached_property
    def _model(self) -> str:
        return model_digest(self.lm)
