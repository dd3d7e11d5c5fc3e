"""What is printed: notes, progress bars on a terminal, and nothing else."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: How often a progress bar that does not know the end is moved.
_STEP = 64


class Voice:
    """Prints plain text to standard output.

    Args:
        console: default: the process's own.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)

    def say(self, text: Any) -> None:
        if isinstance(text, str):
            self.console.print(text, markup=False, highlight=False)
        else:
            self.console.print(text)

    @property
    def moving(self) -> bool:
        """Whether progress bars are of use: a log file would get a line for each step."""
        return self.console.is_terminal and sys.stdout.isatty()

    def track(self, items: Iterable, what: str) -> Iterator:
        """The items, with their number and rate on a terminal."""
        if not self.moving:
            yield from items
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description} {task.completed:,}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what)
            for i, item in enumerate(items, 1):
                yield item
                if i % _STEP == 0:
                    progress.update(task, completed=i)


def quiet() -> None:
    """Keep Lightning's advice and start-up notices out of the output."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*Checkpoint directory .* exists.*",
        ".*Trying to infer the `batch_size`.*",
    ):
        warnings.filterwarnings("ignore", message=message)
