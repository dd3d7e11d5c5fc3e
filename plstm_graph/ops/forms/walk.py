r"""The walk form: one compiled loop over the edges of each part and head, states in the cache.

It is the definition, with the states of a part kept next to each other: for each edge in
topological order, S_e k v^T and what its line edges bring are added up and read at once. The
backward is written by hand, with the terms of :mod:`plstm_graph.ops.forms.levelwise`; the adjoint
states come along the same line edges against the order. So a graph and its reverse share their
tables. Elements of states never mix: states too large for the cache are made tile by tile.

**Factored transitions.** States live on nodes. In a one-way graph, with e from s to d,

.. math:: Z_n = \sum_{e \to n} a_e C_e, \qquad C_e = b_e Z_s + X_e, \qquad X_e = S_e k_s v_s^\top

and backward, with :math:`R_e = M_e q_d g_d^\top` and A the adjoint of C,

.. math::
    A_e = R_e + a_e \dot Z_d, \quad \dot Z_n = \sum_{n \to e} b_e A_e, \quad
    da_e = \langle C_e, \dot Z_d \rangle, \quad db_e = \langle Z_s, A_e \rangle .

In a two-way graph the sums over against edges, :math:`Z^0_n`, come first. An along edge e reads
:math:`Y_s = Z^0_s + Z^1_s` without the term of its twin t, which runs from d to s:

.. math::
    C_e = b_e (Y_s - a_t C_t) + X_e, \qquad C_t = b_t Z^0_d + X_t .

Backward, along edges come first, with :math:`\dot Y` in the place of :math:`\dot Z`; an against
edge t then has, with :math:`\dot Z^0_n = \dot Y_n + \sum_{n \to t} b_t A_t`,

.. math::
    A_t = R_t + a_t D_t, \qquad da_t = \langle C_t, D_t \rangle, \qquad
    D_t = \dot Z^0_s - b_e (R_e + a_e \dot Y_d)

where s and d are the ends of its twin e. All of these are formed again from the sums of nodes.

Only for CPUs (:mod:`plstm_graph.ops.native`); on GPUs Triton kernels walk likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr, longest_path_levels
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import edge_numbers, segments
from plstm_graph.ops import native
from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.inputs import Inputs

#: Elements of the states that are made together: what a cache holds (a megabyte of floats), and at
#: most in each thread.
TILE_ELEMENTS, MOST_ELEMENTS = 1 << 18, 1 << 28
#: A tile of V (backward of K) has some multiple of so many columns, and up to so many: see walk.c.
STEP, MAX_TILE = 8, 32
#: In cells.c, which keeps more at hand.
CELL_TILE = 24
#: Numbers of the kinds of transitions in cells.c.
KINDS = {"line": 0, "diagonal": 1, "block": 3}


class EdgeWalk(NamedTuple):
    """Tables of the parts (P of them, see :mod:`plstm_graph.dag.segments`), int64 on the CPU.

    The order of edges and the direction of line edges are those of the graph that is not reversed;
    a reversed graph has the same tables and is walked the other way.

    Attributes:
        reversed: 0-dim, 1 if the line edges run against the order.
        longest: [2], edges and nodes of the largest part.
        node_ptr: [P + 1] offsets of the parts into ``node``; node: [N].
        edge_ptr: [P + 1] offsets of the parts into ``edge``; edge: [E] in topological order.
        line_ptr: [E + 1] offsets, by place in ``edge``, into ``line``; line: [L] line edges out
            of each edge; next: [L] the place in ``edge`` that each leads to.
        src, dst: [E] ends of the edges, in the graph's own direction.
        local: [N] the number of each node in its part.
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
    local: Tensor


def edge_walk(line_graph: LineGraph) -> EdgeWalk:
    """The tables of ``line_graph``, planned once for it and its reverse."""
    if not line_graph.is_reversed:
        return line_graph.plan("edge_walk", _edge_walk)
    walk = line_graph.reverse().plan("edge_walk", _edge_walk)
    return walk._replace(reversed=1 - walk.reversed, src=walk.dst, dst=walk.src)


def _edge_walk(line_graph: LineGraph) -> EdgeWalk:
    seg = segments(line_graph)
    node_ptr, node = csr(seg.node_part, seg.num_nodes.size)
    edge_ptr = np.append(0, np.cumsum(seg.num_edges))
    place = edge_ptr[seg.edge_part] + edge_numbers(line_graph)
    edge = np.empty_like(place)
    edge[place] = np.arange(place.size)
    tail, head = line_graph.line_index.cpu().numpy()
    line_ptr, line = csr(place[tail], edge.size)
    src, dst = line_graph.edge_index.cpu().numpy()
    longest = (seg.num_edges.max(initial=0), seg.num_nodes.max(initial=0))
    arrays = (
        np.zeros((), dtype=np.int64), np.array(longest), node_ptr, node, edge_ptr, edge, line_ptr,
        line, place[head[line]], src, dst, seg.node_local,
    )  # fmt: skip
    return EdgeWalk(*map(_table, arrays))


class NodeWalk(NamedTuple):
    """Tables for factored transitions, int64 on the CPU: see :mod:`plstm_graph.dag.segments`.

    Attributes:
        two_way: 0-dim, 1 for a two-way graph.
        longest: 0-dim, nodes of the largest part.
        node_ptr: [P + 1] offsets of the parts into ``node``; node: [N] in topological order.
        place: [N] the number of each node in its part, in that order.
        in_ptr, into: along edges that enter ``node[i]`` are ``into[in_ptr[i]:in_ptr[i + 1]]``.
        out_ptr, from_: those that leave it.
        src, dst: [E] ends of the edges.
        twin: [E] see :attr:`plstm_graph.LineGraph.twin`; [0] in a one-way graph.
    """

    two_way: Tensor
    longest: Tensor
    node_ptr: Tensor
    node: Tensor
    place: Tensor
    in_ptr: Tensor
    into: Tensor
    out_ptr: Tensor
    from_: Tensor
    src: Tensor
    dst: Tensor
    twin: Tensor


def node_walk(line_graph: LineGraph) -> NodeWalk:
    """The tables of a graph whose line graph is complete; ``line_index`` is not looked at."""
    return line_graph.plan("node_walk", _node_walk)


def _node_walk(line_graph: LineGraph) -> NodeWalk:
    part = segments(line_graph).node_part
    parts, n = int(part.max(initial=-1)) + 1, line_graph.num_nodes
    src, dst = line_graph.edge_index.cpu().numpy()
    along = np.arange(src.size)
    twin = np.zeros(0, dtype=np.int64)
    if line_graph.is_two_way:
        twin = line_graph.twin.cpu().numpy()
        # Edges without a twin are those of directed graphs, in a reversed batch all against.
        along = np.flatnonzero((line_graph.direction.cpu().numpy() == 1) | (twin < 0))
    level = longest_path_levels(np.stack([src[along], dst[along]]), n)
    node = np.lexsort((level, part))
    size = np.bincount(part, minlength=parts)
    node_ptr = np.append(0, np.cumsum(size))
    place = np.empty(n, dtype=np.int64)
    place[node] = np.arange(n)
    in_ptr, into = csr(place[dst[along]], n)
    out_ptr, from_ = csr(place[src[along]], n)
    arrays = (
        np.array(int(line_graph.is_two_way)), np.array(size.max(initial=0)), node_ptr, node,
        place - node_ptr[part], in_ptr, along[into], out_ptr, along[from_], src, dst, twin,
    )  # fmt: skip
    return NodeWalk(*map(_table, arrays))


def _table(array: np.ndarray) -> Tensor:
    """A copy of our own: whoever changes a tensor of the graph does not change a table."""
    return torch.from_numpy(np.array(array, dtype=np.int64, order="C"))


def readable(inputs: Inputs, scale: float) -> list[Tensor]:
    """The inputs as the kernels read them, the query scaled: nodes may be any stride apart, so
    query, key and value may be columns of one product."""
    query, *rest = inputs.tensors
    tensors = [query if scale == 1 else query * scale, *rest]
    return [x if i < 3 and x[:1].is_contiguous() else x.contiguous() for i, x in enumerate(tensors)]


def strides(tensors: Sequence[Tensor]) -> list[int]:
    return [x.stride(0) for x in tensors[:3]]


def unavailable(problem: Problem) -> str | None:
    """Why compiled kernels cannot run."""
    device = problem.line_graph.device
    if device.type != "cpu":
        return f"its kernels run on CPUs only, not on {device}; use backend='triton' or 'auto'"
    reason = native.unavailable()
    return None if reason is None else f"its kernels are not there ({reason}); use form='auto'"


def _tile(longest: int, rows: int, columns: int, buffers: int = 1, largest: int = MAX_TILE) -> int:
    """Columns of a tile of states [rows, columns]: as many as leave all states of a part in the
    cache. Where not even the narrowest do, the widest: then a state is one stretch of memory, and
    an edge is come to least often, as far as the memory for all states is bounded."""
    room = TILE_ELEMENTS
    if longest * rows * STEP > room:
        room = MOST_ELEMENTS // buffers
    most = room // max(1, longest * rows) // STEP * STEP
    most = min(largest, max(STEP, most))
    return -(-columns // -(-columns // most) // STEP) * STEP  # as few as that many tiles need


class Walk(Form):
    name = "walk"
    kinds = ("line", "factored", "diagonal", "block")
    updates = True
    plan_size = len(EdgeWalk._fields)

    def unavailable(self, problem: Problem) -> str | None:
        return unavailable(problem)

    def features(self, problem: Problem) -> dict[str, float]:
        graph, heads = problem.line_graph, problem.heads
        factored = problem.kind == "factored"
        edges, lines = graph.num_edges, 0 if factored else graph.num_line_edges
        states = problem.key_size * problem.value_size
        seg = segments(graph)
        longest = int((seg.num_nodes if factored else seg.num_edges).max(initial=0))
        kind = "factored" if factored else "line"
        # Narrow states of a large part leave the cache.
        outside = heads * (edges + lines) * states * (longest * problem.key_size > TILE_ELEMENTS)
        return {
            "start": 1,
            f"{kind}_edge": heads * edges,
            f"{kind}_state": heads * edges * states,
            "line": heads * lines * states,
            "outside": outside,
        }

    def plan(self, problem: Problem) -> list[Tensor]:
        return list((node_walk if problem.kind == "factored" else edge_walk)(problem.line_graph))

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, None]:
        out = inputs.value.new_empty(inputs.out_shape)
        _run("forward", inputs, readable(inputs, scale), plan, (), (out,))
        return out, None

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: None
    ) -> list[Tensor]:
        tensors = readable(inputs, scale)
        grads = [x.new_empty(x.shape) for x in tensors]
        first = 6 + inputs.factored  # direct, the last of nodes
        for added in grads[3:first] + grads[first + 1 :]:
            added.zero_()  # they are added to, tile by tile
        _run("backward", inputs, tensors, plan, (grad.contiguous(),), grads)
        return grads if scale == 1 else [grads[0].mul_(scale), *grads[1:]]


def _run(
    name: str,
    inputs: Inputs,
    tensors: Sequence[Tensor],
    plan: Sequence[Tensor],
    grad: Sequence[Tensor],
    results: Sequence[Tensor],
) -> None:
    """Calls the kernel of the kind of transitions, with the tensors of the inputs and the results.

    The states that it makes, in some buffers, are of edges, or of nodes where the transitions are
    factored. Their tiles are columns of V, in walk.c and nodes.c backward of K.
    """
    if inputs.kind == "block" or inputs.update is not None:
        return _run_cells(name, inputs, tensors, plan, grad, results)
    _, heads, k = tensors[0].shape
    v = tensors[2].size(2)
    shape = (k, v) if name == "forward" else (v, k)
    count = 1 if name == "forward" else 2
    if inputs.factored:
        walk = NodeWalk(*plan)
        name, longest, tables = "nodes_" + name, int(walk.longest), walk[2:]
        count = 2 * count if walk.two_way else count
        flags = [int(walk.two_way), longest]
    else:
        walk = EdgeWalk(*plan)
        name, longest, tables = "walk_" + name, int(walk.longest[0]), walk[2:-1]
        flags = [int(inputs.kind == "diagonal"), int(walk.reversed)]
    tile = _tile(longest, *shape, count)
    native.run(
        name, tensors[0].dtype, (walk.node_ptr.numel() - 1) * heads,
        count * longest * shape[0] * tile,
        *grad, *tensors, *results, heads, k, v, tile, *strides(tensors), *flags, *tables,
    )  # fmt: skip


def _run_cells(
    name: str,
    inputs: Inputs,
    tensors: Sequence[Tensor],
    plan: Sequence[Tensor],
    grad: Sequence[Tensor],
    results: Sequence[Tensor],
) -> None:
    """The kernels for block transitions and for reflections (cells.c)."""
    walk = EdgeWalk(*plan)
    longest = int(walk.longest[0])
    _, heads, k = tensors[0].shape
    v = tensors[2].size(-1)
    sizes = [*inputs.source.shape[2:], *inputs.mark.shape[3:]] or [1, 1, 1]  # J_S, J, J_M
    j, r = sizes[1], 0
    if inputs.update is None:
        nothing = tensors[0].new_empty(0)
        tensors = [*tensors, nothing, nothing, nothing]
        results = results if name == "forward" else [*results, nothing, nothing, nothing]
    else:
        r = inputs.update.key.size(2)
    count = 1 if name == "forward" else 2
    tile = _tile(longest, j * k, v, count, CELL_TILE)
    # States, errors of reflections, three vectors of columns, blocks, rows of eight to be added.
    errors = j * r * tile * (1 if name == "forward" else longest)
    work = count * longest * j * k * tile + errors + 3 * j * tile + 16 * j + 24 * (k + 7)
    native.run(
        "cells_" + name, tensors[0].dtype, (walk.node_ptr.numel() - 1) * heads, work,
        *grad, *tensors, *results, heads, k, v, tile, *strides(tensors), KINDS[inputs.kind],
        j, sizes[0], sizes[2], r, longest, int(walk.reversed), *walk[2:-1],
    )  # fmt: skip
