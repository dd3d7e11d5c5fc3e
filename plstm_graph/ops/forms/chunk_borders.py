r"""States over the borders of chunks: the condensed half of the chunkwise form.

With the letters of :mod:`plstm_graph.ops.forms.chunkwise`: what chunks put out, C_o, and what
they read, A_ei q_e^T Z_i, are both products with columns of A (o's row, turned) spread over
vectors of the chunk's edges: with U the c x (columns * K) matrix of all A_e,column * vector_e,

.. math:: C_{out} = U_{out}^\top V, \qquad \mathrm{read} = U_{in} Z

each one matrix product a chunk, whose gradients are two more. Chunks go in pieces of a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.ops.forms.chunk_plan import ChunkPlan, ChunkTables
from plstm_graph.ops.scan import edge_dot, scan_
from plstm_graph.ops.schedule import LevelSchedule

#: Elements that the temporaries of a piece of chunks may hold (float32: 1 MB, near the cache).
PIECE_ELEMENTS = 1 << 18


class Piece(NamedTuple):
    """Chunks of one bucket, with their rows of the tables of exits and entries."""

    chunks: slice
    exits: slice
    entries: slice


class Edges(NamedTuple):
    """Gated vectors of the padded edges, [m, H, c, *]."""

    query: Tensor
    key: Tensor
    value: Tensor


def pieces(plan: ChunkPlan, heads: int, key_size: int) -> Iterator[Piece]:
    chunk = exit_ = entry = 0
    for chunks, exits, entries in plan.sizes.tolist():
        columns = max(int(plan.size), key_size * max(exits, entries))
        most = max(1, PIECE_ELEMENTS // (heads * int(plan.size) * columns))
        for first in range(0, chunks, most):
            n = min(most, chunks - first)
            ends = chunk + n, exit_ + n * exits, entry + n * entries
            yield Piece(slice(chunk, ends[0]), slice(exit_, ends[1]), slice(entry, ends[2]))
            chunk, exit_, entry = ends


def border_weights(inside: Tensor, transition: Tensor, plan: ChunkPlan) -> Tensor:
    """R for the pairs of exits, then T_x: [pairs + L_cross, H]."""
    heads = transition.size(1)
    pairs = plan.border_in.numel() - plan.cross_line.numel()
    detours = inside.view(-1).index_select(0, plan.detour_at).view(-1, heads)
    detours = detours * transition.index_select(0, plan.detour_line)
    through = transition.new_zeros(pairs, heads).index_add_(0, plan.detour_pair, detours)
    return torch.cat([through, transition.index_select(0, plan.cross_line)])


def border_weights_backward(
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
    scan_(states[:-1], weights, schedule)
    states[-1] = 0


def border_states(
    edges: Edges, tile: slice, inside: Tensor, weights: Tensor, tables: ChunkTables
) -> Tensor:
    """C at exits and Z at entries, [vertices + 1, H, K, tile of V] in the order of the scan."""
    plan = tables.plan
    _, heads, _, k = edges.key.shape
    value = edges.value[..., tile]
    states = value.new_zeros(tables.border.order.numel() + 1, heads, k, value.size(3))
    for p in pieces(plan, heads, k):
        if p.exits.start < p.exits.stop:
            columns = _exit_columns(inside[p.chunks], plan.exit_local[p.exits])
            spread = _spread(columns, edges.key[p.chunks])
            _store(states, plan.exit_row[p.exits], spread.mT @ value[p.chunks])
    _scan_border(states, weights, tables.border)
    return states


def border_read_(
    read: Tensor, edges: Edges, states: Tensor, inside: Tensor, plan: ChunkPlan
) -> None:
    """Adds what the edges read of the states that come in; read: [m, H, c, tile of V]."""
    _, heads, _, k = edges.key.shape
    for p in pieces(plan, heads, k):
        if p.entries.start < p.entries.stop:
            columns = _entry_columns(inside[p.chunks], plan.entry_local[p.entries])
            z = _load(states, plan.entry_row[p.entries], columns.size(0))
            read[p.chunks].add_(_spread(columns, edges.query[p.chunks]) @ z)


def border_backward_(
    g: Tensor,
    tile: slice,
    states: Tensor,
    edges: Edges,
    d: Edges,
    inside: Tensor,
    dinside: Tensor,
    weights: Tensor,
    tables: ChunkTables,
) -> Tensor:
    """Adds to ``d`` and ``dinside`` what goes over borders; the gradient of the weights."""
    plan, (_, heads, _, k) = tables.plan, edges.key.shape
    value = edges.value[..., tile]
    adjoint = torch.zeros_like(states)
    for p in pieces(plan, heads, k):
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
    for p in pieces(plan, heads, k):
        if p.exits.start < p.exits.stop:
            local = plan.exit_local[p.exits]
            columns, k_p, v_p = (
                _exit_columns(inside[p.chunks], local),
                edges.key[p.chunks],
                value[p.chunks],
            )
            dstate = _load(adjoint, plan.exit_back[p.exits], k_p.size(0))
            d.value[p.chunks][..., tile].add_(_spread(columns, k_p) @ dstate)
            dcolumns = _spread_backward_(d.key[p.chunks], v_p @ dstate.mT, columns, k_p)
            index = local.view(k_p.size(0), 1, -1, 1).expand_as(dcolumns.mT)
            dinside[p.chunks].scatter_add_(2, index, dcolumns.mT)
    return edge_dot(states.flatten(2), adjoint.flatten(2), plan.border_in, plan.border_out)
