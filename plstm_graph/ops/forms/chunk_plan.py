r"""Where edges, exits and entries stand in the padded matrices of the chunkwise form.

The chunks and their two line graphs are those of :mod:`plstm_graph.ops.forms.chunks`. Heads are
folded in: the matrix of chunk j and head h has number ``j * H + h``. Chunks with
about as many exits or entries (up to the next power of two) stand together in one *bucket* and are
padded to the most of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.forms.chunks import Chunks, cut, detours
from plstm_graph.ops.schedule import LevelSchedule, level_schedule


class ChunkPlan(NamedTuple):
    """Index tensors of the chunkwise form for one line graph and number of heads.

    There are m chunks; F = m * H * c are the padded rows (chunk, head, place in the chunk) of
    edges, X and I the exits and entries, both padded per bucket in the tables below.

    Attributes:
        sizes: [buckets, 3] on the CPU: chunks, and the exits and entries each is padded to.
        size: 0-dim on the CPU: c.
        src_row, dst_row: [F] row of [N * H] (padding: those of the chunk's first edge, so that no
            value of another part, finite or not, can leak in).
        gate_row: [F] row of [(E + 1) * H], the last ones for padding.
        place: [E * H] padded row of each edge.
        scan_row: [F] row of [(E + 1) * H], edges in the order of the inner schedule.
        identity: [E * H] place (edge, its own column) in that buffer with c columns.
        back_row: [E * H] padded rows in the order of the reversed inner schedule.
        inner_line: [L_inner] line edges inside chunks; inner_in: [L_inner * H] padded row of their
            e_in; inner_out: [L_inner * H] row of their e_out in the order of the reversed schedule.
        exit_local, entry_local: [X], [I] places in the chunk, chunk by chunk (padding: 0).
        exit_row, entry_row: [X], [I] their rows in the order of the condensed schedule, and
        exit_back, entry_back: of its reverse (padding: a row past the last).
        detour_at: [D * H] the place (o, i) of each detour in the [F, c] buffer; detour_line: [D]
            its crossing line edge; detour_pair: [D] its condensed line edge.
        cross_line: [L_cross] line edges that cross.
        border_in, border_out: [pairs + L_cross] condensed line edges, exit to exit, then exit to
            entry: rows of their tails in the order of the condensed schedule, and of their heads
            in that of its reverse.
    """

    sizes: Tensor
    size: Tensor
    src_row: Tensor
    dst_row: Tensor
    gate_row: Tensor
    place: Tensor
    scan_row: Tensor
    identity: Tensor
    back_row: Tensor
    inner_line: Tensor
    inner_in: Tensor
    inner_out: Tensor
    exit_local: Tensor
    exit_row: Tensor
    exit_back: Tensor
    entry_local: Tensor
    entry_row: Tensor
    entry_back: Tensor
    detour_at: Tensor
    detour_line: Tensor
    detour_pair: Tensor
    cross_line: Tensor
    border_in: Tensor
    border_out: Tensor


class ChunkTables(NamedTuple):
    """The plan, and the schedules of the inner and the condensed graph in both directions."""

    plan: ChunkPlan
    inner: LevelSchedule
    inner_back: LevelSchedule
    border: LevelSchedule
    border_back: LevelSchedule


def chunk_tables(line_graph: LineGraph, heads: int) -> ChunkTables:
    """The tables of ``line_graph`` for H heads."""
    chunks = cut(line_graph)
    e_in, e_out = line_graph.line_index.cpu().numpy()
    crosses = chunks.of[e_in] != chunks.of[e_out]
    exits, entries = _border(e_in[crosses], chunks), _border(e_out[crosses], chunks)
    chunks, bounds = _by_border(chunks, exits, entries)
    exits, entries = (x[np.lexsort((chunks.local[x], chunks.of[x]))] for x in (exits, entries))
    inner_line, cross_line = np.flatnonzero(~crosses), np.flatnonzero(crosses)

    device = line_graph.device
    inner = LineGraph.of(
        Family(
            line_graph.num_nodes,
            Member(line_graph.edge_index, line_graph.edge_id),
            line_index=line_graph.line_index[:, torch.from_numpy(inner_line).to(device)],
        )
    )
    detour, pair, pairs = detours(line_graph, inner, chunks, exits, entries, cross_line)
    vertex = np.empty(chunks.of.size, dtype=np.int64)
    vertex[entries] = exits.size + np.arange(entries.size)
    to_entry = vertex[e_out[cross_line]]
    vertex[exits] = np.arange(exits.size)
    border_index = np.concatenate([vertex[pairs], [vertex[e_in[cross_line]], to_entry]], axis=1)
    # Only the schedules look at it: its vertices have no ends, so their nodes are left at zero.
    size = exits.size + entries.size
    ends = torch.zeros(2, size, dtype=torch.int64, device=device)
    border = LineGraph.of(
        Family(1, Member(ends, ends[0]), line_index=torch.from_numpy(border_index).to(device))
    )

    inner_schedules = level_schedule(inner), level_schedule(inner.reverse())
    there, back = (s.position.cpu().numpy() for s in inner_schedules)
    border_schedules = level_schedule(border), level_schedule(border.reverse())
    # One vertex more, for padding.
    rows = [np.append(s.position.cpu().numpy(), size) for s in border_schedules]
    h = np.arange(heads)
    padded = (chunks.of[:, None] * heads + h) * chunks.size + chunks.local[:, None]  # [E, H]
    src, dst = line_graph.edge_index.cpu().numpy()
    e = chunks.of.size
    inner_in, inner_out = e_in[inner_line], e_out[inner_line]
    into, out_of = detour[:, 0], detour[:, 1]
    arrays = (
        _rows(src, chunks, padded, fill=None),
        _rows(dst, chunks, padded, fill=None),
        _rows(np.arange(e), chunks, padded, fill=e),
        padded.reshape(-1),
        _rows(there, chunks, padded, fill=e),
        ((there[:, None] * heads + h) * chunks.size + chunks.local[:, None]).reshape(-1),
        padded[np.argsort(back)].reshape(-1),
        inner_line,
        padded[inner_in].reshape(-1),
        (back[inner_out][:, None] * heads + h).reshape(-1),
        *_border_table(exits, chunks, bounds[:, 1], 0, rows),
        *_border_table(entries, chunks, bounds[:, 2], exits.size, rows),
        (padded[out_of] * chunks.size + chunks.local[into][:, None]).reshape(-1),
        detour[:, 2],
        pair,
        cross_line,
        rows[0][border_index[0]],
        rows[1][border_index[1]],
    )
    starts = np.flatnonzero(np.diff(bounds[:, 0], prepend=-1))
    sizes = np.stack([np.diff(np.append(starts, len(bounds))), *bounds[starts, 1:].T], axis=1)
    plan = ChunkPlan(
        torch.from_numpy(sizes),
        torch.tensor(chunks.size),
        *(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays),
    )
    return ChunkTables(plan, *inner_schedules, *border_schedules)


def _border(edges: np.ndarray, chunks: Chunks) -> np.ndarray:
    """The edges once each."""
    seen = np.zeros(chunks.of.size, dtype=bool)
    seen[edges] = True
    return np.flatnonzero(seen)


def _by_border(chunks: Chunks, exits: np.ndarray, entries: np.ndarray) -> tuple[Chunks, np.ndarray]:
    """Chunks renumbered by bucket, and [m, 3] each one's bucket and padded exits and entries."""
    counts = [np.bincount(chunks.of[x], minlength=chunks.count) for x in (exits, entries)]
    bucket = np.ceil(np.log2(np.maximum(*counts) + 1)).astype(np.int64)
    order = np.argsort(bucket, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(chunks.count)
    most = np.zeros((2, int(bucket.max(initial=-1)) + 1), dtype=np.int64)
    for row, count in zip(most, counts):
        np.maximum.at(row, bucket, count)
    bounds = np.stack([bucket, most[0][bucket], most[1][bucket]], axis=1)[order]
    return chunks._replace(of=place[chunks.of]), bounds


def _rows(values: np.ndarray, chunks: Chunks, padded: np.ndarray, fill: int | None) -> np.ndarray:
    """[F] rows ``value * H + h`` of each edge's value; ``fill=None`` takes the chunk's first."""
    heads = padded.shape[1]
    if fill is None:
        first = chunks.local == 0
        table = np.empty(chunks.count, dtype=np.int64)
        table[chunks.of[first]] = values[first]
    else:
        table = np.full(chunks.count, fill)
    rows = np.repeat(table[:, None] * heads + np.arange(heads), chunks.size)
    rows[padded] = values[:, None] * heads + np.arange(heads)
    return rows


def _border_table(
    edges: np.ndarray, chunks: Chunks, wide: np.ndarray, first: int, rows: list[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Places in the chunk, and the rows of the vertices from ``first`` on, in ``wide`` columns."""
    chunk = chunks.of[edges]
    count = np.bincount(chunk, minlength=chunks.count)
    slot = np.arange(edges.size) - np.repeat(np.cumsum(count) - count, count)
    at = (np.cumsum(wide) - wide)[chunk] + slot
    local = np.zeros(int(wide.sum()), dtype=np.int64)
    vertex = np.full(local.size, rows[0].size - 1)
    local[at], vertex[at] = chunks.local[edges], first + np.arange(edges.size)
    return local, *(row[vertex] for row in rows)
