"""Long-range tasks: sets of graphs that are drawn, not downloaded.

    gpp                   graph property prediction: distances in graphs of 25 to 35 nodes
    echo                  the same targets, in graphs like ECHO's: up to 200 nodes and 40 hops
    transfer_line_50      swap the values of two nodes 50 hops apart; also _ring_ and _crossed_
    barbell_50            predict the mean of the other one of two cliques of 50 nodes
    tree_5                Tree-NeighborsMatch of depth 5
    parity, mod_arith     state machines on directed paths
    words_s3, words_s5    products in a group: on paths; of S_3 also on trees (words_s3_tree) and
                          on DAGs (words_s3_flat; words_s3_flat_nodes without edge features)
    recall                multi-query associative recall; also selective_copy and compression
    dataflow, circuits    programs on DAGs: the last write of a variable, Boolean circuits

A set depends on its name, the numbers of graphs and the seed only. Training, validation and test
graphs are drawn independently of each other's number. Those that take seconds to draw (gpp and
echo) are kept in ``longrange`` under the data root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from datasets.base import SPLITS, InputError, data_root
from datasets.longrange_echo import echo_graphs
from datasets.longrange_graphs import property_graphs
from datasets.longrange_tasks import TASKS, draw_task
from datasets.longrange_transfer import (
    SHAPES,
    barbell_graphs,
    check_size,
    transfer_graphs,
    tree_match_graphs,
)

#: Graphs for training, validation and test. ECHO has 10,080 in all.
SIZES = {
    "gpp": (5120, 640, 1280),
    "echo": (2000, 250, 500),
    "transfer": (1000, 100, 100),
    "barbell": (1000, 100, 100),
}
#: Published seeds of the parts of graph transfer.
TRANSFER_SEEDS = (1234, 2345, 3456)
#: Share of the trees that is trained on; the published score is the accuracy on these.
TREES_TRAINED = 0.8
PATTERN = re.compile(rf"gpp|echo|transfer_({'|'.join(SHAPES)})_(\d+)|(barbell|tree)_(\d+)")
EXPECTED = (
    "gpp, echo, transfer_SHAPE_DISTANCE (line, ring, crossed), barbell_NODES, tree_DEPTH, "
    f"{', '.join(TASKS)}"
)
#: Changes when what is drawn for the same name changes.
VERSION = 2


@dataclass(frozen=True)
class Target:
    """What is predicted: a number for each node or graph, or a class for each root or node.

    Args:
        name: of the target.
        level: "node" (a column of ``node_y``), "graph" (a column of ``graph_y``), "root"
            (the classes ``root_y`` of the nodes ``root_index``) or "node_class" (the classes
            ``class_y`` of nodes, -1 where a node has none).
        scale: labels were divided by it; 1 for classes.
        classes: number of classes of a "root" or "node_class" target.
    """

    name: str
    level: str
    scale: float = 1.0
    classes: int = 0


@dataclass
class LongRange:
    """A set: its graphs by part ("train", "valid", "test"), and what is to be predicted.

    Each graph has ``x`` [N, F], ``edge_index`` [2, M] with both directions of each edge, or one
    where the graphs are directed, and the labels that its targets name; numbers are divided by the
    largest absolute label of the training part.

    Args:
        name: of the set.
        parts: its graphs; some sets have a further part for test, "long".
        targets: what is predicted.
        directed: graphs are acyclic and have each edge in its one direction.
        codes: ``x`` has integers below this number, as floats; 0 where it has numbers.
        edge_codes: likewise of ``edge_attr``; 0 where there is none.
        positions: see :class:`datasets.longrange_tasks.Task`.
    """

    name: str
    parts: dict[str, list[Data]]
    targets: tuple[Target, ...]
    directed: bool = False
    codes: int = 0
    edge_codes: int = 0
    positions: int = 0


def load(
    name: str,
    root: str | Path | None = None,
    sizes: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> LongRange:
    """Draw a set, or read it where it is kept.

    Args:
        name: see the module.
        root: data root.
        sizes: numbers of training, validation and test graphs. Default: SIZES; of trees, all
            there are, 8 : 1 : 1; of directed sets COUNTS in :mod:`datasets.longrange_tasks`.
        seed: of the draw.

    Raises:
        InputError: on an unknown name or sizes below 1.
    """
    found = PATTERN.fullmatch(name)
    if not found and name not in TASKS:
        raise InputError(f"expected a set out of {EXPECTED}, got {name!r}; correct the name")
    if sizes is not None and (len(sizes) != 3 or min(sizes) < 1):
        raise InputError(
            f"expected sizes as three numbers of 1 or more (training, validation and test graphs), "
            f"got {list(sizes)}; correct them"
        )
    if name in TASKS:
        task, parts = draw_task(name, sizes, seed)
        target = Target("class", "node_class", classes=task.classes)
        return LongRange(name, parts, (target,), True, task.codes, task.edge_codes, task.positions)
    shape, distance, other, number = found.groups()
    if other == "tree":
        return _trees(name, check_size("the depth", int(number), 2, 8), sizes, seed)
    if shape:
        length = check_size("the distance", int(distance), 2, 1000)
        draw = partial(transfer_graphs, shape=shape, distance=length)
        parts = _draw(draw, sizes or SIZES["transfer"], [seed + start for start in TRANSFER_SEEDS])
        return _scaled(name, parts, {"node": ["transfer"]})
    if other == "barbell":
        draw = partial(barbell_graphs, size=check_size("the clique", int(number), 2, 200))
        parts = _draw(draw, sizes or SIZES["barbell"], [(seed, part) for part in range(3)])
        return _scaled(name, parts, {"node": ["mean"]})
    draw = property_graphs if name == "gpp" else echo_graphs
    parts = _kept(name, sizes or SIZES[name], seed, draw, data_root(root) / "longrange")
    return _scaled(name, parts, {"node": ["sssp", "ecc"], "graph": ["diam"]})


def _draw(draw: Callable, sizes: tuple[int, ...], seeds: list) -> dict[str, list[Data]]:
    """Parts, each from its own seed; ``draw`` takes a generator and a count."""
    return {
        part: draw(np.random.default_rng(seed), size)
        for part, size, seed in zip(SPLITS, sizes, seeds)
    }


def _trees(name: str, depth: int, sizes: tuple[int, ...] | None, seed: int) -> LongRange:
    """Parts of one draw, so that no tree is in two of them."""
    graphs = tree_match_graphs(np.random.default_rng(seed), depth)
    count = len(graphs)
    if sizes is None:
        train, valid = int(TREES_TRAINED * count), (count + 9) // 10
        sizes = (train, valid, count - train - valid)
    if sum(sizes) > count:
        raise InputError(
            f"expected sizes of at most {count} trees of depth {depth} in all, got {list(sizes)}; "
            f"choose smaller ones"
        )
    ends = [0, *accumulate(sizes)]
    parts = {part: graphs[a:b] for part, a, b in zip(SPLITS, ends, ends[1:])}
    target = Target("value", "root", classes=2**depth)
    return LongRange(name, parts, (target,), codes=2**depth + 1)  # 0 for none


def _scaled(name: str, parts: dict[str, list[Data]], names: dict[str, list[str]]) -> LongRange:
    """Labels divided by the largest absolute one of the training part, for each target.

    Args:
        name: of the set.
        parts: graphs with ``node_y`` [N, T] or ``graph_y`` [1, T] or both.
        names: of the T targets by level.
    """
    targets: list[Target] = []
    for level, columns in names.items():
        key = f"{level}_y"
        largest = torch.cat([data[key] for data in parts["train"]]).abs().amax(0)
        scale = largest.where(largest > 0, 1.0)
        targets += [Target(target, level, value) for target, value in zip(columns, scale.tolist())]
        for part in parts.values():
            for data in part:
                data[key] = data[key] / scale
    return LongRange(name, parts, tuple(targets))


def _kept(
    name: str, sizes: tuple[int, ...], seed: int, draw: Callable, folder: Path
) -> dict[str, list[Data]]:
    """Parts from the file of an earlier draw; drawn and written where there is none."""
    key = "-".join(map(str, (name, *sizes, f"seed{seed}", f"v{VERSION}")))
    path = folder / f"{key}.pt"
    if path.is_file():
        stored = torch.load(path, weights_only=True)
        return {part: unpack(packed) for part, packed in stored.items()}
    parts = _draw(draw, sizes, [(seed, part) for part in range(3)])
    folder.mkdir(parents=True, exist_ok=True)
    partly = path.with_suffix(f".{os.getpid()}.partial")
    torch.save({part: pack(graphs) for part, graphs in parts.items()}, partly)
    partly.replace(path)
    return parts


def pack(graphs: list[Data]) -> dict[str, tuple[Tensor, Tensor]]:
    """All graphs in one tensor for each key, and how many rows (of ``edge_index``, columns) each
    graph has there: a file of thousands of small tensors is slow to read."""
    packed = {}
    for key in graphs[0].keys():  # noqa: SIM118 a graph is no dictionary
        dim = graphs[0].__cat_dim__(key, None)
        values = [graph[key] for graph in graphs]
        packed[key] = torch.cat(values, dim), torch.tensor([value.size(dim) for value in values])
    return packed


def unpack(packed: dict[str, tuple[Tensor, Tensor]]) -> list[Data]:
    """The graphs that :func:`pack` was given."""
    columns = {}
    for key, (values, counts) in packed.items():
        pieces = values.split(counts.tolist(), Data().__cat_dim__(key, None))
        columns[key] = [piece.contiguous() for piece in pieces]
    return [Data(**dict(zip(columns, row))) for row in zip(*columns.values())]
