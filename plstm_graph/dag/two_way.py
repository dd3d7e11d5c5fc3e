r"""Both directions of every edge in one acyclic line graph.

For every DAG edge e = (u -> v) the two-way graph has an *against* edge e- = (v -> u) and an
*along* edge e+ = (u -> v). A state first moves against the order of the DAG, turns once, then
moves along it:

* against -> against: the line edges of the DAG, turned round;
* against -> along, the *turn*: from e- = (v -> u) to f+ = (u -> w) for two edges e, f out of the
  same node u. A state never goes straight back over the same edge (f = e);
* along -> along: the line edges of the DAG;
* along -> against: never. So the line graph is acyclic for every DAG.

Against edges stand in front of along edges, so the numbers of levels add up, and a node hears
every node with which it shares an ancestor.

**D-mode.** The two-way line graph of a tree with one root has exactly one path between any two
edges. Where the DAG has one root but is not a tree, a spanning tree keeps that property: every node
keeps the edge from the predecessor of the lowest rank (its *parent* edge), and line edges that
leave another edge, in either direction, are dropped. Paths then run over tree edges alone, where
they are unique, and end on any edge: every node still hears every other one of its component. A
component with several roots is pruned by the general rule of :mod:`plstm_graph.dag.multitree`.
"""

from __future__ import annotations

import numpy as np

from plstm_graph.dag.levels import components, csr, expand
from plstm_graph.dag.multitree import multitree_mask


def two_way_line_index(
    edge_index: np.ndarray,
    line_index: np.ndarray,
    num_nodes: int,
    turning: np.ndarray | None = None,
) -> np.ndarray:
    """The line edges of a two-way graph.

    Args:
        edge_index: [2, E] int64, the edges of a DAG.
        line_index: [2, L] int64, its line edges.
        num_nodes: N.
        turning: [E'] ascending rows of ``edge_index`` that have an against edge. Default: all.

    Returns:
        [2, L2] int64: against edges are numbered in the order of ``turning`` from 0 to E' - 1,
        along edges from E' on. For E' = E, L2 = 2 L + the sum of d_out (d_out - 1) over nodes.
    """
    num_edges = edge_index.shape[1]
    if turning is None:
        count, number = num_edges, np.arange(num_edges)
        rows, back = number, line_index[::-1]
    else:
        rows, count = turning, turning.size
        number = np.full(num_edges, -1)
        number[rows] = np.arange(count)
        back = number[line_index[::-1]]
        back = back[:, (back >= 0).all(0)]
    # Each against edge into u is followed by all edges out of u but its own.
    src = edge_index[0]
    ptr, perm = csr(src, num_nodes)
    degree = (ptr[1:] - ptr[:-1])[src[rows]]
    e_in = np.repeat(rows, degree)
    e_out = perm[expand(ptr[src[rows]], degree)]
    turn = e_in != e_out
    turns = np.stack([number[e_in[turn]], e_out[turn] + count])
    return np.concatenate([back, turns, line_index + count], axis=1)


def parent_edges(edge_index: np.ndarray, num_nodes: int, rank: np.ndarray) -> np.ndarray:
    """[E] bool: of the edges into each node the one from the lowest rank (then the first row)."""
    src, dst = edge_index
    order = np.lexsort((rank[src], dst))
    first = np.diff(dst[order], prepend=-1) != 0
    parent = np.zeros(src.size, dtype=bool)
    parent[order[first]] = True
    return parent


def two_way_multitree_mask(
    edge_index: np.ndarray,
    line_index: np.ndarray,
    num_nodes: int,
    along: np.ndarray,
    original: np.ndarray,
    rank: np.ndarray,
) -> np.ndarray:
    """Which line edges of a two-way graph to keep so that at most one path joins any two edges.

    Args:
        edge_index: [2, E2] int64, edges of the two-way graph.
        line_index: [2, L2] int64, its line edges.
        num_nodes: N.
        along: [E2] bool, whether an edge runs along the order of the DAG.
        original: [E2] int64, a number that both directions of a DAG edge share.
        rank: [N] ranks of the nodes, which break ties.

    Returns:
        [L2] bool.
    """
    dag = edge_index[:, along]
    component = components(dag, num_nodes)
    is_root = np.ones(num_nodes, dtype=bool)
    is_root[dag[1]] = False
    roots = np.bincount(component[is_root], minlength=num_nodes)
    parent = np.zeros(int(original.max(initial=-1)) + 1, dtype=bool)
    parent[original[along]] = parent_edges(dag, num_nodes, rank)
    keep = parent[original[line_index[0]]]
    # Graphs of one way, in a batch with two-way ones, are pruned as they are alone.
    general = np.ones(num_nodes, dtype=bool)
    general[component[edge_index[0, ~along]]] = False
    general |= roots > 1
    many = general[component[edge_index[0, line_index[0]]]]
    if many.any():
        keep[many] = multitree_mask(edge_index, line_index[:, many], rank)
    return keep
