r"""The chunkwise form: parallel inside chunks of the topological order, states over their borders.

Gates go onto the vectors of each edge: q_e = M_e q_dst(e), k_e = S_e k_src(e), v_e = v_src(e). The
line edges inside chunks and those that cross are T = T_i + T_x. With A = (I - T_i)^-1,
block-diagonal over chunks, the states are C = A (X + T_x C), where X_e = k_e v_e^T. So, with the
states Z = T_x C that come in at entries,

.. math::
    q_e^\top C_e = \sum_{e'} A_{ee'} (q_e \cdot k_{e'}) v_{e'}^\top
                 + \sum_i A_{ei}\, q_e^\top Z_i

where e' and i run over e's own chunk: gated attention, and a few columns of A with a state each.
The states at exits o and at entries i obey the condensed recurrence

.. math::
    C_o = \sum_e A_{oe} k_e v_e^\top + \sum_b R_{ob} C_b, \qquad Z_i = \sum_b T_{ib} C_b, \qquad
    R_{ob} = \sum_i A_{oi} T_{ib}

(b: exits of earlier chunks), which is one more scan, on the condensed line graph of
:mod:`plstm_graph.ops.forms.chunks`. A itself is a scan of the identity along the line edges inside
chunks: all chunks at once, c columns an edge. The gradients of both are the reversed scans and
edge-wise dots: with B = A^T dA, dT_l = <A_e_in, B_e_out> for l inside a chunk.

It takes c + E / c steps where the levelwise form takes E on a path, and E c (K + V) work; memory is
2 E c for A and its gradient, and 2 K V for each exit and entry (by tiles of V where that is much).
All else is done in pieces of a few chunks (:mod:`plstm_graph.ops.forms.chunk_borders`), and scores
are computed again in backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.segments import segments
from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.forms.chunk_borders import (
    Edges,
    border_backward_,
    border_read_,
    border_states,
    border_weights,
    border_weights_backward,
    pieces,
)
from plstm_graph.ops.forms.chunk_plan import ChunkPlan, ChunkTables, chunk_tables
from plstm_graph.ops.forms.chunks import chunk_size
from plstm_graph.ops.forms.levelwise import tiles
from plstm_graph.ops.inputs import Inputs
from plstm_graph.ops.scan import edge_dot, scan_
from plstm_graph.ops.schedule import LevelSchedule

#: Edges of a part from which on the form may be faster than the walk.
LONG = 1024


class Kept(NamedTuple):
    """What backward needs of the forward."""

    edges: Edges
    inside: Tensor  # A, [m, H, c, c]
    states: Tensor | None  # at exits and entries; None if they are too many to be kept


def _gather(x: Tensor, row: Tensor, plan: ChunkPlan) -> Tensor:
    """Rows of [*, H, W] -> [m, H, c, W]."""
    rows = x.flatten(0, 1).index_select(0, row)
    return rows.view(-1, x.size(1), int(plan.size), x.size(2))


def _padded_gate(gate: Tensor, plan: ChunkPlan) -> Tensor:
    """[E, H] -> [m, H, c, 1], zero in the padding."""
    zero = gate.new_zeros(1, gate.size(1))
    return _gather(torch.cat([gate, zero])[..., None], plan.gate_row, plan)


def _inside(transition: Tensor, tables: ChunkTables) -> Tensor:
    """A: [m, H, c, c], rows of zeros in the padding."""
    plan, heads, c = tables.plan, transition.size(1), int(tables.plan.size)
    edges = plan.place.numel() // heads
    rows = transition.new_zeros(edges + 1, heads, c)
    rows.view(-1).index_fill_(0, plan.identity, 1.0)
    scan_(rows[:edges], transition.index_select(0, plan.inner_line), tables.inner)
    inside = _gather(rows, plan.scan_row, plan)
    # Long products of transitions below 1 underflow, and processors are slow on subnormals.
    return torch.hardshrink(inside, torch.finfo(inside.dtype).tiny * 2**26, out=inside)


def _inside_backward(
    dinside: Tensor, inside: Tensor, transition: Tensor, tables: ChunkTables
) -> Tensor:
    """[L_inner, H] from the gradient of A: X = A^T dA is the reversed scan."""
    plan, heads, c = tables.plan, inside.size(1), int(tables.plan.size)
    x = dinside.view(-1, c).index_select(0, plan.back_row).view(-1, heads, c)
    scan_(x, transition.index_select(0, plan.inner_line), tables.inner_back)
    dots = edge_dot(inside.view(-1, c), x.view(-1, c), plan.inner_in, plan.inner_out)
    return dots.view(-1, heads)


def _edges_of(
    query: Tensor, key: Tensor, value: Tensor, source: Tensor, mark: Tensor, plan: ChunkPlan
) -> Edges:
    return Edges(
        _gather(query, plan.dst_row, plan).mul_(_padded_gate(mark, plan)),
        _gather(key, plan.src_row, plan).mul_(_padded_gate(source, plan)),
        _gather(value, plan.src_row, plan),
    )


def chunks_forward(inputs: Inputs, scale: float, tables: ChunkTables) -> tuple[Tensor, Kept]:
    """The layer; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    query, key, value, source, transition, mark, direct, _ = inputs
    plan, (_, heads, k) = tables.plan, key.shape
    q = query * scale
    out = ((direct * (q * key).sum(-1))[..., None] * value).contiguous()
    inside = _inside(transition, tables)
    edges = _edges_of(q, key, value, source, mark, plan)
    read = torch.empty_like(edges.value)
    for p in pieces(plan, heads, k):
        q_p, k_p, v_p = (x[p.chunks] for x in edges)
        torch.matmul((q_p @ k_p.mT).mul_(inside[p.chunks]), v_p, out=read[p.chunks])
    weights = border_weights(inside, transition, plan)
    v_tiles = tiles(tables.border.order.numel(), heads, k, value.size(2))
    for tile in v_tiles:
        states = border_states(edges, tile, inside, weights, tables)
        border_read_(read[..., tile], edges, states, inside, plan)
    out.flatten(0, 1).index_add_(0, plan.dst_row, read.flatten(0, 2))
    return out, Kept(edges, inside, states if len(v_tiles) == 1 else None)


def chunks_backward(
    grad: Tensor, inputs: Inputs, scale: float, tables: ChunkTables, kept: Kept
) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs of :func:`chunks_forward`."""
    key, value, transition = inputs[1], inputs[2], inputs[4]
    plan, (_, heads, k) = tables.plan, key.shape
    edges, inside = kept.edges, kept.inside
    g = _gather(grad, plan.dst_row, plan)
    d = Edges(*(torch.empty_like(x) for x in edges))
    dinside = torch.empty_like(inside)
    for p in pieces(plan, heads, k):
        q_p, k_p, v_p = (x[p.chunks] for x in edges)
        a, g_p = inside[p.chunks], g[p.chunks]
        scores, gated = q_p @ k_p.mT, g_p @ v_p.mT
        torch.mul(scores, gated, out=dinside[p.chunks])
        torch.matmul(scores.mul_(a).mT, g_p, out=d.value[p.chunks])
        torch.matmul(gated.mul_(a), k_p, out=d.query[p.chunks])
        torch.matmul(gated.mT, q_p, out=d.key[p.chunks])
    weights = border_weights(inside, transition, plan)
    dweights = torch.zeros_like(weights)
    for tile in tiles(tables.border.order.numel(), heads, k, value.size(2)):
        states = kept.states
        if states is None:
            states = border_states(edges, tile, inside, weights, tables)
        dweights += border_backward_(
            g[..., tile], tile, states, edges, d, inside, dinside, weights, tables
        )
    dtransition = torch.zeros_like(transition)
    border_weights_backward(dweights, dtransition, dinside, inside, transition, plan)
    dinner = _inside_backward(dinside, inside, transition, tables)
    dtransition.index_add_(0, plan.inner_line, dinner)
    return _node_gradients(grad, inputs, scale, d, dtransition, plan)


def _node_gradients(
    grad: Tensor,
    inputs: Sequence[Tensor],
    scale: float,
    d: Edges,
    dtransition: Tensor,
    plan: ChunkPlan,
) -> tuple[Tensor, ...]:
    """From gradients of the edges' vectors to those of the seven inputs, the direct term's too."""
    query, key, value, source, _, mark, direct, _ = inputs
    heads, q = key.size(1), query * scale
    qk, gv = (q * key).sum(-1), (grad * value).sum(-1)
    weight = (direct * gv)[..., None]

    def gate(dvector: Tensor, vector: Tensor, row: Tensor) -> Tensor:
        dots = (dvector * _gather(vector, row, plan)).sum(-1)
        return dots.view(-1).index_select(0, plan.place).view(-1, heads)

    def node(start: Tensor, dvector: Tensor, row: Tensor) -> Tensor:
        start = start.contiguous()
        start.flatten(0, 1).index_add_(0, row, dvector.flatten(0, 2))
        return start

    dsource, dmark = gate(d.key, key, plan.src_row), gate(d.query, q, plan.dst_row)
    return (
        node(weight * key, d.query.mul_(_padded_gate(mark, plan)), plan.dst_row).mul_(scale),
        node(weight * q, d.key.mul_(_padded_gate(source, plan)), plan.src_row),
        node((direct * qk)[..., None] * grad, d.value, plan.src_row),
        dsource,
        dtransition,
        dmark,
        qk * gv,
    )


class Chunkwise(Form):
    name = "chunkwise"
    gives_way_to = "levelwise"

    def worthwhile(self, problem: Problem) -> bool:
        graph = problem.line_graph  # a sequence, or several
        long = int(segments(graph).num_edges.max(initial=0)) >= LONG
        return long and graph.num_line_edges < graph.num_edges

    def features(self, problem: Problem) -> dict[str, float]:
        graph, heads = problem.line_graph, problem.heads
        k, v, c = problem.key_size, problem.value_size, chunk_size(graph)
        largest = int(segments(graph).num_edges.max(initial=1))
        # About as many states cross a border as there are line edges on a level.
        crossing = max(largest / c - 1, 0) * graph.num_line_edges / max(1, graph.num_levels)
        return {
            "start": 1,
            "step": c + largest / c,
            "edge": heads * graph.num_edges * (c + k + v),
            "border": heads * crossing * k * v,
        }

    def plan(self, problem: Problem) -> list[Tensor]:
        plan, *schedules = chunk_tables(problem.line_graph, problem.heads)
        return [*plan, *(tensor for schedule in schedules for tensor in schedule)]

    def forward(self, inputs: Inputs, scale: float, plan: Sequence[Tensor]) -> tuple[Tensor, Kept]:
        return chunks_forward(inputs, scale, _tables(plan))

    def backward(
        self, grad: Tensor, inputs: Inputs, scale: float, plan: Sequence[Tensor], kept: Kept | None
    ) -> tuple[Tensor, ...]:
        tables = _tables(plan)
        kept = chunks_forward(inputs, scale, tables)[1] if kept is None else kept
        return chunks_backward(grad, inputs, scale, tables, kept)


def _tables(plan: Sequence[Tensor]) -> ChunkTables:
    first, size = len(ChunkPlan._fields), len(LevelSchedule._fields)
    schedules = (LevelSchedule(*plan[i : i + size]) for i in range(first, len(plan), size))
    return ChunkTables(ChunkPlan(*plan[:first]), *schedules)
