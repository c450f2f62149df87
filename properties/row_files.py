"""Where a call's rows are kept; it is without torch, for the process that only tells of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from properties.settings import Settings, of_look

__all__ = ["RowFiles"]


@dataclass(frozen=True)
class RowFiles:
    """The rows files of a call's editors: of --rows, or in `folder`, which ends with the call.

    Several processes may share them.
    """

    settings: Settings
    folder: Path

    def path(self, spec: str, look: int = 0) -> Path:
        """That of one editor's look."""
        name = sha256(self.settings.editor_name(spec).encode()).hexdigest()[:12]
        return of_look(self.settings.rows_of(spec) or self.folder / f"{name}.jsonl", look)

    def n_looks(self, spec: str) -> int:
        """How many streams were run with one editor."""
        return sum(self.path(spec, look).exists() for look in range(self.settings.max_looks))

    def save_baseline(self) -> bool:
        """Keep the rows of the first editor as the baseline, if there is none yet."""
        path, rows = self.settings.baseline, self.path(self.settings.editors[0])
        if path is None or path.exists() or not rows.exists():
            return False
        shutil.copyfile(rows, path)
        return True
