"""State tracking: J states on each edge as J copies of the edge."""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.line_graph import LineGraph


def expand_states(line_graph: LineGraph, states: int) -> LineGraph:
    """Each edge e becomes edges e * J + j, each line edge l the pairs l * J^2 + i * J + j from
    (e_in, j) to (e_out, i). Planned once.

    Args:
        line_graph: the line graph.
        states: J.
    """
    if states == 1:
        return line_graph
    return line_graph.plan(("states", states), lambda graph: _expand(graph, states))


def _expand(line_graph: LineGraph, states: int) -> LineGraph:
    copy = torch.arange(states, device=line_graph.device)
    e_in, e_out = line_graph.line_index * states
    line_index = torch.stack(
        [
            (e_in[:, None, None] + copy[None, None, :]).expand(-1, states, -1).reshape(-1),
            (e_out[:, None, None] + copy[None, :, None]).expand(-1, -1, states).reshape(-1),
        ]
    )

    def copies(x: Tensor) -> Tensor:
        return x.repeat_interleave(states, dim=-1)

    twin = line_graph.twin
    if twin is not None:
        twin = torch.where(copies(twin) < 0, -1, copies(twin) * states + copy.repeat(twin.numel()))
    member = Member(
        copies(line_graph.edge_index),
        copies(line_graph.edge_id),
        direction=None if twin is None else copies(line_graph.direction),
        twin=twin,
    )
    return LineGraph.of(
        Family(
            line_graph.num_nodes,
            member,
            line_graph.node_batch,
            line_index=line_index,
            level=copies(line_graph.level),
        )
    )


def unfold_edges(x: Tensor) -> Tensor:
    """[E, H, J, *] -> [E * J, H, *], edge-major."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_lines(transition: Tensor) -> Tensor:
    """[L, H, J, J] -> [L * J * J, H], line edge, then out, then in."""
    return transition.permute(0, 2, 3, 1).flatten(0, 2)
