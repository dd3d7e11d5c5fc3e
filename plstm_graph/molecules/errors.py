"""The error that a user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave, which the message tells how to put right."""


def first_few(items: list[str], most: int = 3) -> str:
    """The first items of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
