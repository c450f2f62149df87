"""Speed and memory of WISE against plain references in the same run.

`python -m benchmarks.edit_speed` compares, for edit steps on embedded models, the tail with a
forward of the whole model at every step; and for inference, the routed model with the unedited one,
on a random Llama of about 300 million parameters, where arithmetic dominates. With `--only whole`
it times whole edits, the first and later ones, and says how much memory the process took.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks import arguments
from fixtures.models import FAMILIES, LoadedModel, load_model
from wise.editors.wise.config import WISEConfig, default_preset
from wise.editors.wise.learning import Answers, TurnLoss, descend
from wise.editors.wise.wise import WISE
from wise.edits import Background
from wise.evaluation.asked import final_questions
from wise.evaluation.lifelong import reader_of
from wise.lm import hooks
from wise.lm.architectures import LanguageModel
from wise.lm.decoding import Unedited
from wise.lm.tail import Tail
from wise.lm.tokens import IGNORED, encode, last_column


def seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Median time of one call, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ratio(one: Callable[[], object], other: Callable[[], object], *, repeats: int) -> float:
    """Median of time(other) / time(one), call by call, so that other load affects both alike."""
    one(), other()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        found.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(found)


@dataclass(frozen=True)
class _Recorded(TurnLoss):
    """A loss that notes what it was at each step."""

    losses: list[float] = field(default_factory=list)

    def __call__(self, outputs: Tensor) -> Tensor:
        loss = super().__call__(outputs)
        self.losses.append(loss.item())
        return loss


def edit_steps(loaded: LoadedModel, *, n_steps: int, repeats: int) -> None:
    """One edit of `n_steps` equal steps by the tail and by the whole model."""
    lm = LanguageModel(loaded.model)
    config = WISEConfig.of(default_preset(loaded.model))
    layer = int(config.depth * lm.n_layers)
    edit = loaded.own_world.stream(0, 1, split="tuning").edits[0]
    batch = encode(loaded.tokenizer, [edit.prompt], [edit.target])
    first = int(last_column(batch.prompt_mask)) if config.span == "answer" else 0
    changed = (torch.arange(batch.input_ids.shape[1]) >= first)[:, None]  # T 1
    shape = lm.value_weight(layer).shape
    steps = WISEConfig(n_steps=n_steps, early_stop=0.0)

    def by_tail() -> list[float]:
        with hooks.frozen(loaded.model):
            tail = Tail.capture(lm, layer, batch, first=first)
            at = torch.arange(tail.inputs.shape[1])[None]
            objective = _Recorded((Answers.of(tail, at),), tail.inputs[0])
            descend(objective, torch.zeros(shape), None, steps, lr=0.01)
            return objective.losses

    def by_optimizer(loss_of: Callable[[Tensor], Tensor]) -> list[float]:
        tau, losses = torch.zeros(shape, requires_grad=True), []
        optimizer = torch.optim.SGD([tau], lr=0.01)
        for _ in range(n_steps):
            loss = loss_of(tau)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loaded.model.zero_grad()
        return losses

    def plain_loss(tau: Tensor) -> Tensor:
        with hooks.replace(lm.part(layer, "value"), lambda a, out: out + changed * (a @ tau)):
            logits = loaded.model(batch.input_ids, use_cache=False).logits
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED
        )

    def whole() -> list[float]:
        return by_optimizer(plain_loss)

    def whole_frozen() -> list[float]:
        with hooks.frozen(loaded.model):
            return by_optimizer(plain_loss)

    pairs = zip(by_tail(), whole(), strict=True)
    difference = max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
    step = 1000 * seconds(by_tail, repeats=repeats) / n_steps
    print(f"edit, {loaded.name}, layer {layer} of 0..{lm.n_layers - 1}, {n_steps} steps of one row")
    print(f"  by the tail: {step:.2f} ms a step, the capture included")
    print(f"  whole model, all gradients: {ratio(by_tail, whole, repeats=repeats):.1f}x")
    print(f"  whole model, W_v' alone: {ratio(by_tail, whole_frozen, repeats=repeats):.1f}x")
    print(f"  largest relative difference of losses: {difference:.1e}")


def whole_edits(loaded: LoadedModel, *, n_edits: int) -> None:
    """Edits one by one by the model's own preset, then questions, all in this process."""
    stream = loaded.own_world.stream(0, n_edits, split="tuning")
    background = loaded.own_world.background()
    editor = WISE(loaded.model, loaded.tokenizer, background)
    times = []
    for edit in stream.edits:
        start = time.perf_counter()
        editor.edit([edit.as_taught()])
        times.append(time.perf_counter() - start)
    prompts = list(dict.fromkeys(question.prompt for question in final_questions(stream)))
    start = time.perf_counter()
    reader_of(loaded.model, loaded.tokenizer, stream).free(editor, prompts)
    asked = (time.perf_counter() - start) / len(prompts)
    later = statistics.median(times[1:])
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    gib = kib / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"whole edits, {loaded.name}, {torch.get_num_threads()} threads")
    print(f"  the first: {times[0]:.2f} s; later ones: {later:.2f} s; a question: {asked:.2f} s")
    print(f"  most memory resident, model and questions included: {gib:.2f} GiB")


def held_bytes(loaded: LoadedModel) -> None:
    """Bytes held by side memories stored with a mask."""
    stream = loaded.own_world.stream(0, 20, split="tuning")
    config: dict[str, Any] = dict(
        memory="retrieve", n_steps=3, n_shards=1, edits_per_shard=5, mask_ratio=0.2
    )
    editor = WISE(loaded.model, loaded.tokenizer, Background(), WISEConfig.of(**config))
    for edit in stream.edits:
        editor.edit([edit])
    main = editor.lm.value_weight(editor.layer).numel() * 4
    share = editor.n_bytes / 4 / main
    print(
        f"memory, {loaded.name}: a stored memory of mask ratio 0.2 holds {share:.2f} of W_v's bytes"
    )


def inference(tokenizer: PreTrainedTokenizerBase, *, repeats: int, n_memories: int) -> None:
    """Routed against unedited: a forward, and cached decoding."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=2816, num_hidden_layers=24,
        num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    size = sum(weight.numel() for weight in model.parameters())
    options: dict[str, Any] = dict(
        n_steps=2, n_prefixes=0, units="absolute", alpha=0.0, beta=0.0, gamma=0.0
    )
    editor = WISE(model, tokenizer, Background(), WISEConfig.of(
        memory="retrieve", n_shards=1, edits_per_shard=1, mask_ratio=0.2, threshold_scale=0.5,
        early_stop=0.0, **options,
    ))  # fmt: skip
    world = FAMILIES["llama"].size.world()
    edits = world.stream(0, n_memories, split="tuning").edits
    for edit in edits:
        editor.edit([edit])
    bare = Unedited(model, tokenizer)
    print(f"inference, random Llama of {size / 1e6:.0f} M, {n_memories} side memories")
    for n_rows in (1, 32):
        batch = encode(tokenizer, [edits[index % n_memories].prompt for index in range(n_rows)])
        inputs = batch.input_ids, batch.attention_mask
        in_scope = (editor.routing_activation(*inputs) > editor.threshold).float().mean()
        print(
            f"  batch {n_rows}, {in_scope:.0%} of the rows in scope; time / that of the bare model:"
        )
        for name, work, n in (("forward", _forward, repeats), ("16 cached tokens", _decode, 3)):
            found = ratio(partial(work, bare, inputs), partial(work, editor, inputs), repeats=n)
            print(f"    {name}: {found:.3f}")


def _forward(model: Unedited | WISE, inputs: tuple[Tensor, Tensor]) -> Tensor:
    return model.logits(*inputs)


def _decode(model: Unedited | WISE, inputs: tuple[Tensor, Tensor]) -> Tensor:
    return model.generate(*inputs, max_new_tokens=16, min_new_tokens=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--model", type=arguments.model, action="append",
                        help="of the edit steps; repeatable")  # fmt: skip
    parser.add_argument("--only", choices=("whole", "edit", "inference"))
    parser.add_argument("--edits", type=arguments.several, default=10, help="of --only whole")
    options = parser.parse_args()
    if options.only == "whole":  # not beside others, whose memory it would count
        for name in options.model or ("llama",):
            whole_edits(load_model(name), n_edits=options.edits)
        return
    if options.only != "inference":
        for name in options.model or ("llama", "gpt2"):
            edit_steps(load_model(name), n_steps=options.steps, repeats=options.repeats)
        held_bytes(load_model("llama"))
    if options.only != "edit":
        tokenizer = load_model("llama").tokenizer
        for n_memories in (1, 4):
            inference(tokenizer, repeats=options.repeats, n_memories=n_memories)


if __name__ == "__main__":
    main()
