r"""Factored transitions on a graph of junctions, for forms that have no better way.

A junction is one more vertex for each node, where the states of the edges that enter are summed
once for all edges that leave: with T_l = a_{e_in} b_{e_out},

.. math:: Z_n = \sum_{e \to n} a_e C_e, \qquad C_e = b_e Z_{src(e)} + X_e .

So the line graph of edges is replaced by one of edges and junctions, whose size is that of the
edges. In a two-way graph there are two junctions for each node, one for against edges and one for
along edges, and one more line edge with the transition -a b from each against edge to its twin,
which takes back what would turn straight round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plstm_graph.dag.family import Family, Member
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.ops.inputs import Inputs


def junctions(line_graph: LineGraph) -> LineGraph:
    """The graph whose vertices are the E edges and then the junctions. Planned once."""
    return line_graph.plan("junctions", _junctions)


def _junctions(line_graph: LineGraph) -> LineGraph:
    src, dst = line_graph.edge_index
    e, n, device = line_graph.num_edges, line_graph.num_nodes, line_graph.device
    edge, node = torch.arange(e, device=device), torch.arange(n, device=device)
    # First junction of each node, that of against edges; then that of along edges.
    tail = e + src + (n * line_graph.direction if line_graph.is_two_way else 0)
    head = e + dst + (n * line_graph.direction if line_graph.is_two_way else 0)
    lines = [torch.stack([edge, head]), torch.stack([tail, edge])]
    if line_graph.is_two_way:
        along = _along(line_graph)
        lines.append(torch.stack([e + src[along], along]))  # the turn
        turned = _turned(line_graph)
        lines.append(torch.stack([line_graph.twin[turned], turned]))
        node = node.repeat(2)
    ends = torch.cat([line_graph.edge_index, node.expand(2, -1)], 1)
    member = Member(ends, torch.arange(ends.size(1), device=device))
    family = Family(n, member, line_graph.node_batch, line_index=torch.cat(lines, 1))
    return LineGraph.of(family)


def _along(line_graph: LineGraph) -> Tensor:
    return line_graph.plan("along", lambda graph: (graph.direction == 1).nonzero().view(-1))


def _turned(line_graph: LineGraph) -> Tensor:
    """Along edges whose twin is an edge, too."""
    along = _along(line_graph)
    return line_graph.plan("turned", lambda graph: along[graph.twin[along] >= 0])


def transitions(inputs_a: Tensor, inputs_b: Tensor, line_graph: LineGraph) -> Tensor:
    """[lines of the junction graph, H] from a and b [E, H]. Differentiable."""
    a, b = inputs_a, inputs_b
    if not line_graph.is_two_way:
        return torch.cat([a, b])
    along = _along(line_graph)
    turned = _turned(line_graph)
    back = a.index_select(0, line_graph.twin.index_select(0, turned)) * b.index_select(0, turned)
    return torch.cat([a, b, b.index_select(0, along), -back])


def with_junctions(inputs: Inputs, line_graph: LineGraph) -> tuple[Inputs, LineGraph]:
    """The same layer without factored transitions. Differentiable."""
    graph = junctions(line_graph)
    more = graph.num_edges - line_graph.num_edges
    zeros = inputs.source.new_zeros(more, inputs.source.size(1))
    inputs = inputs._replace(
        source=torch.cat([inputs.source, zeros]),
        transition=transitions(*inputs.transition, line_graph),
        mark=torch.cat([inputs.mark, zeros]),
    )
    return inputs, graph


def followers(line_graph: LineGraph) -> list[Tensor]:
    """Where sums over the edges that may follow each edge are found. Planned once.

    There are two sums for each node, over the against and the along edges that leave it, and behind
    them one that stays zero.

    Returns:
        [E] the sum that an edge is part of; [2, E] the two sums over what may follow it; in a
        two-way graph also [E] its twin, which may not, or E where the twin is in none of them.
    """
    return line_graph.plan("followers", _followers)


def _followers(line_graph: LineGraph) -> list[Tensor]:
    (src, dst), along, n = line_graph.edge_index, line_graph.direction, line_graph.num_nodes
    # Against edges are followed by both kinds, along edges by their own.
    rows = torch.stack([2 * dst + 1, torch.where(along == 0, 2 * dst, 2 * n)])
    found = [2 * src + along, rows]
    if line_graph.is_two_way:
        twin = line_graph.twin
        found.append(torch.where((twin >= 0) & (along == 0), twin, line_graph.num_edges))
    return found
