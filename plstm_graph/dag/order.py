"""Nodes in the order of their canonical ranks."""

from __future__ import annotations

import numpy as np

from plstm_graph.dag.keys import codes, dense
from plstm_graph.dag.refine import Graphs


def ordered(
    graphs: Graphs, primary: np.ndarray, value: np.ndarray, color: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """[n] int64 position of each node when sorted by component, primary, value and colour.

    Nodes tied in all of them are in pendant trees. They follow the order of their parents; those
    with one parent are exchanged by symmetries.
    """
    size = graphs.component.size
    packed, _ = codes([np.stack([graphs.component, primary, value], axis=1)], size, "primary")
    order = np.lexsort((color, packed))
    same = np.zeros(size, dtype=bool)
    same[1:] = (color[order][1:] == color[order][:-1]) & (packed[order][1:] == packed[order][:-1])
    if same.any():
        tied = np.zeros(size, dtype=bool)
        tied[order[same]] = True
        tied[order[:-1][same[1:]]] = True
        order = np.lexsort((_by_parents(graphs, np.flatnonzero(tied), depth), color, packed))
    position = np.empty(size, dtype=np.int64)
    position[order] = np.arange(size)
    return position


def _by_parents(graphs: Graphs, tied: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """[n] int64 key that orders tied nodes as their closest ancestors that are not tied to it.

    By doubling: after k steps a node's label orders it by its last 2^k tied ancestors, the
    farthest first.
    """
    arc, tail = graphs.arcs(tied)
    above = depth[graphs.neighbour[arc]] < depth[tied[tail]]
    local = np.full(graphs.component.size, -1, dtype=np.int64)
    local[tied] = np.arange(tied.size)
    parent = np.full(tied.size, -1, dtype=np.int64)
    parent[tail[above]] = local[graphs.neighbour[arc[above]]]
    label = np.arange(tied.size)
    while (parent >= 0).any():
        before = np.where(parent >= 0, label[parent], -1) + 1
        label, _ = dense(before * tied.size + label, (tied.size + 1) * tied.size)
        parent = np.where(parent >= 0, parent[parent], -1)
    key = np.zeros(graphs.component.size, dtype=np.int64)
    key[tied] = label
    return key
