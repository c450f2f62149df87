"""The suite's command-line options, in one group; settings.py validates them."""

from __future__ import annotations

import argparse
from typing import Any, Literal

import pytest

from properties.settings import DEFAULT_EDITS
from wise.measures.verdicts import DEFAULT_THRESHOLDS, MAX_LOOKS

__all__ = ["add_options"]


def add_options(parser: pytest.Parser) -> None:
    """The option group "model editors"; the ini key editors_OPTION sets an option's default.

    Every option is --editors-OPTION too, which no other plugin takes as it may take --OPTION: then
    that stays the plugin's.
    """
    group = parser.getgroup("model editors", "model editors")

    def register(name: str, **more: Any) -> None:
        own = f"--editors-{name}"
        more["dest"] = f"editors_{name.replace('-', '_')}"
        try:
            group.addoption(f"--{name}", own, **more)
        except argparse.ArgumentError:
            group.addoption(own, **more)

    def add(name: str, default: Any, text: str, *, shown: str = "", **more: Any) -> None:
        shown = shown or (" ".join(default) if isinstance(default, list) else default)
        register(name, default=None, help=f"{text} (default: {shown})", **more)
        kind: Literal["linelist", "string"]
        kind = "linelist" if more.get("action") == "append" else "string"
        key = name.replace("-", "_")
        default_text = default if isinstance(default, list) else str(default or "")
        parser.addini(f"editors_{key}", f"default of --{name}", type=kind, default=default_text)

    add(
        "editor",
        ["wise"],
        "built-in name, MODULE:FACTORY or FILE.py:FACTORY; repeatable",
        action="append",
        metavar="EDITOR",
    )
    add(
        "editor-option",
        [],
        "an option of the editor's factory; repeatable",
        shown="none",
        action="append",
        metavar="KEY=VALUE",
    )
    add(
        "model",
        "llama",
        "an embedded family (llama, mistral, gptj, gpt2), smollm2, a local Hugging Face folder "
        "or a GGUF file",
        metavar="NAME|FOLDER|FILE.gguf",
    )
    add("device", "cpu", "where the model runs", metavar="DEVICE")
    add("dtype", "float32", "float32, bfloat16 or float16", metavar="DTYPE")
    add(
        "layer",
        None,
        "the layer to edit, for editors that take one",
        shown="the editor's own",
        metavar="L",
    )
    add(
        "dataset",
        None,
        "a file of edits in place of the model's own world; its format is recognised, or named "
        "as in zsre:FILE",
        shown="none",
        metavar="[FORMAT:]FILE",
    )
    register(
        "skip-bad-records",
        action="store_true",
        help="leave out bad records of --dataset, and edits too long for the model, and "
        "say why, in place of stopping at the first",
    )
    add("edits", None, "length T of the stream", shown=f"{DEFAULT_EDITS}, or all", metavar="T")
    add(
        "checkpoints",
        None,
        "edits after which everything is measured, such as 1,10,100",
        shown="powers of ten, and T",
        metavar="T,T,...",
    )
    add("stream-seed", "0", "seed of the stream and of the editor", metavar="SEED")
    add(
        "protocol",
        "both",
        "how answers are scored, the first of these being judged: free (free-run), forced "
        "(teacher-forced), likelihood, compared (with the answer before); both = free,forced; and "
        "drift (of unrelated text) and fluency (of continuations), which are reported",
        metavar="PROTOCOL,...",
    )
    add(
        "threshold",
        [],
        "what a metric must reach, such as reliability=.9 or generalization-3=.5; repeatable",
        shown=" ".join(f"{metric}={value}" for metric, value in DEFAULT_THRESHOLDS.items()),
        action="append",
        metavar="METRIC=VALUE",
    )
    add("confidence", "0.95", "confidence of intervals and verdicts", metavar="P")
    add(
        "looks",
        MAX_LOOKS,
        "at most so many streams are run, one after the other, until every rate is decided",
        metavar="N",
    )
    add(
        "baseline",
        None,
        "rows to compare with by a paired test, in place of thresholds; saved there if there is "
        "no such file",
        shown="none",
        metavar="FILE",
    )
    add(
        "known-failures",
        None,
        "checks that are expected to fail, each with its reason, as TOML",
        shown="those of a built-in editor",
        metavar="FILE",
    )
    add(
        "report",
        None,
        "folder for a page of figures and tables of the results",
        shown="none",
        metavar="FOLDER",
    )
    add(
        "replay",
        None,
        "run only the recorded operations of a failed sequence again",
        shown="none",
        metavar="FOLDER",
    )
    add("rows", None, "file for every measured item, as JSON lines", shown="none", metavar="FILE")
    register("resume", action="store_true", help="go on with the rows of --rows")
