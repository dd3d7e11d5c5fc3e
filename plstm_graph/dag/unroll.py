r"""Copies of nodes, so that edges can be visited node by node in topological order.

Kernels that walk from node to node need an order of the nodes in which every edge comes after its
predecessors. A graph whose line graph is acyclic need not have one: the two-way graph contains both
directions of an edge. With copies of its nodes it has. An edge then starts and ends at copies, and
the result of a node is the sum over its copies:

* two-way graphs: one copy of a node for the edges against the order, one for those along it;
* any other: one copy of a node for each topological level of the edges that meet it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.levels import longest_path_levels
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments


class Unrolled(NamedTuple):
    """A graph of copies."""

    line_graph: LineGraph  #: of C copies; rows of edges and line edges as in the original
    node: Tensor  #: [C] the node of each copy
    first: Tensor  #: [C] bool, one copy of each node
    level: np.ndarray  #: [C] an edge and its predecessors end at copies of rising level


def unroll(line_graph: LineGraph) -> Unrolled | None:
    """The graph of copies, or ``None`` where the nodes themselves have an order. Cached."""
    return line_graph.plan("unrolled", _unroll)


def _unroll(line_graph: LineGraph) -> Unrolled | None:
    src, dst = edges = line_graph.edge_index.cpu().numpy()
    n = line_graph.num_nodes
    if (longest_path_levels(edges, n) >= 0).all():
        return None
    if line_graph.is_two_way:
        kind = line_graph.direction.cpu().numpy()
        ends = np.concatenate([src, dst]) * 2 + np.concatenate([kind, kind])
    else:
        kind = line_graph.level.cpu().numpy()
        depth = int(kind.max()) + 1
        ends = np.concatenate([src, dst]) * depth + np.concatenate([kind, kind])
    width = 2 if line_graph.is_two_way else depth
    # Nodes without edges keep one copy, for their own term.
    alone = np.setdiff1d(np.arange(n), edges)
    found, place = np.unique(np.concatenate([ends, alone * width]), return_inverse=True)
    node, step = np.divmod(found, width)
    copies = place.reshape(-1)[: ends.size].reshape(2, -1)
    if line_graph.is_two_way:
        level = longest_path_levels(copies, found.size)
        level = level + step * (int(level.max(initial=0)) + 1)
    else:
        level = step
    device = line_graph.device
    part = segments(line_graph).node_part[node]
    family = Family(
        found.size,
        Member(torch.from_numpy(copies).to(device), line_graph.edge_id),
        torch.from_numpy(part).to(device),
        line_index=line_graph.line_index,
        level=line_graph.level,
    )
    first = np.diff(node, prepend=-1) != 0
    return Unrolled(
        LineGraph._of(family),
        torch.from_numpy(node).to(device),
        torch.from_numpy(first).to(device),
        level,
    )
