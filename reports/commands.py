"""The lines that make the rows of a page again."""

from __future__ import annotations

import shlex

from reports.reading import Items
from reports.study import options_of
from reports.text import visible

__all__ = ["commands"]


def commands(items: Items) -> list[tuple[str, str]]:
    """For each run its line for the shell, and the stream that the line must give."""
    found = []
    for index, run in items.runs.iterrows():
        own = items.table[(items.table.run == index) & (items.table.metric != "routing")]
        final = own[own.when == "final"]
        words = ["pytest", "-m", "lifelong", f"--editor={run.editor.partition('(')[0]}"]
        words += [
            f"--editor-option={name}={value}" for name, value in options_of(run.editor).items()
        ]
        words += [f"--model={run.model}", f"--edits={own.t.max()}" if len(own) else ""]
        # The name of a stream from a file is FORMAT:FILE, without the file's folder.
        words += [f"--dataset={run.stream}"] * (":" in run.stream)
        words.append(f"--stream-seed={run.seed}")
        if len(final):
            protocols = final.protocol.unique()
            words.append(f"--checkpoints={','.join(map(str, sorted(final.t.unique())))}")
            words.append(f"--protocol={'both' if len(protocols) > 1 else protocols[0]}")
        line = " ".join(shlex.quote(visible(word)) for word in words if word)
        found.append((line, f"stream {run.stream}, sha256 {run.stream_sha256}"))
    return found
