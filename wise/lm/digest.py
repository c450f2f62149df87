"""One digest for a model: its configuration and every bit of its weights."""

from __future__ import annotations

import hashlib
import json

import torch

from wise.lm.architectures import LanguageModel

__all__ = ["model_digest"]

# Keys of a configuration that saving a model sets, and that change none of its answers.
_NOT_COUNTED = ("_name_or_path", "architectures", "dtype", "transformers_version")


def model_digest(lm: LanguageModel) -> str:
    """SHA-256 of the configuration and of every bit of the parameters and buffers, by name."""
    config = lm.model.config.to_diff_dict()
    settings = {name: value for name, value in config.items() if name not in _NOT_COUNTED}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in lm.model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
