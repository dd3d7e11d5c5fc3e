"""Parts of a line graph as line graphs of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.segments import segments


class SubGraph(NamedTuple):
    """A line graph of some parts, and the rows it has in the whole one."""

    line_graph: LineGraph
    node_id: Tensor
    edge_id: Tensor
    line_id: Tensor


def subgraph(line_graph: LineGraph, parts: np.ndarray) -> SubGraph:
    """The parts (see :func:`plstm_graph.dag.segments.segments`) marked in ``parts``.

    Args:
        line_graph: the whole graph.
        parts: [P] bool.
    """
    seg = segments(line_graph)
    device = line_graph.device
    node_keep, edge_keep = parts[seg.node_part], parts[seg.edge_part]
    line = line_graph.line_index.cpu().numpy()
    line_keep = edge_keep[line[0]]
    new_node, new_edge = np.cumsum(node_keep) - 1, np.cumsum(edge_keep) - 1

    def to(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    node_id, edge_id, line_id = (
        to(np.flatnonzero(keep)) for keep in (node_keep, edge_keep, line_keep)
    )
    sub = LineGraph._trusted(
        int(node_keep.sum()),
        to(new_node[line_graph.edge_index.cpu().numpy()[:, edge_keep]]),
        to(new_edge[line[:, line_keep]]),
        edge_id,
        to((np.cumsum(parts) - 1)[seg.node_part[node_keep]]),
        is_multitree=line_graph.is_multitree,
    )
    sub.plan("level", lambda _: line_graph.level[edge_id])
    return SubGraph(sub, node_id, edge_id, line_id)
