"""Node ranks that do not depend on how nodes are numbered."""

from __future__ import annotations

import numpy as np

from plstm_graph.dag.levels import components

#: Times :func:`canonical_rank` tells equal neighbours apart before the node's index decides.
_MAX_SPLITS = 64


def canonical_rank(
    edge_index: np.ndarray,
    num_nodes: int,
    color: np.ndarray | None = None,
) -> np.ndarray:
    r"""Ranks that do not depend on how the nodes are numbered: colour refinement.

    Weisfeiler-Lehman refinement ranks nodes by their colour, then by the colours of their
    neighbours, until nothing changes. Then, where the two ends of an edge still have the same
    colour, one node of the lowest such colour of the component is told apart and refinement goes
    on. Which one does not matter if a symmetry of the graph exchanges the candidates (as in rings
    and other regular molecules): the DAGs are then isomorphic. Only for nodes that refinement
    cannot tell apart although no symmetry exchanges them (some strongly regular graphs), and after
    64 such choices in one component, the node's index decides, and numbering shows.

    Each connected component is ranked by itself, so a graph in a batch gets the ranks it gets
    alone. Ranks are only comparable inside a component; nodes that are not adjacent may share one.

    Args:
        edge_index: [2, M] int64, symmetric.
        num_nodes: N.
        color: [N] integers, the initial colours, such as atomic numbers.

    Returns:
        [N] int64.
    """
    src, dst = edge_index
    node = np.arange(num_nodes)
    component = components(edge_index, num_nodes)
    rank = np.zeros(num_nodes, dtype=np.int64) if color is None else color
    rank = _dense_rank(component, rank)
    result = rank.copy()
    splits = np.zeros(num_nodes, dtype=np.int64)  # of the component of each lowest node
    while src.size:
        # The multiset of neighbours as a sum of hashes: a function of ranks alone.
        neighbours = np.zeros(node.size, dtype=np.uint64)
        np.add.at(neighbours, dst, _mix(rank[src]))
        refined = _dense_rank(component, rank, neighbours)
        stable = np.ones(num_nodes, dtype=bool)
        stable[component[refined != rank]] = False
        rank = refined
        # In stable components, the first tied node by (rank, index) comes before its equals.
        tied = src[(rank[src] == rank[dst]) & stable[component[src]]]
        spent = splits[component[tied]] >= _MAX_SPLITS
        if spent.any():
            out = np.zeros(num_nodes, dtype=bool)
            out[component[tied[spent]]] = True
            rank = _dense_rank(component, rank, np.where(out[component], node, 0))
            tied = tied[~spent]
        if tied.size:
            tied = tied[np.lexsort((tied, rank[tied], component[tied]))]
            first = tied[np.diff(component[tied], prepend=-1) != 0]
            splits[component[first]] += 1
            stable[component[first]] = False
            later = np.ones(node.size, dtype=np.int64)
            later[first] = 0
            rank = _dense_rank(component, rank, later)
        # Only the components that are not finished go on.
        result[node] = rank
        rest = ~stable[component]
        if not rest.all():
            local = np.cumsum(rest) - 1
            arcs = rest[src]
            src, dst = local[src[arcs]], local[dst[arcs]]
            node, component, rank = node[rest], component[rest], rank[rest]
    return result


def _dense_rank(component: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """[N] rank of a node's keys among the different ones of its component, from 0."""
    order = np.lexsort((*keys[::-1], component))
    fresh = np.zeros(component.size, dtype=bool)
    other = np.zeros(component.size, dtype=bool)
    for key in keys:
        fresh[1:] |= key[order][1:] != key[order][:-1]
    other[1:] = component[order][1:] != component[order][:-1]
    count = np.cumsum(fresh | other)
    rank = np.empty(component.size, dtype=np.int64)
    rank[order] = count - np.maximum.accumulate(np.where(other, count, 0))
    return rank


def _mix(value: np.ndarray) -> np.ndarray:
    """A 64-bit hash of integers (splitmix64)."""
    z = value.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
