r"""Bytes and floating-point operations of the fused and dense kernels, from their access pattern.

Every load and store of a launch is counted, whether a cache serves it or not; a test compares the
sums with those of the interpreter. ``least`` is what no walk can avoid: the layer's inputs and
outputs once, one write of each state and one read of a state for each line edge (for the dense form
without the states).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments
from plstm_graph.ops.triton.fused_common import walk_configs
from plstm_graph.ops.triton.fused_tables import walk_kind, walks

_INDEX = 4  # bytes of a table's entry


class Traffic(NamedTuple):
    """Of all launches of one kernel."""

    bytes: int
    least: int
    flops: int


class Sizes(NamedTuple):
    """The sizes of a layer; ``width`` are the bytes of an input, ``wide`` of a state."""

    nodes: int
    edges: int
    lines: int
    heads: int
    k: int
    v: int
    width: int = 4
    wide: int = 4

    @property
    def inputs(self) -> int:
        """Bytes of query, key, value and the gates."""
        n, e, l, h, k, v, width, _ = self
        return h * width * (n * (2 * k + v + 1) + 2 * e + l)

    @property
    def outputs(self) -> int:
        return self.nodes * self.heads * self.v * self.width


def sizes_of(line_graph: LineGraph, heads: int, k: int, v: int, width: int = 4) -> Sizes:
    """Sizes of a layer on ``line_graph``."""
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    return Sizes(n, e, l, heads, k, v, width, max(4, width))


def _walk_tables(s: Sizes, runs: int, ends: bool = True) -> int:
    """Table entries that one head and tile reads."""
    return 2 * runs + 3 * s.nodes + (4 if ends else 1) * s.edges + (2 * s.lines if ends else 0)


def walk_traffic(line_graph: LineGraph, s: Sizes) -> dict[str, Traffic]:
    """The kernels of the walk on one line graph."""
    n, e, l, h, k, v, width, wide = s
    tiles = -(-v // walk_configs(k, v, torch.float32)[0].width)
    forward, adjoint = walks(line_graph, walk_kind(line_graph))
    programs = h * tiles
    node = n * h * (tiles * (2 * k + 1) + v)  # query, key, value and direct
    edge = e * h * (tiles * (k + 2) + v)  # key and value of the source, source and mark
    state, line = e * h * k * v * wide, l * h * k * v * wide
    tables = _INDEX * programs * _walk_tables(s, forward.run_ptr.numel() - 1)
    read = width * (node + edge + l * programs)
    states = state + line
    least = s.inputs + s.outputs + states
    scan = h * k * v * (e + 2 * l)
    partial = wide * programs

    grad = n * h * v * width
    query_walk = read + grad + tables + states + partial * (n * k + e)
    key_walk = (
        width * (node + edge + (e + l) * programs)
        - width * e * h * tiles  # one gate of an edge is read late, as all others: once
        + grad
        + _INDEX * programs * (_walk_tables(s, adjoint.run_ptr.numel() - 1) + l)
        + 2 * state
        + line
        + partial * (n * (k + 1) + e + l)
        + grad
    )
    backward_least = 2 * s.inputs + grad
    return {
        "fused_forward": Traffic(
            read + tables + states + s.outputs,
            least,
            scan + h * k * v * 2 * e + n * h * (2 * k + v),
        ),
        "fused_query": Traffic(
            query_walk, backward_least + states, scan + h * k * v * 2 * e + 2 * h * k * (n + 2 * e)
        ),
        "fused_key": Traffic(
            key_walk,
            backward_least + 2 * state + line,
            h * k * v * (5 * e + 4 * l) + 2 * h * (n * (k + v) + e * (k + v)),
        ),
    }


def dense_traffic(line_graph: LineGraph, s: Sizes) -> dict[str, Traffic]:
    """The dense kernels on one line graph (each edge of a level above 0 is one row step)."""
    n, e, l, h, k, v, _, _ = s
    seg = segments(line_graph)
    parts = int(seg.num_nodes.size)
    tables = _INDEX * h * (5 * parts + n + 5 * e + 2 * l)
    ne, nn = (int((seg.num_nodes * x).sum()) for x in (seg.num_edges, seg.num_nodes))
    steps = int((seg.num_edges * seg.num_edges * seg.num_nodes).sum())
    forward = 2 * h * (steps + ne * int(seg.num_nodes.max(initial=0)) + nn * (k + v))
    least = s.inputs + s.outputs
    grads = s.inputs
    return {
        "dense_forward": Traffic(least + tables, least, forward),
        "dense_backward": Traffic(
            s.inputs + s.outputs + grads + tables + _INDEX * h * (2 * l - parts),
            s.inputs + s.outputs + grads,
            2 * forward + 2 * h * (steps + nn * (2 * k + v)),
        ),
    }
