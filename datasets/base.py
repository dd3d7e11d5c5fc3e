"""What every data set of graphs with targets looks like, and where its files live."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.molecules.errors import InputError

__all__ = ["SPLITS", "TASKS", "GraphDataset", "InputError", "data_root", "numbered_targets"]

TASKS = ("regression", "binary", "multilabel")
SPLITS = ("train", "valid", "test")


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all data sets: ``root``, else PLSTM_DATA_ROOT, else a cache in the home."""
    chosen = root or os.environ.get("PLSTM_DATA_ROOT") or Path.home() / ".cache" / "plstm_graph"
    return Path(chosen).expanduser()


def numbered_targets(count: int) -> list[str]:
    """Names for targets that have none: target_1, target_2, ..."""
    return [f"target_{i}" for i in range(1, count + 1)]


@dataclass
class GraphDataset:
    """Graphs with one or several targets each, and their split.

    Args:
        name: as given on the command line.
        task: ``"regression"``, ``"binary"`` (target 0 or 1) or ``"multilabel"`` (several such).
        graphs: each with ``x`` [N, F], ``edge_index`` [2, M], ``edge_attr`` [M, F'] or none, and
            ``y`` float32, [1] or for T targets [1, T]. ``x`` and ``edge_attr`` are integers
            (OGB's atom and bond features) or both floats.
        split: "train", "valid" and "test" with the rows of ``graphs``, disjoint.
        notes: what a user should know of this load: bad rows, duplicates.
        evaluator: the benchmark's own metric, (pred, target, shaped as the targets) -> {name:
            value}, where there is one.
        target_names: one for each target. Default: the name of the set, or target_1, target_2, ...
            for several.
    """

    name: str
    task: str
    graphs: list[Data]
    split: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    evaluator: Callable[[Tensor, Tensor], dict[str, float]] | None = None
    target_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"expected task one of {', '.join(TASKS)}, got {self.task!r}")
        if missing := [part for part in SPLITS if len(self.split.get(part, ())) == 0]:
            raise InputError(
                f"expected molecules in every part of the split of {self.name}, got none in "
                f"{', '.join(missing)} ({len(self.graphs)} in all); use more molecules"
            )
        self._check_targets()
        if not self.target_names:
            count = self.num_targets
            self.target_names = [self.name] if count == 1 else numbered_targets(count)

    def _check_targets(self) -> None:
        """Refuses shapes that would be broadcast against predictions, and names that do not fit."""
        shape = tuple(self.graphs[0].y.shape)
        one, several = shape == (1,), len(shape) == 2 and shape[0] == 1 and shape[1] > 1
        fits = {"regression": one or several, "binary": one, "multilabel": several}
        if not fits[self.task]:
            words = {"regression": "[1] or [1, T], T > 1", "binary": "[1]"}
            raise InputError(
                f"expected y of each graph of {self.name} shaped "
                f"{words.get(self.task, '[1, T], T > 1')} for task {self.task!r}, got "
                f"{list(shape)}; reshape y, or choose another task"
            )
        if self.target_names and len(self.target_names) != self.num_targets:
            raise InputError(
                f"expected {self.num_targets} target_names for {self.name}, got "
                f"{self.target_names}; name each column of y once"
            )

    @property
    def num_targets(self) -> int:
        """Targets of a graph."""
        return self.graphs[0].y.size(-1)

    @property
    def molecular(self) -> bool:
        """Whether the features are OGB's integers, to be embedded."""
        return not self.graphs[0].x.is_floating_point()

    def part(self, name: str, limit: int | None = None) -> list[Data]:
        """The graphs of "train", "valid" or "test"; the first ``limit`` of them."""
        return [self.graphs[i] for i in self.split[name][:limit].tolist()]

    def targets(self, name: str) -> Tensor:
        """[B], or [B, T] for T targets: those of a part."""
        return torch.cat([graph.y for graph in self.part(name)])
