"""Hypothesis profiles: dev and ci repeat the same examples, nightly draws new ones."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["PROFILES", "register_profiles"]

PROFILES = {
    "dev": settings(max_examples=100, derandomize=True, deadline=None, print_blob=True),
    "ci": settings(max_examples=100, derandomize=True, deadline=None, print_blob=True),
    "nightly": settings(max_examples=1000, derandomize=False, deadline=None, print_blob=True),
}


def register_profiles() -> None:
    """Register the profiles and take `dev`, unless --hypothesis-profile names another."""
    for name, profile in PROFILES.items():
        settings.register_profile(name, profile)
    settings.load_profile("dev")
