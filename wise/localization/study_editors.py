"""The editors of a study by name, with the options that Hase et al. ran them with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wise.editor import load_editor, takes
from wise.evaluation.entries import Entry

__all__ = ["study_entry"]

# Spec and options: in the released code of Hase et al., ROME and MEMIT take all of their steps, and
# fine-tuning takes 25.
_EDITORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rome": ("rome", {"early_stop": 0.0}),
    "memit": ("memit", {"early_stop": 0.0, "n_layers": 5}),
    "ft-1": ("ft-l", {"n_epochs": 25}),
    "ft-5": ("ft-l", {"n_epochs": 25, "n_layers": 5}),
    "wise": ("wise", {}),
}
# The embedded models know facts so well that the released early stop would leave them unedited.
_EMBEDDED: Mapping[str, Mapping[str, Any]] = {
    "ft-1": {"early_stop": 1e-4},
    "ft-5": {"early_stop": 1e-4},
}
_UNRELEASED = ("wise",)  # whose presets have other names


def study_entry(name: str, *, preset: str | None, is_embedded: bool) -> Entry:
    """One of the study's editors, or another by its `load_editor` spec, for a model.

    Without a `preset`, the study's own editors take "embedded" for an embedded model, else
    "released". Raises ValueError for an editor without `layer=`.
    """
    spec, options = _EDITORS.get(name, (name, {}))
    if not takes(load_editor(spec), "layer"):
        raise ValueError(f"editor={name!r} takes no layer=; a study edits at every layer")
    if name in _EDITORS and (preset or spec not in _UNRELEASED):
        preset = preset or ("embedded" if is_embedded else "released")
        options = {"preset": preset, **options}
    if preset == "embedded":
        options = {**options, **_EMBEDDED.get(name, {})}
    return Entry(name, spec, tuple(options.items()))
