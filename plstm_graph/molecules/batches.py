"""Batches of molecules with their line graphs, and orientations that depend on seeds alone.

An orientation is drawn from one number for each molecule: in training a hash of the run's seed, the
epoch and the molecule's place, in prediction a hash of the molecule itself. Nothing depends on a
generator's state, on worker processes or on the other molecules of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.dag.levels import components
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.orient import bfs_depth
from plstm_graph.molecules.splits import shuffled

ORIENTATIONS = ("random_bfs", "random", "canonical")


@dataclass
class MoleculeBatch:
    """B molecules with N atoms and M / 2 bonds.

    Args:
        x: [N, 9] int64.
        edge_index: [2, M] int64.
        edge_attr: [M, 3] int64.
        batch: [N] int64, the molecule of each atom.
        size: B.
        line_graph: of all molecules.
        y: [B, T] targets as the loss reads them, 0 in gaps; None in prediction.
        weight: [B, T] of each target, 0 in gaps.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    size: int
    line_graph: LineGraph
    y: Tensor | None = None
    weight: Tensor | None = None

    def to(self, device: torch.device | str, **_: Any) -> MoleculeBatch:
        moved = {
            item.name: value.to(device)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), (Tensor, LineGraph))
        }
        return replace(self, **moved)


def mix(values: np.ndarray) -> np.ndarray:
    """A hash of each uint64: the finalizer of the SplitMix64 generator."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draw_of(*numbers: int) -> int:
    """A seed of 31 bits."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little") >> 1


def ranks(
    edge_index: np.ndarray, batch: np.ndarray, seeds: np.ndarray, orientation: str
) -> np.ndarray:
    """[N] ranks of atoms, drawn for each molecule from its seed alone.

    Args:
        edge_index: [2, M].
        batch: [N] molecule of each atom, ascending.
        seeds: [B] uint64.
        orientation: "random": a random permutation; "random_bfs": by the distance from a random
            atom of each fragment, then a random permutation.
    """
    count = batch.size
    first = np.searchsorted(batch, np.arange(seeds.size))
    inside = (np.arange(count) - first[batch]).astype(np.uint64)
    key = mix(mix(seeds)[batch] ^ mix(inside))
    number = np.empty(count, dtype=np.int64)
    number[np.lexsort((inside, key, batch))] = np.arange(count)
    if orientation == "random":
        return number
    numbered = number[edge_index]
    root = components(numbered, count) == np.arange(count)
    return bfs_depth(numbered, root)[number] * max(count, 1) + number


def collate(
    graphs: Sequence[Data],
    seeds: np.ndarray,
    orientation: str = "random_bfs",
    y: Tensor | None = None,
    weight: Tensor | None = None,
) -> MoleculeBatch:
    """Molecules as one batch.

    Args:
        graphs: B molecules with OGB's features.
        seeds: [B] uint64, of the orientations; "canonical" does not read them.
        orientation: one of :data:`ORIENTATIONS`.
        y, weight: see :class:`MoleculeBatch`.
    """
    sizes = torch.tensor([graph.x.size(0) for graph in graphs])
    columns = torch.tensor([graph.edge_index.size(1) for graph in graphs])
    batch = torch.arange(len(graphs)).repeat_interleave(sizes)
    first = sizes.cumsum(0) - sizes
    edge_index = torch.cat([graph.edge_index for graph in graphs], 1)
    edge_index = edge_index + first.repeat_interleave(columns)
    x = torch.cat([graph.x for graph in graphs])
    edge_attr = torch.cat([graph.edge_attr for graph in graphs])
    if orientation == "canonical":
        drawn, features = "canonical", {"x": x, "edge_attr": edge_attr}
    else:
        drawn = torch.from_numpy(ranks(edge_index.numpy(), batch.numpy(), seeds, orientation))
        features = {}
    line_graph = LineGraph.from_edge_index(edge_index, x.size(0), drawn, batch, **features)
    return MoleculeBatch(x, edge_index, edge_attr, batch, len(graphs), line_graph, y, weight)


class Request(NamedTuple):
    """A batch to be made: rows of the set, and the number that orientations are drawn from."""

    rows: list[int]
    draw: int


class Batches(torch.utils.data.Dataset):
    """A data set whose items are whole batches, made on request.

    Args:
        graphs: all molecules, in memory or on disk.
        seeds: [B] uint64, of the molecules.
        orientation: one of :data:`ORIENTATIONS`.
        y: [B, T] float32 targets as the loss reads them.
        weight: [B, T] float32.
    """

    def __init__(
        self,
        graphs: Sequence[Data],
        seeds: np.ndarray,
        orientation: str,
        y: Tensor,
        weight: Tensor,
    ) -> None:
        self.graphs, self.seeds, self.orientation = graphs, seeds, orientation
        self.y, self.weight = y, weight

    def __getitem__(self, request: Request) -> MoleculeBatch:
        rows = request.rows
        fetch = getattr(self.graphs, "multi_get", None)
        graphs = fetch(rows) if fetch else [self.graphs[row] for row in rows]
        seeds = self.seeds[rows] ^ mix(np.array([request.draw], dtype=np.uint64))
        return collate(graphs, seeds, self.orientation, self.y[rows], self.weight[rows])

    def __len__(self) -> int:
        return len(self.graphs)


class Requests(torch.utils.data.Sampler):
    """The batches of an epoch.

    Args:
        rows: of the part.
        size: molecules of a batch.
        seed: of the order and the orientations in training; None for the same batches in the order
            of ``rows`` each time, with the orientations that belong to the molecules.
    """

    def __init__(self, rows: Sequence[int], size: int, seed: int | None = None) -> None:
        self.rows, self.size, self.seed, self.epoch = list(rows), size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer, also where it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[Request]:
        order, draw = range(len(self.rows)), 0
        if self.seed is not None:
            order = shuffled(len(self.rows), f"{self.seed} {self.epoch}")
            draw = 1 + self.epoch + (self.seed << 32)
        for start in range(0, len(self.rows), self.size):
            yield Request([self.rows[i] for i in order[start : start + self.size]], draw)
