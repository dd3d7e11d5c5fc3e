"""Command lines made from functions, the same for all experiments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import auto_cli

from datasets.base import InputError

# Options that need no value on the command line.
SWITCHES = ("quick", "check")


def normal(arg: str) -> str:
    """Options are Python names to the parser: ``--smiles-column`` becomes ``--smiles_column``."""
    if not arg.startswith("--"):
        return arg
    name, *value = arg.split("=", 1)
    name = name[2:].replace("-", "_")
    if name in SWITCHES and not value:
        value = ["true"]
    return "=".join(["--" + name, *value])


def names(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The words of an option that takes several, separated by commas.

    Raises:
        InputError: if one of them is not ``known``.
    """
    found = [name.strip() for name in text.split(",")]
    if unknown := [name for name in found if name not in known]:
        raise InputError(
            f"expected {option} out of {', '.join(known)}, separated by commas without brackets, "
            f"got {unknown}"
        )
    return found


def integers(option: str, text: str | int) -> list[int]:
    """The integers of an option that takes several, separated by commas."""
    try:
        return [int(word) for word in str(text).split(",")]
    except ValueError:
        raise InputError(
            f"expected {option} as integers separated by commas, got {text!r}"
        ) from None


def run(
    commands: Callable | dict[str, Callable], args: list[str] | None = None, default: str = ""
) -> Any:
    """Call a function with arguments from the command line, and from ``--config FILE.yaml``.

    Args:
        commands: the function, or several by name.
        args: default: those of the process.
        default: name of the command where none is given.
    """
    args = [normal(arg) for arg in (sys.argv[1:] if args is None else args)]
    if default and (not args or args[0] not in (*commands, "-h", "--help")):
        args = [default, *args]
    try:
        return auto_cli(commands, args=args)
    except InputError as error:
        # What the user can put right is a message, not a traceback.
        raise SystemExit(f"error: {error}") from None
