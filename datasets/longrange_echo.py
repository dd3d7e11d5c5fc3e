"""Graphs like those of the ECHO benchmark: six topologies, distances of up to 40 hops.

After "Can You Hear Me Now? A Benchmark for Long-Range Graph Propagation" (arXiv 2512.17762). Its
files are not read: the graphs are drawn here, from the published description. The sizes of its
graphs are not published, so those of each topology are chosen to give the published range of
diameters; a draw outside that range is repeated.
"""

from __future__ import annotations

import numpy as np
from torch_geometric.data import Data

from datasets.longrange_graphs import (
    Rng,
    distances,
    grid,
    labelled,
    lobster,
    path,
    undirected,
)

TOPOLOGIES = ("line", "ladder", "grid", "tree", "caterpillar", "lobster")
#: Smallest and largest number of nodes, and of the diameter.
NODES, DIAMETER = (50, 200), (17, 40)
#: Largest sizes at which lines and ladders have a diameter in the range often enough.
LARGEST = {"line": 90, "ladder": 80}
#: Share of a line's nodes with a further edge, and how far away its other end is.
FURTHER, REACH = 0.2, (2, 6)
#: Share of a grid's edges that are removed.
REMOVED = 0.2
#: A new node of a tree joins another one with a probability ~ degree ** ATTACHMENT.
ATTACHMENT = -3.0


def echo_graphs(rng: Rng, count: int) -> list[Data]:
    """Connected graphs, as many of each topology, in turns; see :func:`labelled`."""
    graphs = []
    for i in range(count):
        while True:
            adjacency = topology(rng, TOPOLOGIES[i % len(TOPOLOGIES)])
            if len(adjacency) and DIAMETER[0] <= distances(adjacency).max() <= DIAMETER[1]:
                break
        order = rng.permutation(len(adjacency))
        graphs.append(labelled(rng, adjacency[order][:, order]))
    return graphs


def topology(rng: Rng, kind: str) -> np.ndarray:
    """[N, N] adjacency of a graph of one of TOPOLOGIES; [0, 0] where it came out disconnected.

    * line: a path; a fifth of its nodes have one more edge, to a node 2 to 6 further on.
    * ladder: two paths, and a rung between each two nodes that face each other.
    * grid: rectangular, without a fifth of its edges.
    * tree: nodes join one by one, rather at nodes of small degree: with a probability that falls
      with the cube of the degree. (Where it rises with the cube, as descriptions can be read, the
      trees are stars, and none of 100 has a diameter above 5.)
    * caterpillar: a path, and nodes that hang on it.
    * lobster: a path, nodes that hang on it, and nodes that hang on these.
    """
    low, high = NODES[0], LARGEST.get(kind, NODES[1])
    nodes = int(rng.integers(low, high, endpoint=True))
    if kind == "line":
        return undirected(line(rng, nodes), nodes)
    if kind == "ladder":
        return undirected(grid(2, nodes // 2), nodes // 2 * 2)
    if kind == "grid":
        return thinned_grid(rng, nodes)
    if kind == "tree":
        return undirected(tree(rng, nodes), nodes)
    # The path is nearly as long as the diameter.
    spine = int(rng.integers(DIAMETER[0] - 3, min(DIAMETER[1], nodes - 1), endpoint=True))
    first = nodes if kind == "caterpillar" else int(rng.integers(spine + 1, nodes, endpoint=True))
    return undirected(lobster(rng, spine, first, nodes), nodes)


def line(rng: Rng, nodes: int) -> np.ndarray:
    """[E, 2]."""
    start = np.flatnonzero(rng.random(nodes) < FURTHER)
    end = start + rng.integers(*REACH, size=len(start), endpoint=True)
    further = np.stack([start, end], 1)[end < nodes]
    return np.concatenate([path(nodes), further])


def thinned_grid(rng: Rng, nodes: int) -> np.ndarray:
    """Of about ``nodes`` nodes and any shape from a path of squares to a square."""
    rows = int(rng.integers(3, int(nodes**0.5), endpoint=True))
    columns = nodes // rows
    pairs = grid(rows, columns)
    kept = rng.permutation(len(pairs))[round(REMOVED * len(pairs)) :]
    adjacency = undirected(pairs[kept], rows * columns)
    reached = np.zeros(rows * columns, bool)
    reached[0] = True
    while True:
        more = reached | adjacency[reached].any(0)
        if (more == reached).all():
            break
        reached = more
    return adjacency if reached.all() and rows * columns >= NODES[0] else adjacency[:0, :0]


def tree(rng: Rng, nodes: int) -> np.ndarray:
    """[N - 1, 2]."""
    degree, joined = np.zeros(nodes), np.zeros(nodes, int)
    degree[:2] = 1
    for node in range(2, nodes):
        weight = np.cumsum(degree[:node] ** ATTACHMENT)
        joined[node] = np.searchsorted(weight, rng.random() * weight[-1], side="right")
        degree[joined[node]] += 1
        degree[node] = 1
    return np.stack([joined[1:], np.arange(1, nodes)], 1)
