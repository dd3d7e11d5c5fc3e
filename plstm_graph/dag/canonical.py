r"""Node ranks that do not depend on how nodes are numbered.

For each connected component, in this order:

1. *Colours* start from the features, compared exactly (``keys``, ``arcs``).
2. The *root* is a node of the centre (``centre``): of those with the least features the one of
   least colour, where colours are refined by those of the neighbours until nothing changes
   (``refine``).
3. Colours are refined again, now with the distance from the root, which separates most nodes.
4. Ties that are symmetries, which ``symmetry`` proves from the partition, are broken by any
   choice. That covers trees, and nearly all molecules.
5. For what is left, ``search`` tries every choice and takes the smallest refined labelling.
6. Nodes are ranked by distance from the root, then features, then colour (``order``).

All steps run on the disjoint union of the input's components: the number of numpy calls depends on
the largest component, not on how many there are. Hashes of 64 bits stand for colours.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from plstm_graph.checks import integer, pairs
from plstm_graph.dag.arcs import directed_levels, marked_arcs
from plstm_graph.dag.centre import centre, distance, peel_leaves
from plstm_graph.dag.keys import codes, within
from plstm_graph.dag.levels import components
from plstm_graph.dag.order import ordered
from plstm_graph.dag.refine import Graphs, Partition, is_least, mix_pair
from plstm_graph.dag.search import MAX_COPIED_NODES, search, split_by_depth
from plstm_graph.dag.symmetry import pieces, settle


def canonical_rank(
    edge_index: np.ndarray,
    num_nodes: int,
    node_keys: Sequence[np.ndarray] = (),
    edge_keys: Sequence[np.ndarray] = (),
    *,
    max_branches: int = 1000,
) -> np.ndarray:
    r"""Ranks nodes so that the ranked graph is the same for every numbering of the nodes.

    Two inputs that differ only in the numbers of nodes and the order of columns give, when each
    node is replaced by its rank, the same edges with the same keys. Nodes that no symmetry of the
    graph (with its keys) exchanges get the same ranks in both.

    Each connected component is ranked by itself: a graph in a batch gets the ranks that it gets
    alone. A component is *symmetric* if its columns (u, v) and (v, u) are equally many for all u
    and v. There ranks are breadth first: one node of the centre has rank 0, and ranks grow with
    the distance from it. In other components (directed acyclic graphs) ranks grow with the
    topological level.

    The centre is the set of nodes of least eccentricity in trees and in components of up to 512
    nodes; in larger ones, the nodes that are left last when nodes of low degree are removed in
    rounds.

    Args:
        edge_index: [2, M] int64, without self-loops; parallel edges are allowed.
        num_nodes: N.
        node_keys: arrays [N] or [N, F] of any integer, floating or bool dtype: what nodes are
            compared by at first, exactly and in this order. -0.0 equals 0.0.
        edge_keys: the same with M rows. Of an undirected edge both columns count.
        max_branches: how many choices are tried in one component where refinement leaves ties
            that are not known to be symmetries.

    Returns:
        [N] int64, in each component a permutation of 0, 1, ...

    Raises:
        ValueError: on keys of another shape or dtype, node numbers outside [0, N), self-loops, or
            ``max_branches`` below 1.

    Warns:
        UserWarning: where ``max_branches`` (or 2^21 copied nodes) is not enough for a component.
            Its ranks are valid, but may depend on how nodes are numbered.
    """
    _check(edge_index, num_nodes, max_branches)
    node_code, node_bound = codes(node_keys, num_nodes, "node_keys")
    edge_code, edge_bound = codes(edge_keys, edge_index.shape[1], "edge_keys")
    rank = np.zeros(num_nodes, dtype=np.int64)
    if not edge_index.shape[1]:
        return rank
    # Number nodes by component; nodes without edges keep rank 0.
    label = components(edge_index, num_nodes)
    has_edge = np.zeros(num_nodes, dtype=bool)
    has_edge[edge_index] = True
    nodes = np.flatnonzero(has_edge)
    label = label[nodes]
    if (label[1:] < label[:-1]).any():
        order = np.argsort(label, kind="stable")
        nodes, label = nodes[order], label[order]
    component = np.cumsum(np.diff(label, prepend=label[0]) != 0)
    local = np.empty(num_nodes, dtype=np.int64)
    local[nodes] = np.arange(nodes.size)
    edge_index = local[edge_index]
    count = int(component[-1]) + 1
    start = np.searchsorted(component, np.arange(count + 1))
    tail, neighbour, mark, directed = marked_arcs(
        edge_index, component, count, edge_code, edge_bound
    )
    ptr = np.searchsorted(tail, np.arange(nodes.size + 1))
    value = within(component, count, node_code[nodes], node_bound)
    level = directed_levels(edge_index, component, directed)
    graphs = Graphs(start, component, ptr, neighbour, mark, np.zeros(nodes.size, dtype=bool))
    color, depth = _labelling(graphs, value, level, max_branches)
    position = ordered(graphs, np.where(directed[component], level, depth), value, color, depth)
    rank[nodes] = position - start[component]
    return rank


def _check(edge_index: np.ndarray, num_nodes: int, max_branches: int) -> None:
    integer("num_nodes", num_nodes, 0)
    integer("max_branches", max_branches, 1)
    pairs("edge_index", edge_index)
    if edge_index.size and (edge_index.min() < 0 or edge_index.max() >= num_nodes):
        raise ValueError(
            f"expected edge_index with nodes in [0, {num_nodes}), got {edge_index.min()} to "
            f"{edge_index.max()}; pass the number of nodes as num_nodes"
        )
    loop = np.flatnonzero(edge_index[0] == edge_index[1])
    if loop.size:
        raise ValueError(
            f"expected edge_index without self-loops, got node {edge_index[0, loop[0]]} joined to "
            f"itself in column {loop[0]}; remove them with "
            f"torch_geometric.utils.remove_self_loops"
        )


def _labelling(
    graphs: Graphs, value: np.ndarray, level: np.ndarray, max_branches: int
) -> tuple[np.ndarray, np.ndarray]:
    """Colours that tell apart all nodes but symmetric ones in pendant trees, and BFS depths.

    Args:
        graphs: without ``core``.
        value: [n] int64 place of the node's features in its component.
        level: [n] int64 topological level, 0 in symmetric components.

    Returns:
        color: [n] uint64, depth: [n] int64.
    """
    round_, degree = peel_leaves(graphs)
    graphs = graphs._replace(core=round_ < 0)
    central = centre(graphs, round_, degree)
    partition = Partition(graphs.component)
    everything = np.arange(value.size)
    round_ = within(graphs.component, central.size, round_ + 1, int(round_.max()) + 2)
    signature = mix_pair(mix_pair(value, level), mix_pair(round_, central))
    partition.split(everything, signature)
    # The root: of the central nodes with the least value those of least colour.
    candidate = np.flatnonzero(central)
    candidate = candidate[is_least(value[candidate].astype(np.uint64), graphs.component[candidate])]
    several = np.bincount(graphs.component[candidate])[graphs.component] > 1
    partition.refine(graphs, everything[several])
    least = is_least(partition.color[candidate], graphs.component[candidate])
    candidate = candidate[least]
    root, is_open = _choose_roots(graphs, partition, candidate)
    depth = distance(graphs, root[is_open])
    fresh = split_by_depth(partition, depth)
    fresh = np.concatenate([everything[~several], fresh[several[fresh]]])
    stuck = settle(graphs, partition, fresh, is_open)
    stuck = np.union1d(stuck, np.flatnonzero(~is_open))
    color = partition.color
    if stuck.size:
        part, nodes = graphs.take(stuck)
        is_candidate = np.zeros(value.size, dtype=bool)
        is_candidate[candidate] = True
        position = np.where(is_open[stuck], root[stuck] - graphs.start[stuck], -1)
        found = search(
            part,
            partition.take(part.component, nodes),
            position,
            is_candidate[nodes],
            max_branches,
        )
        color[nodes] = found.color
        depth[nodes] = distance(part, part.start[:-1] + found.root)
        if found.limited.any():
            warnings.warn(
                f"canonical ranks of {int(found.limited.sum())} connected graphs may depend on how "
                f"their nodes are numbered: more than max_branches={max_branches} choices (or "
                f"{MAX_COPIED_NODES} copied nodes) would have to be tried in each of them; pass "
                f"features that tell their nodes apart, or raise max_branches",
                stacklevel=3,
            )
    return color, depth


def _choose_roots(
    graphs: Graphs, partition: Partition, candidate: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A root for each component, any of the candidates, and whether all of them are as good."""
    component = graphs.component[candidate]
    root = candidate[np.diff(component, prepend=-1) != 0]
    is_open = np.ones(root.size, dtype=bool)
    several = np.bincount(component) > 1
    if several.any():
        # Tied candidates outside the core are the two centre nodes of a tree.
        tied = np.flatnonzero(several[graphs.component] & graphs.core & partition.tied())
        exchanged = pieces(graphs, partition, tied)[1]
        other = np.zeros(graphs.component.size, dtype=bool)
        other[tied[~exchanged]] = True
        is_open[component[other[candidate]]] = False
    return root, is_open
