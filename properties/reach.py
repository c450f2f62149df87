"""What the unedited model can do: the questions that it answers rightly for a fact as it was."""

from __future__ import annotations

from collections.abc import Mapping

from properties.bench import Bench
from wise.edits import EditStream

__all__ = ["within_reach"]


def within_reach(bench: Bench, stream: EditStream) -> set[tuple[str, str]]:
    """(edit id, prompt) of the paraphrases and consequences that the unedited model answers.

    Its answers to them, and to the edit's own prompt, begin with the `ground_truth` of the record:
    what was right before the edit. A record without one is out of reach, as nobody can tell.
    """
    own = {(edit.id, edit.prompt): edit.ground_truth for edit in stream.edits}
    known = {edit_id for edit_id, _ in _right(bench, own)}
    asked = [(edit.id, text, edit.ground_truth) for edit in stream.edits
             for text in edit.paraphrases]  # fmt: skip
    asked += [(probe.edit_id, probe.prompt, probe.ground_truth) for probe in stream.probes
              if probe.kind == "portability"]  # fmt: skip
    return _right(bench, {(of, prompt): truth for of, prompt, truth in asked if of in known})


def _right(bench: Bench, truths: Mapping[tuple[str, str], str]) -> set[tuple[str, str]]:
    """Those whose prompt the unedited model answers by their truth."""
    told = {key: truth for key, truth in truths.items() if truth}
    answers = bench.base_answers([prompt for _, prompt in told])
    tokenizer = bench.loaded.tokenizer
    pairs = zip(told, answers, strict=True)
    return {key for key, answer in pairs if answer.begins_with(told[key], tokenizer)}
