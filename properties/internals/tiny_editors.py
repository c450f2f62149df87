"""The editors beside WISE on tiny random models, and what their laws compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals import tiny_wise
from properties.internals.tiny_wise import FAR
from wise.editor import Editor, load_editor
from wise.editors.key_value.covariance import second_moments
from wise.editors.key_value.facts import Facts
from wise.editors.key_value.keyvalue import optimize, read
from wise.edits import Background, Edit
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Reader
from wise.lm.hooks import frozen, observe
from wise.lm.tokens import Batch, encode

__all__ = [
    "BACKGROUND", "EDITS", "FACTS", "KEY_VALUE", "KINDS", "LEARNING", "NEAR", "TEXTS", "asked",
    "bits", "facts_of", "least_squares_problem", "likeliest", "log_p", "logits_of",
    "losing", "make", "taught", "tiny", "undecided",
]  # fmt: skip

EDITS = (
    Edit("Ada Lorn lives in", "Oslo", subject="Ada Lorn"),
    Edit("The employer of Bo Rask is", "CERN", subject="Bo Rask"),
    Edit("Where was Cleo Vane born?", "Riga", subject="Cleo Vane"),
    Edit("Dov speaks", "soup"),
)
NEAR = Edit("Look, it is Ada", "soup", subject="Ada")
TEXTS = (*(edit.prompt for edit in EDITS), *FAR)
BACKGROUND = Background(
    tuple(f"{name} {verb} {place}." for name in ("Gus", "Hal Moss", "Ina") for verb in
          ("lives in", "has seen", "comes from") for place in ("Rome", "Bonn", "the north"))
)  # fmt: skip

FACTS = Background(
    ("Gus lives in Rome.", "Hal has seen the north.", "Rivers run into the sea."),
    tuple(
        Edit(f"{name} {verb}", new, name, (f"So {name} {verb}",), old, f"{name} {verb}")
        for name in ("Gus", "Hal", "Ina", "Joe", "Kim")
        for verb, new, old in (("lives in", "Oslo", "Rome"), ("speaks", "French", "soup"))
    ),
)

_KEY_VALUE: dict[str, Any] = dict(
    layer=1, n_prefixes=1, prefix_lengths=(3,), prefix_starts=(), n_steps=8
)
_SPREAD: dict[str, Any] = dict(_KEY_VALUE, n_layers=2, clamp=4.0)
_TUNED: dict[str, Any] = dict(layer=1, lr=2e-3, n_epochs=6, norm_constraint=1.0)
_CODEBOOK: dict[str, Any] = dict(layer=1, radius=1.0, units="absolute", lr=0.3, n_steps=20)
_MIXTURE: dict[str, Any] = dict(
    layer=1, n_layers=2, n_experts=4, rank=4, guidance=0.01, lr=0.05, n_steps=20, early_stop=0.0,
    epsilon=1.5,
)  # fmt: skip
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # kind -> built-in name, options
    "rome": ("rome", _KEY_VALUE),
    "memit": ("memit", dict(_SPREAD, covariance_weight=0.01)),
    "emmet": ("emmet", dict(_SPREAD, kept_share=0.9, restraint=2.0)),  # RECT's and PRUNE's too
    "alphaedit": ("alphaedit", dict(_SPREAD, null_threshold=0.5, l2=0.01)),
    "anyedit": ("anyedit", dict(_SPREAD, clamp=1.0, covariance_weight=0.1, chunk=2)),
    "alphaedit by chunks": (
        "alphaedit",
        dict(_SPREAD, clamp=1.0, null_threshold=0.5, l2=0.1, chunk=2, protects=True),
    ),
    "ultraedit": ("ultraedit", dict(layer=1, n_layers=2, lr=3.0)),
    "ft-l": ("ft-l", dict(_TUNED, loss="prompt-last")),
    "ft-m": ("ft-m", _TUNED),
    "ft-ewc": ("ft-ewc", _TUNED),
    "ft-m of two layers": ("ft-m", dict(_TUNED, n_layers=2, lr=1e-3)),
    "locft-bf": ("locft-bf", dict(_TUNED, batch_size=1)),
    "grace": ("grace", _CODEBOOK),
    "grace everywhere": ("grace", dict(_CODEBOOK, radius=1e6, replacement="prompt")),
    "horen": ("horen", dict(layer=1, lr=0.3, n_steps=20)),
    "memoir": ("memoir", dict(layer=1, n_prefixes=2, prefix_length=3, n_steps=10)),
    "mend": ("mend", dict(layer=1, n_layers=2, rank=8, scale=0.2, n_steps=2, n_turns=2)),
    "ke": ("ke", dict(layer=1, n_layers=2, width=8, rank=4, scale=0.2, n_steps=2, n_turns=2)),
    "defer": ("defer", dict(layer=1, lr=0.02, n_steps=60)),
    "unke": ("unke", dict(layer=1, n_steps=20, n_epochs=60, block_lr=3e-4, n_texts=4)),
    "ike": ("ike", dict(reserve=6)),
    "retrieval": ("retrieval", dict(reserve=6)),
    "serac": ("serac", dict(reserve=6, n_dims=8)),
    "melo": ("melo", dict(layer=1, radius=1.0, lr=0.05, n_steps=20)),
    "elder": ("elder", _MIXTURE),
    "spalm-lite": ("spalm-lite", {}),
    "memllm-lite": ("memllm-lite", dict(reserve=6)),
    "memoria-lite": ("memoria-lite", dict(reserve=6, n_reminded=2, n_short=2, reach=4.0)),
    "memoryllm-lite": ("memoryllm-lite", dict(reserve=6, n_slots=12, n_newest=5)),
}
KEY_VALUE = ("rome", "memit", "alphaedit")
_RECORDS = (  # they learn nothing by steps
    "ike", "retrieval", "serac", "spalm-lite", "memllm-lite", "memoria-lite",
    "memoryllm-lite",
)  # fmt: skip
LEARNING = tuple(kind for kind in KINDS if kind not in _RECORDS)


def make(
    kind: str,
    model: str | PreTrainedModel = "gpt2",
    *,
    edits: Sequence[Edit] = (),
    seed: int = 0,
    **options: Any,
) -> Any:
    """An editor of a kind, after `edits` one by one."""
    name, quick = KINDS[kind]
    editor = tiny(
        load_editor(name), model, seed=seed, background=BACKGROUND, **{**quick, **options}
    )
    for edit in edits:
        editor.edit([edit])
    return editor


def taught(kind: str, **options: Any) -> Any:
    """An editor of a kind that has FACTS to learn from."""
    name, quick = KINDS[kind]
    return tiny(load_editor(name), "gpt2", **{"background": FACTS, **quick, **options})


def tiny(
    factory: Callable[..., Any],
    model: str | PreTrainedModel = "llama",
    *,
    seed: int = 0,
    background: Background = tiny_wise.BACKGROUND,
    **options: Any,
) -> Any:
    """What a factory makes of a tiny model."""
    model = tiny_model(model) if isinstance(model, str) else model
    return factory(model, tiny_tokenizer(), background, seed=seed, **options)


def undecided(model_type: str = "gpt2") -> PreTrainedModel:
    """A model in which every word has a chance, so that it can be lowered."""
    model = tiny_model(model_type)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.1)
    return model


def likeliest(model: PreTrainedModel) -> Edit:
    """An edit whose target is the word that the model finds likeliest."""
    batch = asked([NEAR.prompt])
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[0, -1]
    words = [(t, i) for t, i in tiny_tokenizer().get_vocab().items() if t[0] == "Ġ" and t[1:]]
    word, _ = max(words, key=lambda word: float(logits[word[1]]))
    return replace(NEAR, target=word[1:])


def facts_of(model_type: str, **options: Any) -> Facts:
    return Facts(LanguageModel(tiny_model(model_type)), tiny_tokenizer(), **options)


def asked(texts: Sequence[str] = TEXTS, *, padding_side: str = "left") -> Batch:
    return encode(tiny_tokenizer(), texts, padding_side=padding_side)


def logits_of(editor: Editor, batch: Batch | None = None) -> Tensor:
    batch = asked() if batch is None else batch
    return editor.logits(batch.input_ids, batch.attention_mask)


def log_p(editor: Editor, edits: Sequence[Edit]) -> list[float]:
    """log p(target) of each edit."""
    prompts, targets = [e.prompt for e in edits], [e.target for e in edits]
    found = Reader(tiny_tokenizer()).forced(editor, prompts, targets)
    return [answer.log_probability for answer in found]


def bits(model: nn.Module) -> dict[str, object]:
    """All that an editor could leave behind in a model."""
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    marks = {
        f"{name} flag": (weight.requires_grad, weight.grad is None)
        for name, weight in model.named_parameters()
    }
    modes = {f"{name} mode": module.training for name, module in model.named_modules()}
    hooked = {f"{name} hooks": len(module._forward_hooks) for name, module in model.named_modules()}
    return {**weights, **marks, **modes, **hooked}


@contextmanager
def losing(editor: Any, at: int = 0) -> Iterator[list[None]]:
    """The calls of the last block, which fails at call `at`."""
    calls: list[None] = []

    def count(_args: Any, _kwargs: Any) -> None:
        calls.append(None)
        if len(calls) == at:
            raise RuntimeError("lost the device")

    with observe(editor.lm.blocks[-1], count):
        yield calls


def least_squares_problem(
    editor: Any, edits: Sequence[Edit], *, site: str
) -> tuple[Tensor, Tensor, Any]:
    """What an update at layer 1 solves: C with a ridge of 1e-3, the values, and what stood there.

    C is [M M], of the background's texts; the values are [n D] at `site`.
    """
    C = second_moments(editor.lm, editor.facts.tokenizer, [1], BACKGROUND.texts)[1]
    C += 1e-3 * C.trace() / len(C) * torch.eye(len(C))
    with frozen(editor.lm.model):
        values = optimize(editor.facts, 1, edits, editor.config, site=site)
        (stood,) = read(editor.facts, [1], edits)
    return C, values, stood
