r"""What a scan kernel knows of a line graph: CSR predecessor lists in topological order.

Edges are ordered by (segment, level, falling number of predecessors). A *segment* is one graph
of the batch (``node_batch`` where it is given, connected components otherwise). Inside a level no
edge depends on another, so a program may take any run of them at once; and since the first of
a run has the most predecessors, its count bounds the loop over predecessors of the whole run.

All indices are int32 (half the bytes); kernels widen them before they multiply by strides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.buckets import bucket_plan
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments


class ScanTables(NamedTuple):
    """Tables of one direction of a line graph; P segments.

    Attributes:
        order: [E] edge at each position.
        line_ptr: [E + 1] predecessors of the edge at position p are ``line_ptr[p]`` to
            ``line_ptr[p + 1]`` (exclusive) of the next three, ascending in e_in.
        line_in: [L] e_in. line_out: [L] e_out. line_id: [L] column of ``line_index``.
        level_ptr: [levels + 1] first position of each level of each segment, one segment after
            the other.
        segment_ptr: [P + 1] first level of each segment. A segment without edges has none.
        host_level_ptr: ``level_ptr`` on the CPU, for launches level by level.
    """

    order: Tensor
    line_ptr: Tensor
    line_in: Tensor
    line_out: Tensor
    line_id: Tensor
    level_ptr: Tensor
    segment_ptr: Tensor
    host_level_ptr: Tensor


def scan_tables(line_graph: LineGraph, *, whole: bool = False) -> ScanTables:
    """The tables of ``line_graph``, computed once and cached on it.

    Args:
        line_graph: the line graph; its :meth:`~LineGraph.reverse` has those of the backward.
        whole: all graphs of the batch as one segment, whose levels then run across graphs.
    """
    key = ("scan_tables", whole)
    if key not in line_graph._cache:
        if whole:
            part, parts = np.zeros(line_graph.num_edges, dtype=np.int64), 1
        else:
            seg = segments(line_graph)
            part, parts = seg.edge_part, seg.num_edges.size
        line_graph._cache[key] = _build(line_graph, part, parts)
    return line_graph._cache[key]


class BucketTables(NamedTuple):
    """Scan tables whose segments stand bucket by bucket (those of a plan for H heads).

    Attributes:
        forward, backward: tables of the graph and of its reverse; no segment is empty.
        row_of: [E * H] int64 padded row of each edge and head, counted inside its bucket.
        bucket_ptr: [buckets + 1] on the CPU, first segment of each bucket.
    """

    forward: ScanTables
    backward: ScanTables
    row_of: Tensor
    bucket_ptr: Tensor


def bucket_tables(line_graph: LineGraph, heads: int) -> BucketTables:
    """The tables for scans of gating rows in the padded matrices of ``bucket_plan``. Cached."""
    key = ("bucket_tables", heads)
    return line_graph.plan(key, lambda graph: _bucket_tables(graph, heads))


def _bucket_tables(line_graph: LineGraph, heads: int) -> BucketTables:
    plan = bucket_plan(line_graph, heads)
    sizes = plan.sizes.numpy()
    start = np.cumsum(sizes[:, 0] * sizes[:, 2] * heads)
    row = plan.edge_row.cpu().numpy()
    bucket = np.searchsorted(start, row, side="right")
    start = np.concatenate([[0], start])
    seg = segments(line_graph)
    number = bucket[::heads] * seg.num_edges.size + seg.edge_part
    found, part = np.unique(number, return_inverse=True)
    buckets = np.arange(len(sizes) + 1)
    bucket_ptr = np.searchsorted(found, buckets * seg.num_edges.size)
    row_of = torch.from_numpy(row - start[bucket])
    return BucketTables(
        _build(line_graph, part, found.size),
        _build(line_graph.reverse(), part, found.size),
        row_of.to(line_graph.device),
        torch.from_numpy(bucket_ptr),
    )


def _build(line_graph: LineGraph, part: np.ndarray, parts: int) -> ScanTables:
    """Tables with edge e in segment ``part[e]`` of ``parts``."""
    e = line_graph.num_edges
    if max(e, line_graph.num_line_edges) >= 2**31:
        raise ValueError(
            f"expected fewer than 2^31 edges and line edges for Triton kernels, got {e} and "
            f"{line_graph.num_line_edges}; split the batch, or use backend='torch'"
        )
    e_in, e_out = line_graph.line_index.cpu().numpy()
    level = line_graph.level.cpu().numpy()
    indegree = np.bincount(e_out, minlength=e)
    order = np.lexsort((-indegree, level, part))
    position = np.empty(e, dtype=np.int64)
    position[order] = np.arange(e)
    line_ptr = np.concatenate([[0], np.cumsum(indegree[order])])
    line_id = np.lexsort((e_in, position[e_out]))

    at_part, at_level = part[order], level[order]
    starts = np.ones(e, dtype=bool)
    starts[1:] = (np.diff(at_part) != 0) | (np.diff(at_level) != 0)
    first = np.flatnonzero(starts)
    level_ptr = np.append(first, e)
    levels = np.bincount(at_part[first], minlength=parts)
    segment_ptr = np.concatenate([[0], np.cumsum(levels)])

    arrays = (order, line_ptr, e_in[line_id], e_out[line_id], line_id, level_ptr, segment_ptr)
    tensors = [torch.from_numpy(a.astype(np.int32)) for a in arrays]
    return ScanTables(*(t.to(line_graph.device) for t in tensors), tensors[5])
