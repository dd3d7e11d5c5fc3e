"""Random graphs of graph property prediction, and the distances in them.

The generator is that of "Principal Neighbourhood Aggregation for Graph Nets" (arXiv 2004.05718),
with numpy instead of networkx: ten types of graphs, some of whose edges are then toggled.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path
from torch import Tensor
from torch_geometric.data import Data

#: Share of each type.
TYPES = {
    "erdos_renyi": 0.20,
    "barabasi_albert": 0.20,
    "grid": 0.05,
    "caveman": 0.05,
    "tree": 0.15,
    "ladder": 0.05,
    "line": 0.05,
    "star": 0.05,
    "caterpillar": 0.10,
    "lobster": 0.10,
}
#: Smallest and largest number of nodes.
NODES = (25, 35)
#: Probability with which an edge stays, see :func:`toggle`.
KEEP = 0.9

Rng = np.random.Generator


def property_graphs(rng: Rng, count: int) -> list[Data]:
    """Graphs of graph property prediction, of 25 to 35 nodes and of types drawn from TYPES.

    A graph with a node that has no edge is drawn again, with the same type and size. It may be
    disconnected. The returned graphs are those of :func:`labelled`.
    """
    names, shares = list(TYPES), list(TYPES.values())
    graphs = []
    for _ in range(count):
        kind = names[rng.choice(len(names), p=shares)]
        nodes = int(rng.integers(*NODES, endpoint=True))
        adjacency = np.zeros((nodes, nodes), bool)
        while not adjacency.any(0).all():
            adjacency = toggle(rng, base_graph(rng, kind, nodes))
        order = rng.permutation(nodes)
        graph = labelled(rng, adjacency[order][:, order])
        graph.kind = torch.tensor([names.index(kind)])
        graphs.append(graph)
    return graphs


def labelled(rng: Rng, adjacency: np.ndarray) -> Data:
    """A graph with features and its distances as labels, in hops.

    Args:
        rng: source of the features.
        adjacency: [N, N], symmetric, without self-loops.

    Returns:
        ``x`` [N, 2]: a number of U(0, 1), and one-hot the source node; ``edge_index`` [2, M] with
        both directions of each edge; ``node_y`` [N, 2]: distance from the source and
        eccentricity; ``graph_y`` [1, 1]: diameter. Distances between nodes that are not connected
        count as 0.
    """
    nodes = len(adjacency)
    lengths = distances(adjacency)
    source = int(rng.integers(nodes))
    x = torch.zeros(nodes, 2)
    x[:, 0] = torch.from_numpy(rng.random(nodes, np.float32))
    x[source, 1] = 1
    node_y = np.stack([lengths[source], lengths.max(1)], 1)
    return Data(
        x=x,
        edge_index=torch.from_numpy(np.stack(np.nonzero(adjacency))).long(),
        node_y=torch.from_numpy(node_y).float(),
        graph_y=torch.tensor([[float(lengths.max())]]),
    )


def distances(adjacency: np.ndarray) -> np.ndarray:
    """[N, N] hops between all nodes of a graph; 0 where there is no path."""
    lengths = shortest_path(csr_matrix(adjacency), directed=False, unweighted=True)
    return np.where(np.isfinite(lengths), lengths, 0.0)


def undirected(pairs: np.ndarray | list[tuple[int, int]], nodes: int) -> np.ndarray:
    """[N, N] adjacency of edges [E, 2], each given in one direction."""
    adjacency = np.zeros((nodes, nodes), bool)
    source, target = np.asarray(pairs, int).reshape(-1, 2).T
    adjacency[source, target] = adjacency[target, source] = True
    return adjacency


def both_directions(pairs: np.ndarray | list[tuple[int, int]]) -> Tensor:
    """``edge_index`` [2, 2 E], sorted, of edges [E, 2] that are given in one direction."""
    pairs = np.asarray(pairs, int).reshape(-1, 2)
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    return torch.from_numpy(pairs.T.copy()).long()


def toggle(rng: Rng, adjacency: np.ndarray) -> np.ndarray:
    """Edges removed and added at random, such that their expected number stays about the same.

    An edge stays with probability KEEP, and a missing one appears with probability
    (1 - KEEP) * edges / missing (where more than half of the edges are there, the other way round).
    The published program draws the mean of two uniform numbers for each pair instead, so that 98 %
    of its edges stay: its graphs are a little larger in diameter (8.9 instead of 6.8 hops).
    """
    nodes = len(adjacency)
    edges = adjacency.sum() / 2
    missing = nodes * (nodes - 1) / 2 - edges
    if edges <= missing:
        stays, appears = KEEP, (1 - KEEP) * edges / missing
    else:
        stays, appears = KEEP + (1 - KEEP) * (edges - missing) / edges, 1 - KEEP
    draw = np.triu(rng.random((nodes, nodes)), 1)
    draw = draw + draw.T
    changed = np.where(adjacency, draw < stays, draw < appears)
    np.fill_diagonal(changed, False)
    return changed


def base_graph(rng: Rng, kind: str, nodes: int) -> np.ndarray:
    """[N, N] adjacency of a graph of one of TYPES, before edges are toggled."""
    if kind == "erdos_renyi":
        upper = np.triu(rng.random((nodes, nodes)) < rng.random(), 1)
        return upper | upper.T
    if kind == "barabasi_albert":
        return undirected(barabasi_albert(rng, nodes, int(rng.random() * (nodes - 1)) + 1), nodes)
    if kind in ("grid", "caveman"):
        rows = max(i for i in range(1, int(nodes**0.5) + 1) if nodes % i == 0)
        if kind == "grid":
            return undirected(grid(rows, nodes // rows), nodes)
        clique = np.arange(nodes) // (nodes // rows)
        return (clique[:, None] == clique) & ~np.eye(nodes, dtype=bool)
    if kind == "tree":
        return undirected(powerlaw_tree(rng, nodes), nodes)
    if kind == "ladder":
        half = nodes // 2
        odd = [(0, nodes - 1)] if nodes % 2 else []
        return undirected([*map(tuple, grid(2, half)), *odd], nodes)
    if kind == "line":
        return undirected(path(nodes), nodes)
    if kind == "star":
        return undirected([(0, i) for i in range(1, nodes)], nodes)
    spine = int(rng.integers(1, nodes))
    first = nodes if kind == "caterpillar" else int(rng.integers(spine + 1, nodes + 1))
    return undirected(lobster(rng, spine, first, nodes), nodes)


def path(nodes: int) -> np.ndarray:
    """[N - 1, 2]."""
    return np.stack([np.arange(nodes - 1), np.arange(1, nodes)], 1)


def grid(rows: int, columns: int) -> np.ndarray:
    """[E, 2] edges of a rectangular grid, nodes numbered row by row."""
    node = np.arange(rows * columns).reshape(rows, columns)
    right = np.stack([node[:, :-1].ravel(), node[:, 1:].ravel()], 1)
    down = np.stack([node[:-1].ravel(), node[1:].ravel()], 1)
    return np.concatenate([right, down])


def lobster(rng: Rng, spine: int, first: int, nodes: int) -> np.ndarray:
    """[N - 1, 2]: a path of ``spine`` nodes, nodes up to ``first`` that hang on it, and the rest,
    which hang on these. With ``first`` = ``nodes`` it is a caterpillar."""
    legs = np.stack([np.arange(spine, first), rng.integers(0, spine, first - spine)], 1)
    if first == nodes:
        return np.concatenate([path(spine), legs])
    ends = np.stack([np.arange(first, nodes), rng.integers(spine, first, nodes - first)], 1)
    return np.concatenate([path(spine), legs, ends])


def barabasi_albert(rng: Rng, nodes: int, joined: int) -> list[tuple[int, int]]:
    """A star of ``joined`` + 1 nodes; each further node joins ``joined`` others, which are drawn
    with a probability that is proportional to their degrees."""
    pairs = [(0, i) for i in range(1, joined + 1)]
    degree = np.zeros(nodes)
    degree[0], degree[1 : joined + 1] = joined, 1
    for node in range(joined + 1, nodes):
        shares = degree[:node] / degree[:node].sum()
        others = rng.choice(node, joined, replace=False, p=shares)
        pairs += [(int(other), node) for other in others]
        degree[others] += 1
        degree[node] = joined
    return pairs


def powerlaw_tree(rng: Rng, nodes: int) -> list[tuple[int, int]]:
    """The tree of networkx's ``random_powerlaw_tree``: degrees drawn from a power law of exponent
    3 until they can be those of a tree; inner nodes in a path by rising degree, then leaves."""
    degrees = np.minimum(np.rint(rng.pareto(2, nodes) + 1), nodes).astype(int)
    while degrees.sum() != 2 * (nodes - 1):
        degrees[rng.integers(nodes)] = min(round(rng.pareto(2) + 1), nodes)
    inner = np.sort(degrees[degrees > 1])
    pairs = [(i, i + 1) for i in range(len(inner) + 1)]
    leaf = len(inner) + 2
    for node, degree in enumerate(inner.tolist(), 1):
        pairs += [(node, leaf + i) for i in range(degree - 2)]
        leaf += degree - 2
    return pairs
