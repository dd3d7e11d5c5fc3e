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
:mod:`plstm_graph.dag.chunks`. A itself is a scan of the identity along the line edges inside
chunks: all chunks at once, c columns an edge. The gradients of both are the reversed scans and
edge-wise dots: with B = A^T dA, dT_l = <A_e_in, B_e_out> for l inside a chunk.

It takes c + E / c steps where the levelwise form takes E on a path, and E c (K + V) work; memory is
2 E c for A and its gradient, and K V for each exit and entry (by tiles of V). The rest is done in
pieces of ``PIECE_ELEMENTS``; scores and border states are made anew in backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.chunks import ChunkPlan, ChunkTables
from plstm_graph.dag.schedule import LevelSchedule
from plstm_graph.ops.levelwise import tiles
from plstm_graph.ops.scan import edge_dot, scan_levels_

#: Elements that the temporaries of a piece of chunks may hold (float32: 1 MB, near the cache).
PIECE_ELEMENTS = 1 << 18


class _Piece(NamedTuple):
    """Chunks of one bucket, with their rows of the tables of exits and entries."""

    chunks: slice
    exits: slice
    entries: slice


class _Edges(NamedTuple):
    """Gated vectors of the padded edges, [m, H, c, *]."""

    query: Tensor
    key: Tensor
    value: Tensor


class Kept(NamedTuple):
    """What backward needs of the forward."""

    edges: _Edges
    inside: Tensor  # A, [m, H, c, c]
    states: Tensor | None  # at exits and entries; None if they are too many to be kept


def _pieces(plan: ChunkPlan, heads: int, key_size: int) -> Iterator[_Piece]:
    chunk = exit_ = entry = 0
    for chunks, exits, entries in plan.sizes.tolist():
        columns = max(int(plan.size), key_size * max(exits, entries))
        most = max(1, PIECE_ELEMENTS // (heads * int(plan.size) * columns))
        for first in range(0, chunks, most):
            n = min(most, chunks - first)
            ends = chunk + n, exit_ + n * exits, entry + n * entries
            yield _Piece(slice(chunk, ends[0]), slice(exit_, ends[1]), slice(entry, ends[2]))
            chunk, exit_, entry = ends


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
    scan_levels_(rows[:edges], transition.index_select(0, plan.inner_line), tables.inner)
    inside = _gather(rows, plan.scan_row, plan)
    # Long products of transitions below 1 underflow, and processors are slow on subnormals.
    return torch.hardshrink(inside, torch.finfo(inside.dtype).tiny * 2**26, out=inside)


def _inside_backward(
    dinside: Tensor, inside: Tensor, transition: Tensor, tables: ChunkTables
) -> Tensor:
    """[L_inner, H] from the gradient of A: X = A^T dA is the reversed scan."""
    plan, heads, c = tables.plan, inside.size(1), int(tables.plan.size)
    x = dinside.view(-1, c).index_select(0, plan.back_row).view(-1, heads, c)
    scan_levels_(x, transition.index_select(0, plan.inner_line), tables.inner_back)
    dots = edge_dot(inside.view(-1, c), x.view(-1, c), plan.inner_in, plan.inner_out)
    return dots.view(-1, heads)


def _border_weights(inside: Tensor, transition: Tensor, plan: ChunkPlan) -> Tensor:
    """R for the pairs of exits, then T_x: [pairs + L_cross, H]."""
    heads = transition.size(1)
    pairs = plan.border_in.numel() - plan.cross_line.numel()
    detours = inside.view(-1).index_select(0, plan.detour_at).view(-1, heads)
    detours = detours * transition.index_select(0, plan.detour_line)
    through = transition.new_zeros(pairs, heads).index_add_(0, plan.detour_pair, detours)
    return torch.cat([through, transition.index_select(0, plan.cross_line)])


def _border_weights_backward(
    dweights: Tensor,
    dtransition: Tensor,
    dinside: Tensor,
    inside: Tensor,
    transition: Tensor,
    plan: ChunkPlan,
) -> None:
    """Adds to the gradients of T and A."""
    pairs = plan.border_in.numel() - plan.cross_line.numel()
    dtransition.index_add_(0, plan.cross_line, dweights[pairs:])
    d = dweights.index_select(0, plan.detour_pair)
    a = inside.view(-1).index_select(0, plan.detour_at).view_as(d)
    dinside.view(-1).index_add_(
        0, plan.detour_at, (d * transition.index_select(0, plan.detour_line)).view(-1)
    )
    dtransition.index_add_(0, plan.detour_line, a * d)


def _exit_columns(inside: Tensor, local: Tensor) -> Tensor:
    """A's rows at ``local`` [n * W], turned to columns: [n, H, c, c] -> [n, H, c, W]."""
    n, heads, c, _ = inside.shape
    return inside.gather(2, local.view(n, 1, -1, 1).expand(-1, heads, -1, c)).mT


def _entry_columns(inside: Tensor, local: Tensor) -> Tensor:
    """A's columns at ``local`` [n * W]: [n, H, c, c] -> [n, H, c, W]."""
    n, heads, c, _ = inside.shape
    return inside.gather(3, local.view(n, 1, 1, -1).expand(-1, heads, c, -1))


def _spread(columns: Tensor, vectors: Tensor) -> Tensor:
    """Columns times the vectors of their rows: [n, H, c, W], [n, H, c, K] -> [n, H, c, W * K]."""
    return (columns[..., None] * vectors[..., None, :]).flatten(3)


def _spread_backward_(
    dvectors: Tensor, dspread: Tensor, columns: Tensor, vectors: Tensor
) -> Tensor:
    """Adds the gradient of the vectors of :func:`_spread` in place; that of the columns."""
    d = dspread.unflatten(3, (columns.size(3), vectors.size(3)))
    for d_w, column in zip(d.unbind(3), columns.unbind(3)):
        dvectors.addcmul_(d_w, column[..., None])
    return torch.linalg.vecdot(d, vectors[..., None, :])


def _load(states: Tensor, row: Tensor, n: int) -> Tensor:
    """States [*, H, K, V] at the rows [n * W] of n chunks -> [n, H, W * K, V]."""
    _, heads, k, v = states.shape
    rows = states.index_select(0, row).view(n, -1, heads, k * v)
    return rows.transpose(1, 2).reshape(n, heads, -1, v)


def _store(states: Tensor, row: Tensor, values: Tensor) -> None:
    """The inverse of :func:`_load`; padding goes to the last row."""
    _, heads, k, v = states.shape
    rows = values.reshape(values.size(0), heads, -1, k * v).transpose(1, 2)
    states.index_copy_(0, row, rows.reshape(-1, heads, k, v))


def _scan_border(states: Tensor, weights: Tensor, schedule: LevelSchedule) -> None:
    """The condensed recurrence in place, in the order of ``schedule``; padding becomes zero."""
    scan_levels_(states[:-1], weights, schedule)
    states[-1] = 0


def _border_states(
    edges: _Edges, tile: slice, inside: Tensor, weights: Tensor, tables: ChunkTables
) -> Tensor:
    """C at exits and Z at entries, [vertices + 1, H, K, tile of V] in the order of the scan."""
    plan = tables.plan
    _, heads, _, k = edges.key.shape
    value = edges.value[..., tile]
    states = value.new_zeros(tables.border.order.numel() + 1, heads, k, value.size(3))
    for p in _pieces(plan, heads, k):
        if p.exits.start < p.exits.stop:
            columns = _exit_columns(inside[p.chunks], plan.exit_local[p.exits])
            spread = _spread(columns, edges.key[p.chunks])
            _store(states, plan.exit_row[p.exits], spread.mT @ value[p.chunks])
    _scan_border(states, weights, tables.border)
    return states


def _edges_of(
    query: Tensor, key: Tensor, value: Tensor, source: Tensor, mark: Tensor, plan: ChunkPlan
) -> _Edges:
    return _Edges(
        _gather(query, plan.dst_row, plan).mul_(_padded_gate(mark, plan)),
        _gather(key, plan.src_row, plan).mul_(_padded_gate(source, plan)),
        _gather(value, plan.src_row, plan),
    )


def chunks_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    scale: float,
    tables: ChunkTables,
) -> tuple[Tensor, Kept]:
    """The layer; shapes as :func:`plstm_graph.ops.plstm`, without J."""
    plan, (_, heads, k) = tables.plan, key.shape
    q = query * scale
    out = ((direct * (q * key).sum(-1))[..., None] * value).contiguous()
    inside = _inside(transition, tables)
    edges = _edges_of(q, key, value, source, mark, plan)
    read = torch.empty_like(edges.value)
    for p in _pieces(plan, heads, k):
        q_p, k_p, v_p = (x[p.chunks] for x in edges)
        torch.matmul((q_p @ k_p.mT).mul_(inside[p.chunks]), v_p, out=read[p.chunks])
    weights = _border_weights(inside, transition, plan)
    v_tiles = tiles(tables.border.order.numel(), heads, k, value.size(2))
    for tile in v_tiles:
        states = _border_states(edges, tile, inside, weights, tables)
        for p in _pieces(plan, heads, k):
            if p.entries.start < p.entries.stop:
                columns = _entry_columns(inside[p.chunks], plan.entry_local[p.entries])
                q_p = edges.query[p.chunks]
                z = _load(states, plan.entry_row[p.entries], q_p.size(0))
                read[p.chunks][..., tile] += _spread(columns, q_p) @ z
    out.flatten(0, 1).index_add_(0, plan.dst_row, read.flatten(0, 2))
    return out, Kept(edges, inside, states if len(v_tiles) == 1 else None)


def chunks_backward(
    grad: Tensor, inputs: Sequence[Tensor], scale: float, tables: ChunkTables, kept: Kept
) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs of :func:`chunks_forward`."""
    key, value, transition = inputs[1], inputs[2], inputs[4]
    plan, (_, heads, k) = tables.plan, key.shape
    edges, inside = kept.edges, kept.inside
    g = _gather(grad, plan.dst_row, plan)
    d = _Edges(*(torch.empty_like(x) for x in edges))
    dinside = torch.empty_like(inside)
    for p in _pieces(plan, heads, k):
        q_p, k_p, v_p = (x[p.chunks] for x in edges)
        a, g_p = inside[p.chunks], g[p.chunks]
        scores, gated = q_p @ k_p.mT, g_p @ v_p.mT
        torch.mul(scores, gated, out=dinside[p.chunks])
        torch.matmul(scores.mul_(a).mT, g_p, out=d.value[p.chunks])
        torch.matmul(gated.mul_(a), k_p, out=d.query[p.chunks])
        torch.matmul(gated.mT, q_p, out=d.key[p.chunks])
    weights = _border_weights(inside, transition, plan)
    dweights = torch.zeros_like(weights)
    for tile in tiles(tables.border.order.numel(), heads, k, value.size(2)):
        states = kept.states
        if states is None:
            states = _border_states(edges, tile, inside, weights, tables)
        dweights += _border_backward(
            g[..., tile], tile, states, edges, d, inside, dinside, weights, tables
        )
    dtransition = torch.zeros_like(transition)
    _border_weights_backward(dweights, dtransition, dinside, inside, transition, plan)
    dinner = _inside_backward(dinside, inside, transition, tables)
    dtransition.index_add_(0, plan.inner_line, dinner)
    return _node_gradients(grad, inputs, scale, d, dtransition, plan)


def _border_backward(
    g: Tensor,
    tile: slice,
    states: Tensor,
    edges: _Edges,
    d: _Edges,
    inside: Tensor,
    dinside: Tensor,
    weights: Tensor,
    tables: ChunkTables,
) -> Tensor:
    """Adds to ``d`` and ``dinside`` what goes over borders; the gradient of the weights."""
    plan, (_, heads, _, k) = tables.plan, edges.key.shape
    value = edges.value[..., tile]
    adjoint = torch.zeros_like(states)
    for p in _pieces(plan, heads, k):
        if p.entries.start < p.entries.stop:
            local = plan.entry_local[p.entries]
            columns, q_p, g_p = (
                _entry_columns(inside[p.chunks], local),
                edges.query[p.chunks],
                g[p.chunks],
            )
            _store(adjoint, plan.entry_back[p.entries], _spread(columns, q_p).mT @ g_p)
            dspread = g_p @ _load(states, plan.entry_row[p.entries], q_p.size(0)).mT
            dcolumns = _spread_backward_(d.query[p.chunks], dspread, columns, q_p)
            index = local.view(q_p.size(0), 1, 1, -1).expand_as(dcolumns)
            dinside[p.chunks].scatter_add_(3, index, dcolumns)
    _scan_border(adjoint, weights, tables.border_back)
    for p in _pieces(plan, heads, k):
        if p.exits.start < p.exits.stop:
            local = plan.exit_local[p.exits]
            columns, k_p, v_p = (
                _exit_columns(inside[p.chunks], local),
                edges.key[p.chunks],
                value[p.chunks],
            )
            dstate = _load(adjoint, plan.exit_back[p.exits], k_p.size(0))
            d.value[p.chunks][..., tile] += _spread(columns, k_p) @ dstate
            dcolumns = _spread_backward_(d.key[p.chunks], v_p @ dstate.mT, columns, k_p)
            index = local.view(k_p.size(0), 1, -1, 1).expand_as(dcolumns.mT)
            dinside[p.chunks].scatter_add_(2, index, dcolumns.mT)
    return edge_dot(states.flatten(2), adjoint.flatten(2), plan.border_in, plan.border_out)


def _node_gradients(
    grad: Tensor,
    inputs: Sequence[Tensor],
    scale: float,
    d: _Edges,
    dtransition: Tensor,
    plan: ChunkPlan,
) -> tuple[Tensor, ...]:
    """From gradients of the edges' vectors to those of the seven inputs, the direct term's too."""
    query, key, value, source, _, mark, direct = inputs
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
