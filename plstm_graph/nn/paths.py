r"""Distances along a graph, as features beside the heads of a layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.norm import widened
from plstm_graph.nn.projection import Part, Projection, spread
from plstm_graph.ops import dag_scan

#: Costs of a step at the start, over the heads; a distance of ten hops is then about as large as
#: other features.
COSTS, SCALE = (-1.0, 1.0), 0.1


class PathFeatures(torch.nn.Module):
    r"""The best or all paths that end in a node, by costs of their edges.

    .. math::
        c_e = w_e + \max\bigl(s_{src(e)}, \max_{l = (e', e)} c_{e'}\bigr), \qquad
        d_n = \max\bigl(s_n, \max_{e \to n} c_e\bigr), \qquad
        w_e = W_c [x_{src(e)}, a_e] + b, \quad s_n = W_s x_n

    per head, or with the logarithm of the sum of exponentials in place of the maximum
    (:func:`plstm_graph.ops.dag_scan`). With negative costs d is minus the distance from the nearest
    start, with positive ones the longest path. On a two-way tree, where there is one path between
    any two nodes, costs of 1 give the eccentricity.

    Costs begin at -1 to 1 over the heads, whatever the features, and starts at 0.

    Args:
        in_channels: width of x, -1 for lazy.
        heads: H.
        semiring: ``"max"`` or ``"logsumexp"``.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none.

    Shapes:
        - **input:** x [N, in_channels], edge_attr [M, edge_dim], line graph
        - **output:** d / 10, [N, H], float32 for halves
    """

    def __init__(
        self, in_channels: int, heads: int, semiring: str, edge_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.semiring = heads, semiring
        zero = torch.nn.init.zeros_
        costs = Part("cost", heads, (1, 1), zero, partial(spread, low=COSTS[0], high=COSTS[1]))
        runs = [[Part("start", heads, (1, 0), zero, zero)], [costs]]
        self.projection = Projection(in_channels, edge_dim, runs, [costs], True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        self.projection.reset_parameters()

    def forward(self, x: Tensor, edge_attr: Tensor | None, line_graph: LineGraph) -> Tensor:
        if self.projection.lazy:
            self.projection.materialize(x, edge_attr)
        start, cost, edge = self.projection(x, edge_attr, line_graph.edge_id)
        src, dst = line_graph.edge_index
        start, cost = widened(start), widened(cost).index_select(0, src)
        if edge is not None:
            cost = cost + widened(edge)
        with torch.autocast(x.device.type, enabled=False):
            first = start.index_select(0, src) + cost
            steps = cost.index_select(0, line_graph.line_index[1])
            c = dag_scan(first.unsqueeze(-1), steps, line_graph, semiring=self.semiring)
            return SCALE * arriving(c.squeeze(-1), start, dst, self.semiring)


def arriving(c: Tensor, start: Tensor, dst: Tensor, semiring: str) -> Tensor:
    """The maximum or log-sum-exp of start [N, H] and of c [E, H] of the edges into each node."""
    index = dst.unsqueeze(1).expand_as(c)
    most = start.scatter_reduce(0, index, c, "amax")
    if semiring == "max":
        return most
    base = most.detach()
    terms = (c - base.index_select(0, dst)).exp()
    return base + (start - base).exp().scatter_add(0, index, terms).log()
