r"""Which columns of an ``edge_index`` are the edges of the DAG.

A directed acyclic graph is kept exactly as it is. A symmetric graph (every undirected edge stored
in both directions) is oriented by a *rank* of its nodes: of each pair of columns the one from the
lower to the higher rank stays. An orientation is a way to rank:

================  ====================================================================
``"canonical"``   breadth first from a centre, independent of how nodes are numbered
                  (see the ``canonical`` module); the default
``"index"``       the node's index
``"degree"``      the node's degree, so edges run from the rim to the hubs; then its index
``"bfs"``         the distance from the lowest index in the component; then the index
``"random"``      a random permutation, new for each call: shallow DAGs, many roots
``"random_bfs"``  the distance from a random node of the component, then a random permutation,
                  both new for each call: deep DAGs with one root
a tensor [N]      the given ranks; they also orient graphs that are neither symmetric nor
                  acyclic
================  ====================================================================

A rank tensor orients what is there: where a graph is neither symmetric nor acyclic (edges were
dropped one by one from an undirected graph), each column from the lower to the higher rank stays,
and those against the ranks go, with or without an opposite. Under any other orientation such a
graph is an error.

Ranks also break the ties of :meth:`plstm_graph.LineGraph.multitree`, in directed graphs too.
``docs/orientation.md`` says what each of them guarantees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from plstm_graph.checks import describe, refuse
from plstm_graph.checks import seed as check_seed
from plstm_graph.dag.canonical import canonical_rank
from plstm_graph.dag.checks import located
from plstm_graph.dag.levels import components, csr, expand, find_cycle, longest_path_levels

ORIENTATIONS = ("canonical", "index", "degree", "bfs", "random", "random_bfs")
#: Those that are sampled in each call.
DRAWN = ("random", "random_bfs")


class Oriented(NamedTuple):
    """An oriented graph (numpy arrays)."""

    edge_id: np.ndarray  #: [E] int64, the columns that are edges of the DAG, ascending
    opposite_id: np.ndarray | None
    """[E] int64, the column of the opposite direction of each (-1 in a directed graph); None where
    all graphs are directed. Parallel edges are paired in their order."""
    node_rank: np.ndarray | None  #: [N] the ranks; None for the node's index


def orient(
    edge_index: np.ndarray,
    num_nodes: int,
    orientation: str | np.ndarray = "canonical",
    batch: np.ndarray | None = None,
    seed: int | list[int] | None = None,
    node_keys: Sequence[np.ndarray] = (),
    edge_keys: Sequence[np.ndarray] = (),
) -> Oriented:
    """Choose the columns of ``edge_index`` that are edges of the DAG.

    Args:
        edge_index: [2, M] int64. Parallel edges stay, each an edge of its own.
        num_nodes: N.
        orientation: one of :data:`ORIENTATIONS`, or ranks [N] (integer or floating
            point; different at the two ends of every edge of a symmetric graph).
        batch: [N] int64 graph of each node. Whether a graph is symmetric, or has a cycle, is
            judged for each graph alone. Without it the input is one graph.
        seed: for those in :data:`DRAWN`. Default: drawn from torch's global generator, which
            ``torch.manual_seed`` sets and a ``DataLoader`` seeds for each worker and epoch.
        node_keys: [N] or [N, F] and edge_keys: [M] or [M, F], features that ``"canonical"``
            tells nodes apart by.

    Raises:
        ValueError: on an unknown orientation, wrong ranks, a self-loop, a directed
            cycle (named), or a batch of the wrong size.
    """
    if isinstance(orientation, str):
        check_orientation(orientation)
    elif isinstance(orientation, np.ndarray):
        _check_rank(orientation, num_nodes, batch)
    else:
        raise ValueError(
            f"expected orientation as a name or a rank tensor, got {type(orientation).__name__}"
        )
    if not isinstance(seed, list):
        check_seed("seed", seed)
    if batch is not None and batch.size != num_nodes:
        raise ValueError(
            f"expected batch with {num_nodes} entries (one per node), got {batch.size}"
        )
    src, dst = edge_index
    if (src == dst).any():
        loop = np.flatnonzero(src == dst)[:1]
        (node,), graph = located(src[loop], batch)
        (column,), _ = located(loop, batch, src)
        raise ValueError(
            f"expected edge_index without self-loops, got node {node}{graph} joined to itself in "
            f"column {column}{graph}; remove them with torch_geometric.utils.remove_self_loops"
        )
    symmetric = _symmetric(edge_index, num_nodes, batch)
    keep, ranked = ~symmetric, symmetric  # directed graphs, and those that ranks orient
    if keep.any():
        directed = edge_index if keep.all() else edge_index[:, keep]
        level = longest_path_levels(directed, num_nodes)
        if (level < 0).any():
            if isinstance(orientation, str):
                _refuse_cycle(directed, num_nodes, level, batch)
            ranked = symmetric | _in_graph_of(np.flatnonzero(level < 0), batch, src)
            keep = ~ranked
    if isinstance(orientation, str):
        rank = _rank(edge_index, num_nodes, orientation, symmetric, seed, node_keys, edge_keys)
    else:
        rank = orientation
        tied = np.flatnonzero(ranked & (rank[src] == rank[dst]))[:1]
        if tied.size:
            (u, v), graph = located(edge_index[:, tied[0]], batch)
            raise ValueError(
                f"expected orientation with different ranks at the two ends of every edge, got "
                f"rank {rank[src[tied[0]]]} at both nodes {u} and {v}{graph}; break ties, for "
                f"instance with rank.argsort(stable=True).argsort()"
            )
    number = np.arange(num_nodes) if rank is None else rank
    edge_id = np.flatnonzero(keep | (number[src] < number[dst]))
    return Oriented(edge_id, _opposites(edge_index, num_nodes, edge_id, ranked), rank)


def _in_graph_of(nodes: np.ndarray, batch: np.ndarray | None, src: np.ndarray) -> np.ndarray:
    """[M] bool, the columns of the graphs that hold some of the nodes."""
    if batch is None:
        return np.ones(src.size, dtype=bool)
    return np.isin(batch[src], batch[nodes])


def _refuse_cycle(
    edge_index: np.ndarray, num_nodes: int, level: np.ndarray, batch: np.ndarray | None
) -> None:
    cycle, graph = located(find_cycle(edge_index, num_nodes, level), batch)
    what = f"the directed cycle {' -> '.join(map(str, cycle))}{graph}"
    src, dst = edge_index
    size = max(num_nodes, 1)
    if not np.isin(src * size + dst, dst * size + src).any():
        raise ValueError(
            f"expected edge_index of graphs that are acyclic, or symmetric (each edge in both "
            f"directions), got {what}; remove the cycle, or make the graph symmetric with "
            f"torch_geometric.utils.to_undirected"
        )
    lone = np.flatnonzero(_unmatched(edge_index, num_nodes))
    if batch is not None:
        lone = lone[batch[src[lone]] == batch[find_cycle(edge_index, num_nodes, level)[0]]]
    (u, v), _ = located(edge_index[:, lone[0]], batch)
    raise ValueError(
        f"expected edge_index of graphs that are acyclic, or symmetric (each edge in both "
        f"directions), got {what} in a graph that is not symmetric: {u} -> {v}{graph} has no "
        f"opposite. Where edges were dropped, use dropout_edge(..., force_undirected=True) of "
        f"torch_geometric.utils or a loader with subgraph_type='bidirectional'; else call "
        f"to_undirected, or pass a rank tensor as orientation, which orients what is there"
    )


def _opposites(
    edge_index: np.ndarray, num_nodes: int, edge_id: np.ndarray, symmetric: np.ndarray
) -> np.ndarray | None:
    """[E] the column of the opposite direction of each edge, see :class:`Oriented`."""
    if not symmetric.any():
        return None
    known = symmetric[edge_id]
    kept = edge_id[known]
    other = symmetric.copy()
    other[kept] = False
    other = np.flatnonzero(other)
    src, dst = edge_index
    size = max(num_nodes, 1)
    there, back = src[kept] * size + dst[kept], dst[other] * size + src[other]
    order, turned = np.argsort(there, kind="stable"), np.argsort(back, kind="stable")
    there, back = there[order], back[turned]
    paired = np.full(kept.size, -1)
    if np.array_equal(there, back):
        paired[order] = other[turned]
    else:  # some edges have one direction only: the n-th parallel one pairs with the n-th
        place = np.searchsorted(back, there) + np.arange(there.size)
        place -= np.searchsorted(there, there)
        pairs = place < np.searchsorted(back, there, "right")
        paired[order[pairs]] = other[turned[place[pairs]]]
    opposite = np.full(edge_id.size, -1)
    opposite[known] = paired
    return opposite


def check_orientation(name: str) -> None:
    """Raise ``ValueError`` unless it is one of :data:`ORIENTATIONS`, or a tensor of ranks."""
    if isinstance(name, torch.Tensor):
        if name.dim() != 1 or name.layout != torch.strided or name.is_complex() or name.is_meta:
            refuse("orientation", "as a name or a rank tensor [N] of real numbers", describe(name))
    elif not isinstance(name, str) or name not in ORIENTATIONS:
        known = ", ".join(ORIENTATIONS)
        refuse("orientation", f"as one of {known} or a rank tensor", describe(name))


def _check_rank(rank: np.ndarray, num_nodes: int, batch: np.ndarray | None) -> None:
    if rank.shape != (num_nodes,):
        raise ValueError(
            f"expected orientation as a rank tensor of shape [{num_nodes}] (one per node), "
            f"got {list(rank.shape)}"
        )
    if rank.dtype.kind not in "iuf":
        raise ValueError(
            f"expected orientation as a rank tensor of integer or floating dtype, got {rank.dtype}"
        )
    if rank.dtype.kind == "f" and np.isnan(rank).any():
        (node,), graph = located(np.flatnonzero(np.isnan(rank))[:1], batch)
        raise ValueError(f"expected orientation without NaN, got NaN at node {node}{graph}")


def _symmetric(edge_index: np.ndarray, num_nodes: int, batch: np.ndarray | None) -> np.ndarray:
    """[M] whether the column lies in a graph whose columns (u, v) and (v, u) are equally many."""
    src, dst = edge_index
    size = max(num_nodes, 1)
    there, back = src * size + dst, dst * size + src
    sorted_there, sorted_back = np.sort(there), np.sort(back)
    if np.array_equal(sorted_there, sorted_back):
        return np.ones(src.size, dtype=bool)
    if batch is None:
        return np.zeros(src.size, dtype=bool)
    bad_graph = np.zeros(int(batch.max()) + 1, dtype=bool)
    bad_graph[batch[src[_unmatched(edge_index, num_nodes)]]] = True
    return ~bad_graph[batch[src]]


def _unmatched(edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """[M] whether there are more or fewer columns (v, u) than (u, v)."""
    src, dst = edge_index
    size = max(num_nodes, 1)
    there, back = src * size + dst, dst * size + src
    return _count(np.sort(there), there) != _count(np.sort(back), there)


def _count(ordered: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.searchsorted(ordered, value, "right") - np.searchsorted(ordered, value, "left")


def _rank(
    edge_index: np.ndarray,
    num_nodes: int,
    orientation: str,
    symmetric: np.ndarray,
    seed: int | list[int] | None,
    node_keys: Sequence[np.ndarray],
    edge_keys: Sequence[np.ndarray],
) -> np.ndarray | None:
    """[N] ranks, or None for the node's index."""
    if orientation == "index":
        return None
    if orientation == "canonical":
        return canonical_rank(edge_index, num_nodes, node_keys, edge_keys)
    number = np.arange(num_nodes)
    if orientation in DRAWN:
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        number = np.random.default_rng(seed).permutation(num_nodes)
    if orientation == "random":
        return number
    edge_index = edge_index if symmetric.all() else edge_index[:, symmetric]
    if orientation == "degree":
        primary = np.bincount(edge_index[0], minlength=num_nodes)
    else:
        # The lowest number of a component is its root: a random node where numbers are random.
        numbered = number[edge_index]
        root = components(numbered, num_nodes) == np.arange(num_nodes)
        primary = bfs_depth(numbered, root)[number]
    return primary * max(num_nodes, 1) + number


def bfs_depth(edge_index: np.ndarray, root: np.ndarray) -> np.ndarray:
    """[N] distance from the nearest root along directed edges (N where there is none).

    Args:
        edge_index: [2, M].
        root: [N] bool.
    """
    size = root.size
    ptr, perm = csr(edge_index[0], size)
    neighbour = edge_index[1][perm]
    depth = np.full(size, size, dtype=np.int64)
    frontier = np.flatnonzero(root)
    step = 0
    while frontier.size:
        depth[frontier] = step
        reached = neighbour[expand(ptr[frontier], ptr[frontier + 1] - ptr[frontier])]
        frontier = np.unique(reached[depth[reached] == size])
        step += 1
    return depth
