"""The command lines that make the rows of a page again.

Without the call that made them, each run has a line of its own: one stream and its rates.
"""

from __future__ import annotations

import re
import shlex

import pandas as pd

from reports.calibration import CALIBRATION
from reports.reading import Items
from reports.study_tables import options_of
from wise.measures.estimates import MAIN_PROTOCOLS
from wise.measures.rows import ASIDE, REPORTED
from wise.measures.text import visible

__all__ = ["PACKAGED", "commands"]

_UNNAMED = ASIDE - {*REPORTED}  # metrics that no protocol asks for
PACKAGED = ("smollm2",)  # models that pytest takes by name, and rows name with a digest

# As the test suite names models: a folder's with the digest of its weights, then the dtype.
_MODEL = re.compile(r"(.+?)( [0-9a-f]{8})?(?: (bfloat16|float16))?", re.DOTALL)


def commands(items: Items, call: str = "") -> list[tuple[str, str]]:
    """For each run its command line, and the stream that the line must give.

    `call` made all of them, where it is known; then the others have no line. Where no command line
    makes a run, it is empty and the text says why.
    """
    found = [(visible(call), "all rows of this page")] * bool(call)
    for index, run in items.runs.iterrows():
        own = items.table[(items.table.run == index) & ~items.table.metric.isin(_UNNAMED)]
        stream = f"stream {run.stream}, sha256 {run.stream_sha256}"
        if call:
            found.append(("", f"{run.editor} on {run.model}, seed {run.seed}: {stream}"))
            continue
        if ":" in run.stream:  # FORMAT:FILE
            stream += "; its file is named without its folder"
        name, digest, _ = _model_parts(run)
        if digest and name in PACKAGED:
            stream += f"; the weights of {name} have the digest{digest}"
        if reason := _reason(run):
            text = f"{run.editor} on {run.model}, seed {run.seed}: no line makes it again, {reason}"
            found.append(("", f"{text}; {stream}"))
        else:
            line = " ".join(shlex.quote(visible(word)) for word in _words(run, own))
            found.append((line, stream))
    return found


def _name(run: pd.Series) -> str:
    return run.editor.partition("(")[0]


def _model_parts(run: pd.Series) -> tuple[str, str, str]:
    """Name, digest and dtype of the run's model; empty where it does not say them."""
    found = _MODEL.fullmatch(run.model)
    if found is None:
        raise ValueError(f"model={run.model!r} is empty; a run names its model")
    name, digest, dtype = found.groups(default="")
    return name, digest, dtype


def _reason(run: pd.Series) -> str:
    """Why pytest cannot make the run; empty where it can."""
    if _name(run).endswith("-mass"):
        return f"as pytest edits one by one (reports league --editors={_name(run)} makes such runs)"
    name, digest, _ = _model_parts(run)
    if digest and name not in PACKAGED:
        return "as its model is a folder, named here by its last part and its weights' digest"
    return ""


def _words(run: pd.Series, own: pd.DataFrame) -> list[str]:
    name = _name(run)
    model, _, dtype = _model_parts(run)
    words = ["pytest", "-m", "triangle", "--looks=1", f"--editor={CALIBRATION.get(name, name)}"]
    words += [f"--editor-option={key}={value}" for key, value in options_of(run.editor).items()]
    words += [f"--model={model}", *([f"--dtype={dtype}"] if dtype else [])]
    words += [f"--edits={own.t.max()}"] * bool(len(own))
    words += [f"--dataset={run.stream}"] * (":" in run.stream)
    words.append(f"--stream-seed={run.seed}")
    final = own[own.when == "final"]
    if len(final):
        protocols = ",".join(final.protocol.unique()).replace(",".join(MAIN_PROTOCOLS), "both")
        words.append(f"--checkpoints={','.join(map(str, sorted(final.t.unique())))}")
        words.append(f"--protocol={protocols}")
    return words
