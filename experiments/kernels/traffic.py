r"""Bytes and floating-point operations of the walk and dense kernels, from their access pattern.

Every load and store of a launch is counted, whether a cache serves it or not; a test compares the
sums with those of the interpreter. ``least`` is what no walk can avoid: the layer's inputs and
outputs once, one write of each state and one read of a state for each line edge (factored: states
of nodes, and one read for each edge; dense: none).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.triton.common import node_parts
from plstm_graph.ops.triton.walk import configs_for, make_plan
from plstm_graph.ops.triton.walk_plan import Plan

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
    lines: int  # rows of the transition
    heads: int
    k: int
    v: int
    width: int = 4
    wide: int = 4
    kind: str = "line"  # of the transitions

    @property
    def factored(self) -> bool:
        return self.kind == "factored"

    @property
    def transitions(self) -> int:
        """Numbers of one head's transitions."""
        return self.lines * {"line": 1, "diagonal": self.k, "factored": 2}[self.kind]

    @property
    def inputs(self) -> int:
        """Bytes of query, key, value and the gates."""
        gates = 2 * self.edges + self.transitions
        return self.heads * self.width * (self.nodes * (2 * self.k + self.v + 1) + gates)

    @property
    def outputs(self) -> int:
        return self.nodes * self.heads * self.v * self.width


def sizes_of(
    line_graph: LineGraph, heads: int, k: int, v: int, width: int = 4, kind: str = "line"
) -> Sizes:
    """Sizes of a layer on ``line_graph``."""
    n, e = line_graph.num_nodes, line_graph.num_edges
    l = e if kind == "factored" else line_graph.num_line_edges
    return Sizes(n, e, l, heads, k, v, width, max(4, width), kind)


def walk_kind(line_graph: LineGraph, factored: bool = False) -> str:
    """``"segments"`` or ``"levels"``, see :mod:`plstm_graph.ops.triton.walk_plan`."""
    there = Plan.of(make_plan(line_graph, factored)).there
    return "segments" if there.steps.size(0) <= 1 else "levels"


def walk_traffic(line_graph: LineGraph, s: Sizes) -> dict[str, Traffic]:
    """The kernels of the walk on one line graph, float32, in bytes of its default tile."""
    e, l, h, k, v, width, wide = *s[1:6], s.width, s.wide
    there = Plan.of(make_plan(line_graph, s.factored)).there
    c = there.row.numel()  # copies
    programs = h * -(-v // configs_for(k, v, torch.float32)[0].width)
    runs = there.run_ptr.numel() - 1
    tile = h * k * v * wide

    # Counted per program: table entries, gates, and rows of K; V and tiles are shared out.
    tables = 2 * runs + 4 * c + (0 if s.factored else 4 * e + 2 * l)
    row_k, row_v = programs * k, h * v
    edge_gates, moves = 2 * e + s.transitions, l
    kept = c if s.factored else e
    extra_there = extra_back = 0
    if s.factored:
        tables += 2 * c + 4 * e  # the row again and carry; edge, end, origin and twin
        carried = int((there.carry >= 0).sum())
        turns = int((there.twin >= 0).sum())  # along edges with a twin, as many as against edges
        extra_there = carried * tile + turns * programs * (_INDEX + 3 * wide)
        extra_back = extra_there + turns * programs * (3 * _INDEX + 3 * wide)
        extra_back += turns * (tile + width * (row_k + row_v))
    read = (
        _INDEX * programs * tables
        + width * (c * (2 * row_k + row_v) + e * (row_k + row_v))
        + wide * programs * (c + edge_gates)
    )
    states = (kept + moves) * tile
    scan = h * k * v * (e + 2 * moves)
    least = s.inputs + s.outputs + states
    grad = c * width * row_v

    query = read + grad + states + extra_there + wide * (c * row_k + programs * e)
    key = read + grad + states + kept * tile + extra_back
    key += _INDEX * programs * l if s.kind == "line" else 0
    key += wide * (c * (row_k + row_v + programs) + programs * (e + s.transitions))
    backward_least = 2 * s.inputs + s.outputs
    return {
        "walk_forward": Traffic(
            read + states + extra_there + wide * c * row_v,
            least,
            scan + h * k * v * 2 * e + c * h * (2 * k + v),
        ),
        "walk_query": Traffic(
            query, backward_least + states, scan + h * k * v * 2 * e + 2 * h * k * (c + 2 * e)
        ),
        "walk_key": Traffic(
            key,
            backward_least + states + kept * tile,
            h * k * v * (5 * e + 4 * moves) + 2 * h * (c * (k + v) + e * (k + v)),
        ),
    }


def dense_traffic(line_graph: LineGraph, s: Sizes) -> dict[str, Traffic]:
    """The dense kernels on one line graph (each edge is one row step)."""
    n, e, l, h, k, v = s[:6]
    part = node_parts(line_graph)
    nodes = np.bincount(part)
    edges = np.bincount(part[line_graph.edge_index[0].cpu().numpy()], minlength=nodes.size)
    tables = _INDEX * h * (4 * nodes.size + n + 5 * e + 2 * l)
    steps, products = int((edges * edges * nodes).sum()), int((nodes * nodes).sum())
    forward = 2 * h * (steps + int((edges * nodes).sum()) + products * (k + v))
    least = s.inputs + s.outputs
    return {
        "dense_forward": Traffic(least + tables, least, forward),
        "dense_backward": Traffic(
            2 * s.inputs + s.outputs + tables + _INDEX * h * 2 * l,
            2 * s.inputs + s.outputs,
            2 * forward + 2 * h * (steps + products * (2 * k + v)),
        ),
    }
