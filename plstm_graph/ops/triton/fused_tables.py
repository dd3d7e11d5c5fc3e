r"""The walks of the fused kernels: nodes in topological order, with their edges and predecessors.

The fused kernels go from node to node. At node n the forward walk forms the states of the edges
*into* n, so that the output of n is a sum in registers: no atomics, one write. Any order of the
nodes in which edges point forwards serves: the predecessors of an edge (u -> n) are edges into u,
and u comes before n. The adjoint walk takes the nodes the other way round and the edges *out of*
each: it is the forward walk of the reversed line graph.

A *run* is a stretch of nodes that one program visits one after the other:

- ``"segments"``: a run is one part of the batch, and all runs are one launch;
- ``"levels"``: a run is one node, and each topological level of nodes is a launch of its own.

Rows of states are the caller's rows of edges, so both walks address the same buffers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr, expand, longest_path_levels
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments

#: Microseconds that one program takes for an edge or a line edge (dependent loads), and that a
#: launch takes. Estimates from memory latencies; only their ratio matters.
STEP_COST, LAUNCH_COST = 0.5, 4.0


class Walk(NamedTuple):
    """Tables of one direction, int32 (R runs); ``steps`` is on the CPU.

    Attributes:
        run_ptr: [R + 1] offsets of the runs into ``node``.
        node: [N] nodes in the order of the walk.
        edge_ptr: [N + 1] offsets of the nodes' edges into ``edge``.
        edge: [E] edges that end (adjoint: start) at each node; end: [E] their other node.
        line_ptr: [E + 1] offsets of the line edges of ``edge`` into ``line``.
        line: [L] line edges; before: [L] the edge that each one takes the state of.
        steps: [launches, 2] first run and number of runs of each launch.
    """

    run_ptr: Tensor
    node: Tensor
    edge_ptr: Tensor
    edge: Tensor
    end: Tensor
    line_ptr: Tensor
    line: Tensor
    before: Tensor
    steps: Tensor


def walk_kind(line_graph: LineGraph) -> str:
    """``"segments"`` or ``"levels"``: the cheaper by the longest run or the number of launches.

    One program takes ``STEP_COST`` for each edge and line edge of the largest part; a launch for
    each level of nodes takes ``LAUNCH_COST``. The bytes moved are the same.
    """
    if "walk_kind" not in line_graph._cache:
        seg = segments(line_graph)
        lines = np.bincount(seg.edge_part[line_graph.line_index[0].cpu().numpy()], minlength=1)
        longest = int(seg.num_edges.max(initial=0)) + int(lines.max(initial=0))
        levels = int(node_levels(line_graph).max(initial=-1)) + 1
        kind = "segments" if STEP_COST * longest <= LAUNCH_COST * levels else "levels"
        line_graph._cache["walk_kind"] = kind
    return line_graph._cache["walk_kind"]


def node_levels(line_graph: LineGraph) -> np.ndarray:
    """[N] length of the longest path that ends at each node."""
    if "node_levels" not in line_graph._cache:
        edge_index = line_graph.edge_index.cpu().numpy()
        level = longest_path_levels(edge_index, line_graph.num_nodes)
        line_graph._cache["node_levels"] = level
    return line_graph._cache["node_levels"]


def walks(line_graph: LineGraph, kind: str) -> tuple[Walk, Walk]:
    """The forward walk and the adjoint one, cached on the line graph."""
    return line_graph.plan(("walks", kind), lambda graph: _walks(graph, kind))


def walk_tables(line_graph: LineGraph) -> list[Tensor]:
    """Both walks and the two index tensors of ``line_graph``, cached on it."""
    key = ("tables", "fused")
    if key not in line_graph._cache:
        forward, adjoint = walks(line_graph, walk_kind(line_graph))
        indices = [line_graph.edge_index, line_graph.line_index]
        line_graph._cache[key] = [*forward, *adjoint, *indices]
    return line_graph._cache[key]


def _walks(line_graph: LineGraph, kind: str) -> tuple[Walk, Walk]:
    level = node_levels(line_graph)
    if kind == "levels":
        group = level
    else:
        # Large parts first: the last programs to start are then short ones.
        seg = segments(line_graph)
        rank = np.empty(seg.num_edges.size, dtype=np.int64)
        rank[np.argsort(-seg.num_edges, kind="stable")] = np.arange(rank.size)
        group = rank[seg.node_part]
    src, dst = line_graph.edge_index.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    there = _walk(group, level, (src, dst), (e_in, e_out), kind)
    if kind == "levels":
        group = group.max(initial=0) - group
    back = _walk(group, -level, (dst, src), (e_out, e_in), kind)
    device = line_graph.device
    forward, adjoint = (Walk(*(t.to(device) for t in w[:-1]), w.steps) for w in (there, back))
    return forward, adjoint


def _walk(
    group: np.ndarray,
    rank: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    pairs: tuple[np.ndarray, np.ndarray],
    kind: str,
) -> Walk:
    """A walk by (group, rank) of nodes along edges ``ends`` and line edges ``pairs``."""
    (src, dst), (e_in, e_out) = ends, pairs
    node = np.lexsort((rank, group))
    edge_ptr, edge = _rows(*csr(dst, node.size), node)
    line_ptr, line = _rows(*csr(e_out, src.size), edge)
    size = np.bincount(group)
    bounds = np.append(0, np.cumsum(size[size > 0]))
    if kind == "levels":
        steps = np.stack([bounds[:-1], np.diff(bounds)], 1)
        bounds = np.arange(node.size + 1)
    else:
        steps = np.array([[0, bounds.size - 1]])
    if max(node.size, edge.size, line.size) >= 2**31:
        raise ValueError(
            f"expected fewer than 2^31 nodes, edges and line edges for Triton kernels, got "
            f"{node.size}, {edge.size} and {line.size}; split the batch, or use backend='torch'"
        )
    tables = (bounds, node, edge_ptr, edge, src[edge], line_ptr, line, e_in[line])
    return Walk(*(torch.from_numpy(t).int() for t in tables), torch.from_numpy(steps))


def _rows(ptr: np.ndarray, perm: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows ``order`` of a CSR table, as a CSR table."""
    count = ptr[order + 1] - ptr[order]
    return np.append(0, np.cumsum(count)), perm[expand(ptr[order], count)]
