"""Tables of a graph for :mod:`plstm_graph.ops.sweep`, whose states are on nodes.

The letters of the shapes: N nodes, E edges that are walked, P parts of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr, find_cycle, longest_path_levels
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments

WAYS = ("forward", "reverse", "opposite")


class WayEdges(NamedTuple):
    """The edges that are walked.

    Attributes:
        edge_index: [2, E] int64.
        edge_id: [E] int64, the column of the input that each came from.
    """

    edge_index: Tensor
    edge_id: Tensor


class NodeTables(NamedTuple):
    """What the compiled loop reads, int64 on the CPU.

    Attributes:
        longest: 0-dim, nodes of the largest part.
        node_ptr: [P + 1] offsets of the parts into ``node``; node: [N] in topological order.
        in_ptr: [N + 1] offsets, by place in ``node``, into ``source`` and ``row``.
        source: [E] the place in ``node`` where each edge starts; row: [E] its row.
        followed: [N] whether an edge leaves the node at a place.
    """

    longest: Tensor
    node_ptr: Tensor
    node: Tensor
    in_ptr: Tensor
    source: Tensor
    row: Tensor
    followed: Tensor


class NodeLevel(NamedTuple):
    """A topological level of n nodes; int64 on the device of the graph.

    The states that some later level reads are kept in one tensor; after each level it holds those
    rows ``keep`` of the old one, then the level's nodes ``new``.

    Attributes:
        tail: [e] row, in the tensor of kept states, of the node where each edge starts.
        place: [e] its target, as a place in the level.
        count: [n] edges into each node, at least 1.
        keep: rows of the kept states; new: places in the level.
    """

    tail: Tensor
    place: Tensor
    count: Tensor
    keep: Tensor
    new: Tensor


class NodeLevels(NamedTuple):
    """All levels.

    Attributes:
        levels: one after the other.
        order: [N] the nodes of all levels; position: [N] its inverse.
        rows: [E] the rows of the edges into these nodes.
    """

    levels: list[NodeLevel]
    order: Tensor
    position: Tensor
    rows: Tensor


def way_edges(line_graph: LineGraph, way: str) -> WayEdges:
    """The edges of a DAG (of a two-way graph the along edges) in one of three ways.

    Args:
        line_graph: any.
        way: ``"forward"``, along them; ``"reverse"``, against them; ``"opposite"``, against those
            of undirected graphs (in a two-way graph, those that have a twin), along the others.
    """
    return _planned(line_graph, "edges", way, _way_edges)


def node_tables(line_graph: LineGraph, way: str) -> NodeTables:
    """The tables of the compiled loop, planned once.

    Raises:
        ValueError: if the edges have a cycle of nodes.
    """
    return _planned(line_graph, "tables", way, _node_tables)


def node_levels(line_graph: LineGraph, way: str) -> NodeLevels:
    """The levels of the levelwise form, planned once.

    Raises:
        ValueError: as :func:`node_tables`.
    """
    return _planned(line_graph, "levels", way, _node_levels)


def _planned(line_graph: LineGraph, what: str, way: str, make: Callable) -> Any:
    return line_graph.plan(("sweep", what, way), lambda graph: make(graph, way))


def _way_edges(line_graph: LineGraph, way: str) -> WayEdges:
    index, ids = line_graph.edge_index, line_graph.edge_id
    if line_graph.is_two_way:
        twin = line_graph.twin
        along = ((line_graph.direction == 1) | (twin < 0)).nonzero().view(-1)
        twin = twin[along]
        index, turned = index[:, along], twin >= 0
        other = torch.where(turned, ids[twin], ids[along])  # the twin's own column
        ids = ids[along]
    else:
        turned, other = line_graph.undirected, line_graph.reverse().edge_id
    if way == "forward":
        return WayEdges(index.clone(), ids.clone())
    if way == "reverse":
        return WayEdges(index.flip(0), other.clone())
    flipped = torch.where(turned, index.flip(0), index)
    return WayEdges(flipped, torch.where(turned, other, ids))


def _order(line_graph: LineGraph, way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, end and level (of the nodes) of the edges that are walked."""
    index = way_edges(line_graph, way).edge_index.cpu().numpy()
    level = longest_path_levels(index, line_graph.num_nodes)
    if (level < 0).any():
        cycle = " -> ".join(map(str, find_cycle(index, line_graph.num_nodes, level)))
        raise ValueError(
            f"expected line_graph of a DAG, since states are on its nodes, got the cycle {cycle}; "
            f"use a linear cell of PLSTMConv, which needs acyclic line edges alone"
        )
    return index[0], index[1], level


def _node_tables(line_graph: LineGraph, way: str) -> NodeTables:
    src, dst, level = _order(line_graph, way)
    part, n = segments(line_graph).node_part, line_graph.num_nodes
    size = np.bincount(part, minlength=0)
    node = np.lexsort((level, part))
    place = np.empty(n, dtype=np.int64)
    place[node] = np.arange(n)
    in_ptr, into = csr(place[dst], n)
    arrays = (
        np.array(size.max(initial=0)), np.append(0, np.cumsum(size)), node, in_ptr,
        place[src[into]], into, np.bincount(src, minlength=n)[node] > 0,
    )  # fmt: skip
    return NodeTables(*(torch.from_numpy(np.array(a, dtype=np.int64, order="C")) for a in arrays))


def _node_levels(line_graph: LineGraph, way: str) -> NodeLevels:
    src, dst, level = _order(line_graph, way)
    n, device = line_graph.num_nodes, line_graph.device
    last_read = np.full(n, -1)
    np.maximum.at(last_read, src, level[dst])
    node_ptr, node = csr(level, int(level.max(initial=0)) + 1)
    position = np.empty(n, dtype=np.int64)
    position[node] = np.arange(n)
    in_ptr, into = csr(position[dst], n)
    levels, live, where = [], np.zeros(0, dtype=np.int64), np.full(n, -1)
    for t, (first, last) in enumerate(pairwise(node_ptr)):
        nodes, edges = node[first:last], into[in_ptr[first] : in_ptr[last]]
        count = np.maximum(np.diff(in_ptr[first : last + 1]), 1)
        keep, new = np.flatnonzero(last_read[live] > t), np.flatnonzero(last_read[nodes] > t)
        arrays = where[src[edges]], position[dst[edges]] - first, count, keep, new
        levels.append(NodeLevel(*(torch.from_numpy(a).to(device) for a in arrays)))
        live = np.append(live[keep], nodes[new])
        where[live] = np.arange(live.size)
    whole = (torch.from_numpy(a).to(device) for a in (node, position, into))
    return NodeLevels(levels, *whole)
