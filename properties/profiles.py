"""Hypothesis profiles: dev repeats the same examples, nightly draws ten times as many new ones."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["register_profiles"]


def register_profiles() -> None:
    """Register the profiles and take `dev`, unless --hypothesis-profile names another."""
    for name, n_examples in (("dev", 100), ("nightly", 1000)):
        settings.register_profile(
            name, max_examples=n_examples, derandomize=name == "dev", deadline=None, print_blob=True
        )
    settings.load_profile("dev")
