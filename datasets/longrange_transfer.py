"""Graphs in which a message must travel: graph transfer, barbells, trees of keys and values.

All graphs of a set have the same edges, which they share in memory.
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import torch
from torch_geometric.data import Data

from datasets.base import InputError
from datasets.longrange_graphs import Rng, both_directions, path

SHAPES = ("line", "ring", "crossed")
#: Most examples and most permutations of trees, as published.
TREES, PERMUTATIONS = 32_000, 1_000


def transfer_edges(shape: str, distance: int) -> np.ndarray:
    """Edges [E, 2] of graph transfer; the nodes 0 and ``distance`` are that far from each other.

    * line: ``distance`` + 1 nodes. (The published program has one node less.)
    * ring: 2 * ``distance`` nodes.
    * crossed: this ring, and with m = 2 * ``distance`` the edges (i, m - 1 - i) and, from i = 2
      on, (i, m + 1 - i), for i < ``distance``: each half of the ring is tied to the other half one
      step ahead and one step back, which makes no path shorter.

    Self-loops, which the published line has, are left out.
    """
    if shape == "line":
        return path(distance + 1)
    nodes = 2 * distance
    ring = [*map(tuple, path(nodes).tolist()), (0, nodes - 1)]
    if shape == "crossed":
        ring += [(i, nodes - 1 - i) for i in range(distance)]
        ring += [(i, nodes + 1 - i) for i in range(2, distance)]
    return np.array(ring)


def transfer_graphs(rng: Rng, count: int, shape: str, distance: int) -> list[Data]:
    """Graph transfer: swap the values of two nodes, keep those of all others.

    After "On Over-Squashing in Message Passing Neural Networks" (arXiv 2302.02941), in the
    protocol of SWAN (arXiv 2405.01009).

    Returns:
        ``x`` [N, 1]: 1 at node 0, 0 at the node at the distance, U(0, 1) elsewhere; ``node_y``
        [N, 1], the same with 0 and 1 swapped.
    """
    pairs = transfer_edges(shape, distance)
    edge_index, nodes = both_directions(pairs), int(pairs.max()) + 1
    values = torch.from_numpy(rng.random((count, nodes, 1), np.float32))
    values[:, 0], values[:, distance] = 1, 0
    targets = values.clone()
    targets[:, 0], targets[:, distance] = 0, 1
    return [Data(x=x, edge_index=edge_index, node_y=y) for x, y in zip(values, targets)]


def barbell_graphs(rng: Rng, count: int, size: int) -> list[Data]:
    """Two cliques that one edge joins: each node predicts the mean of the other clique.

    As in the programs of Stable-ChebNet and later ones, features are uniform with mean
    -sqrt(3 n) in one clique of n nodes and sqrt(3 n) in the other, and a standard deviation of
    sqrt(n): the means differ with a variance of 1, the error of one who knows nothing of the
    other clique.

    Returns:
        ``x`` [N, 1], divided by sqrt(n); ``node_y`` [N, 1], which is not.
    """
    first = np.array(list(combinations(range(size), 2))).reshape(-1, 2)
    edge_index = both_directions(np.concatenate([first, first + size, [[0, size]]]))
    side = np.repeat([-1.0, 1.0], size) * np.sqrt(3)
    noise = rng.uniform(-np.sqrt(3), np.sqrt(3), (count, 2 * size))
    x = side + noise
    means = x.reshape(count, 2, size).mean(2)[:, ::-1] * np.sqrt(size)
    values = torch.from_numpy(x).float().unsqueeze(-1)
    targets = torch.from_numpy(np.repeat(means, size, axis=1)).float().unsqueeze(-1)
    return [Data(x=x, edge_index=edge_index, node_y=y) for x, y in zip(values, targets)]


def tree_match_graphs(rng: Rng, depth: int) -> list[Data]:
    """Tree-NeighborsMatch: a binary tree whose root asks for the value of one leaf.

    After "On the Bottleneck of Graph Neural Networks and its Practical Implications" (arXiv
    2006.05205). Leaf i of 2 ** depth has key i and a value, which are a permutation of all values;
    the root has a key. Up to depth 3 the permutations differ, above they are drawn; each comes
    with every key: at most 32,000 trees, in random order. Unlike there, edges have both directions.

    Args:
        rng: source of the permutations and of the order.
        depth: edges between the root and a leaf.

    Returns:
        ``x`` [N, 2], integers as floats: keys and values, counted from 1, 0 for none; nodes level
        by level, the root first. ``root_index`` [1] = 0 and ``root_y`` [1], the value that is
        asked for, counted from 0.
    """
    leaves = 2**depth
    if depth <= 3:
        every = list(permutations(range(leaves)))
        chosen = rng.permutation(len(every))[:PERMUTATIONS]
        values = np.array([every[i] for i in chosen])
    else:
        number = min(PERMUTATIONS, TREES // leaves)
        values = np.stack([rng.permutation(leaves) for _ in range(number)])
    order = rng.permutation(len(values) * leaves)
    rows, keys = np.divmod(order, leaves)
    nodes = 2 * leaves - 1
    children = np.arange(1, nodes)
    edge_index = both_directions(np.stack([(children - 1) // 2, children], 1))
    x = np.zeros((len(order), nodes, 2), np.float32)
    x[:, -leaves:, 0] = 1 + np.arange(leaves)
    x[:, -leaves:, 1] = 1 + values[rows]
    x[:, 0, 0] = 1 + keys
    answers = torch.from_numpy(values[rows, keys]).long()
    root = torch.zeros(1, dtype=torch.long)
    return [
        Data(x=features, edge_index=edge_index, root_index=root, root_y=answer)
        for features, answer in zip(torch.from_numpy(x), answers.split(1))
    ]


def check_size(name: str, value: int, low: int, high: int) -> int:
    """``value``, if it is between ``low`` and ``high``."""
    if not low <= value <= high:
        raise InputError(f"expected {name} from {low} to {high}, got {value}; choose another one")
    return value
