"""Snapshots of what an editor shares with its caller, and the first difference of two."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

if sys.platform != "win32":
    import resource

__all__ = ["Surroundings", "full_disk", "random_states", "undisturbed"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ATTENTION = "_attn_implementation"  # which no configuration writes down
_CAPTURING = "transformers.utils.output_capturing"  # its hooks do nothing unless they are asked to
_OF_TOKENIZER = ("padding_side", "truncation_side", "model_max_length", "special_tokens_map",
                 "chat_template", "vocab_size", "model_input_names", "split_special_tokens",
                 "clean_up_tokenization_spaces", "add_bos_token", "add_eos_token")  # fmt: skip


def random_states() -> dict[str, object]:
    """The state of each global generator of random numbers."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "CUDA": [state.tolist() for state in torch.cuda.get_rng_state_all()],
        "random": random.getstate(),
        "numpy": str(numpy.random.get_state()),  # noqa: NPY002
    }


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"weight {name}", weight) for name, weight in model.named_parameters())
    yield from ((f"buffer {name}", buffer) for name, buffer in model.named_buffers())


def _edited(model: nn.Module) -> Iterator[tuple[str, object]]:
    """What an edit may change: the modules, their hooks and their forwards."""
    for name, module in model.named_modules():
        yield f"type of module {name or 'model'}", type(module)
        for kind in _HOOKS:
            hooks = kind.strip("_").replace("_", " ")
            own = [each for each in vars(module)[kind].values() if not _stays_idle(each)]
            yield f"number of {hooks} on module {name or 'model'}", len(own)
        yield f"forward of module {name or 'model'}", vars(module).get("forward")


def _stays_idle(hook: object) -> bool:
    """Whether transformers left this hook: a first forward with `output_hidden_states` does so."""
    return getattr(hook, "__module__", None) == _CAPTURING


def _kept(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[tuple[str, object]]:
    """What no call may change."""
    for name, weight in _weights(model):
        yield f"dtype of {name}", weight.dtype
        yield f"device of {name}", weight.device
        yield f"requires_grad of {name}", weight.requires_grad
    for name, module in model.named_modules():
        yield f"training mode of module {name or 'model'}", module.training
    yield "model's implementation of attention", getattr(model.config, _ATTENTION, None)
    yield "model's config", model.config.to_json_string(use_diff=False)
    if model.generation_config is not None:
        yield "model's generation config", model.generation_config.to_json_string(use_diff=False)
    if tokenizer is not None:
        yield "tokenizer's number of tokens", len(tokenizer)
        for name in _OF_TOKENIZER:
            yield f"tokenizer's {name}", getattr(tokenizer, name, None)
    yield from _process()


def _process() -> Iterator[tuple[str, object]]:
    """The modes, limits, logs, threads and files of the process."""
    yield "gradient mode", torch.is_grad_enabled()
    yield "inference mode", torch.is_inference_mode_enabled()
    yield "default dtype", torch.get_default_dtype()
    yield "default device", torch.get_default_device()
    yield "number of threads", torch.get_num_threads()
    yield "use of deterministic algorithms", torch.are_deterministic_algorithms_enabled()
    yield "precision of float32 products", torch.get_float32_matmul_precision()
    yield "detection of anomalies", torch.is_anomaly_enabled()
    yield "autocast", (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
    cuda = torch.backends.cuda
    yield "kernels of attention", (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(),
                                   cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled())  # fmt: skip
    yield "use of TF32", torch.backends.cuda.matmul.allow_tf32
    yield "benchmark mode of cuDNN", torch.backends.cudnn.benchmark
    yield "NumPy's handling of errors", numpy.geterr()
    yield "level below which logging is off", logging.root.manager.disable
    yield "level of the root logger", logging.root.level
    yield "number of handlers of the root logger", len(logging.root.handlers)
    yield "verbosity of transformers", transformers_logging.get_verbosity()
    yield "standard output", id(sys.stdout)
    yield "standard error", id(sys.stderr)
    yield "handling of interrupts", signal.getsignal(signal.SIGINT)
    yield "handling of uncaught errors", sys.excepthook
    yield "import path", list(sys.path)
    yield "limit of recursion", sys.getrecursionlimit()
    yield "collection of garbage", (gc.isenabled(), gc.get_threshold())
    yield "number of Python threads", threading.active_count()
    yield "list of warning filters", tuple(map(str, warnings.filters))
    yield "environment", dict(os.environ)
    yield "working folder", os.getcwd()
    yield "content of the working folder", sorted(path.name for path in Path.cwd().iterdir())
    for name, state in random_states().items():
        yield f"global random state of {name}", state


@contextmanager
def undisturbed(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restore the process and the tokenizer afterwards, whatever an editor does inside."""
    sides, template = (tokenizer.padding_side, tokenizer.truncation_side), tokenizer.chat_template
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    silenced, verbosity = logging.root.manager.disable, transformers_logging.get_verbosity()
    is_collecting, device = gc.isenabled(), torch.get_default_device()
    interrupts, hook = signal.getsignal(signal.SIGINT), sys.excepthook
    python, legacy, environment = random.getstate(), numpy.random.get_state(), dict(os.environ)  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(), torch.set_grad_enabled(torch.is_grad_enabled()),
            warnings.catch_warnings(), chdir(Path.cwd()),
        ):  # fmt: skip
            yield
    finally:
        tokenizer.padding_side, tokenizer.truncation_side = sides
        tokenizer.chat_template = template
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:  # setting it slows every call
            torch.set_default_device(device)
        torch.set_num_threads(n_threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(is_deterministic)
        logging.disable(silenced)
        transformers_logging.set_verbosity(verbosity)
        (gc.enable if is_collecting else gc.disable)()
        if signal.getsignal(signal.SIGINT) is not interrupts:
            signal.signal(signal.SIGINT, interrupts or signal.SIG_DFL)
        sys.excepthook = hook
        random.setstate(python)
        numpy.random.set_state(legacy)  # noqa: NPY002
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """As on a full disk, a file beyond its first `n_bytes` cannot be written; not on Windows."""
    if sys.platform == "win32":
        yield
        return
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))


@dataclass(frozen=True)
class Surroundings:
    """The caller's model and tokenizer, and the process, at one moment.

    `weights` holds a copy of each; what an edit may not touch is in `kept`.
    """

    weights: dict[str, Tensor] = field(repr=False)
    edited: dict[str, object] = field(repr=False)
    kept: dict[str, object] = field(repr=False)

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Surroundings:
        weights = {name: weight.detach().clone() for name, weight in _weights(model)}
        return cls(weights, dict(_edited(model)), dict(_kept(model, tokenizer)))

    def is_written(self, later: Surroundings) -> bool:
        """Whether a weight has another name or other values then."""
        one, other = self.weights, later.weights
        return one.keys() != other.keys() or any(not one[n].equal(other[n]) for n in one)

    def change_to(self, later: Surroundings, *, by_an_edit: bool = False) -> str:
        """The first difference in words; "" where there is none.

        An edit in between may have written to weights and put modules and hooks into the model.
        """
        if not by_an_edit:
            for name, value in self.weights.items():
                own = later.weights.get(name)
                if own is None or own.dtype != value.dtype or not torch.equal(own, value):
                    return f"{name}: its values have changed"
        pairs = [(self.kept, later.kept)] + [(self.edited, later.edited)] * (not by_an_edit)
        for before, after in pairs:
            for name in before if by_an_edit else dict.fromkeys([*before, *after]):
                if by_an_edit and name not in after:
                    continue
                was, is_now = before.get(name), after.get(name)
                if was != is_now:
                    return f"the {name}{_in_words(was, is_now)}"
        return ""


def _in_words(was: Any, is_now: Any) -> str:
    """The values before and after, where they are short enough; of lists, what only one has."""
    if isinstance(was, list) and isinstance(is_now, list):
        before, after = Counter(was), Counter(is_now)
        was, is_now = [*(before - after).elements()], [*(after - before).elements()]
        if not (was or is_now):
            return ", in its order alone"
    texts = [str(was), str(is_now)]
    return f", from {texts[0]} to {texts[1]}" if max(map(len, texts)) < 80 else ""
