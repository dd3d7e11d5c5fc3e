"""What loops over edges need: an order, what leads to or from an edge, and how far it reaches.

:class:`Walk` is for one graph and looks back, :class:`PartWalk` goes through the parts of a batch
and looks ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr, expand
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments


class Walk(NamedTuple):
    """Tables of a walk over the edges, int64 on the CPU.

    Attributes:
        order: [E] edges in topological order.
        ptr: [E + 1]; before, line: [L]: the line edges into e are ``line[ptr[e]:ptr[e + 1]]``,
            and come from the edges ``before[ptr[e]:ptr[e + 1]]``.
        src, dst: [E] ends of the edges.
        low, high: [E]: the starts of e and of all edges that lead to it lie in [low, high).
    """

    order: Tensor
    ptr: Tensor
    before: Tensor
    line: Tensor
    src: Tensor
    dst: Tensor
    low: Tensor
    high: Tensor


def walk(line_graph: LineGraph) -> Walk:
    """The tables of ``line_graph``, cached on it."""
    return line_graph.plan("walk", _walk)


def _walk(line_graph: LineGraph) -> Walk:
    src, dst = line_graph.edge_index.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    level = line_graph.level.cpu().numpy()
    order = np.argsort(level, kind="stable")
    ptr, line = csr(e_out, src.size)
    before = e_in[line]
    low, high = src.copy(), src + 1
    count = np.diff(ptr)
    starts = np.searchsorted(level[order], np.arange(1, level.max(initial=0) + 1))
    for edges in np.split(order, starts)[1:]:  # all of a level behind the first have predecessors
        found = before[expand(ptr[edges], count[edges])]
        first = np.cumsum(count[edges]) - count[edges]
        low[edges] = np.minimum(low[edges], np.minimum.reduceat(low[found], first))
        high[edges] = np.maximum(high[edges], np.maximum.reduceat(high[found], first))
    arrays = (order, ptr, before, line, src, dst, low, high)
    return Walk(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))


class PartWalk(NamedTuple):
    """Tables of the parts (P of them, see :mod:`plstm_graph.dag.segments`), int64 on the CPU.

    The order of edges and the direction of line edges are those of the family's original; a
    reversed graph has the same tables and is walked the other way.

    Attributes:
        reversed: 0-dim, 1 if the line edges run against the order.
        longest: 0-dim, edges of the largest part.
        node_ptr: [P + 1] offsets of the parts into ``node``; node: [N].
        edge_ptr: [P + 1] offsets of the parts into ``edge``; edge: [E] in topological order.
        line_ptr: [E + 1] offsets, by place in ``edge``, into ``line``; line: [L] line edges out
            of each edge; next: [L] the place in ``edge`` that each leads to.
        src, dst: [E] ends of the edges, in the graph's own direction.
    """

    reversed: Tensor
    longest: Tensor
    node_ptr: Tensor
    node: Tensor
    edge_ptr: Tensor
    edge: Tensor
    line_ptr: Tensor
    line: Tensor
    next: Tensor
    src: Tensor
    dst: Tensor


def part_walk(line_graph: LineGraph) -> PartWalk:
    """The tables of ``line_graph``, cached on it."""
    if "part_walk" not in line_graph._cache:
        reverse = line_graph._cache.get("reverse")
        if reverse is not None and "part_walk" in reverse._cache:
            other = reverse._cache["part_walk"]
            line_graph._cache["part_walk"] = other._replace(
                reversed=1 - other.reversed, src=other.dst, dst=other.src
            )
        else:
            line_graph._cache["part_walk"] = _part_walk(line_graph)
    return line_graph._cache["part_walk"]


def _part_walk(line_graph: LineGraph) -> PartWalk:
    family = line_graph._family
    seg = segments(line_graph)
    if "part_order" not in family:
        node_ptr, node = csr(seg.node_part, seg.num_nodes.size)
        edge_ptr = np.append(0, np.cumsum(seg.num_edges))
        place = edge_ptr[seg.edge_part] + seg.edge_local
        edge = np.empty_like(place)
        edge[place] = np.arange(place.size)
        family["part_order"] = node_ptr, node, edge_ptr, edge, place
    node_ptr, node, edge_ptr, edge, place = family["part_order"]
    # A copy of a reversed graph (pickled, or on another device) is the original of its family.
    against = line_graph.is_reversed != family["original"].is_reversed
    tail, head = line_graph.line_index.numpy()[:: -1 if against else 1]
    line_ptr, line = csr(place[tail], edge.size)
    src, dst = line_graph.edge_index
    arrays = (node_ptr, node, edge_ptr, edge, line_ptr, line, place[head[line]])
    return PartWalk(
        torch.tensor(int(against), device="cpu"),
        torch.tensor(int(seg.num_edges.max(initial=0)), device="cpu"),
        *(torch.from_numpy(a) for a in arrays),
        src.contiguous(),
        dst.contiguous(),
    )
