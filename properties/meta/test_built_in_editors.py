"""Every built-in editor keeps every law, or fails it as its list of known failures says."""

from __future__ import annotations

import pytest

from properties.meta.called import run_pytest
from wise.editor import BUILT_IN

pytestmark = [pytest.mark.meta, pytest.mark.slow]


@pytest.mark.parametrize("editor", sorted(BUILT_IN))
def test_a_built_in_editor_fails_what_is_known_and_nothing_else(editor: str) -> None:
    """At T=20 on the embedded Llama: known failures are strict, so that none may pass either."""
    ran = run_pytest("-m", "lifelong", f"--editor={editor}", "--edits=20")
    assert ran.returncode == 0, ran.stdout[-4000:]
