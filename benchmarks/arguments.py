"""Counts, seeds, models and datasets on a benchmark's command line."""

from __future__ import annotations

import argparse

from fixtures.models import source_of
from wise.edits import EditStream
from wise.evaluation.datasets import load_stream

__all__ = ["dataset", "model", "seed", "several", "whole"]


def whole(text: str, least: int = 1) -> int:
    """A whole number >= `least`; for any other text, argparse names the option."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number >= {least}")
    return int(text)


def seed(text: str) -> int:
    """A whole number >= 0."""
    return whole(text, least=0)


def several(text: str) -> int:
    """A whole number >= 2."""
    return whole(text, least=2)


def model(text: str) -> str:
    """A model's name, folder or file, as `fixtures.models` takes them."""
    try:
        source_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def dataset(text: str) -> EditStream:
    """All edits of FILE or FORMAT:FILE."""
    try:
        return load_stream(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
