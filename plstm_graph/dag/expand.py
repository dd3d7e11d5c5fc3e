"""State tracking: J states on each edge as J copies of the edge."""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph


def expand_states(line_graph: LineGraph, states: int) -> LineGraph:
    """Each edge e becomes edges e * J + j, each line edge l the pairs l * J^2 + i * J + j from
    (e_in, j) to (e_out, i). Cached.

    Args:
        line_graph: the line graph.
        states: J.
    """
    if states == 1:
        return line_graph
    key = ("states", states)
    if key not in line_graph._cache:
        device = line_graph.device
        copy = torch.arange(states, device=device)
        e_in, e_out = line_graph.line_index * states
        line_index = torch.stack(
            [
                (e_in[:, None, None] + copy[None, None, :]).expand(-1, states, -1).reshape(-1),
                (e_out[:, None, None] + copy[None, :, None]).expand(-1, -1, states).reshape(-1),
            ]
        )
        expanded = LineGraph._trusted(
            line_graph.num_nodes,
            line_graph.edge_index.repeat_interleave(states, dim=1),
            line_index,
            line_graph.edge_id.repeat_interleave(states),
            line_graph.node_batch,
        )
        if line_graph.is_two_way:
            expanded._dag_id = line_graph._dag_id.repeat_interleave(states)
            expanded._direction = line_graph.direction.repeat_interleave(states)
            expanded.is_reversed = line_graph.is_reversed
        expanded._cache["level"] = line_graph.level.repeat_interleave(states)
        line_graph._cache[key] = expanded
    return line_graph._cache[key]


def unfold_edges(x: Tensor) -> Tensor:
    """[E, H, J, *] -> [E * J, H, *], edge-major."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_lines(transition: Tensor) -> Tensor:
    """[L, H, J, J] -> [L * J * J, H], line edge, then out, then in."""
    return transition.permute(0, 2, 3, 1).flatten(0, 2)
