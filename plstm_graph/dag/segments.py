r"""The connected parts of a graph, and the size buckets in which they are padded together.

The parallel form treats each part of a batch as a small dense system. Batches mix sizes
(PROTEINS: mostly 30 nodes, one of 620), so parts of similar size share a bucket; the buckets are
the cheapest cut of the sorted sizes under a cost model, found by dynamic programming.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from plstm_graph.dag.levels import components
from plstm_graph.dag.line_graph import LineGraph

#: Distinct sizes that the cut distinguishes.
MAX_SIZES = 32
#: Microseconds of one bucket's own operations, and per element of E^2 n and of E n (one head),
#: forward plus backward, as measured on one CPU core (see :mod:`plstm_graph.ops.cost`).
BUCKET_COST, SOLVE_COST, PASS_COST = 400.0, 2.5e-5, 1.6e-2


class Segments(NamedTuple):
    """The parts of a graph (numpy arrays; P parts).

    Attributes:
        node_part: [N] part of each node; node_local: [N] its number inside the part.
        edge_part: [E] part of each edge; edge_local: [E] its topological number inside, in the
            original direction (a reversed graph has the opposite order).
        num_nodes, num_edges: [P] sizes.
    """

    node_part: np.ndarray
    node_local: np.ndarray
    edge_part: np.ndarray
    edge_local: np.ndarray
    num_nodes: np.ndarray
    num_edges: np.ndarray


def segments(line_graph: LineGraph) -> Segments:
    """Parts by ``node_batch`` where it is given, by connected components otherwise.

    Cached, and shared by a graph, its reverse and its multitree.
    """
    family = line_graph._family
    if "segments" not in family:
        family["segments"] = _segments(line_graph)
    return family["segments"]


def _segments(line_graph: LineGraph) -> Segments:
    edge_index = line_graph.edge_index.cpu().numpy()
    if line_graph.node_batch is None:
        node_part = components(edge_index, line_graph.num_nodes)
    else:
        node_part = line_graph.node_batch.cpu().numpy()
    # Labels with gaps would be parts without nodes.
    node_part = np.unique(node_part, return_inverse=True)[1].reshape(-1)
    parts = int(node_part.max(initial=-1)) + 1
    edge_part = node_part[edge_index[0]]
    # The original's levels order the edges of its multitree too, and reversed those of its reverse.
    level = line_graph._family["original"].level.cpu().numpy()
    return Segments(
        node_part,
        _rank_within(node_part, np.argsort(node_part, kind="stable"), parts),
        edge_part,
        _rank_within(edge_part, np.lexsort((level, edge_part)), parts),
        np.bincount(node_part, minlength=parts),
        np.bincount(edge_part, minlength=parts),
    )


def _rank_within(group: np.ndarray, order: np.ndarray, groups: int) -> np.ndarray:
    """The place of each item inside its group, when items stand in ``order`` (sorted by group)."""
    count = np.bincount(group, minlength=groups)
    rank = np.empty(group.size, dtype=np.int64)
    rank[order] = np.arange(group.size) - np.repeat(np.cumsum(count) - count, count)
    return rank


def bucket_cost(num_nodes: np.ndarray, num_edges: np.ndarray) -> np.ndarray:
    """Microseconds for one part and head, padded to these sizes (CPU, forward plus backward)."""
    n, e = num_nodes.astype(float), num_edges.astype(float)
    return SOLVE_COST * e * e * n + PASS_COST * np.maximum(e, n) * n


def cut_buckets(num_nodes: np.ndarray, num_edges: np.ndarray, heads: int) -> list[np.ndarray]:
    """The cheapest cut of parts, sorted by size, into buckets.

    Args:
        num_nodes, num_edges: [P] sizes of the parts.
        heads: H.

    Returns:
        The parts of each bucket; every part is in one.
    """
    order = np.lexsort((num_nodes, num_edges))
    if order.size == 0:
        return []
    n, e = num_nodes[order], num_edges[order]
    # Candidate cuts: where the number of edges changes, thinned to MAX_SIZES of them.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(e)) + 1])
    if starts.size > MAX_SIZES:
        starts = starts[np.linspace(0, starts.size - 1, MAX_SIZES).astype(np.int64)]
    ends = np.append(starts[1:], order.size)
    n_max = np.maximum.reduceat(n, starts)
    e_max = e[ends - 1]
    best = np.zeros(starts.size + 1)
    cut = np.zeros(starts.size + 1, dtype=np.int64)
    for j in range(starts.size):
        widest = np.maximum.accumulate(n_max[j::-1])[::-1]  # nodes of a bucket from i to j
        count = ends[j] - starts[: j + 1]
        cost = BUCKET_COST + heads * count * bucket_cost(widest, e_max[j])
        total = best[: j + 1] + cost
        cut[j + 1] = int(total.argmin())
        best[j + 1] = total[cut[j + 1]]
    buckets = []
    j = starts.size
    while j > 0:
        buckets.append(order[starts[cut[j]] : ends[j - 1]])
        j = int(cut[j])
    return buckets
