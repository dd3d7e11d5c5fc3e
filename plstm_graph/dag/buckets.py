r"""Where nodes, edges and line edges stand in the padded matrices of the parallel form.

All buckets of one kind of matrix lie one after the other in one flat buffer, heads folded in: the
matrices of bucket i are a stack of ``B_i * H``, and the matrix of part b and head h has number
``b * H + h`` in it. So filling a buffer is one scatter for the whole batch, and only matrix
products run bucket by bucket.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import Segments, cut_buckets, segments


class BucketPlan(NamedTuple):
    """Index tensors of the parallel form for one line graph and number of heads.

    R_n, R_e are the padded rows of nodes and edges of all buckets: sums of B H n and B H E.

    Attributes:
        sizes: [buckets, 4] on the CPU: parts B, nodes n and edges E of the padded shape, and the
            number of line edges.
        upper: 0-dim on the CPU: 1 if the topological order of the edges runs backwards (the
            reverse of the family's original), so that the systems are upper triangular.
        node_pad: [R_n] row of [N * H] at each padded row (padding repeats the part's first node,
            so that no value of another part, finite or not, can leak in).
        node_row: [N * H] padded row of each node and head; node_diagonal: [N * H] its place on
            the diagonal of the [n, n] buffer.
        edge_row: [E * H] padded row; edge_source: [E * H] place (edge, src) in the [E, n] buffer;
            edge_mark: [E * H] place (dst, edge) in the [n, E] buffer.
        edge_pad_dst: [R_e] node row, counted inside the bucket, of each padded edge's dst.
        line_entry: [L * H] place (e_out, e_in) in the [E, E] buffer.
        line_in, line_out: [L * H] edge rows counted inside the bucket, line edges by bucket;
        line_position: [L] the place of each line edge in that order.
    """

    sizes: Tensor
    upper: Tensor
    node_pad: Tensor
    node_row: Tensor
    node_diagonal: Tensor
    edge_row: Tensor
    edge_source: Tensor
    edge_mark: Tensor
    edge_pad_dst: Tensor
    line_entry: Tensor
    line_in: Tensor
    line_out: Tensor
    line_position: Tensor


class _Layout(NamedTuple):
    """What a graph, its reverse and its multitree have in common (numpy)."""

    sizes: np.ndarray  # [buckets, 3]
    part_bucket: np.ndarray  # [P]
    node_pad: np.ndarray
    node_row: np.ndarray  # [N, H] inside the bucket
    node_start: np.ndarray  # [buckets] first padded row
    edge_matrix: np.ndarray  # [E, H]
    edge_row: np.ndarray  # [E, H] inside the bucket
    edge_start: np.ndarray  # [buckets]


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.cumsum(sizes) - sizes


def _layout(seg: Segments, heads: int, split: bool) -> _Layout:
    parts = [np.arange(seg.num_nodes.size)] if seg.num_nodes.size else []
    if split:
        parts = cut_buckets(seg.num_nodes, seg.num_edges, heads)
    bucket = np.zeros(seg.num_nodes.size, dtype=np.int64)
    place = np.zeros_like(bucket)
    sizes = np.zeros((len(parts), 3), dtype=np.int64)
    for i, members in enumerate(parts):
        bucket[members] = i
        place[members] = np.arange(members.size)
        sizes[i] = members.size, seg.num_nodes[members].max(), seg.num_edges[members].max()
    h = np.arange(heads)
    matrix = place[:, None] * heads + h  # [P, H]
    n_of, e_of = sizes[bucket, 1], sizes[bucket, 2]  # [P]
    node_row = (matrix * n_of[:, None])[seg.node_part] + seg.node_local[:, None]
    node_start = _starts(sizes[:, 0] * heads * sizes[:, 1])

    first = np.zeros(bucket.size, dtype=np.int64)
    at_start = np.flatnonzero(seg.node_local == 0)
    first[seg.node_part[at_start]] = at_start
    pads = [np.repeat(first[p][:, None] * heads + h, n) for p, n in zip(parts, sizes[:, 1])]
    node_pad = np.concatenate(pads) if pads else np.zeros(0, dtype=np.int64)
    own = np.arange(seg.node_part.size)[:, None] * heads + h
    node_pad[node_row + node_start[bucket[seg.node_part]][:, None]] = own

    edge_matrix = matrix[seg.edge_part]
    edge_row = (matrix * e_of[:, None])[seg.edge_part] + seg.edge_local[:, None]
    edge_start = _starts(sizes[:, 0] * heads * sizes[:, 2])
    return _Layout(sizes, bucket, node_pad, node_row, node_start, edge_matrix, edge_row, edge_start)


def bucket_plan(line_graph: LineGraph, heads: int, *, split: bool = True) -> BucketPlan:
    """The plan of ``line_graph`` for H heads, cached on it.

    Args:
        line_graph: the line graph.
        heads: H.
        split: False pads all parts to the largest, in one bucket.
    """
    key = ("bucket_plan", heads, split)
    if key not in line_graph._cache:
        layout_key = ("layout", heads, split)
        if layout_key not in line_graph._family:
            line_graph._family[layout_key] = _layout(segments(line_graph), heads, split)
        line_graph._cache[key] = _plan(line_graph, line_graph._family[layout_key], heads)
    return line_graph._cache[key]


def _plan(line_graph: LineGraph, lay: _Layout, heads: int) -> BucketPlan:
    seg = segments(line_graph)
    src, dst = line_graph.edge_index.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    n_of, e_of = lay.sizes[:, 1], lay.sizes[:, 2]
    stack = lay.sizes[:, 0] * heads
    node_bucket = lay.part_bucket[seg.node_part]
    edge_bucket = lay.part_bucket[seg.edge_part]
    line_bucket = edge_bucket[e_in]
    square_start = _starts(stack * n_of * n_of)
    rows_start = _starts(stack * n_of * e_of)
    system_start = _starts(stack * e_of * e_of)

    def at(
        start: np.ndarray,
        row: np.ndarray,
        width: np.ndarray,
        column: np.ndarray,
        bucket: np.ndarray,
    ) -> np.ndarray:
        """Flat place (row, column) of a buffer whose bucket matrices have ``width`` columns."""
        offset = start[bucket] + column
        return (row * width[bucket][:, None] + offset[:, None]).reshape(-1)

    node_row = lay.node_row + lay.node_start[node_bucket][:, None]
    edge_row = lay.edge_row + lay.edge_start[edge_bucket][:, None]
    edge_dst = lay.edge_matrix * n_of[edge_bucket][:, None] + seg.node_local[dst][:, None]
    edge_pad_dst = np.zeros(int((stack * e_of).sum()), dtype=np.int64)
    edge_pad_dst[edge_row] = edge_dst
    line_order = np.argsort(line_bucket, kind="stable")
    line_position = np.empty_like(line_order)
    line_position[line_order] = np.arange(line_order.size)
    arrays = (
        lay.node_pad,
        node_row.reshape(-1),
        at(square_start, lay.node_row, n_of, seg.node_local, node_bucket),
        edge_row.reshape(-1),
        at(rows_start, lay.edge_row, n_of, seg.node_local[src], edge_bucket),
        at(rows_start, edge_dst, e_of, seg.edge_local, edge_bucket),
        edge_pad_dst,
        at(system_start, lay.edge_row[e_out], e_of, seg.edge_local[e_in], line_bucket),
        lay.edge_row[e_in[line_order]].reshape(-1),
        lay.edge_row[e_out[line_order]].reshape(-1),
        line_position,
    )
    lines = np.bincount(line_bucket, minlength=len(lay.sizes))
    sizes = np.concatenate([lay.sizes, lines[:, None]], axis=1)
    device = line_graph.device
    # A copy of a reversed graph (pickled, or on another device) is the original of its family.
    upper = line_graph.is_reversed != line_graph._family["original"].is_reversed
    return BucketPlan(
        torch.from_numpy(sizes),
        torch.tensor(int(upper)),
        *(torch.from_numpy(a).to(device) for a in arrays),
    )
