r"""What the operators need to know of a line graph, computed once per batch.

:class:`LevelSchedule` orders edges by topological level and, inside a level, by falling number
of predecessors (jagged diagonal storage). The first predecessors of a level's edges then are one
*slot* (a contiguous run of line edges whose targets are a prefix of the level's edges), the
second predecessors the next, shorter slot, and so on: a step of the scan is one gather and one
fused multiply-add on a contiguous block, without scattered writes. Predecessors past the
``MAX_SLOTS``-th (hubs) are summed by segments instead, one more step per level.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.pytree import register_tables

#: Predecessors of an edge that get a slot of their own; the rest is summed by segments.
MAX_SLOTS = 4


@register_tables
class LevelSchedule(NamedTuple):
    """Steps of a scan over the levels of a line graph.

    Attributes:
        order: [E] edges in the order of the scan.
        position: [E] the inverse of ``order``.
        line_order: [L] line edges in the order of the scan.
        tail: [L] position of the ``e_in`` of each line edge in ``line_order``.
        segment_ptr: offsets of all segment steps, one after the other.
        steps: [S, 5] on the CPU, a row for each step: first edge position, number of edges,
            first line edge, number of line edges, and the offset into ``segment_ptr`` or -1.
    """

    order: Tensor
    position: Tensor
    line_order: Tensor
    tail: Tensor
    segment_ptr: Tensor
    steps: Tensor


def level_schedule(line_graph: LineGraph) -> LevelSchedule:
    """The schedule of ``line_graph``, planned once."""
    return line_graph.plan("level_schedule", _level_schedule)


def _level_schedule(line_graph: LineGraph) -> LevelSchedule:
    e, l = line_graph.num_edges, line_graph.num_line_edges
    level = line_graph.level.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    indegree = np.bincount(e_out, minlength=e)
    order = np.lexsort((-indegree, level))
    position = np.empty(e, dtype=np.int64)
    position[order] = np.arange(e)

    # The rank of each line edge among those of its e_out is its slot.
    by_out = np.lexsort((e_in, e_out))
    first = np.cumsum(indegree) - indegree
    slot = np.empty(l, dtype=np.int64)
    slot[by_out] = np.arange(l) - np.repeat(first, indegree)
    slot = np.minimum(slot, MAX_SLOTS)  # the last slot holds all that is left: segments
    line_order = np.lexsort((position[e_out], slot, level[e_out]))

    key = (level[e_out] * (MAX_SLOTS + 1) + slot)[line_order]
    step_key, step_line, step_lines = np.unique(key, return_index=True, return_counts=True)
    level_start = np.searchsorted(level[order], np.arange(level.max(initial=0) + 1))
    target = position[e_out][line_order]
    steps = np.empty((step_key.size, 5), dtype=np.int64)
    steps[:, 0] = level_start[step_key // (MAX_SLOTS + 1)]
    steps[:, 1] = steps[:, 3] = step_lines
    steps[:, 2] = step_line
    steps[:, 4] = -1
    pointers: list[np.ndarray] = []
    offset = 0
    for i in np.flatnonzero(step_key % (MAX_SLOTS + 1) == MAX_SLOTS):
        lines = target[steps[i, 2] : steps[i, 2] + steps[i, 3]]
        ptr = np.append(np.flatnonzero(np.diff(lines, prepend=-1)), lines.size)
        steps[i, 1], steps[i, 4] = ptr.size - 1, offset
        pointers.append(ptr)
        offset += ptr.size
    segment_ptr = np.concatenate(pointers) if pointers else np.zeros(0, dtype=np.int64)

    device = line_graph.device
    arrays = (order, position, line_order, position[e_in][line_order], segment_ptr)
    return LevelSchedule(*(torch.from_numpy(a).to(device) for a in arrays), torch.from_numpy(steps))
