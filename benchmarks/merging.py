"""Where WISE-Merge loses edits: `python -m benchmarks.merging`.

Each shard by itself, opened for every prompt, shows what was forgotten inside it; all of them
merged, opened likewise, what the merge loses; the merged memory behind its router, the rest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from tqdm import tqdm

from benchmarks import arguments
from benchmarks.triangle import means
from fixtures.models import load_model
from fixtures.scenes import scene_of
from fixtures.world import SPLITS
from wise.editor import factory_options
from wise.editors.wise.memory import Memory, WISEState
from wise.editors.wise.wise import WISE, WISEConfig
from wise.evaluation.asked import final_questions
from wise.evaluation.cell import Scene
from wise.evaluation.lifelong import reader_of
from wise.evaluation.metrics import BaseAnswers
from wise.measures.text import markdown_grid

__all__ = ["Merging"]

_WRITTEN = ("reliability", "generalization-1", "generalization-2")
_ELSEWHERE = ("far", "near-subject", "near-relation")


class Merging(WISE):
    """A WISE whose full shards wait, so that each can be asked before they are merged."""

    def __init__(self, scene: Scene, config: WISEConfig, *, seed: int):
        waiting = replace(config, n_shards=config.n_shards + 1)
        super().__init__(scene.model, scene.tokenizer, scene.background, waiting, seed=seed)
        self.scene = scene
        self._reader = reader_of(scene.model, scene.tokenizer, scene.stream)
        self._asked = final_questions(scene.stream)
        self._base = BaseAnswers.ask(scene.model, self._reader, self._asked, forced=False)

    def memories(self) -> dict[str, Memory]:
        """What to ask, by its name: the shards and their merge, always open; the merge routed."""
        shards = [shard for shard in self._state.shards if shard.edits]
        merged = self._sharding.merged(shards, None)
        alone = {f"shard {each.number + 1}, open": self._sharding.merged([each], None)
                 for each in shards}  # fmt: skip
        opened = {name: replace(memory, epsilon=-math.inf)
                  for name, memory in {**alone, "merged, open": merged}.items()}  # fmt: skip
        return {**opened, "merged, routed": merged}

    def rates(self, memory: Memory) -> dict[str, float]:
        """The mean score of each measure on the edits of a memory that is the only one."""
        self._state = self._settled_at(WISEState((memory,)))
        prompts = {edit.prompt for edit in memory.edits}
        ids = {edit.id for edit in self.scene.stream.edits if edit.prompt in prompts}
        asked = [question for question in self._asked if question.edit_id in ids]
        return means(self, self._reader, asked, self._base)


def _line(name: str, rates: dict[str, float], shown: Collection[str]) -> list[str]:
    cells = [f"{rates[each]:.3f}" if each in rates and each in shown else "-"
             for each in (*_WRITTEN, *_ELSEWHERE)]  # fmt: skip
    return [name, *cells]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=arguments.model, default="llama")
    parser.add_argument("--edits", type=arguments.whole, default=1000)
    parser.add_argument("--shards", type=arguments.whole, default=2, help="k, of equal size")
    parser.add_argument("--split", choices=SPLITS, default="evaluation")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args(words)
    if asked.edits % asked.shards:
        parser.error(f"argument --edits: {asked.edits} is not a multiple of {asked.shards} shards")
    sizes = dict(n_shards=asked.shards, edits_per_shard=asked.edits // asked.shards)
    try:
        options = dict(mask_ratio=0.2) | factory_options(asked.option) | sizes
        config = WISEConfig.of(**options, memory="merge")
        scene = scene_of(load_model(asked.model), asked.seed, asked.edits, split=asked.split)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    editor = Merging(scene, config, seed=asked.seed)
    for edit in tqdm(scene.stream.edits, desc="edits"):
        editor.edit([edit.as_taught()])
    lines = []
    for name, memory in editor.memories().items():
        shown = (*_WRITTEN, *_ELSEWHERE) if name.endswith("routed") else _WRITTEN
        lines.append(_line(name, editor.rates(memory), shown))
    print(f"WISE-Merge on {asked.model}, T={asked.edits}, {asked.split} seed {asked.seed}")
    print(markdown_grid(("memory", *_WRITTEN, *_ELSEWHERE), lines))


if __name__ == "__main__":
    main()
