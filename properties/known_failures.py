"""Checks that an editor is known to fail, each with its reason: strict, and never stale."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from fixtures.models import FAMILIES
from wise.editor import BUILT_IN

__all__ = ["FOLDER", "known_failures", "read_known_failures", "stale"]

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "known_failures"


def known_failures(editor: str, file: str, model: str, n_edits: int) -> dict[str, str]:
    """Check -> reason, from `file` or, without one, from that of a built-in editor.

    Raises ValueError for a file that does not exist, and as `read_known_failures` does.
    """
    path = Path(file) if file else FOLDER / f"{editor}.toml"
    if path.is_file() and (file or editor in BUILT_IN):
        return read_known_failures(path, model, n_edits)
    if file:
        raise ValueError(f"--known-failures={file} is not a file that exists")
    return {}


def read_known_failures(path: Path, model: str, n_edits: int) -> dict[str, str]:
    """Check -> reason, for all models (`[checks]`), for those that are embedded here (`[embedded]`)
    and for this one (`[models.NAME]`).

    A reason is a text, or a table of a `reason` and the number of `edits` from which on it fails.
    Raises ValueError naming file and entry for anything else, and for an empty reason.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    for section in content:
        if section not in ("checks", "embedded", "models"):
            raise ValueError(f"{path}: [{section}] is none of [checks], [embedded], [models.NAME]")
    models = content.get("models", {})
    if not isinstance(models, dict):
        raise ValueError(f"{path}: models = {models!r} stands where tables [models.NAME] must")
    for name in models:
        if name not in (*FAMILIES, model):
            raise ValueError(f"{path}: [models.{name}] is none of {', '.join(FAMILIES)}, "
                             "nor the --model given")  # fmt: skip
    all_models, embedded = content.get("checks", {}), content.get("embedded", {})
    for section in (all_models, embedded, *models.values()):
        if not isinstance(section, dict):
            raise ValueError(f"{path}: {section!r} stands where a table of checks must")
    found: dict[str, str] = {}
    sections = [all_models, *([embedded] if model in FAMILIES else []), models.get(model, {})]
    for entries in sections:
        for check, entry in entries.items():
            least, reason = 0, entry
            if isinstance(entry, dict) and entry.keys() == {"edits", "reason"}:
                least, reason = entry["edits"], entry["reason"]
            if type(least) is not int or not isinstance(reason, str) or not reason.strip():
                raise ValueError(
                    f"{path}: {check} = {entry!r}; needed: a reason in words, or the edits from "
                    "which on it fails and the reason"
                )
            if n_edits >= least:
                found[check] = reason
    return found


def stale(known: Mapping[str, str]) -> list[str]:
    """The names that are no longer checks."""
    from properties.checks import CHECKS  # which needs torch

    return [name for name in known if name not in CHECKS]
