"""The tables of the dense form: the edges and line edges of each part, counted inside it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments
from plstm_graph.ops.triton.common import power_of_2

#: Edges of the smallest and of the largest block.
MIN_BLOCK, MAX_BLOCK = 16, 64


class DenseTables(NamedTuple):
    """Tables, int32 (P parts by falling block size); ``launches`` is on the CPU.

    Attributes:
        node_ptr: [P + 1] offsets of the parts into ``node``; node: [N].
        edge_ptr: [P + 1] offsets of the parts into ``edge``; edge: [E] in topological order.
        src, dst: [E] ends of ``edge``, counted inside the part.
        line_ptr: [E + 1] offsets of the line edges into each ``edge``; line: [L];
            before: [L] the edge each one comes from, counted inside the part.
        free: [P] edges without predecessors; they come first.
        launches: [blocks, 3] block size, first part and number of parts.
    """

    node_ptr: Tensor
    node: Tensor
    edge_ptr: Tensor
    edge: Tensor
    src: Tensor
    dst: Tensor
    line_ptr: Tensor
    line: Tensor
    before: Tensor
    free: Tensor
    launches: Tensor


def dense_fits(line_graph: LineGraph) -> bool:
    """Whether all parts have at most ``MAX_BLOCK`` edges and ``MAX_BLOCK`` nodes.

    Of connected graphs with that many edges, only trees of ``MAX_BLOCK`` edges have more nodes.
    """
    seg = segments(line_graph)
    largest = max(int(seg.num_edges.max(initial=0)), int(seg.num_nodes.max(initial=0)))
    return largest <= MAX_BLOCK


def dense_tables(line_graph: LineGraph) -> DenseTables:
    """The tables of ``line_graph``, cached on it."""
    return line_graph.plan("dense_tables", _dense_tables)


def _dense_tables(line_graph: LineGraph) -> DenseTables:
    seg = segments(line_graph)
    src, dst = line_graph.edge_index.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    widest = np.maximum(seg.num_edges, seg.num_nodes).tolist()
    block = np.array([max(MIN_BLOCK, power_of_2(w)) for w in widest], dtype=np.int64)
    part = np.argsort(-block, kind="stable")
    rank = np.empty_like(part)
    rank[part] = np.arange(part.size)
    level = line_graph.level.cpu().numpy()
    node = np.lexsort((seg.node_local, rank[seg.node_part]))
    edge = np.lexsort((level, rank[seg.edge_part]))
    edge_ptr = np.append(0, np.cumsum(seg.num_edges[part]))
    place = np.empty_like(edge)
    place[edge] = np.arange(edge.size)
    line_ptr, line = csr(place[e_out], edge.size)
    before = e_in[line]
    free = np.bincount(rank[seg.edge_part[level == 0]], minlength=part.size)

    size, first, count = np.unique(-block[part], return_index=True, return_counts=True)
    arrays = (
        np.append(0, np.cumsum(seg.num_nodes[part])),
        node,
        edge_ptr,
        edge,
        seg.node_local[src[edge]],
        seg.node_local[dst[edge]],
        line_ptr,
        line,
        place[before] - edge_ptr[rank[seg.edge_part[before]]],
        free,
    )
    tensors = [torch.from_numpy(a.astype(np.int32)).to(line_graph.device) for a in arrays]
    return DenseTables(*tensors, torch.from_numpy(np.stack([-size, first, count], 1)))
