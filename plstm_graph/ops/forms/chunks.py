r"""Chunks of a line graph's topological order, and the condensed line graph of their borders.

The edges of each part, in topological order, are cut into *chunks* of up to c where few states
cross. A line edge lies inside a chunk or crosses a border. An edge whose state crosses is an *exit*
of its chunk, an edge that receives such a state an *entry* of its own. Two line graphs follow, and
each is scanned:

- the *inner* one keeps the line edges inside chunks: all chunks go at once, in at most c levels;
- the *condensed* one has the exits and the entries as its vertices. From an exit b, a state crosses
  to entries i, along the crossing line edges, and inside the chunk goes on to its exits o. Such a
  way b -> i -> o is a *detour*; all those from b to o are one condensed line edge, whose weight is
  the sum, over i, of the crossing transition times the inner paths from i to o. So a part has at
  most as many levels as chunks. The entries pass nothing on: they are there to be read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from plstm_graph.dag.levels import expand
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import edge_numbers, segments

#: The least and the most edges of a chunk.
SMALLEST, LARGEST = 32, 64
#: A chunk may end up to c / SLACK edges before it is full.
SLACK = 4
#: Elements of the matrices squared together when detours are looked for.
_SLICE = 1 << 22


class Chunks(NamedTuple):
    """Where each edge is (numpy)."""

    size: int
    count: int
    of: np.ndarray  # [E] chunk
    local: np.ndarray  # [E] place in it


def chunk_size(line_graph: LineGraph) -> int:
    """c: the power of two next to the root of the largest part, between the two bounds.

    Steps of the scans, c inside and E / c over the borders, are fewest at the root; the work inside
    chunks grows with c.
    """
    largest = int(segments(line_graph).num_edges.max(initial=1))
    return int(np.clip(2 ** round(np.log2(max(largest, 1)) / 2), SMALLEST, LARGEST))


def cut(line_graph: LineGraph) -> Chunks:
    """Chunks of at most c edges, each ending where fewest states cross, or as late as possible."""
    seg = segments(line_graph)
    c = chunk_size(line_graph)
    e = seg.edge_part.size
    first = np.cumsum(seg.num_edges) - seg.num_edges
    position = first[seg.edge_part] + edge_numbers(line_graph)
    starts = np.zeros(e + 1, dtype=bool)
    starts[first] = True
    crossing = _crossing(position, line_graph.line_index.cpu().numpy())
    for part in np.flatnonzero(seg.num_edges > c):
        at, end = int(first[part]), int(first[part] + seg.num_edges[part])
        while end - at > c:
            # From the latest end on, so that of equals argmin takes the latest.
            at += c - int(crossing[at + c - c // SLACK : at + c + 1][::-1].argmin())
            starts[at] = True
    start = np.flatnonzero(starts[:e])
    chunk = np.cumsum(starts[:e]) - 1
    return Chunks(c, start.size, chunk[position], position - start[chunk[position]])


def _crossing(position: np.ndarray, line_index: np.ndarray) -> np.ndarray:
    """[E + 1] exits at a cut before each position: their number squared is that of detours."""
    e_in, e_out = line_index
    low, high = position.copy(), position.copy()  # a reversed graph's order runs backwards
    np.minimum.at(low, e_in, position[e_out])
    np.maximum.at(high, e_in, position[e_out])
    size = position.size + 2
    change = np.bincount(low + 1, minlength=size) - np.bincount(high + 1, minlength=size)
    return np.cumsum(change)[:-1]


def detours(
    line_graph: LineGraph,
    inner: LineGraph,
    chunks: Chunks,
    exits: np.ndarray,
    entries: np.ndarray,
    cross_line: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[D, 3] entry, exit and crossing line edge of each detour, [D] its pair, [2, *] the pairs."""
    e_in, e_out = line_graph.line_index.cpu().numpy()
    count = np.bincount(chunks.of[exits], minlength=chunks.count)
    start = np.cumsum(count) - count
    chunk = chunks.of[e_out[cross_line]]
    line = np.repeat(cross_line, count[chunk])
    target = exits[expand(start[chunk], count[chunk])]
    # Where many pairs are possible, those without an inner path are left out.
    crowded = count * np.bincount(chunks.of[entries], minlength=chunks.count) > chunks.size
    keep = _joined(inner, chunks, crowded, e_out[line], target)
    line, target = line[keep], target[keep]
    key, pair = np.unique(e_in[line] * chunks.of.size + target, return_inverse=True)
    pairs = np.stack(np.divmod(key, max(chunks.of.size, 1)))
    return np.stack([e_out[line], target, line], axis=1), pair.reshape(-1), pairs


def _joined(
    inner: LineGraph, chunks: Chunks, crowded: np.ndarray, tail: np.ndarray, head: np.ndarray
) -> np.ndarray:
    """Whether an inner path leads from each tail to its head; True outside crowded chunks."""
    joined = np.ones(tail.size, dtype=bool)
    members = np.flatnonzero(crowded)
    if members.size == 0:
        return joined
    number = np.full(chunks.count, -1)
    number[members] = np.arange(members.size)
    e_in, e_out = inner.line_index.cpu().numpy()
    c, step = chunks.size, max(1, _SLICE // chunks.size**2)
    for first in range(0, members.size, step):
        count = min(step, members.size - first)
        at, asked = number[chunks.of[e_in]] - first, number[chunks.of[tail]] - first
        arc, asked_here = (at >= 0) & (at < count), (asked >= 0) & (asked < count)
        reach = torch.eye(c).repeat(count, 1, 1)
        reach[at[arc], chunks.local[e_out[arc]], chunks.local[e_in[arc]]] = 1.0
        for _ in range(max(inner.num_levels - 1, 0).bit_length()):  # paths of twice the length
            reach = (reach @ reach).clamp_(max=1.0)
        found = reach.numpy() > 0
        joined[asked_here] = found[
            asked[asked_here], chunks.local[head[asked_here]], chunks.local[tail[asked_here]]
        ]
    return joined
