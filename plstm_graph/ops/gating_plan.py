"""What the compiled gating kernel needs of one graph: an order, predecessors, and their reach."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.levels import csr, expand
from plstm_graph.dag.line_graph import LineGraph


class Walk(NamedTuple):
    """Tables of a walk over the edges, int64 on the CPU.

    Attributes:
        order: [E] edges in topological order.
        ptr: [E + 1]; before, line: [L]: the line edges into e are ``line[ptr[e]:ptr[e + 1]]``,
            and come from the edges ``before[ptr[e]:ptr[e + 1]]``.
        src, dst: [E] ends of the edges.
        low, high: [E]: the starts of e and of all edges that lead to it lie in [low, high).
    """

    order: Tensor
    ptr: Tensor
    before: Tensor
    line: Tensor
    src: Tensor
    dst: Tensor
    low: Tensor
    high: Tensor


def walk(line_graph: LineGraph) -> Walk:
    """The tables of ``line_graph``, planned once."""
    return line_graph.plan("gating", _walk)


def _walk(line_graph: LineGraph) -> Walk:
    src, dst = line_graph.edge_index.cpu().numpy()
    e_in, e_out = line_graph.line_index.cpu().numpy()
    level = line_graph.level.cpu().numpy()
    order = np.argsort(level, kind="stable")
    ptr, line = csr(e_out, src.size)
    before = e_in[line]
    low, high = src.copy(), src + 1
    count = np.diff(ptr)
    starts = np.searchsorted(level[order], np.arange(1, level.max(initial=0) + 1))
    for edges in np.split(order, starts)[1:]:  # all of a level behind the first have predecessors
        found = before[expand(ptr[edges], count[edges])]
        first = np.cumsum(count[edges]) - count[edges]
        low[edges] = np.minimum(low[edges], np.minimum.reduceat(low[found], first))
        high[edges] = np.maximum(high[edges], np.maximum.reduceat(high[found], first))
    arrays = (order, ptr, before, line, src, dst, low, high)
    return Walk(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))
