"""Counts and seeds on a benchmark's command line."""

from __future__ import annotations

import argparse

__all__ = ["seed", "whole"]


def whole(text: str, least: int = 1) -> int:
    """A whole number >= `least`; for any other text, argparse names the option."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= {least}")
    return int(text)


def seed(text: str) -> int:
    """A whole number >= 0."""
    return whole(text, least=0)
