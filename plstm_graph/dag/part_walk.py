"""What a loop over the edges of each part of a batch needs: their order, and where they lead."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments


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
        torch.tensor(int(against)),
        torch.tensor(int(seg.num_edges.max(initial=0))),
        *(torch.from_numpy(a) for a in arrays),
        src.contiguous(),
        dst.contiguous(),
    )
