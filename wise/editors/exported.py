"""An edited model as a folder to take away: a plain one where the edits are weights.

Where they are not (a router, a codebook, facts in the prompt), the folder holds the unedited model
beside the editor's state. Nothing in it is a pickle, and reading it runs no code of the folder.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from wise.editor import BUILT_IN, Editor, EditorFactory, Persistent, load_editor
from wise.editors.saved import background_record
from wise.edits import Background, edits_of
from wise.lm.architectures import LanguageModel
from wise.lm.loading_bars import bars_on_a_terminal

__all__ = ["load_exported", "new_folder", "write_model", "write_with_state"]

_MANIFEST, _MODEL, _STATE, _BACKGROUND = "editor.json", "model", "state", "background.json"
_README = """# An edited model

Its edits are no weights: `model/` is the unedited model, and an editor answers by the state beside
it. Load it with the project that wrote it:

```python
from wise import load_exported

editor = load_exported("PATH/TO/THIS/FOLDER")
```
"""


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which is `path` at the end; after an error nothing of it is left.

    Raises FileExistsError where `path` is a file, or a folder that is not empty.
    """
    path = Path(path).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; export into a new one")
    partial = path.with_name(f".{path.name}.partial-{uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@bars_on_a_terminal()
def write_model(
    folder: Path,
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Tensor],
) -> None:
    """The model with `weights` in place of its own of these names, as transformers saves one.

    Neither `lm` nor `tokenizer` is written to.
    """
    model = copy.copy(lm.model)  # whose saving writes to its configuration
    model.config = copy.deepcopy(model.config)
    model.generation_config = copy.deepcopy(model.generation_config)
    model.save_pretrained(folder, state_dict={**model.state_dict(), **weights})
    copy.deepcopy(tokenizer).save_pretrained(folder)


def write_with_state(
    folder: Path,
    lm: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    save: Callable[[Path], None],
    *,
    editor: type,
    seed: int,
    options: Mapping[str, Any],
) -> None:
    """The unedited model, what its `editor` was made of, and the state that `save` writes."""
    write_model(folder / _MODEL, lm, tokenizer, {})
    save(folder / _STATE)
    made = {"editor": _built_in(editor), "seed": seed, "options": dict(options)}
    (folder / _MANIFEST).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    (folder / _BACKGROUND).write_text(json.dumps(background_record(background)), encoding="utf-8")
    (folder / "README.md").write_text(_README, encoding="utf-8")


def _built_in(editor: type) -> str:
    """The name of a built-in editor of this class; "" where there is none."""
    of_module = (
        name for name, spec in BUILT_IN.items() if spec.startswith(f"{editor.__module__}:")
    )
    return next((name for name in of_module if vars(load_editor(name)).get("editor") is editor), "")


@bars_on_a_terminal()
def load_exported(path: str | Path, *, factory: EditorFactory | None = None) -> Editor:
    """The editor whose model and state an export wrote, ready to answer and to edit on.

    `factory` makes it where it is no built-in editor. Raises ValueError where `path` is no such
    folder; a plain Hugging Face folder needs nothing of this project.
    """
    folder = Path(path)
    if not (folder / _MANIFEST).is_file():
        plain = (folder / "config.json").is_file()
        raise ValueError(
            f"{folder} is a plain Hugging Face folder; load it with AutoModelForCausalLM"
            if plain
            else f"{folder} is not a folder that an editor exported: it has no {_MANIFEST}"
        )
    made = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    given = json.loads((folder / _BACKGROUND).read_text(encoding="utf-8"))
    if factory is None:
        if made["editor"] not in BUILT_IN:
            raise ValueError(f"{folder} is not of a built-in editor; give the factory that made it")
        factory = load_editor(made["editor"])
    options: dict[str, Any] = dict(local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder / _MODEL, dtype="auto", use_safetensors=True, **options
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / _MODEL, **options)
    background = Background(given["texts"], edits_of(given["edits"]))
    editor = factory(model.eval(), tokenizer, background, seed=made["seed"], **made["options"])
    if not isinstance(editor, Persistent):
        raise ValueError(f"{type(editor).__name__} cannot load the state in {folder / _STATE}")
    editor.load(folder / _STATE)
    return editor
