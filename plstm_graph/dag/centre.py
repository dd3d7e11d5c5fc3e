r"""Centres of graphs, and distances from them, for many graphs at once.

Three ways to a centre, each a function of the graph alone:

* of a tree: the one or two nodes that are left when its leaves are removed again and again, which
  are its nodes of least eccentricity;
* of another graph of up to :data:`EXACT_NODES` nodes: the nodes of least eccentricity. Each node
  holds the set of nodes within distance d as a bit set, and d grows until some set is full;
* of a larger graph: the nodes of the last round of *peeling*. A round removes all nodes of degree
  at most k at once; where there are none, k grows to the least degree that is left. In a grid or
  a ladder the rounds run from the rim to the middle. Work is proportional to the nodes and arcs
  removed, and to the nodes that are left each time k grows.
"""

from __future__ import annotations

import numpy as np

from plstm_graph.dag.refine import Graphs, unique_last

#: Components up to this size get exact eccentricities (8 words of bits a node).
EXACT_NODES = 512


def peel_leaves(graphs: Graphs) -> tuple[np.ndarray, np.ndarray]:
    """Removes nodes of degree at most one until none is left.

    Returns:
        round: [n] int64 round in which the node goes, -1 for the nodes of the 2-core.
        degree: [n] int64 number of neighbours that are left.
    """
    degree = np.diff(graphs.ptr)
    round_ = np.full(degree.size, -1, dtype=np.int64)
    limit = np.ones(graphs.start.size - 1, dtype=np.int64)
    _peel(graphs, np.flatnonzero(degree <= 1), limit, degree, round_, 0)
    return round_, degree


def centre(graphs: Graphs, round_: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """[n] bool, the nodes in the centre of each component.

    Args:
        graphs: at least one component.
        round_: as :func:`peel_leaves` gives it. In components of more than :data:`EXACT_NODES`
            nodes, -1 is overwritten by the round in which the node of the 2-core goes. Only the
            order of rounds inside a component is independent of the other components.
        degree: as :func:`peel_leaves` gives it; overwritten.
    """
    size = np.diff(graphs.start)
    cyclic = np.logical_or.reduceat(round_ < 0, graphs.start[:-1])
    large = cyclic & (size > EXACT_NODES)
    if large.any():
        _peel_cores(graphs, np.flatnonzero(large), degree, round_)
    last = np.maximum.reduceat(round_, graphs.start[:-1])
    central = round_ == last[graphs.component]
    words = 1
    while words * 64 <= EXACT_NODES:
        few = size <= words * 64 if words == 1 else (size > words * 32) & (size <= words * 64)
        chosen = np.flatnonzero(cyclic & few)
        if chosen.size:
            part, nodes = graphs.take(chosen)
            central[nodes] = _least_eccentricity(part, words)
        words *= 2
    return central


def distance(graphs: Graphs, roots: np.ndarray) -> np.ndarray:
    """[n] int64 number of arcs from the nearest root, -1 in components without one."""
    depth = np.full(graphs.component.size, -1, dtype=np.int64)
    scratch = np.empty_like(depth)
    step = 0
    while roots.size:
        depth[roots] = step
        reached = graphs.around(roots)
        roots = unique_last(reached[depth[reached] < 0], scratch)
        step += 1
    return depth


def _peel(
    graphs: Graphs,
    frontier: np.ndarray,
    limit: np.ndarray,
    degree: np.ndarray,
    round_: np.ndarray,
    step: int,
) -> int:
    """Removes the frontier, then what falls to the component's limit; writes degree and round."""
    scratch = np.empty_like(degree)
    while frontier.size:
        round_[frontier] = step
        reached = graphs.around(frontier)
        reached = reached[round_[reached] < 0]
        np.subtract.at(degree, reached, 1)
        fallen = degree[reached] <= limit[graphs.component[reached]]
        frontier = unique_last(reached[fallen], scratch)
        step += 1
    return step


def _peel_cores(
    graphs: Graphs, components: np.ndarray, degree: np.ndarray, round_: np.ndarray
) -> None:
    """Goes on from :func:`peel_leaves` in the components until no node is left."""
    nodes = graphs.nodes(components)
    limit = np.zeros(graphs.start.size - 1, dtype=np.int64)
    step = int(round_.max()) + 1
    while (nodes := nodes[round_[nodes] < 0]).size:
        component = graphs.component[nodes]
        limit[component] = degree[nodes]
        np.minimum.at(limit, component, degree[nodes])
        frontier = nodes[degree[nodes] <= limit[component]]
        step = _peel(graphs, frontier, limit, degree, round_, step)


def _least_eccentricity(graphs: Graphs, words: int) -> np.ndarray:
    """[n] bool, the nodes of least eccentricity of components with 2 to 64 * words nodes."""
    central = np.zeros(graphs.component.size, dtype=bool)
    node = np.arange(central.size)
    local = node - graphs.start[graphs.component]
    reach = np.zeros((words, central.size), dtype=np.uint64)
    reach[local >> 6, node] = np.uint64(1) << (local & 63).astype(np.uint64)
    full = np.bitwise_or.reduceat(reach, graphs.start[:-1], axis=1)
    is_open = np.ones(graphs.start.size - 1, dtype=bool)
    while True:
        for word in reach:
            word |= np.bitwise_or.reduceat(word[graphs.neighbour], graphs.ptr[:-1])
        found = np.flatnonzero((reach == full[:, graphs.component]).all(0))
        found = found[is_open[graphs.component[found]]]
        if not found.size:
            continue
        central[node[found]] = True
        is_open[graphs.component[found]] = False
        rest = np.flatnonzero(is_open)
        if not rest.size:
            return central
        if 2 * rest.size < is_open.size:
            graphs, nodes = graphs.take(rest)
            node, reach, full = node[nodes], reach[:, nodes], full[:, rest]
            is_open = np.ones(rest.size, dtype=bool)
